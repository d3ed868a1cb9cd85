"""What follows from a probe's answers, and how it takes the place of what was read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import heads
from support import outlines as f
from support.versions import VLLM, VLLM_NEXT

from eagle3hub.engines import specs
from eagle3hub.engines.preflight import contract, contracts_of, only_read, preflight_all, read_probed
from eagle3hub.engines.preflight.probed import Answer, Probed, probed
from eagle3hub.errors import ManifestError, OutputError, SourceError, UnavailableError, UsageError
from eagle3hub.probing import contract as module
from eagle3hub.probing.contract import differences, probed_contract, surprises, to_json
from eagle3hub.probing.questions import questions
from eagle3hub.probing.run import Probe, ask
from eagle3hub.system.progress import silent

RUNNERS = ("V1", "V2")
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def held() -> Probed:
    found = probed("vllm", VLLM)
    assert found is not None
    return found


def probe_of(found: Probed, **changed: Answer) -> Probe:
    """The probe that a held contract was made from, with other answers of the executed runner."""
    main = {**found.answers, **{name.replace("_", "-"): answer for name, answer in changed.items()}}
    other = {**main, **found.runners["V2"].answers}
    environment = {"torch": "2", "transformers": "5"}
    return Probe("vllm", found.version, "cpu", environment, {"V1": main, "V2": other}, {})


@pytest.mark.slow
def test_a_held_contract_is_what_its_answers_say(held: Probed):
    assert set(held.answers) <= set(questions())
    again = probed_contract(probe_of(held), held.date, RUNNERS)
    assert {c: r.effect for c, r in again.rules.items()} == {c: r.effect for c, r in held.rules.items()}
    assert (again.rules, again.terms, again.runners) == (held.rules, held.terms, held.runners)
    assert differences(again, RUNNERS) == []


@pytest.mark.parametrize("version", [pytest.param(VLLM, marks=pytest.mark.slow), VLLM_NEXT])
def test_a_held_contract_leads_to_every_answer(version: str):
    held = probed("vllm", version)
    assert held is not None
    assert surprises(held, RUNNERS) == []


def test_most_rules_of_vllm_were_executed():
    for runner in RUNNERS:
        rules, left = only_read(contract("vllm", f"{VLLM} {runner}"))
        assert rules - len(left) >= 0.85 * rules, left


def test_an_engine_that_does_something_else_is_told_of(held: Probed):
    drops = Answer(outcome="silently_wrong", matched="drops the tensor", taps=(2, 6, 9))
    nested = Answer(outcome="refuses", stage="config", message="ValueError: {no} such form")
    other = probe_of(held, a_tensor_nobody_knows=drops, nested=nested, ids_in_no_order=Answer(outcome="right"))
    found = probed_contract(other, "2030-01-02", RUNNERS)
    said = differences(found, RUNNERS)
    assert any(s.startswith("V1: tensor-unknown: held to be refused, found to be silently wrong") for s in said)
    assert "V1: reads_nested: held to be True, found to be False (nested …)" in said
    assert "V1: aux.as_listed: held to be False, found to be True (ids-in-no-order …)" in said
    first = contracts_of(found)[0]
    assert first.rules["tensor-unknown"].says == "drops {names}, because it has no place for them"
    assert first.rules["tensor-unknown"].source.startswith(f"executed (vLLM {VLLM} V1, cpu): drops the tensor")


def test_words_for_another_effect_are_not_used(held: Probed):
    stops = Answer(outcome="refuses", stage="load", message="ValueError: a {brace} of 7")
    found = probed_contract(probe_of(held, no_d2t=stops), "2030-01-02", RUNNERS)
    rule = contracts_of(found)[0].rules["d2t-missing"]
    assert (rule.effect, rule.hint) == ("refuses", None)
    assert rule.reason("d2t-missing", {}).sentence == "stops at it: ValueError: a {brace} of 7"


def test_what_was_not_asked_is_left_to_reading(held: Probed):
    few = {name: held.answers[name] for name in ("plain", "no-d2t", "names-midlayer")}
    found = probed_contract(replace(probe_of(held), answers={"V1": few, "V2": few}), "2030-01-02", RUNNERS)
    assert (set(found.rules), dict(found.terms)) == ({"d2t-missing"}, {})


def test_a_version_that_is_not_known_is_read_from_the_nearest(held: Probed):
    found = probed_contract(replace(probe_of(held), version="999.1"), "2030-01-02", RUNNERS)
    assert found.reading_from == specs.versions_with("vllm", "contract.toml")[-1]
    assert [terms.title for terms in contracts_of(found)] == ["vLLM 999.1 V1 (CPU)", "vLLM 999.1 V2 (GPU)"]
    with pytest.raises(UsageError, match=r"no contract describes vLLM 0\.0\.7"):
        contracts_of(replace(found, reading_from="0.0.7"))


def test_inspect_judges_by_a_probe_of_ones_own(held: Probed, tmp_path: Path):
    right = Answer(outcome="right", matched="trained", taps=(2, 6, 9))
    mine = probed_contract(probe_of(held, names_that_begin_with_model=right), "2030-01-02", RUNNERS)
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(to_json(mine)))
    again = read_probed(file)
    assert again == mine
    prefixed = f.subject(f.config(eagle_aux_hidden_state_layer_ids=list(f.BOUNDARIES)), f.shapes("model.midlayer."))
    verdicts = {v.title: v for v in preflight_all(prefixed, f.target(), probed=[again])}
    assert "model-prefix" not in {r.code for r in verdicts[f"vLLM {VLLM} V1 (CPU)"].reasons}
    others = {v.title: v for v in preflight_all(prefixed, f.target())}
    assert "model-prefix" in {r.code for r in others[f"vLLM {VLLM} V1 (CPU)"].reasons}
    assert verdicts[f"vLLM {VLLM} V1 (CPU)"].warning == f"vLLM {VLLM} is judged by a probe of 2030-01-02 on cpu"
    assert all(v.warning is None for v in verdicts.values() if v.engine == "sglang")
    with pytest.raises(UsageError, match="both say which vLLM to judge"):
        preflight_all(f.universal(), f.target(), {"vllm": VLLM}, [again])


def test_inspect_takes_the_file_of_a_probe(cli: Cli, held: Probed, tmp_path: Path):
    file, head = tmp_path / "mine.json", heads.universal(tmp_path / "head")
    file.write_text(json.dumps(to_json(replace(held, version="999.1", reading_from=VLLM))))
    document = json.loads(cli("inspect", head, "--contract", file, "--json")[1])
    shown = {(e["engine"], e["version"]): e.get("warning") for e in document["engines"]}
    assert shown["vllm", "999.1 V1"] == f"vLLM 999.1 is judged by a probe of {held.date} on cpu"
    assert ("vllm", f"{VLLM} V1") not in shown
    assert cli("inspect", head, "--contract", tmp_path / "none.json")[0] == 3


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        (None, SourceError, "source-contract"),
        ("{", ManifestError, "contract-json"),
        ("[]", ManifestError, "contract-schema"),
        ('{"schema": 99}', ManifestError, "contract-schema"),
        ('{"schema": 1, "engine": "vllm"}', ManifestError, "contract-form"),
    ],
)
def test_a_file_that_is_no_contract_is_refused(tmp_path: Path, text: str | None, error: Any, code: str):
    file = tmp_path / "contract.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(error) as caught:
        read_probed(file)
    assert caught.value.code == code


def test_a_file_of_any_size_is_not_read(tmp_path: Path):
    file = tmp_path / "contract.json"
    file.write_bytes(b" " * (5 << 20))
    with pytest.raises(ManifestError, match="too large"):
        read_probed(file)


# The command, without an engine


def test_a_question_that_there_is_not():
    with pytest.raises(UsageError, match="no question called no-d2") as caught:
        ask("vllm", "vLLM", Path("/none"), device="cpu", progress=silent, only=["no-d2"])
    assert "no-d2t" in str(caught.value.hint)


def test_an_engine_that_cannot_be_probed(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PROBED", ("sglang",))
    status, _, said = cli("engines", "probe", "llamacpp")
    assert (status, "llama.cpp cannot be probed" in said) == (2, True)


def test_an_interpreter_that_is_not_there(cli: Cli, tmp_path: Path):
    status, _, said = cli("engines", "probe", "vllm", "--python", tmp_path / "python", "--only", "plain")
    assert (status, "vLLM's interpreter" in said) == (4, True)


def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """Put a program of this Python in the place of vLLM's worker."""
    file = tmp_path / "worker.py"
    file.write_text(f"import sys\nsys.stdin.readline()\n{text}\n")
    monkeypatch.setattr("eagle3hub.engines.process._WORKERS", tmp_path)
    (tmp_path / "vllm_probe.py").write_text(file.read_text())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'print(\'{"event": "error", "stage": "import", "kind": "E", "message": "no vllm"}\')',
            "could not be imported",
        ),
        ('print(\'{"event": "error", "stage": "device", "kind": "E", "message": "no gpu"}\')', "cannot run on cpu"),
        ("sys.exit(3)", "did not finish: it ended with exit status 3"),
        ('print(\'{"event": "done"}\')', "left 1 questions without an answer, such as plain"),
    ],
)
def test_a_worker_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, said: str):
    worker(monkeypatch, tmp_path, text)
    with pytest.raises(UnavailableError, match=said):
        ask("vllm", "vLLM", Path(sys.executable), device="cpu", progress=silent, only=["plain"])


