"""Measure acceptance with the reference; results are saved as they come, keyed by everything they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from eagle3hub._version import __version__
from eagle3hub.engines.base import Scalar
from eagle3hub.errors import InputError
from eagle3hub.head import AuxTaps, Head
from eagle3hub.metrics import Rounds
from eagle3hub.reference.model import load_draft
from eagle3hub.reference.replay import ReplaySettings, depths, walk
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Asked, AuxSource, Text
from eagle3hub.reference.tree import TreeShape, tree_depths
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.resources import cache_dir

# The reference's environment, as a report states it.


def environment(device: torch.device) -> dict[str, Scalar]:
    """Return the versions of Python, torch and transformers, the processor's model, and torch's thread count."""
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "processor": torch.cuda.get_device_name(device) if cuda else processor(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """Return the CPU's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


# Numbered results, saved to disk as they come, so that an interrupted run can continue.


class Ledger:
    """A file of JSON lines in the cache, named by everything that its results depend on.

    It exists only while a run is unfinished: `close` removes it. A line that was cut off is ignored. If the cache
    cannot be written, nothing is kept, but the run does not fail.
    """

    def __init__(self, kind: str, *parts: Any) -> None:
        text = json.dumps([__version__, kind, *parts], sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._path = cache_dir() / "unfinished" / f"{kind}-{name}.jsonl"
        self.found: dict[int, Any] = dict(_read(self._path))

    def add(self, number: int, result: Any) -> None:
        """Save the result of one item."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([number, result]) + "\n")

    def close(self) -> None:
        """Remove the file, since the run is finished."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _read(path: Path) -> list[tuple[int, Any]]:
    try:
        lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    out = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):
            number, result = json.loads(line)
            out.append((int(number), result))
    return out


# Acceptance of heads on the texts of one target: its texts are generated once, and each head's rounds replay them.


@dataclass(frozen=True, slots=True)
class Speech:
    """How a target answers each prompt: up to ``max_new_tokens``, then ``lookahead`` more; temperature 0 is greedy."""

    max_new_tokens: int
    lookahead: int
    temperature: float = 0.0
    seed: int = 0


def speak(target: TargetModel, prompts: Sequence[Asked], speech: Speech, *, progress: Progress = silent) -> list[Text]:
    """Return the target's responses to prompts, continuing an interrupted run.

    Raises whatever `TargetModel.respond` raises.
    """
    ledger = Ledger("texts", _identity(target), [p.key for p in prompts], repr(speech))
    texts = {n: Text(tuple(ids), start, length, prompts[n].images) for n, (ids, start, length) in ledger.found.items()}
    missing = [n for n in range(len(prompts)) if n not in texts]

    def keep(place: int, text: Text) -> None:
        ledger.add(missing[place], [text.token_ids, text.prompt_length, text.response_length])

    made = target.respond(
        [prompts[n].token_ids for n in missing],
        images=[prompts[n].images for n in missing],
        max_new_tokens=speech.max_new_tokens,
        lookahead=speech.lookahead,
        temperature=speech.temperature,
        seed=speech.seed,
        numbers=missing,
        on_text=keep,
        progress=progress,
    )
    texts.update(zip(missing, made, strict=True))
    ledger.close()
    return [texts[n] for n in range(len(prompts))]


_ROOM = 256 << 20
"""Most bytes of a head's matrices in memory where the target's states are read from files, on a CPU."""


@dataclass(frozen=True, slots=True)
class ReplayedHead:
    """A head to replay, the device it runs on, and the dtype it computes in.

    ``digest`` names its files; with it, an interrupted run is continued.
    """

    head: Head
    digest: str = ""
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32


