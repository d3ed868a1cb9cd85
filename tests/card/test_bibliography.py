"""The bibliography: every entry complete, correct where it is easy to get wrong, printed as valid BibTeX."""

from __future__ import annotations

import re
from dataclasses import replace

import card_samples as samples
import pytest
from pybtex.database import parse_string

from eagle3hub.card import bibliography
from eagle3hub.card.manifest import Manifest
from eagle3hub.card.render import render_text
from eagle3hub.errors import ManifestError


def test_every_entry_is_complete() -> None:
    entries = parse_string(bibliography.bibtex(bibliography.keys()), "bibtex").entries
    assert sorted(entries) == bibliography.keys()
    seen: set[str] = set()
    for key, entry in entries.items():
        assert entry.fields["title"] and entry.persons["author"], key
        eprint = entry.fields.get("eprint")
        assert eprint or "doi" in entry.fields or "url" in entry.fields, key
        if eprint:
            assert re.fullmatch(r"\d{4}\.\d{5}", eprint), key
            assert eprint not in seen, key
            seen.add(eprint)
            assert entry.fields["archivePrefix"] == "arXiv"
            assert entry.fields["url"] == f"https://arxiv.org/abs/{eprint}"
        assert ("booktitle" in entry.fields) == (entry.type == "inproceedings"), key
        assert entry.type in ("inproceedings", "misc", "software"), key


def test_eagle3_is_cited_by_its_own_title() -> None:
    work = bibliography.work("eagle3")
    assert work.title == ("EAGLE-3: Scaling up Inference Acceleration of Large Language Models via Training-Time Test")
    assert (work.authors, work.year, work.url) == ("Li et al.", "2025", "https://arxiv.org/abs/2503.01840")
    assert bibliography.with_always(["lk", "eagle3", "lk"]) == ["eagle3", "lk"]


def test_addresses_and_ampersands_are_not_escaped_twice() -> None:
    assert "ShareGPT_Vicuna_unfiltered}" in bibliography.bibtex(["sharegpt"])
    assert "gpt-oss-120b \\& gpt-oss-20b" in bibliography.bibtex(["gptoss"])
    assert bibliography.work("gptoss").title == "gpt-oss-120b & gpt-oss-20b Model Card"


@pytest.mark.parametrize(
    ("key", "authors"), [("leviathan", "Leviathan et al."), ("humaneval", "Chen et al."), ("trtllm", "NVIDIA")]
)
def test_short_authors(key: str, authors: str) -> None:
    assert bibliography.work(key).authors == authors


def test_unknown_key_names_near_ones() -> None:
    with pytest.raises(ManifestError, match="'egale3'; did you mean 'eagle3'") as caught:
        bibliography.bibtex(["egale3"])
    assert "medusa" in (caught.value.hint or "")


def test_references_are_found_by_arxiv_id() -> None:
    by_id = bibliography.references()
    eagle3 = by_id["2503.01840"]
    assert (eagle3.title, eagle3.complete) == (bibliography.work("eagle3").title, True)
    assert eagle3.last_names == ("Li", "Wei", "Zhang", "Zhang") and "NeurIPS" in (eagle3.venue or "")
    assert by_id["2107.03374"].last_names == ("Chen",) and not by_id["2107.03374"].complete
    assert by_id["2302.01318"].venue is None
    with_id = [key for key in list(bibliography.keys()) if "eprint = " in bibliography.bibtex([key])]
    assert len(by_id) == len(with_id)


OWN = """@misc{ours, title={Our Head: A Report}, author={Jane Doe and John Roe}, year={2026}, eprint={2607.25852}}
@inproceedings{Other2025, title={Another}, author={A B and C D and E F}, year={2025}, booktitle={ICML}}"""


def test_a_labs_own_works_are_printed_as_given() -> None:
    works, text = bibliography.own_works(OWN)
    assert [(w.key, w.authors, w.url) for w in works] == [
        ("ours", "Doe and Roe", "https://arxiv.org/abs/2607.25852"),
        ("Other2025", "B et al.", None),
    ]
    entries = parse_string(text, "bibtex").entries
    assert list(entries) == ["ours", "Other2025"] and entries["ours"].fields["eprint"] == "2607.25852"
    assert bibliography.own_works("") == ([], "")


def test_a_card_cites_the_labs_own_works(example: Manifest) -> None:
    card = render_text(replace(example, bibtex=OWN), samples.typed(samples.make_report()), samples.make_head())
    assert "[Our Head: A Report](https://arxiv.org/abs/2607.25852), Doe and Roe, 2026" in card
    assert "@inproceedings{Other2025," in card and "@inproceedings{eagle3," in card


def test_works_are_cited_by_arxiv_id() -> None:
    assert [bibliography.key_of(name) for name in ("2602.23881", "lk")] == ["lk", "lk"]


def test_titles_of_earlier_versions_are_known_and_not_printed() -> None:
    assert "Efficiently Programming" in bibliography.references()["2312.07104"].earlier[0]
    assert "Efficiently Programming" not in bibliography.bibtex(["sglang"])
