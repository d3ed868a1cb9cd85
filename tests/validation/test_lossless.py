"""Lossless below float32: whether an output that speculation changed changed at a tie, by the target's own margin."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support import targets
from support.scripts import write_interpreter
from support.validation import validate

from eagle3hub.card.results import _lossless
from eagle3hub.engines.base import EngineRun, PromptResult, RunSpec
from eagle3hub.prompts import Prompt, PromptSet
from eagle3hub.reference.target import TargetModel
from eagle3hub.system.progress import silent
from eagle3hub.validation.derive import contradictions
from eagle3hub.validation.engine_runner import Cache
from eagle3hub.validation.gates import Divergence, Lossless, Margin, compare
from eagle3hub.validation.options import ReferenceOptions
from eagle3hub.validation.reference_runner import HashedHead, ReferenceRunner
from eagle3hub.validation.render import render, to_html
from eagle3hub.validation.report import Report
from eagle3hub.validation.target import identify_target

PROMPTS = PromptSet("own", tuple(Prompt(i, "own", text) for i, text in enumerate(("abc", "hello", "q=1", "{z}"))))
NONE: Any = None


def divergence(margin: float, noise: float = 0.1, largest: float = 10.0) -> Divergence:
    return Divergence(1, 3, (5, 6), Margin(margin, noise, largest))


@pytest.mark.parametrize(
    ("dtype", "margin", "verdict"),
    [
        ("bfloat16", 0.0, "tie"),
        ("bfloat16", 0.27, "tie"),  # 2 * (0.1 + 10 / 256) = 0.278
        ("bfloat16", 2 * (0.1 + 10 / 256), "tie"),
        ("bfloat16", 0.29, "not a tie"),
        ("float16", 0.205, "tie"),  # 2 * (0.1 + 10 / 2048) = 0.2098
        ("float16", 0.215, "not a tie"),
        ("float32", 0.0, "not a tie"),
    ],
)
def test_a_tie_is_what_rounding_can_turn_round(dtype: str, margin: float, verdict: str) -> None:
    assert divergence(margin).judged(dtype).verdict == verdict


def test_the_whole_is_judged_by_the_worst() -> None:
    tie, clear, unknown = divergence(0.0), divergence(9.0), Divergence(2, 1, (1, 2), why_not="nobody asked")

    def verdict(*found: Divergence) -> tuple[object, object]:
        judged = Lossless(4 - len(found), 4, found).judged("bfloat16")
        return judged.verdict, judged.worst and judged.worst.verdict

    assert verdict() == ("identical", None)
    assert verdict(tie, tie) == ("ties only", "tie")
    assert verdict(tie, unknown) == ("not checked", "not checked")
    assert verdict(tie, unknown, clear) == ("not lossless", "not a tie")


# The target's margins, by the reference, on a small target that rounds.


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return targets.save(tmp_path_factory.mktemp("small") / "target", tokenizer=True)


def reference(target: Path, **options: Any) -> ReferenceRunner:
    job = RunSpec(str(target), None, PROMPTS, dtype="bfloat16", max_new_tokens=12)
    head = HashedHead(NONE, "none")
    return ReferenceRunner(job, identify_target(target), head, head, ReferenceOptions(**options), Cache(), silent)


def a_run(outputs: Sequence[Sequence[int]], lengths: Sequence[int]) -> EngineRun:
    rows = tuple(PromptResult(n, tuple(o), None, 1.0) for o, n in zip(outputs, lengths, strict=True))
    return EngineRun(rows, None, "1", {}, 1.0, 1.0)


@pytest.fixture(scope="module")
def spoken(small: Path) -> tuple[list[tuple[int, ...]], list[int], list[torch.Tensor]]:
    """Greedy responses in bfloat16, the prompts' lengths, and the float32 logits at each response's token 4."""
    rounded, exact = TargetModel.load(small, dtype="bfloat16"), TargetModel.load(small)
    texts = rounded.respond([rounded.chat(p.text) for p in PROMPTS.prompts], max_new_tokens=12)
    logits = exact.next_logits([(*t.token_ids[: t.prompt_length], *t.response[:4]) for t in texts])
    return [t.response for t in texts], [t.prompt_length for t in texts], logits


def test_a_token_far_from_the_best_is_no_tie(
    small: Path, spoken: tuple[list[tuple[int, ...]], list[int], list[torch.Tensor]]
) -> None:
    """An engine's output is changed at one token, once for the target's worst and once for none."""
    own, lengths, logits = spoken
    changed = [list(tokens) for tokens in own]
    changed[2][4] = int(logits[2].argmin())
    alone, drafted = a_run(own, lengths), a_run(changed, lengths)
    found = reference(small).margins(drafted, compare([0, 1, 2, 3], alone, drafted)).judged("bfloat16")
    (one,) = found.divergences
    assert found.verdict == "not lossless"
    assert (one.question_id, one.position, one.tokens) == (2, 4, (own[2][4], changed[2][4]))
    assert one.found is not None and one.bound is not None
    assert one.found.margin == pytest.approx(float(logits[2].max() - logits[2].min()), abs=1e-4)
    assert 0 < one.found.noise < one.bound < one.found.margin
    same = reference(small).margins(alone, compare([0, 1, 2, 3], alone, alone)).judged("bfloat16")
    assert (same.verdict, same.identical) == ("identical", 4)


def test_a_token_that_rounding_moves_is_a_tie(
    small: Path, spoken: tuple[list[tuple[int, ...]], list[int], list[torch.Tensor]], tmp_path: Path
) -> None:
    """Two rows of lm_head that are nearly the same: every token of the one is a tie with the other."""
    from safetensors.torch import load_file, save_file

    own, lengths, _ = spoken
    twin = tmp_path / "twin"
    twin.mkdir()
    for file in small.iterdir():
        (twin / file.name).write_bytes(file.read_bytes())
    tensors = load_file(twin / "model.safetensors")
    token = own[1][4]
    other = next(i for i in range(10, 90) if i not in {*own[1], token})
    tensors["lm_head.weight"][other] = tensors["lm_head.weight"][token] * 0.9999
    save_file(tensors, twin / "model.safetensors", metadata={"format": "pt"})
    alone = a_run(own, lengths)
    changed = [list(tokens) for tokens in own]
    changed[1][4:] = [other]
    drafted = a_run(changed, lengths)
    found = reference(twin).margins(drafted, compare([0, 1, 2, 3], alone, drafted)).judged("bfloat16")
    assert found.verdict == "ties only"
    assert found.divergences[0].found is not None
    assert found.divergences[0].found.margin < 0.01


def test_an_output_that_ended_is_held_to_the_likeliest_end(
    small: Path, spoken: tuple[list[tuple[int, ...]], list[int], list[torch.Tensor]]
) -> None:
    own, lengths, logits = spoken
    cut = [list(tokens) for tokens in own]
    cut[0] = cut[0][:4]
    alone, drafted = a_run(own, lengths), a_run(cut, lengths)
    (one,) = reference(small).margins(drafted, compare([0, 1, 2, 3], alone, drafted)).divergences
    assert one.tokens == (own[0][4], None)
    assert one.found is not None
    assert one.found.margin == pytest.approx(float(logits[0].max() - logits[0][2]), abs=1e-4), "the end token is 2"


def test_where_the_target_is_not_asked_it_says_why(
    small: Path,
    spoken: tuple[list[tuple[int, ...]], list[int], list[torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, lengths, _ = spoken
    changed = [(*tokens[:3], 90, *tokens[4:]) for tokens in own]
    alone, drafted = a_run(own, lengths), a_run(changed, lengths)
    differing = compare([0, 1, 2, 3], alone, drafted)

    def why(runner: ReferenceRunner, run: EngineRun = drafted) -> str:
        found = runner.margins(run, differing).judged("bfloat16")
        assert found.verdict == "not checked"
        (said,) = {one.why_not for one in found.divergences}
        return said

    assert "was not run" in why(reference(small, hidden_states=tmp_path))
    assert "another length" in why(reference(small), a_run(changed, [n + 1 for n in lengths]))
    judged = differing.judged("bfloat16")
    assert judged.verdict == "not checked"
    assert judged.divergences[0].why_not == "the reference took no part"

    endless = reference(small)
    monkeypatch.setattr(TargetModel, "eos_ids", frozenset())
    shorter = a_run([tokens[:3] for tokens in own], lengths)
    found = endless.margins(shorter, compare([0, 1, 2, 3], alone, shorter))
    assert {one.why_not for one in found.divergences} == {
        "an output had ended, and the target names no token that ends one"
    }
    monkeypatch.setattr(TargetModel, "next_logits", lambda self, rows: [torch.full((97,), float("nan")) for _ in rows])
    assert "not finite" in why(reference(small))

    def no_room(self: TargetModel, rows: object) -> list[torch.Tensor]:
        from eagle3hub.errors import UnavailableError

        raise UnavailableError("this machine ran out of memory", code="unavailable-memory")

    monkeypatch.setattr(TargetModel, "next_logits", no_room)
    assert "ran out of memory" in why(reference(small))


# What a report states is derived again.


def a_report(verdict: str = "ties only") -> dict[str, Any]:
    """A report of a run in bfloat16 with one divergence, as it was made."""
    document = json.loads((Path(__file__).parent / "fixtures" / "report-three-engines.json").read_text())
    document["settings"]["dtype"] = "bfloat16"
    margin = 0.1 if verdict == "ties only" else 3.0
    for entry in document["engines"]:
        entry["dtype"] = "bfloat16"
    entry = next(e for e in document["engines"] if e["engine"] == "vllm")
    for row in entry["per_prompt"]:
        row["identical"] = row is not entry["per_prompt"][0]
    row = entry["per_prompt"][0]
    entry["lossless"] = (
        replace(
            Lossless(
                len(entry["per_prompt"]) - 1,
                len(entry["per_prompt"]),
                (Divergence(row["question_id"], 3, (5, 6), Margin(margin, 0.2, 20.0)),),
            )
        )
        .judged("bfloat16")
        .to_json()
    )
    return document


def said(document: dict[str, Any]) -> list[str]:
    return [line for line in contradictions(Report.from_json(document)) if "lossless" in line or "diverge" in line]


def test_the_evidence_of_a_divergence_is_read_and_written() -> None:
    document = a_report()
    assert Report.from_json(document).to_json() == document
    assert said(document) == []


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda x: x.update(verdict="identical"), "lossless.verdict is stated as"),
        (lambda x: x["divergences"][0].update(bound=7.0), "bound is stated as 7.0"),
        (lambda x: x["divergences"][0].update(margin=3.0), "verdict is stated as"),
        (lambda x: x["divergences"][0].update(verdict="not a tie"), "verdict is stated as"),
        (lambda x: x["divergences"][0].update(tokens=[5, 5]), "both of its tokens are 5"),
    ],
)
def test_an_edited_verdict_is_found(edit: Callable[[dict[str, Any]], None], found: str) -> None:
    document = a_report()
    edit(next(e for e in document["engines"] if e["engine"] == "vllm")["lossless"])
    assert any(found in line for line in said(document)), said(document)


def test_a_report_of_an_earlier_version_says_nothing_of_ties() -> None:
    document = a_report()
    lossless = next(e for e in document["engines"] if e["engine"] == "vllm")["lossless"]
    del lossless["verdict"]
    lossless["divergences"] = [{"question_id": d["question_id"], "position": 3} for d in lossless["divergences"]]
    assert Report.from_json(document).to_json() == document
    assert said(document) == []


SAYS = {
    "identical": ("tokens", "target’s own tokens</li>", ""),
    "ties only": ("the others change at a tie", "the others change at a tie", "every difference begins at a tie"),
    "not lossless": ("changes at new token 3", "target’s own tokens</li>", "the output is not lossless"),
    "not checked": ("is not checked", "change at a tie is not checked", "was not checked"),
}


@pytest.mark.parametrize("verdict", SAYS)
def test_terminal_page_and_card_say_what_it_comes_to(verdict: str) -> None:
    found = {
        "identical": (),
        "ties only": (divergence(0.1),),
        "not lossless": (divergence(3.0),),
        "not checked": (replace(divergence(0.1), found=None, why_not="nobody asked"),),
    }[verdict]
    document = a_report()
    report = Report.from_json(document)
    lossless = Lossless(4 - len(found), 4, found).judged("bfloat16")
    assert lossless.verdict == verdict
    entry = next(e for e in report.engines if e.engine == "vllm")
    assert entry.counted is not None
    entry = replace(entry, outcome=replace(entry.counted, lossless=lossless))
    report = replace(report, engines=(entry,))
    out = Console(width=200, file=io.StringIO(), no_color=True)
    render(report, out)
    terminal, page, card = SAYS[verdict]
    line = next(x for x in out.file.getvalue().splitlines() if x.startswith("lossless"))  # type: ignore[attr-defined]
    assert terminal in line
    assert page in to_html(report)
    assert entry.counted is not None
    shown = _lossless(entry.counted)
    assert shown is not None
    assert (card in shown.changes) if card else shown.changes == ""


# vLLM in bfloat16.


SOME: dict[str, Any] = {"num_prompts": 12, "max_new_tokens": 48, "dtype": "bfloat16", "engine": "reference,vllm"}


@pytest.mark.slow
@pytest.mark.engine
def test_bfloat16_on_vllm_is_no_false_alarm(head: Path, smollm2_target: Path, vllm_python: Path) -> None:
    report = validate(head, target=smollm2_target, engine_python={"vllm": vllm_python}, **SOME)
    entry = report.document["engines"][1]
    lossless = entry["lossless"]
    assert lossless["verdict"] == "ties only", "of 12 prompts some change in bfloat16"
    assert all(d["verdict"] == "tie" and d["margin"] < d["bound"] < 2 for d in lossless["divergences"])
    assert "greedy output" not in entry["reason"]


LOSSY = """
import importlib.abc
import importlib.machinery
import sys