def replay_texts(
    source: AuxSource,
    replayed: ReplayedHead,
    texts: Sequence[Text],
    settings: ReplaySettings,
    draft_tokens: Sequence[int] = (),
    *,
    tree: TreeShape | None = None,
    progress: Progress = silent,
) -> dict[int, list[Rounds]]:
    """Replay a head on texts of its target, for each K in ``draft_tokens`` (default: that of ``settings``).

    One pass of the target and one of the head serve every K, because a draft of K tokens begins like a longer one.
    With a ``tree``, drafts are SGLang's trees of that shape instead of chains, and K is its depth.

    Raises InputError if a text is too short for K, and whatever `load_draft` and ``source`` raise.
    """
    head, digest, dtype = replayed.head, replayed.digest, replayed.dtype
    ks = (tree.steps,) if tree is not None else tuple(draft_tokens) or (settings.draft_tokens,)
    longest = replace(settings, draft_tokens=max(ks))
    for n, text in enumerate(texts):
        if text.response_length > 1 and text.lookahead < longest.draft_tokens - 1:
            raise InputError(
                f"text {n} goes on for {text.lookahead} tokens after the response, K = {longest.draft_tokens} needs "
                f"{longest.draft_tokens - 1}: an engine verifies all drafts of its last round",
                hint="use a smaller K, a longer context, or texts saved with more lookahead",
                code="reference-lookahead",
            )
    borrowed = None if "lm_head.weight" in head.tensors else source.lm_head
    room = None if isinstance(source, TargetModel) else _ROOM  # beside a target in memory, its head is small
    model = load_draft(head, source.embeddings, borrowed, device=replayed.device, dtype=dtype, room=room)
    ledger = Ledger(
        *("depths", digest, [Asked(t.token_ids, t.images).key for t in texts]),
        *(repr(longest), repr(tree), str(replayed.dtype)),
    )
    found: dict[int, list[int]] = dict(ledger.found) if digest else {}
    missing = [n for n in range(len(texts)) if n not in found]
    done, total = len(found), max(1, len(texts))
    for batch in source.read(
        [texts[n] for n in missing],
        taps_of(head),
        temperature=settings.temperature if settings.needs_logprobs and tree is None else None,
        lookahead=False,
    ):
        batch = replace(batch, index=tuple(missing[i] for i in batch.index))
        reached = depths(model, batch, longest) if tree is None else tree_depths(model, batch, tree)
        for n, row in zip(batch.index, reached.tolist(), strict=True):
            found[n] = row
            if digest:
                ledger.add(n, row)
        done += len(batch.index)
        progress("replaying", done / total)
    ledger.close()
    return {k: [_rounds(texts[n], found[n], k) for n in range(len(texts))] for k in ks}


def _rounds(text: Text, depth: Sequence[int], k: int) -> Rounds:
    accepted = walk(text, [min(d, k) for d in depth])
    emitted = 1 + sum(accepted) + len(accepted)
    return Rounds(accepted, k, max(0, emitted - text.response_length) if accepted else 0)


def taps_of(head: Head) -> AuxTaps:
    """Return the target's states that feed a head. Raises InputError (``reference-aux``) if nothing states which."""
    if head.aux is not None:
        return head.aux
    raise InputError(
        "neither the head nor you say which layers of the target feed it",
        hint="name them with --aux-layers when converting, or give a target whose depth settles the default",
        code="reference-aux",
    )


def _identity(target: TargetModel) -> str:
    text = json.dumps([target.source, target.revision, target.config_sha256, str(target.dtype), str(target.device)])
    return hashlib.sha256(text.encode()).hexdigest()


# How near two tokens are for the target, and how much of that rounding explains.


def margins(
    rounded: TargetModel,
    exact: TargetModel,
    sequences: Sequence[Sequence[int]],
    pairs: Sequence[tuple[int | None, int | None]],
) -> list[tuple[float, float, float] | str]:
    """Say for each sequence of token ids how far the lower of two next tokens lies below the target's best.

    Args:
        rounded, exact: the same target in the format of a run, and in float32.
        pairs: two token ids for each sequence; None for an output that had ended there: it chose the likeliest of the
            tokens that end one.

    Returns for each: the highest logit minus the lower of the two, in float32; the largest change of a logit by the
    format, beyond what it changes all of them by; the largest magnitude of a logit. Where these cannot be had, a
    phrase that says why.

    Raises what `TargetModel.next_logits` raises.
    """
    out: list[tuple[float, float, float] | str] = []
    ends = exact.eos_ids
    both = zip(exact.next_logits(sequences), rounded.next_logits(sequences), pairs, strict=True)
    for logits, other, pair in both:
        ending = max(ends, key=lambda token: float(logits[token]), default=None)
        tokens = [ending if token is None else token for token in pair]
        change = other - logits
        if None in tokens:
            out.append("an output had ended, and the target names no token that ends one")
        elif not change.isfinite().all():
            out.append("the target's logits there are not finite")
        else:
            lower = min(float(logits[token]) for token in tokens if token is not None)
            noise = float((change - change.median()).abs().max())
            out.append((float(logits.max()) - lower, noise, float(logits.abs().max())))
    return out
