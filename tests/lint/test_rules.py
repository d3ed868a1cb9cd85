"""Every rule finds its fault on the right line, and is silent on a card without the fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from lint_cases import FRONT, Case, commands, files, numbers, words

from eagle3hub.lint import MODULES, RULES, lint_text, recipes
from eagle3hub.lint.model import FAMILIES, Violation, rule
from eagle3hub.system.resources import read_toml

CASES = [*words.CASES, *numbers.CASES, *files.CASES, *commands.CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.code} {c.name}".strip())
def test_it_finds_and_it_is_silent(case: Case):
    found = [f for f in lint_text(case.bad_text, files=case.files, folders=case.served) if f.code == case.code]
    assert found, "nothing found"
    lines = case.bad_text.split("\n")
    at = [i for i, line in enumerate(lines, 1) if case.at in line]
    assert found[0].line in at, f"line {found[0].line} instead of {at}: {found[0].message}"
    assert case.says in found[0].message
    assert found[0].severity == (case.severity or RULES[case.code].severity)
    kept = case.files and frozenset(name for name in case.files if not name.endswith(".pt"))
    silent = [f for f in lint_text(case.good_text, files=kept, folders=case.served) if f.code == case.code]
    assert not silent, silent


def test_every_rule_has_a_case():
    assert {case.code for case in CASES} == set(RULES)


def test_rules_explain_themselves():
    assert {check.check.__module__ for check in RULES.values()} <= {module.__name__ for module in MODULES}
    for code, found in RULES.items():
        assert found.family == FAMILIES[code[:2]]
        assert found.why.endswith(".") and found.fix.endswith(".")
        assert not found.title.endswith(".") and found.check.__doc__
    assert len({found.title for found in RULES.values()}) == len(RULES)


@pytest.mark.parametrize("code", ["C101", "D101", "C1"])
def test_a_code_is_given_once(code: str):
    with pytest.raises(ValueError, match="taken"):
        rule(code, "info", "t", why="w", fix="f")(lambda card: [Violation(1, "m")])


def _engine_findings(text: str) -> list[tuple[str, str]]:
    return [(f.severity, f.message) for f in lint_text(text) if f.code == "C510"]


OLD_IMAGE = "```bash\ndocker pull vllm/vllm-openai:v0.6.0\n```\n\n"
OLD_BRANCH = "```bash\ngit clone -b v0.6.0 https://github.com/vllm-project/vllm.git\n```\n\n"


@pytest.mark.parametrize(("before", "severity"), [("", "error"), (OLD_IMAGE, "info"), (OLD_BRANCH, "info")])
def test_a_flag_that_is_gone_is_no_fault_for_the_older_engine_that_the_card_takes(before: str, severity: str):
    if "C510" in RULES:
        found = _engine_findings(
            f"{FRONT}\n{before}```bash\nvllm serve owner/target --speculative-model owner/head\n```\n"
        )
        assert [s for s, _ in found] == [severity], found


def test_without_an_algorithm_sglang_reads_no_numbers():
    draft = "--speculative-draft-model-path owner/head --speculative-num-steps 3"
    command = f"python -m sglang.launch_server --model-path owner/target {draft}"
    if "C510" in RULES:
        (alone,) = _engine_findings(f"{FRONT}\n```bash\n{command}\n```\n")
        assert "serves the target without the draft" in alone[1]
        (numbers_,) = _engine_findings(f"{FRONT}\n```bash\n{command} --speculative-algorithm EAGLE3\n```\n")
        assert "fails as it starts" in numbers_[1]


def test_a_model_that_is_tagged_for_speculation_owes_the_conditions_of_its_acceptance():
    front = FRONT.replace("eagle3, ", "")
    told = "# A model\n\nIt keeps its MTP layer: acceptance rate 80%."
    assert {"C405", "C406"} <= {f.code for f in lint_text(front + told)}
    assert "C417" not in {f.code for f in lint_text(front + told)}
    assert not {"C405", "C406"} & {f.code for f in lint_text(front.replace("speculative-decoding", "chat") + told)}


def test_a_card_without_anything_is_not_a_crash():
    for text in ("", "\n", "---\n", "---\n---\n", "\ufeff# x", FRONT, "|a|\n|-|\n", "```", "@misc{", "<", "[]()"):
        lint_text(text, files=())


def test_a_condition_that_the_card_declares_unknown_is_info():
    table = "\n## Results\n\n| Data set | τ |\n|---|---|\n| GSM8K | 2.5 |\n| HumanEval | 2.7 |\n"
    codes = ("C405", "C407", "C411")
    silent = {f.code: f.severity for f in lint_text(FRONT + table)}
    said = {f.code: f.severity for f in lint_text(FRONT + table + "\nNot reported: engine, K, number of prompts.\n")}
    assert [silent[c] for c in codes] == ["warning"] * 3
    assert [said[c] for c in codes] == ["info"] * 3


def test_a_sequence_length_is_no_temperature():
    card = FRONT + "\n## Training\n\nB=4, sequence length T=2048\n\n```python\nx(temperature=0)\n```\n"
    assert not [f for f in lint_text(card) if f.code == "C502"]


def test_a_count_is_not_an_acceptance_length():
    table = "| Position | {} |\n|--:|--:|\n| 1 | 6 of 22 |\n| 2 | 0 of 22 |\n"
    for name, wrong in (("Accepted", "0 of 22"), ("Acceptance length", "0 of 22")):
        text = "# Card\n\n" + table.format(name)
        assert "C201" not in {f.code for f in lint_text(text)}
        assert "C306" in {f.code for f in lint_text(text.replace(wrong, "0.22"))} or name == "Accepted"


def test_rates_in_percent_are_no_lengths_where_they_are_named():
    table = "| head | K | 1 | 2 | 3 |\n|---|--:|--:|--:|--:|\n| a | 3 | 59.3 | 15.7 | 9.5 |\n"
    for name, found in (("marginal", False), ("conditional", False), ("probable", True)):
        text = f"# Card\n\n## Acceptance rates by position, {name}, in percent\n\n{table}"
        assert ("C201" in {f.code for f in lint_text(text)}) is found, name


def test_the_depth_of_every_known_target_has_a_source_and_is_read():
    tables = read_toml(Path(recipes.__file__).with_name("targets.toml"))["depths"]
    known = [(name, depth) for table in tables for name, depth in table["layers"].items()]
    assert len({name for name, _ in known}) == len(known), "one source for each"
    assert all(table["source"].startswith("https://") for table in tables)
    for name, depth in known:
        front = FRONT.replace("owner/target", f"owner/{name.title()}-Instruct")
        for top, found in ((depth, False), (depth + 1, True)):
            card = f"{front}\n# Head\n\nAux hidden states of target layers [2, 7, {top}].\n"
            assert ("C507" in {f.code for f in lint_text(card)}) is found, name
