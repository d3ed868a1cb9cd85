"""Ask an engine the questions, in its own interpreter, and judge what it computed by the reference."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.engines.preflight.probed import Answer, Outcome
from eagle3hub.engines.process import ask_worker, missing_kernel
from eagle3hub.errors import UnavailableError, UsageError
from eagle3hub.probing.families import FAMILIES, write_family
from eagle3hub.probing.heads import VOCAB, WIDE, Probed, write_target
from eagle3hub.probing.questions import Question, questions
from eagle3hub.probing.rounds import Drafted, near
from eagle3hub.reference.model import DraftModel, Memory
from eagle3hub.system.progress import Progress

LENGTH, DRAFTED = 10, 3
CLOSE = 1e-4
"""Absolute and relative. float32 on both sides; logits are about 1 in size, and those of two right implementations
differ by less than 1e-5."""
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
_DISPENSABLE = ("t2d",)
"""Tensors without which a head can be run."""
_SECONDS, _WHOLE = 120.0, 3600.0
"""The longest that one question and all of them may take."""
_SLOWER = {"trtllm": 4}
"""How much longer they may take where each question imports the engine anew."""
_TARGETS: dict[str, dict[str, Any]] = {
    "llama": {},
    "wide": {"hidden": WIDE},
    "six-heads": {"hidden": WIDE, "heads": 6, "kv": 6},
    "tied": {"tie_word_embeddings": True},
    "qwen3": {"qk_norms": True, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
    "gemma": {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    },
}
"""Targets by name: Llama's, one that is wider than its heads, one whose heads divide by three, one whose lm_head is
its embeddings, one of another type that hands out its states, and one of a type that no engine takes them from."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The answers of one engine: by runner (``""`` if it has one only), by question.

    ``runners`` besides the first differ from it in the aux layers they capture, and were executed in nothing else.
    """

    engine: str
    version: str
    device: str
    environment: Mapping[str, str]
    answers: Mapping[str, Mapping[str, Answer]]
    seconds: Mapping[str, float]


def ask(
    engine: str,
    title: str,
    python: Path,
    *,
    device: str,
    progress: Progress,
    only: Collection[str] | None = None,
    runners: Sequence[str] = ("",),
    together: int | None = None,
) -> Probe:
    """Ask the engine whose interpreter is ``python`` every question, or those in ``only`` and what they build on.

    Raises UsageError for a question that there is not; UnavailableError where the engine cannot be imported or does
    not run on ``device``, or if its worker ends without having answered everything.
    """
    asked = _chosen(engine, only)
    with scratch_folder() as work:
        targets = write_targets(work / "targets")
        heads = {name: question.made() for name, question in asked.items()}
        (work / "inputs").mkdir()
        (work / "result").mkdir()
        job = [_written(question, heads[name], work) for name, question in asked.items()]
        told: dict[str, dict[str, Any]] = {}
        ready: dict[str, Any] = {}

        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "ready":
                ready.update(event)
            elif event["event"] == "answer":
                told[event["name"]] = event
                progress(f"{title}: {len(told)} of {len(job)} questions", len(told) / len(job))
            elif event["event"] == "stage":
                progress(f"{title}: starting", 0.0)

        slower = _SLOWER.get(engine, 1)
        request = {
            "targets": {name: str(folder) for name, folder in targets.items()},
            "questions": job,
            "result": str(work / "result"),
            "device": device,
            "together": together or max(1, min(8 if device == "cuda" else 4, os.cpu_count() or 1)),
            "seconds": _SECONDS * slower,
        }
        ask_worker(
            title,
            f"{engine}_probe.py",
            request,
            python,
            device,
            env=_ENVIRONMENT,
            timeout=_WHOLE * slower,
            on_event=listen,
        )
        missing = sorted(set(asked) - set(told))
        if missing:
            raise UnavailableError(
                f"{title}'s probe left {len(missing)} questions without an answer, such as {missing[0]}",
                hint="run it again; if it happens again, report the output of --json",
                code="engine-probe-unanswered",
            )
        answers: dict[str, dict[str, Answer]] = {runner: {} for runner in runners}
        with _one_thread():
            for name, question in asked.items():
                judged = _judge(question, heads[name], told[name], work, targets[question.target], runners[1:])
                for runner, answer in zip(runners, judged, strict=True):
                    answers[runner][name] = answer
    for found in answers.values():
        for name, question in asked.items():
            if found[question.base].outcome not in ("right", "runs") and name != question.base:
                found[name] = Answer(outcome="not_run", message=f"{question.base}: {found[question.base].outcome}")
    environment: dict[str, str] = {k: str(ready[k]) for k in ("torch", "jax", "transformers", "kernels") if k in ready}
    seconds = {name: float(event.get("seconds", 0.0)) for name, event in told.items()}
    return Probe(engine, str(ready.get("version")), device, environment, answers, seconds)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute small things on one thread: several wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_targets(folder: Path) -> dict[str, Path]:
    """Write every target of a probe into a folder of its own; return the folders by name."""
    whole = {name: write_target(folder / name, **options) for name, options in _TARGETS.items()}
    return whole | {f"{kind}-family": write_family(folder / f"{kind}-family", kind) for kind in FAMILIES}


def _chosen(engine: str, only: Collection[str] | None) -> dict[str, Question]:
    every = {name: q for name, q in questions().items() if engine in (q.engines or (engine,))}
    if only is None:
        return every
    unknown = sorted(set(only) - set(every))
    if unknown:
        raise UsageError(
            f"there is no question called {unknown[0]}",
            hint=f"such as {', '.join(get_close_matches(unknown[0], every, 3, 0.1))}",
            code="usage-question",
        )
    wanted = [every[name] for name in only]
    return {q.name: q for question in wanted for q in (every[question.base], question)}


def _written(question: Question, made: Probed, work: Path) -> dict[str, Any]:
    """Write the head of a question and its inputs; return its entry in the request."""
    inputs = work / "inputs" / f"{question.name}.safetensors"
    save_file(given_for(made), inputs)
    return {
        "name": question.name,
        "folder": str(made.write(work / "heads" / question.name)),
        "target": question.target,
        "inputs": str(inputs),
        "settings": dict(question.settings),
    }


def given_for(made: Probed) -> dict[str, torch.Tensor]:
    """Return what engine and reference are given: see ``probe_loop.draft``."""
    generator = torch.Generator().manual_seed(11)
    width = made.truth.dims.target_hidden_size * (1 if made.taps is None else len(made.taps))
    return {
        "token_ids": torch.randint(VOCAB, (LENGTH,), generator=generator),
        "drafted": torch.randint(VOCAB, (DRAFTED,), generator=generator),
        "aux": torch.randn(LENGTH, width, generator=generator),
    }


# Judge


def _judge(
    question: Question, made: Probed, told: Mapping[str, Any], work: Path, target: Path, others: Sequence[str]
) -> list[Answer]:
    """Judge what the worker told of a question, for the executed runner and for those that differ in aux layers."""
    drafted = None
    if "rounds" in told and question.comparable and len(told["taps"]) == len(made.taps or ()):
        drafted = Drafted.of(told, LENGTH, target, made.truth, _tolerance(question))
    seen = Answer(
        outcome="runs",
        taps=_taps(told.get("taps")) if drafted is None else drafted.taps,
        not_loaded=tuple(told.get("not_loaded") or ()),
        ignored=tuple(told.get("ignored") or ()),
        context=told.get("context"),
    )
    ended = told["ended"]
    kernel = missing_kernel(str(told.get("message", "")))
    if ended == "not_asked" or kernel is not None:
        message = told["message"] if kernel is None else f"there is no kernel {kernel} for this device"
        return [Answer(outcome="not_run", message=message)] * (1 + len(others))
    against = _computed(question, made, drafted, work) if ended == "ran" and question.comparable else None
    if against is not None:
        seen = _measured(seen, question, made, against)
    if ended == "ran":
        main = _loaded(seen) if told["stage"] == "load" else _concluded(seen, question, made)
    else:
        outcome: Outcome = "crashes" if ended == "died" else "refuses"
        main = replace(seen, outcome=outcome, stage=told["stage"], message=_error(told, work), taps=())
    answers = [main]
    for other in others:
        theirs = (told.get("other_taps") or {}).get(other)
        if theirs is None:
            answers.append(main)
        elif isinstance(theirs, dict):
            answers.append(replace(seen, outcome="refuses", stage="taps", message=_error(theirs, work), taps=()))
        elif _taps(theirs) == _taps(told.get("taps")):
            answers.append(main)
        elif ended == "ran":
            answers.append(_concluded(replace(seen, taps=_taps(theirs)), question, made))
        else:  # the executed runner stopped at its own layers, and nothing was computed
            other_taps = replace(seen, taps=_taps(theirs))
            answers.append(replace(other_taps, outcome="runs" if _as_trained(other_taps, made) else "silently_wrong"))
    return answers


Against = Callable[[DraftModel], tuple[bool, float | None]]
"""Whether an engine computed what a model computes, and the largest difference; None where other tokens are scored."""


def _computed(question: Question, made: Probed, drafted: Drafted | None, work: Path) -> Against | None:
    """Return how what the engine computed is compared with a model; None if it computed nothing that can be."""
    close = _tolerance(question)
    if drafted is not None:

        def by_shares(model: DraftModel) -> tuple[bool, float]:
            difference = drafted.difference(model)
            return difference <= near(close), float(f"{difference:.2g}")

        return by_shares
    file, given = work / "result" / f"{question.name}.safetensors", given_for(made)
    if not file.is_file():
        return None
    tensors = load_file(file)

    def by_logits(model: DraftModel) -> tuple[bool, float | None]:
        ours = compute(model, given)
        return _equal(ours, tensors, close), _difference(ours, tensors)

    return by_logits


def _tolerance(question: Question) -> float:
    return CLOSE if question.close is None else question.close


def _measured(seen: Answer, question: Question, made: Probed, against: Against) -> Answer:
    """Compare what the engine computed with the truth and with each alternative."""
    right, difference = against(made.truth)
    seen = replace(seen, difference=difference)
    if right:
        return replace(seen, matched="trained")
    for name, change in question.instead.items():
        if against(change(made).truth)[0]:
            return replace(seen, matched=name)
    return replace(seen, difference=None) if seen.not_loaded or "?" in seen.taps else seen  # of what lay in memory


def _loaded(seen: Answer) -> Answer:
    """Say what became of a head that was loaded, and then not run."""
    lost = seen.not_loaded or [name for name in seen.ignored if name not in _DISPENSABLE]
    return replace(seen, outcome="silently_wrong" if lost else "right", stage="load")


def _concluded(seen: Answer, question: Question, made: Probed) -> Answer:
    """Say what became of a head that ran."""
    if not _as_trained(seen, made) or seen.not_loaded:
        return replace(seen, outcome="silently_wrong")
    if not question.comparable:
        return replace(seen, outcome="silently_wrong") if set(question.needs) & set(seen.ignored) else seen
    return replace(seen, outcome="right" if seen.matched == "trained" else "silently_wrong")


def _as_trained(seen: Answer, made: Probed) -> bool:
    """Whether the head gets the states that it was trained on."""
    return seen.taps == (("final",) if made.taps is None else made.taps)


def _taps(told: Sequence[int | str | None] | None) -> tuple[int | str, ...]:
    return tuple("?" if tap is None else tap for tap in told or ())


_PLACES = re.compile(r"(?:/[\w.+@-]+)+/([\w.+@-]+)|0x[0-9a-f]+")
_FRAME = re.compile(r"\d+ validation errors? for \w+ Value error, ")
_MORE = re.compile(r" \[type=|(?<=\w)\. (?=The available |See |Please |Supported )|\{'")
"""Where a message goes on with advice, or with names in no order."""


def _error(told: Mapping[str, Any], work: Path) -> str:
    """Return an error in one line, without what differs from run to run."""
    message = str(told.get("message", "")).replace(str(work), "")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = _PLACES.sub(lambda m: m[1] or "0x…", " ".join(lines[:3]))
    text = _MORE.split(_FRAME.sub("", text))[0]
    text = text if len(text) <= 200 else text[:199] + "…"
    kind = told.get("kind")
    return f"{kind}: {text}" if kind else text


def _equal(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], close: float) -> bool:
    return all(_close(mine, theirs.get(part), close) for part, mine in ours.items())


def _close(mine: torch.Tensor, other: torch.Tensor | None, close: float) -> bool:
    return other is not None and other.shape == mine.shape and torch.allclose(mine, other, rtol=close, atol=close)


def _difference(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float | None:
    largest = 0.0
    for part, mine in ours.items():
        if part not in theirs or theirs[part].shape != mine.shape:
            return None
        scored = mine.isfinite()
        if not torch.equal(scored, theirs[part].isfinite()):
            return None
        largest = max(largest, float((mine - theirs[part])[scored].abs().max()))
    return float(f"{largest:.2g}")


@torch.no_grad()
def compute(model: DraftModel, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Compute with the reference what ``probe_loop.draft`` computes with an engine.

    Logits are over the target's vocabulary, minus infinity where a token cannot be drafted: ``first`` [T, V] of the
    first step at every position, ``draft`` [steps, V] of a draft at the end.
    """
    memory, at = Memory(model.windows), torch.arange(LENGTH + DRAFTED)
    hidden = model.hidden(model.features(given["aux"]), given["token_ids"], at[:LENGTH], memory.attend)
    first = model.logits(hidden)
    draft, hidden = [first[-1]], hidden[-1:]
    for step in range(DRAFTED):
        token, features = given["drafted"][step : step + 1], model.feedback(hidden)
        if model.semantics.parallel_drafting:
            masked, mask = model.masked()
            token, features = torch.tensor([mask]), masked[None]
        hidden = model.hidden(features, token, at[LENGTH + step : LENGTH + step + 1], memory.attend)
        draft.append(model.logits(hidden)[0])
    return {"first": _over_target(model, first), "draft": _over_target(model, torch.stack(draft))}


def _over_target(model: DraftModel, logits: torch.Tensor) -> torch.Tensor:
    wide = torch.full((len(logits), model.dims.vocab_size), float("-inf"))
    wide[:, model.to_target(torch.arange(logits.shape[1]))] = logits
    return wide
