"""The terms of the target's license: names, words, and limits that the head's license must have too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from publishing.folders import REPO, write_reports
from support.hub_writes import WritableHub

from eagle3hub.card.manifest import License, Target
from eagle3hub.card.vocabulary import _LIMITS, _SPECIAL, HUB_IDS, terms
from eagle3hub.publishing.gates import unmet_terms

Cli = Callable[..., tuple[int, str, str]]


def found(target: str, head: str, repo: str = "owner/head", *texts: str) -> list[str]:
    return [what for what, _ in unmet_terms(repo, Target("meta/target", License(target)), [head], texts)]


def test_free_licenses_ask_for_nothing():
    for target in ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"):
        assert found(target, "apache-2.0") == []
    assert found("other", "mit") == [], "what is custom cannot be looked up"


def test_a_license_that_is_not_stated():
    (what,) = found("unknown", "mit")
    assert "is not stated" in what


LLAMA = (
    "Llama 3.1 is licensed under the Llama 3.1 Community License, "
    "Copyright © Meta Platforms, Inc. All Rights Reserved."
)


def test_llama_asks_for_a_name_and_for_words():
    first, second, third = found("llama3.1", "llama3.1")
    assert "names that begin with 'Llama'" in first
    assert "the words “Built with Llama”" in second
    assert LLAMA in third
    assert found("llama3.1", "llama3.1", "owner/Llama-3.1-8B-eagle3", "**Built with\nLlama**.", LLAMA) == []
    assert found("llama3.1", "llama3.1", "owner/llama-x", f"Built with Llama. {LLAMA.replace('©', '(c)')}") == []
    assert len(found("llama3.1", "mit", "owner/my-Llama-head", "Built with Llama", LLAMA)) == 1


def test_the_third_llama_has_its_own_words():
    assert "names that begin with 'Llama 3'" in found("llama3", "llama3", "owner/Llama-4")[0]
    assert len(found("llama3", "llama3", "owner/Llama-3-8B-eagle3")) == 2
    assert len(found("llama3", "llama3", "owner/Llama-3-8B-eagle3", "Built with Meta Llama 3")) == 1


@pytest.mark.parametrize(
    ("target", "head", "lost"),
    [
        ("cc-by-nc-4.0", "apache-2.0", "non-commercial"),
        ("cc-by-nc-sa-4.0", "cc-by-nc-4.0", "share-alike"),
        ("cc-by-nc-sa-4.0", "mit", "non-commercial, share-alike"),
        ("gpl-3.0", "mit", "share-alike"),
        ("bigcode-openrail-m", "apache-2.0", "use-based restrictions"),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", None),
        ("cc-by-nc-4.0", "other", None),
        ("openrail++", "creativeml-openrail-m", None),
        ("agpl-3.0", "agpl-3.0", None),
    ],
)
def test_limits_are_passed_on(target: str, head: str, lost: str | None):
    what = found(target, head)
    assert [f"({lost})" in w for w in what] == ([True] if lost else [])


def test_without_derivatives_nothing_passes_by_itself():
    assert "adaptations" in found("cc-by-nc-nd-4.0", "cc-by-nc-nd-4.0")[0]


def test_every_license_that_is_known_is_one_of_the_hub():
    assert set(_SPECIAL) <= HUB_IDS
    for limit in _LIMITS:
        assert any(limit in terms(id_).limits for id_ in HUB_IDS)


@pytest.mark.slow
def test_the_gate_and_its_words_on_the_card(hub: WritableHub, release: Path, manifest: Path, cli: Cli, tmp_path: Path):
    """A card of a Llama target has the words already, so only the name is refused."""
    text = manifest.read_text().replace("license: apache-2.0", "license: llama3.1", 1)
    asked = manifest.with_name("llama.yaml")
    asked.write_text(text)
    argv = ("publish", release, "--manifest", asked, "--dry-run", "--json")
    status, out, _ = cli(*argv)
    assert (status, [p["code"] for p in json.loads(out)["problems"]]) == (1, ["publish-manifest"])
    write_reports(release, asked)
    assert LLAMA in (release / "README.md").read_text()
    status, out, _ = cli(*argv)
    (problem,) = json.loads(out)["problems"]
    assert "names that begin with 'Llama'" in problem["message"]
    assert problem["hint"] == "call the repository Llama-…"
    status, out, _ = cli(*argv, "--allow", "publish-terms")
    assert (status, [p["code"] for p in json.loads(out)["waived"]]) == (0, ["publish-terms"])
    asked.write_text(text.replace(REPO, "alice/Llama-3.1-head"))
    write_reports(release, asked)
    status, out, err = cli(*argv)
    assert status == 0, out + err
    assert hub.repos == {}
