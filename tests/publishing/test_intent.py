"""How a release is published travels with its folder: visibility, gating, license terms, repository, tag."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from publishing import folders
from publishing.folders import REPO
from safetensors.torch import load_file, save_file
from support.hub_writes import WritableHub

from eagle3hub.card.folder import complete
from eagle3hub.card.manifest import PublishSettings

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def one_head(two_heads: Path) -> Path:
    """Return a manifest of one tiny head that fits its tiny target, so that measuring takes seconds."""
    document = yaml.safe_load(two_heads.read_text())
    first = document.pop("heads")[0]
    document["head"], document["release"]["repo"] = first["head"], REPO
    return folders.write_yaml(two_heads, document)


def with_publish(manifest: Path, **settings: object) -> Path:
    document = yaml.safe_load(manifest.read_text())
    return folders.write_yaml(manifest, {**document, "publish": settings})


def printed(out: str) -> list[str]:
    """Return the command that a release prints for publishing it, split as a shell does."""
    (line,) = re.findall(r"publish it with: (eagle3hub publish .*)", out)
    return shlex.split(line)[1:]


def test_the_printed_command_publishes_as_the_manifest_says(
    hub: WritableHub, one_head: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with_publish(one_head, private=True, gated="manual", tag="v1.0")
    monkeypatch.chdir(tmp_path)
    status, out, err = cli("release", one_head, "--dry-run", "--output", "made here")
    assert status == 0, out + err
    assert hub.uploads == []
    command = printed(out)
    assert command == ["publish", "made here"]
    status, out, err = cli(*command)
    assert status == 0, out + err
    repo = hub.repos[REPO]
    assert (repo.private, repo.gated) == (True, "manual")
    assert repo.tags == {"v1.0": repo.refs["main"]}
    gate = next(i for i, line in enumerate(hub.uploads) if line.endswith("/settings"))
    assert not any("/commit/" in line for line in hub.uploads[:gate]), "gated before the first byte is there"


@pytest.mark.slow
def test_options_of_the_release_travel_too(
    hub: WritableHub, one_head: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    argv = ("release", one_head, "--dry-run", "--output", "made", "--gated", "auto", "--stage", "--tag", "v2")
    status, out, err = cli(*argv)
    assert status == 0, out + err
    status, out, err = cli(*printed(out), "--json")
    assert status == 0, out + err
    document = json.loads(out)
    assert (document["gated"], document["tag"], document["visibility"]) == ("auto", "v2", "public")
    assert hub.repos[REPO].gated == "auto"


@pytest.mark.slow
def test_a_waiver_is_in_the_printed_command(
    hub: WritableHub, one_head: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    document = yaml.safe_load(one_head.read_text())
    document["target"]["license"] = "llama3.1"
    folders.write_yaml(one_head, document)
    monkeypatch.chdir(tmp_path)
    status, out, err = cli("release", one_head, "--dry-run", "--output", "made")
    assert status == 0, out + err
    status, out, _ = cli(*printed(out))
    assert status == 1, "the terms of the target's license are held without --manifest"
    assert "refused publish-terms" in out
    assert hub.uploads == []
    argv = ("release", one_head, "--dry-run", "--output", "made", "--force", "--allow", "publish-terms")
    status, out, err = cli(*argv)
    assert status == 0, out + err
    command = printed(out)
    assert command == ["publish", "made", "--allow", "publish-terms"]
    status, out, err = cli(*command)
    assert status == 0, out + err
    assert "waived publish-terms" in out


@pytest.mark.slow
def test_what_card_init_left_open_is_not_published(
    hub: WritableHub, one_head: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    document = yaml.safe_load(one_head.read_text())
    head = one_head.parent / document["head"]["source"]
    status, out, err = cli("card", "init", head, "--target", "alice/target", "--output", "fresh.yaml")
    assert status == 0, out + err
    fresh = yaml.safe_load((tmp_path / "fresh.yaml").read_text())["release"]
    document["release"] |= {"summary": fresh["summary"], "repo": fresh["repo"]}
    folders.write_yaml(one_head, document)
    status, out, err = cli("release", one_head, "--dry-run", "--output", "made")
    assert status == 0, out + err
    status, out, _ = cli("publish", "made", "--dry-run", "--json")
    blanks = [p["message"].split()[0] for p in json.loads(out)["problems"] if p["code"] == "publish-blanks"]
    assert (status, blanks) == (1, ["release.summary", "release.repo"])
    assert hub.uploads == []


def test_a_head_that_the_manifest_repairs_is_measured_as_it_is_written(
    hub: WritableHub, one_head: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The files of its trainer alone do not say what the head is, so the reference replays what was made of them."""
    monkeypatch.chdir(tmp_path)
    document = yaml.safe_load(one_head.read_text())
    source = shutil.copytree(one_head.parent / document["head"]["source"], tmp_path / "absolute")
    weights = load_file(source / "model.safetensors")
    weights["d2t"] = weights["d2t"] + torch.arange(len(weights["d2t"]), dtype=weights["d2t"].dtype)
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    document["head"] = {"source": str(source), "repair": ["absolute"]}
    folders.write_yaml(one_head, document)
    status, out, err = cli("release", one_head, "--dry-run", "--output", "made")
    assert status == 0, out + err


