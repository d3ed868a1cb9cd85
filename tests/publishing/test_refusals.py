"""What publishing and releasing refuse on the way to a plan, each shown once: the code, the sentence, nothing sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from publishing.folders import EXAMPLE, REPO
from support.hub_writes import WritableHub

from eagle3hub.errors import CheckpointError, SourceError
from eagle3hub.publishing import files, gates
from eagle3hub.publishing.content import safetensors_header
from eagle3hub.publishing.remote import commit
from eagle3hub.system.reading import opened

Cli = Callable[..., tuple[int, str, str]]
CARD = "---\nlicense: other\nlicense_link: TERMS\n---\n# Head\n"
MANIFEST = (EXAMPLE / "release.yaml").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "release"
    made.mkdir()
    return made


def a_benchmark_that_the_manifest_does_not_name(folder: Path) -> None:
    (folder / "release.yaml").write_text(MANIFEST)
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "mine.json").write_text("{}")


FOLDERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a manifest that cannot be read": (
        lambda f: (f / "release.yaml").write_text("release: [\n"),
        "publish-manifest",
        "release.yaml:",
    ),
    "a manifest with fields that stay at home": (
        lambda f: (f / "release.yaml").write_text(f"{MANIFEST}\nreports: [/home/me/*.json]\n"),
        "publish-manifest",
        "release.yaml has another reports than the manifest of a release should have",
    ),
    "a file that no manifest names": (
        a_benchmark_that_the_manifest_does_not_name,
        "publish-manifest",
        "benchmarks/mine.json is not named in release.yaml, so the card does not show it",
    ),
    "no record of the release": (
        lambda f: (f / "release.yaml").write_text(MANIFEST),
        "publish-manifest",
        "the record of the release cannot be read: ",
    ),
    "a config without weights": (
        lambda f: (f / "config.json").write_text("{}"),
        "publish-head",
        "there are no safetensors weights in the root",
    ),
    "a license in a file that is not there": (
        lambda f: (f / "README.md").write_text(CARD),
        "publish-license",
        "the card's license_link names TERMS, which is not in the folder",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_with_a_fault_is_not_published(hub: WritableHub, folder: Path, cli: Cli, name: str):
    damage, code, words = FOLDERS[name]
    damage(folder)
    status, out, err = cli("publish", folder, "--repo", REPO, "--json")
    assert (status, err) == (1, "")
    problems = json.loads(out)["problems"]
    assert any(p["code"] == code and p["message"].startswith(words) for p in problems), problems
    assert hub.uploads == []


def test_more_files_than_the_hub_takes(hub: WritableHub, folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gates, "MAX_FILES", 2)
    for name in ("a.txt", "b.txt", "c.txt"):
        (folder / name).write_text(name)
    status, out, _ = cli("publish", folder, "--repo", REPO, "--json")
    assert status == 1
    problems = [p["message"] for p in json.loads(out)["problems"] if p["code"] == "publish-size"]
    assert problems == ["3 files are more than 2"]
    assert hub.uploads == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--stage", "--private"), "--stage ends with a public repository, --private with a private one"),
        (("--create-pr", "--tag", "v1"), "--create-pr proposes one commit to main and does nothing else"),
        (("--create-pr", "--stage"), "--create-pr proposes one commit to main and does nothing else"),
    ],
)
def test_options_that_contradict_each_other(
    hub: WritableHub, folder: Path, cli: Cli, options: tuple[str, ...], sentence: str
):
    status, out, err = cli("publish", folder, "--repo", REPO, *options)
    assert (status, out) == (2, "")
    assert sentence in err
    assert hub.requests == []


def test_a_repository_inside_which_nothing_is_verified(hub: WritableHub, cli: Cli):
    status, out, _ = cli("verify", "hf://alice/head/modelopt", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (3, "source-hub-address")
    assert error["message"] == "hf://alice/head/modelopt names a folder"
    assert hub.requests == []


# Files that change while they are read


def test_a_file_that_goes_away_while_the_folder_is_read(folder: Path):
    (folder / "config.json").write_text("{}")

    def remove(*_: object) -> None:
        (folder / "config.json").unlink()

    with pytest.raises(SourceError, match=r"cannot read .*config\.json: No such file") as refused:
        files.read_folder(folder, remove)
    assert refused.value.code == "source-unreadable"


def test_a_file_that_grows_while_it_is_read(folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    (folder / "config.json").write_text("{}")

    def grown(path: Path) -> object:
        path.write_text("{ }")
        return opened(path)

    monkeypatch.setattr(files, "opened", grown)
    status, out, err = cli("verify", folder, "--print-whole-digest")
    assert (status, out) == (3, "")
    assert "config.json changed while it was read" in err


def test_weights_that_shrink_after_their_digest_was_taken(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes((100).to_bytes(8, "little") + b" " * 100)
    (read,), _ = files.read_folder(folder)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CheckpointError, match="it ends before it should") as refused:
        safetensors_header(read)
    assert refused.value.code == "checkpoint-truncated"


def test_a_file_that_changes_between_the_plan_and_the_upload(hub: WritableHub, folder: Path):
    path = folder / "config.json"
    path.write_text("{}")
    (planned,), _ = files.read_folder(folder)
    path.write_text("{ }")
    add = {"config.json": (path, planned.sha256)}
    with pytest.raises(SourceError, match=r"config\.json changed while it was being published") as refused:
        commit(REPO, "main", None, add=add, remove=(), message="m", description="", create_pr=False)
    assert refused.value.code == "source-moved"
    assert hub.uploads == []


# Releases


def test_a_name_that_the_hub_does_not_take_is_refused_before_anything_is_measured(
    hub: WritableHub, cli: Cli, tmp_path: Path
):
    manifest = tmp_path / "release.yaml"
    manifest.write_text(MANIFEST.replace("eagle3hub/SmolLM2-135M-Instruct-eagle3", "alice/a--b"))
    status, out, _ = cli("release", manifest, "--until", "publish", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (2, "usage-repo")
    assert error["message"] == "the Hub does not accept alice/a--b as the name of a repository"
    assert hub.requests == []
    assert list(tmp_path.iterdir()) == [manifest]


def test_one_server_cannot_measure_several_layouts(cli: Cli, tmp_path: Path):
    manifest = tmp_path / "release.yaml"
    manifest.write_text(MANIFEST)
    status, out, _ = cli("release", manifest, "--endpoint", "vllm=http://127.0.0.1:9", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (2, "usage-endpoint")
    assert "--endpoint is a server of one layout, and the manifest names several" in error["message"]
    assert list(tmp_path.iterdir()) == [manifest]
