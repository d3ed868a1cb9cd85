"""Replay a head on its target's own texts: what speculative decoding would accept, at prefill speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.layouts import open_head
from eagle3hub.metrics import Acceptance, Counts, Rounds, acceptance_if_any, counts_of
from eagle3hub.prompts import load_prompts
from eagle3hub.system.html import panel, rows
from eagle3hub.system.progress import Progress, silent, starting_torch
from eagle3hub.validation.options import ReferenceOptions, ValidateOptions
from eagle3hub.validation.reference_runner import require_packages


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to replay a head.

    Attributes:
        prompts: name of a prompt set, or a JSON Lines file. num_prompts: use the first so many; None uses all.
        max_new_tokens: most tokens of each response.
        draft_tokens: K, tokens drafted per round, as a chain.
        temperature: of the target's sampling; 0 is greedy. drafting: above temperature 0, whether the head's likeliest
            token is drafted (``greedy``) or one sampled from it (``probabilistic``).
        seed: of the target's sampling and of the coins that decide on drafts.
        device: ``cpu`` or ``cuda``. dtype: ``float32``, ``bfloat16`` or ``float16``.
        device_map: accelerate's placement of the target (``auto``), or None for one device.
        batch_tokens: most tokens in one pass of the target; None for the device's default.

    Raises UsageError for values that cannot be.
    """

    prompts: str | Path = "smoke"
    num_prompts: int | None = None
    max_new_tokens: int = 64
    draft_tokens: int = 3
    temperature: float = 0.0
    drafting: Literal["greedy", "probabilistic"] = "greedy"
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    device_map: str | None = None
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        ValidateOptions(  # raises UsageError for the values that both verbs take
            device=self.device,
            dtype=self.dtype,
            max_new_tokens=self.max_new_tokens,
            draft_tokens=self.draft_tokens,
            temperature=self.temperature,
            reference=ReferenceOptions(drafting=self.drafting),
        )


DEFAULTS = ReplayOptions()


@dataclass(frozen=True, slots=True)
class Replay:
    """What a head would have had accepted.

    Attributes:
        head: where it is, pinned to a commit if on the Hub. target: what the target is called.
        options: how it was measured. questions: the prompts' ids.
        rounds: for each prompt, the rounds that speculative decoding would have run on the target's response.
    """

    head: str
    target: str
    options: ReplayOptions
    questions: Sequence[str]
    rounds: Sequence[Rounds]

    @property
    def counts(self) -> list[Counts]:
        """The counters of each prompt: rounds, tokens drafted, tokens accepted at each position."""
        return [counts_of(one) for one in self.rounds]

    @property
    def acceptance(self) -> Acceptance | None:
        """Acceptance length and rates over all prompts, with intervals; None where no prompt had a round."""
        return acceptance_if_any(self.counts)

    def to_json(self) -> dict[str, Any]:
        """The result as data: settings, counters of each prompt, and what follows from them."""
        found = self.acceptance
        return {
            "head": self.head,
            "target": self.target,
            "prompts": str(self.options.prompts),
            "draft_tokens": self.options.draft_tokens,
            "temperature": self.options.temperature,
            "max_new_tokens": self.options.max_new_tokens,
            "per_prompt": [
                {
                    "question_id": question,
                    "rounds": one.rounds,
                    "accepted_per_position": list(one.accepted_per_position),
                }
                for question, one in zip(self.questions, self.counts, strict=True)
            ],
            "acceptance": None if found is None else found.to_json(),
        }

    def _repr_html_(self) -> str:
        found = self.acceptance
        facts = [("target", self.target), ("prompts", str(len(self.rounds))), ("K", str(self.options.draft_tokens))]
        if found is not None:
            interval = "" if found.ci95 is None else f" ({found.ci95[0]:.2f} to {found.ci95[1]:.2f})"
            facts += [("acceptance length τ", f"{found.mean_acceptance_length:.3f}{interval}")]
            facts += [(f"accepted at position {i}", f"{r:.3f}") for i, r in enumerate(found.marginal_rates, start=1)]
        return panel(f"replay of {self.head}", rows(facts))


def replay(
    head: str | Path, target: str | Path, options: ReplayOptions = DEFAULTS, *, progress: Progress = silent
) -> Replay:
    """Let the target answer prompts, and replay the head on its answers; no engine runs.

    One pass of the target over its own text, and one of the head, give the rounds that speculative decoding would have
    run: at temperature 0 exactly, above it with the same joint distribution.

    Args:
        head, target: where they are (`parse_address`, `target_address`).

    Raises UnavailableError without torch and transformers, or without the device or the memory; UsageError,
    InputError for a head, target or prompts that cannot be used, and a head that does not fit its target; HubError.
    """
    require_packages()
    with starting_torch(progress):
        from eagle3hub.reference.measure import ReplayedHead, Speech, replay_texts, speak
    from eagle3hub.reference.replay import ReplaySettings
    from eagle3hub.reference.target import TargetModel

    chosen = load_prompts(options.prompts, options.num_prompts, progress=progress)
    progress("reading the head")
    checkpoint = open_checkpoint(head, progress=progress)
    opened = open_head(checkpoint, target=str(target))
    opened.raise_for_errors()
    progress("loading the target")
    model = TargetModel.load(
        target,
        device=options.device,
        dtype=options.dtype,
        device_map=options.device_map,
        batch_tokens=options.batch_tokens,
    )
    model.fit(opened)
    k, temperature, seed = options.draft_tokens, options.temperature, options.seed
    prompts = [model.prompt(prompt) for prompt in chosen.prompts]
    texts = speak(model, prompts, Speech(options.max_new_tokens, k, temperature, seed), progress=progress)
    found = replay_texts(
        model,
        ReplayedHead(opened, folder_digest(checkpoint.folder)[0], model.device, model.dtype),
        texts,
        ReplaySettings(k, options.drafting, temperature, seed),
        progress=progress,
    )
    questions = [str(prompt.question_id) for prompt in chosen.prompts]
    return Replay(checkpoint.source, model.name, options, questions, found[k])