MODULE = "vllm.utils.cpu_triton_utils"
BEGIN = "def _rejection_greedy_sample_kernel_impl("
HONEST = "_ensure_int64(target_argmax),"
LOSSY = "(_ensure_int64(draft_token_ids) if next(_coin) else _ensure_int64(target_argmax)),"


class Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data, path, **options):
        before, mark, after = data.decode().partition(BEGIN)
        assert mark and HONEST in after
        coin = "import itertools; _coin = itertools.cycle([0, 0, 1])\\n"
        text = before + coin + mark + after.replace(HONEST, LOSSY, 1)
        return super().source_to_code(text.encode(), path, **options)

    def get_code(self, name):
        return self.source_to_code(self.get_data(self.path), self.path)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != MODULE:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        found.loader = Loader(name, found.origin)
        return found


sys.meta_path.insert(0, Finder())
"""


@pytest.mark.slow
@pytest.mark.engine
def test_a_lossy_way_of_accepting_is_caught(
    head: Path, smollm2_target: Path, vllm_python: Path, tmp_path: Path
) -> None:
    """A vLLM that accepts the drafts of every third round unseen: acceptance looks well, the text is another."""
    (tmp_path / "sitecustomize.py").write_text(LOSSY)
    python = write_interpreter(tmp_path / "python", vllm_python, PYTHONPATH=str(tmp_path))
    report = validate(
        head, target=smollm2_target, engine_python={"vllm": python}, **{**SOME, "num_prompts": 8, "max_new_tokens": 24}
    )
    entry = report.document["engines"][1]
    assert entry["acceptance"]["mean_acceptance_length"] > 1.8, entry
    assert entry["lossless"]["verdict"] == "not lossless"
    assert "not by a tie" in entry["reason"]
    assert report.verdict == "fail"