def asks(release: Path, **settings: object) -> None:
    """Write this publishing section into the manifest of a release folder."""
    complete(release, release / "release.yaml", publish=PublishSettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "argv"),
    [
        ({"private": True}, ["--stage"]),
        ({"gated": "manual"}, ["--gated", "auto"]),
    ],
)
def test_no_option_opens_a_release_further(
    hub: WritableHub, release: Path, cli: Cli, said: dict[str, object], argv: list[str]
):
    asks(release, **said)
    status, out, _ = cli("publish", release, *argv, "--json")
    assert status == 2
    assert json.loads(out)["error"]["code"] == "usage-intent"
    assert hub.uploads == []


@pytest.mark.slow
@pytest.mark.parametrize("argv", [[], ["--create-pr"]])
def test_a_private_release_does_not_go_to_a_public_repository(
    hub: WritableHub, release: Path, cli: Cli, argv: list[str]
):
    asks(release, private=True)
    hub.commit(REPO, {"README.md": b"old"})
    status, out, _ = cli("publish", release, *argv)
    assert status == 1
    assert f"refused publish-visibility {REPO} is public, but the release is to stay private" in out
    assert hub.uploads == []
    hub.repos[REPO].private = True
    status, out, err = cli("publish", release, *argv)
    assert status == 0, out + err
    assert hub.repos[REPO].private


@pytest.mark.slow
def test_a_pull_request_of_a_gated_release_needs_a_gated_repository(hub: WritableHub, release: Path, cli: Cli):
    asks(release, gated="manual")
    hub.commit(REPO, {"README.md": b"old"})
    status, out, _ = cli("publish", release, "--create-pr")
    assert status == 1
    assert "refused publish-visibility a pull request shows its files to all readers" in out
    hub.repos[REPO].gated = "manual"
    assert cli("publish", release, "--create-pr")[0] == 0


def test_a_repository_that_is_gated_by_hand_stays_so(hub: WritableHub, release: Path, cli: Cli):
    asks(release, gated="auto")
    hub.commit(REPO, {"README.md": b"old"})
    hub.repos[REPO].gated = "manual"
    status, out, err = cli("publish", release)
    assert status == 0, out + err
    assert hub.repos[REPO].gated == "manual"


def test_a_folder_goes_where_it_was_made_for(hub: WritableHub, release: Path, cli: Cli):
    status, out, _ = cli("publish", release, "--repo", "alice/other")
    assert status == 1
    assert f"refused publish-manifest the folder was made for {REPO}, not for alice/other" in out
    assert hub.uploads == []


def test_a_folder_that_says_nothing_is_not_published(hub: WritableHub, release: Path, cli: Cli):
    (release / "release.yaml").unlink()
    status, _, err = cli("publish", release)
    assert status == 2
    assert "there is no release.yaml in" in err
    status, out, _ = cli("publish", release, "--repo", REPO)
    assert status == 1
    assert "refused publish-manifest there is no release.yaml" in out
    assert hub.uploads == []
