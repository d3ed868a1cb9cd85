"""One manifest publishes several heads, each to its repository, and none before all have passed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from publishing.folders import write_yaml
from support.hub_writes import WritableHub

Cli = Callable[..., tuple[int, str, str]]


def change(path: Path, index: int, **fields: Any) -> None:
    document = yaml.safe_load(path.read_text())
    document["heads"][index] |= fields
    write_yaml(path, document)


@pytest.mark.slow
def test_all_are_published_and_again(hub: WritableHub, two_heads: Path, cli: Cli, tmp_path: Path):
    change(two_heads, 1, layouts={"also": ["modelopt"]})
    status, out, err = cli("release", two_heads, "--tag", "v1", "--json")
    assert status == 0, out + err
    first, second = json.loads(out)["heads"]
    assert (first["name"], second["name"]) == ("one", "two")
    assert [row["layout"] for row in second["layouts"]] == ["specforge", "modelopt"]
    for name, made in (("one", first), ("two", second)):
        assert Path(made["output"]) == tmp_path / ".eagle3hub" / "release" / name
        assert made["publication"]["published"][0]["commit"] == hub.repos[f"alice/{name}"].tags["v1"]
        assert "reports/specforge-cpu.json" in hub.files(f"alice/{name}")
    assert "modelopt/config.json" in hub.files("alice/two")
    before = hub.uploads
    status, out, err = cli("release", two_heads, "--tag", "v1", "--json")
    assert status == 0, out + err
    again = json.loads(out)["heads"]
    assert [row["reused"] for made in again for row in made["layouts"]] == [True] * 3
    assert hub.uploads == before
    status, out, err = cli("release", f"{two_heads}#two", "--json")
    assert status == 0, out + err
    assert (json.loads(out)["name"], json.loads(out)["repo"]) == ("two", "alice/two")


@pytest.mark.slow
def test_one_that_does_not_pass_holds_the_others_back(hub: WritableHub, two_heads: Path, cli: Cli):
    change(two_heads, 1, validate={"min_acceptance_length": 4.5, "draft_tokens": 4})
    status, out, err = cli("release", two_heads)
    assert status == 1, out + err
    assert "another head of the manifest is not ready" in out
    assert "there is nothing to publish" in out
    assert hub.uploads == []
    assert hub.repos == {}
    change(two_heads, 1, validate={}, release={"repo": "alice/two", "license": "unknown"})
    status, out, err = cli("release", two_heads, "--json")
    assert status == 1, out + err
    first, second = json.loads(out)["heads"]
    assert first["publication"] is None
    assert {p["code"] for p in second["publication"]["problems"]} >= {"publish-license"}
    assert hub.repos == {}


def test_folders_of_several(two_heads: Path, cli: Cli, tmp_path: Path):
    status, out, err = cli("release", two_heads, "--until", "convert", "--output", tmp_path / "made", "--json")
    assert status == 0, out + err
    for made in json.loads(out)["heads"]:
        assert Path(made["output"]) == tmp_path / "made" / made["name"]
        assert cli("verify", made["output"], "--digest", made["digest"])[0] == 0
        assert made["original"] == ["config.json", "model.safetensors"]
    change(two_heads, 1, head={"source": "absent"})
    status, _, err = cli("release", two_heads, "--until", "convert", "--output", tmp_path / "made", "--force")
    assert status == 3
    assert err.startswith("error: two: ")
    status, _, err = cli("card", two_heads)
    assert status == 3
    assert "has the heads one, two: name one" in err
    status, out, err = cli("card", f"{two_heads}#one", "--head", tmp_path / "made" / "one", "--json")
    assert status == 0, err
    assert json.loads(out)["repo"] == "alice/one"
