"""The cards of four public releases: rendered identically, every fact of the makers in its place, clean under lint."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_samples import HERE
from huggingface_hub import ModelCard

from eagle3hub.card import markdown
from eagle3hub.card.assemble import render_card
from eagle3hub.lint import RULES
from eagle3hub.lint.source import lint_card

CARDS = HERE.parent.parent / "examples" / "cards"
NAMES = ("gpt-oss-120b-modelopt", "qwen3-235b-lk", "qwen3-8b-specjax", "qwen3.5-397b-aq")
_VERSION = re.compile(r"\beagle3hub \d+\.\d+\.\d+\S*?(?=[,.]?(?:\s|$))")


def facts(name: str) -> list[dict[str, str]]:
    found: Any = yaml.safe_load((CARDS / name / "facts.yaml").read_text(encoding="utf-8"))
    return list(found["facts"])


def sections(text: str) -> dict[str, str]:
    """The card's text by heading; the metadata is ``---``, what stands above the first section is the empty one."""
    _, front, body = text.split("---\n", 2)
    parts = re.split(r"^#{2,4} (.+)$", body, flags=re.M)
    return {"---": front, "": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def test_every_card_is_tested() -> None:
    assert sorted(path.name for path in CARDS.iterdir()) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_rendered_identically(name: str, tmp_path: Path) -> None:
    made = render_card(CARDS / name / "release.yaml", output=tmp_path / "README.md")
    committed = (CARDS / name / "README.md").read_text(encoding="utf-8")
    assert _VERSION.sub("eagle3hub", made.text) == _VERSION.sub("eagle3hub", committed), "render examples/cards again"
    charts = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("charts/*"))
    assert charts == sorted(p.relative_to(CARDS / name).as_posix() for p in (CARDS / name).rglob("charts/*"))


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_is_where_it_should_be(name: str) -> None:
    parts = sections((CARDS / name / "README.md").read_text(encoding="utf-8"))
    for fact in facts(name):
        assert fact["where"] in parts, fact
        assert fact["value"] in parts[fact["where"]], fact


@pytest.mark.parametrize("name", NAMES)
def test_figures_that_differ_from_the_makers_follow_from_theirs(name: str) -> None:
    for fact in facts(name):
        if re.fullmatch(r"MTP \+[\d.]+%", fact.get("seed", "")):
            theirs, ours = float(fact["seed"][5:-1]), float(fact["value"].replace("−", "-").rstrip("%"))
            assert ours < 0 and abs((1 / (1 + ours / 100) - 1) * 100 - theirs) < 0.15, fact
        assert ("seed" in fact) == ("why" in fact)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_results_is_a_fact(name: str) -> None:
    imported = yaml.safe_load((CARDS / name / "imported.yaml").read_text(encoding="utf-8"))
    known = " ".join(fact["value"] for fact in facts(name))
    for measurement in imported["measurements"]:
        for row in measurement["rows"]:
            for number in (row["value"], *row.get("others", {}).values()):
                assert re.search(rf"\b{re.escape(f'{number:g}')}0*\b", known), (row, number)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_above_info(name: str) -> None:
    found = lint_card(str(CARDS / name / "README.md")).findings
    assert [f for f in found if f.severity != "info"] == []


@pytest.mark.parametrize("name", NAMES)
def test_provenance_stays_with_the_makers(name: str) -> None:
    text = (CARDS / name / "README.md").read_text(encoding="utf-8")
    assert "**Not measured with eagle3hub.**" in text and "nothing here has been validated" in text
    assert "Reported by the makers of the head; imported from" in text
    for result in ModelCard(text).data.eval_results or []:
        assert result.metric_args["imported"] is True and result.metric_args["measured_by"] == "the makers of the head"
        assert result.source_url and result.verified is None


@pytest.mark.parametrize("name", NAMES)
def test_every_finding_is_counted_and_justified(name: str) -> None:
    text = (CARDS / name / "FINDINGS.md").read_text(encoding="utf-8")
    rows = listed(text)
    counts = Counter(severity for _, _, severity in rows)
    for severity in ("error", "warning", "info"):
        assert f"{counts[severity]} {severity}s" in text.split("\n\n")[1]
    codes = {code for _, code, _ in rows}
    assert codes <= set(RULES)
    assert codes <= set(re.findall(r"\bC\d{3}\b", text.split("## Corrected", 1)[1])), "not justified"


@pytest.mark.parametrize("name", NAMES)
def test_findings_are_current(name: str) -> None:
    """The makers' texts are theirs and not in this repository; where a folder of copies is named, they are checked."""
    folder = os.environ.get("EAGLE3HUB_MAKERS_CARDS")
    if not folder:
        pytest.skip("EAGLE3HUB_MAKERS_CARDS names no folder with copies of the makers' cards")
    text = (CARDS / name / "FINDINGS.md").read_text(encoding="utf-8")
    copies = {hashlib.sha256(p.read_bytes()).hexdigest(): p for p in Path(folder).iterdir() if p.is_file()}
    found = lint_card(str(copies[text.split("SHA-256 `")[1][:64]])).findings
    assert Counter((f.line, f.code, f.severity) for f in found) == Counter(listed(text))
    for finding in found:
        assert markdown.escape(finding.message) in text or finding.message in text, finding


def listed(findings: str) -> list[tuple[int, str, str]]:
    """Line, rule and severity of every row of the table."""
    rows = re.findall(r"^\| (\d+) \| (C\d{3}) \| (\w+) \|", findings, re.M)
    return [(int(line), code, severity) for line, code, severity in rows]
