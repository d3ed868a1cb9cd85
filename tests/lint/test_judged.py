"""Cards that were read and judged before the linter saw them: published ones, and small ones written for it.

`judged_cards.json` has small cards with their judgements; its head says how to read them. The rest is about published
cards and pages: the defects listed before the linter ran, and each finding judged.

`judged.json` has the sources and hashes, not the texts. Set A was there while the rules were written; what the linter
first said of the other sets was judged before any rule was changed for them. ``mended`` is true where a rule has
changed since, and says something else at that line. ``whole`` is false where we had only the opening of a card: what
such a text lacks is judged ``cut``. With the texts in a folder that EAGLE3HUB_JUDGED_CARDS names, the rules are held
against the judgements.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from eagle3hub.lint import RULES, lint_text

JUDGEMENTS: dict[str, Any] = json.loads((Path(__file__).parent / "judged.json").read_text(encoding="utf-8"))
JUDGED: list[dict[str, Any]] = JUDGEMENTS["cards"]
SMALL: list[dict[str, Any]] = json.loads((Path(__file__).parent / "judged_cards.json").read_text(encoding="utf-8"))[
    "cards"
]
TEXTS = os.environ.get("EAGLE3HUB_JUDGED_CARDS", "")


def test_the_judgements_are_whole() -> None:
    assert len(JUDGED) >= 40 and len({card["sha256"] for card in JUDGED}) == len(JUDGED)
    for card in JUDGED:
        assert card["set"] in JUDGEMENTS["sets"] and card["source"] and len(card["sha256"]) == 64
        for finding in card["first_run"]:
            assert finding["code"] in RULES and finding["verdict"] in {"true", "false", "cut"}
        assert all(defect["code"] == "" or defect["code"] in RULES for defect in card["defects"])


@pytest.mark.parametrize("card", JUDGED, ids=lambda card: f"{card['set']} {card['name']}")
@pytest.mark.skipif(not TEXTS, reason="EAGLE3HUB_JUDGED_CARDS names no folder")
def test_the_rules_agree_with_the_judgements(card: dict[str, Any]) -> None:
    texts = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in Path(TEXTS).rglob("*.md")}
    if card["sha256"] not in texts:
        pytest.skip("this text is not in the folder")
    found = lint_text(texts[card["sha256"]].read_text(encoding="utf-8"))
    said = {(f.code, f.line) for f in found if f.severity != "info"}
    assert not said & {
        (f["code"], f["line"]) for f in card["first_run"] if f["verdict"] == "false" and "mended" not in f
    }
    assert {d["code"] for d in card["defects"] if d["found"]} <= {f.code for f in found}


@pytest.mark.parametrize("card", SMALL, ids=lambda card: card["name"])
def test_small_cards_are_judged_as_their_authors_did(card: dict[str, Any]) -> None:
    found = [f for f in lint_text(card["text"]) if f.severity != "info"]
    expected, never = set(card["expect"]), set(card["never"])
    wrong = {
        f.code
        for f in found
        if f.code not in expected | set(card["may"])
        and (f.code in never or ("errors" if f.severity == "error" else "warnings") in never)
    }
    assert wrong <= set(card.get("wrong", [])), card["why"]
    assert expected - {f.code for f in found} <= set(card.get("missed", [])), card["why"]


def test_most_small_cards_are_judged_without_an_exception() -> None:
    wanted = sum(len(card["expect"]) for card in SMALL)
    missed, wrong = (sum(len(card.get(key, [])) for card in SMALL) for key in ("missed", "wrong"))
    assert len(SMALL) > 500 and missed < 0.05 * wanted and wrong < 0.05 * wanted