@pytest.mark.parametrize(
    ("message", "outcome", "said"),
    [
        ("'_OpNamespace' '_C' object has no attribute 'gemm4'", "not_run", "there is no kernel gemm4 for this device"),
        (
            "'Llama' object has no attribute 'gemm4'",
            "refuses",
            "AttributeError: 'Llama' object has no attribute 'gemm4'",
        ),
    ],
)
def test_what_this_device_has_no_kernel_for_is_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, message: str, outcome: str, said: str
):
    answer = {"event": "answer", "name": "plain", "ended": "raised", "stage": "forward", "kind": "AttributeError"}
    events = [answer | {"message": message}, {"event": "done"}]
    worker(monkeypatch, tmp_path, "\n".join(f"print({json.dumps(event)!r})" for event in events))
    found = ask("vllm", "vLLM", Path(sys.executable), device="cpu", progress=silent, only=["plain"])
    (answers,) = found.answers.values()
    assert (answers["plain"].outcome, answers["plain"].message) == (outcome, said)


def test_a_contract_that_cannot_be_written(held: Probed, tmp_path: Path):
    found = module.Finding(held, (), (), 1, 2, 3.0)
    with pytest.raises(OutputError, match="cannot write"):
        module.write_contract(found, tmp_path / "none" / "contract.json")
    module.write_contract(found, tmp_path / "contract.json")
    assert read_probed(tmp_path / "contract.json") == held


