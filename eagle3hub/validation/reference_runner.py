"""The reference's part of a validation: what a head accepts on the target's texts, and on each engine's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub._version import __version__
from eagle3hub.engines.base import EngineRun, Job, LoadReport, PromptResult
from eagle3hub.errors import InputError, UnavailableError, UsageError
from eagle3hub.metrics import Counts, Rounds, counts_of, counts_within
from eagle3hub.system.installation import command_for_extra
from eagle3hub.system.progress import Progress
from eagle3hub.validation.derive import Measured, expected_taps
from eagle3hub.validation.engine_runner import Kept
from eagle3hub.validation.options import REFERENCE
from eagle3hub.validation.target import Target

if TYPE_CHECKING:
    from eagle3hub.head import Head
    from eagle3hub.reference.replay import Conditions
    from eagle3hub.reference.states import SavedStates
    from eagle3hub.reference.target import TargetModel
    from eagle3hub.reference.text import Text
    from eagle3hub.reference.tree import TreeConditions

_PACKAGES = ("torch", "transformers", "accelerate")


@dataclass(frozen=True, slots=True)
class ReferenceOptions:
    """How the reference measures.

    Attributes:
        drafting: ``greedy`` takes the head's arg max, ``probabilistic`` samples from it at the temperature asked for.
        responses: file of responses to replay, in place of generating them.
        hidden_states: folder of saved hidden states to replay, in place of running the target.
        save_responses, save_hidden_states: where to keep the texts, and what the target computed over them.
        device_map: accelerate's placement of the target (``auto``), or None for one device.
        batch_tokens: most tokens in one pass of the target, or None for the device's default.
    """

    drafting: str = "greedy"
    responses: str | Path | None = None
    hidden_states: str | Path | None = None
    save_responses: str | Path | None = None
    save_hidden_states: str | Path | None = None
    device_map: str | None = None
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.drafting not in ("greedy", "probabilistic"):
            raise UsageError(
                f"no drafting is called {self.drafting!r}",
                hint="drafting: greedy, probabilistic",
                code="usage-drafting",
            )
        if self.hidden_states is not None and (self.responses or self.save_responses or self.save_hidden_states):
            raise UsageError(
                "--hidden-states holds the texts and what the target computed over them",
                hint="leave out --responses, --save-responses and --save-hidden-states",
                code="usage-hidden-states",
            )


@dataclass(frozen=True, slots=True)
class Trained:
    """A head and the identity of its files."""

    head: Head
    digest: str


class Referee:
    """Measures a head by replay, and says what an engine should have counted.

    ``original`` is the head that every run is held against: the one on trial, or the one it was made from.
    """

    def __init__(
        self,
        job: Job,
        subject: Target,
        on_trial: Trained,
        original: Trained,
        options: ReferenceOptions,
        kept: Kept,
        progress: Progress,
    ) -> None:
        self._job = job
        self._subject = subject
        self._on_trial = on_trial
        self._original = original
        self._options = options
        self._kept = kept
        self._progress = progress
        self._targets = kept.targets if job.device == "cpu" else {}
        self._states: SavedStates | None = None
        self._known: Sequence[Text] | None = None
        self._notes: list[str] = []

    @property
    def has_original(self) -> bool:
        """Whether runs are held against another head than the one on trial."""
        return self._original.digest != self._on_trial.digest

    @property
    def speaks_for_target(self) -> bool:
        """Whether its texts are the target's own greedy output, rather than responses given or sampled."""
        return self._job.temperature == 0 and not self._options.responses and not self._options.hidden_states

    def run(self) -> Measured:
        """Let the target speak (or take what it said), and replay the head on it."""
        from eagle3hub.reference.measure import environment

        begun = time.monotonic()
        source = self._source()
        source.fit(self._on_trial.head)
        loaded = time.monotonic()
        texts = self._texts()
        rounds = self._replay(self._on_trial, texts)
        spent = time.monotonic() - loaded
        self._save(texts)
        results = tuple(
            PromptResult(text.prompt_length, text.response, counts_of(r), spent / len(texts))
            for text, r in zip(texts, rounds, strict=True)
        )
        taps = expected_taps(self._on_trial.head)
        run = EngineRun(
            prompts=results,
            load=LoadReport(checked=True, aux_boundaries=tuple(taps) if taps else None),
            version=__version__,
            environment=environment(source.device),
            start_seconds=loaded - begun,
            generate_seconds=spent,
        )
        options = self._options
        texts_from = "responses given" if options.responses else "generated by the target"
        flags = {
            "drafting": options.drafting,
            "texts": "saved hidden states" if options.hidden_states else texts_from,
            **({"notes": self._notes} if self._notes else {}),
        }
        return Measured(REFERENCE, __version__, run, None, flags, None)

    def expects(self, run: EngineRun, *, within_response: bool = False) -> list[Counts] | str:
        """What the engine should have counted on the texts of its own ``run``; or why that cannot be said.

        ``within_response``: the engine counts as `counts_within` says.
        """
        known = self._texts()
        job = self._job
        for number, (text, result) in enumerate(zip(known, run.prompts, strict=True)):
            if text.prompt_length != result.prompt_tokens:
                return (
                    f"prompt {number + 1} is {result.prompt_tokens} tokens for the engine and {text.prompt_length} "
                    "for the reference: their chat templates differ"
                )
        texts = [
            text if text.response == result.tokens else _other_response(text, result.tokens)
            for text, result in zip(known, run.prompts, strict=True)
        ]
        other = [n for n, (mine, theirs) in enumerate(zip(known, texts, strict=True)) if mine is not theirs]
        if other and self._options.hidden_states:
            return f"prompt {other[0] + 1} was answered otherwise than in the saved hidden states"
        if other:
            longer = self._target().extend(
                [texts[n] for n in other], job.draft_tokens, temperature=job.temperature, seed=job.seed, numbers=other
            )
            for n, text in zip(other, longer, strict=True):
                texts[n] = text
        rounds = self._replay(self._original, texts)
        return [counts_within(r, job.max_new_tokens) if within_response else counts_of(r) for r in rounds]

    def _target(self) -> TargetModel:
        from eagle3hub.reference.target import TargetModel

        job, options = self._job, self._options
        key = (job.target, job.device, job.dtype, options.device_map, options.batch_tokens)
        found = self._targets.get(key)
        if found is None:
            self._progress("reference: loading the target")
            found = TargetModel.load(
                job.target,
                name=self._subject.name,
                device=job.device,
                dtype=job.dtype,
                device_map=options.device_map,
                batch_tokens=options.batch_tokens,
            )
            self._targets[key] = found
        return found

    def _source(self) -> TargetModel | SavedStates:
        """Where aux hidden states come from."""
        if self._options.hidden_states is None:
            return self._target()
        if self._states is None:
            from eagle3hub.reference.states import SavedStates

            target = self._job.target if self._job.target_is_local else None
            self._states = SavedStates(self._options.hidden_states, target=target, device=self._job.device)
        return self._states

    def _texts(self) -> Sequence[Text]:
        """One text for each prompt, from wherever they come."""
        from eagle3hub.reference.measure import Speech, speak

        job, options = self._job, self._options
        if self._known is not None:
            return self._known
        if options.hidden_states is not None:
            self._known = self._saved_texts()
        elif options.responses is not None:
            from eagle3hub.reference.responses import read_responses, texts_of

            given, self._notes = texts_of(read_responses(options.responses), self._target(), job.prompts.prompts)
            self._known = self._target().extend(
                given, job.draft_tokens, temperature=job.temperature, seed=job.seed, progress=self._progress
            )
        else:
            speech = Speech(job.max_new_tokens, job.draft_tokens, job.temperature, job.seed)
            key = (job.target, job.device, job.dtype, job.prompts.sha256, speech)
            if key not in self._kept.texts:
                prompts = [self._target().chat(prompt.text) for prompt in job.prompts.prompts]
                self._kept.texts[key] = speak(self._target(), prompts, speech, progress=self._progress)
            self._known = self._kept.texts[key]
        return self._known

    def _saved_texts(self) -> list[Text]:
        source: Any = self._source()
        by_question = dict(zip((entry.question_id for entry in source.index.texts), source.texts, strict=True))
        missing = [p.question_id for p in self._job.prompts.prompts if p.question_id not in by_question]
        if missing:
            raise InputError(
                f"{self._options.hidden_states} holds no hidden states for question {missing[0]!r} of "
                f"{self._job.prompts.name}",
                hint="give the prompts they were saved for, with --prompts",
                code="states-question",
            )
        return [by_question[p.question_id] for p in self._job.prompts.prompts]

    def _save(self, texts: Sequence[Text]) -> None:
        options, questions = self._options, [p.question_id for p in self._job.prompts.prompts]
        if options.save_responses is not None:
            from eagle3hub.reference.responses import write_responses

            write_responses(options.save_responses, dict(zip(questions, texts, strict=True)))
        if options.save_hidden_states is not None:
            from eagle3hub.reference.measure import taps_of
            from eagle3hub.reference.states import save_states

            save_states(
                options.save_hidden_states,
                self._target(),
                texts,
                taps_of(self._on_trial.head),
                question_ids=questions,
                temperature=self._job.temperature or None,
                progress=self._progress,
            )

    def _replay(self, trained: Trained, texts: Sequence[Text]) -> list[Rounds]:
        """The rounds on each text; a text that was replayed before is not replayed again."""
        from eagle3hub.reference.loading import as_dtype
        from eagle3hub.reference.measure import replay_texts

        job, conditions = self._job, self._conditions()
        shape = (job.topk, job.num_draft_tokens)
        setting = (trained.digest, conditions, shape, job.target, job.device, job.dtype)
        missing = [text for text in dict.fromkeys(texts) if (*setting, text) not in self._kept.rounds]
        if missing:
            found = replay_texts(
                self._source(),
                trained.head,
                missing,
                conditions,
                tree=self._tree(),
                digest=trained.digest,
                device=self._source().device,
                dtype=as_dtype(job.dtype),
                progress=self._progress,
            )
            self._kept.rounds.update(((*setting, t), r) for t, r in zip(missing, found[job.draft_tokens], strict=True))
        return [self._kept.rounds[(*setting, text)] for text in texts]

    def _tree(self) -> TreeConditions | None:
        """The shape of SGLang's draft trees, where a tree is drafted."""
        job = self._job
        if job.topk == 1:
            return None
        from eagle3hub.reference.tree import TreeConditions

        return TreeConditions(job.draft_tokens, job.topk, job.verified_tokens)

    def _conditions(self) -> Conditions:
        from eagle3hub.reference.replay import Conditions

        job = self._job
        drafting: Any = self._options.drafting
        return Conditions(job.draft_tokens, drafting, job.temperature, job.seed)


def require_packages() -> None:
    """Raise UnavailableError (``reference-packages``) where torch and transformers are not installed."""
    from importlib.util import find_spec

    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UnavailableError(
            f"the reference needs {' and '.join(missing)}, which this environment does not have",
            hint=f"{command_for_extra('validate')}, or measure on another engine: --engine vllm",
            code="reference-packages",
        )


def _other_response(text: Text, response: tuple[int, ...]) -> Text:
    """The same prompt with another response, and nothing after it."""
    from eagle3hub.reference.text import Text

    return Text((*text.token_ids[: text.prompt_length], *response), text.prompt_length, len(response))