def test_what_a_probe_prints(cli: Cli, held: Probed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(module, "ask", lambda *_a, **_k: probe_of(held))
    file = tmp_path / "contract.json"
    status, shown, said = cli("engines", "probe", "vllm", "--python", "python", "--output", file)
    assert status == 0, said
    assert "drafts one token after the other" in shown
    assert "no differences" in " ".join(shown.split())
    assert read_probed(file).rules == held.rules
    document = json.loads(cli("engines", "probe", "vllm", "--python", "python", "--json")[1])
    assert (document["differences"], document["surprises"]) == ([], [])


def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(module, "ask", lambda *_a, **_k: pytest.fail("the engine was asked"))
    status, _, said = cli("engines", "probe", "vllm", "--python", "python", "--output", tmp_path)
    assert (status, "a folder" in said) == (3, True), said


def test_a_link_is_written_through(held: Probed, tmp_path: Path):
    (tmp_path / "contract.json").write_text("old")
    (tmp_path / "link").symlink_to("contract.json")
    module.write_contract(module.Finding(held, (), (), 1, 2, 3.0), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert read_probed(tmp_path / "contract.json") == held


def test_a_probe_of_a_few_questions_counts_these_and_is_read_again(
    cli: Cli, held: Probed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    few = {name: held.answers[name] for name in ("plain", "no-d2t")}
    asked = Probe("vllm", held.version, "cpu", {"torch": "2", "transformers": "5"}, {"V1": few, "V2": few}, {})
    monkeypatch.setattr(module, "ask", lambda *_a, **_k: asked)
    file = tmp_path / "contract.json"
    status, shown, said = cli("engines", "probe", "vllm", "--python", "python", "--output", file)
    assert status == 0, said
    assert re.search(r"2 questions in \d+ s; 1 of \d+ rules and 0 terms executed", " ".join(shown.split()))
    assert list(read_probed(file).rules) == ["d2t-missing"]
