"""One rule for every address: the same forms, in every command, for heads, targets and cards."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import heads
from support.hub_server import HubServer, client_of

from eagle3hub.address import (
    HubAddress,
    LocalAddress,
    head_address,
    is_hub_id,
    parse_address,
    parse_hub_address,
    target_address,
)
from eagle3hub.errors import SourceError

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("owner/name", HubAddress("owner/name")),
        ("owner/name@v1", HubAddress("owner/name", "v1")),
        ("owner/name@a%2Fb", HubAddress("owner/name", "a/b")),
        ("hf://owner/name@v1/in/it", HubAddress("owner/name", "v1", "in/it")),
        ("hf://owner/model.md", HubAddress("owner/model.md")),
    ],
)
def test_places_on_the_hub(text: str, address: HubAddress):
    assert parse_address(text) == address
    assert parse_address(str(parse_address(text))) == address


@pytest.mark.parametrize(
    "text",
    ["name", "./owner/name", "/owner/name", "../x", "~/x", "a/b/c", "owner/name/", "a b/c", "a/b.safetensors",
     "d/r.md", "release.yaml#name", "d/release.yaml", "owner/name@v1/in/it"],
)  # fmt: skip
def test_paths(text: str):
    at = parse_address(text)
    assert isinstance(at, LocalAddress)
    assert (str(at), at.path) == (text, Path(text).expanduser())


def test_a_folder_wins_over_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert parse_address("owner/name") == HubAddress("owner/name")
    (tmp_path / "owner/name").mkdir(parents=True)
    assert parse_address("owner/name") == LocalAddress("owner/name", Path("owner/name"))
    assert parse_address("hf://owner/name") == HubAddress("owner/name")
    assert isinstance(parse_address("owner/name@v1"), HubAddress)
    (tmp_path / "owner/link").symlink_to("nowhere")
    assert isinstance(parse_address("owner/link"), LocalAddress), "a broken link is a mistake here, not a repository"


def test_a_path_object_is_never_looked_up_on_the_hub():
    assert isinstance(parse_address(Path("owner/name")), LocalAddress)


def test_a_base_folder_is_where_relative_paths_begin(tmp_path: Path):
    assert parse_address("head", tmp_path) == LocalAddress(f"{tmp_path}/head", tmp_path / "head")
    assert parse_address("owner/name", tmp_path) == HubAddress("owner/name")
    (tmp_path / "owner/name").mkdir(parents=True)
    assert parse_address("owner/name", tmp_path) == LocalAddress(f"{tmp_path}/owner/name", tmp_path / "owner/name")
    assert parse_address("/else/where", tmp_path) == LocalAddress("/else/where", Path("/else/where"))


def test_a_target_is_a_whole_repository_or_a_folder(tmp_path: Path):
    assert target_address(str(tmp_path)) == LocalAddress(str(tmp_path), tmp_path)
    for text in ("hf://owner/name/in", "hf://owner", "name", "./no/such", str(tmp_path / "absent")):
        with pytest.raises(SourceError, match="neither a folder nor a Hub id"):
            target_address(text)


def test_a_head_is_a_folder_or_a_place_on_the_hub(tmp_path: Path):
    assert head_address("hf://owner/name/in") == HubAddress("owner/name", None, "in")
    with pytest.raises(SourceError, match="is not a folder"):
        head_address(str(tmp_path / "absent"))


def test_only_ids_are_ids():
    assert [t for t in ("a/b", "a", "a/b/c", "a/b@c", "-a/b", "hf://a/b") if is_hub_id(t)] == ["a/b"]
    assert parse_hub_address("a/b@c/d") == HubAddress("a/b", "c", "d")


# Every command takes every form.


def published(hub: HubServer, name: str, folder: Path) -> None:
    """A repository with the files of a folder, in its root and in ``in``, on the branch ``kept``; main is newer."""
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    files |= {f"in/{n}": data for n, data in files.items()}
    commit = hub.commit(name, files)
    hub.repos[name].refs["kept"] = commit
    hub.commit(name, {**files, "note.txt": b"newer"})


FORMS = ("head", "./head", "own/head", "own/head@kept", "hf://own/head", "hf://own/head@kept", "hf://own/head@kept/in")
TARGETS = ("target", "./target", "own/target", "own/target@kept", "hf://own/target", "hf://own/target@kept")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with HubServer() as server, client_of(server, tmp_path / "client", monkeypatch):
        monkeypatch.chdir(tmp_path)
        head, target = heads.specforge(tmp_path / "head"), heads.target(tmp_path / "target")
        (head / "README.md").write_text("---\nlicense: mit\n---\n# A head\n")
        published(server, "own/head", head)
        published(server, "own/target", target)
        yield tmp_path


@pytest.mark.parametrize("head", FORMS)
@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "HEAD"),
        ("convert", "HEAD", "out", "--to", "modelopt", "--target", "target"),
        ("diff", "HEAD", "head"),
        ("diff", "head", "HEAD"),
        ("recipe", "HEAD", "--target", "target"),
        ("card", "init", "HEAD", "--target", "own/target"),
        ("card", "--check", "HEAD"),
    ],
    ids=lambda words: "-".join(w.strip("-") for w in words if w != "HEAD"),
)
def test_a_head_in_every_command(places: Path, cli: Cli, command: tuple[str, ...], head: str):
    status, out, err = cli(*(head if word == "HEAD" else word for word in command))
    wanted = {0, 1} if "--check" in command else {0}  # this card is found wanting, wherever it lies
    assert status in wanted, out + err
    if command[:2] == ("card", "init"):
        source = re.search(r"source: \"(.+)\"", (places / "release.yaml").read_text())
        assert source is not None
        assert str(parse_address(source[1], places)) == (
            str(parse_address(head)) if "own" in head else f"{places}/head"
        )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "head", "--target", "TARGET"),
        ("convert", "head", "out", "--to", "modelopt", "--target", "TARGET"),
        ("diff", "head", "head", "--target", "TARGET"),
        ("recipe", "head", "--target", "TARGET"),
    ],
    ids=lambda words: words[0],
)
def test_a_target_in_every_command(places: Path, cli: Cli, command: tuple[str, ...], target: str):
    status, out, err = cli(*(target if word == "TARGET" else word for word in command))
    assert status == 0, out + err


@pytest.mark.parametrize("target", [t for t in TARGETS if "own" in t])
def test_a_target_of_a_starter_is_its_id_and_its_revision(places: Path, cli: Cli, target: str):
    assert cli("card", "init", "head", "--target", target)[0] == 0
    text = (places / "release.yaml").read_text()
    assert "\n  id: own/target\n" in text
    assert ('\n  revision: "kept"\n' in text) is ("@kept" in target)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_measured_is_the_target_that_was_named(places: Path, target: str):
    """`validate` and `bench` know it by its id; of a revision they measure a copy, and the report names the commit."""
    from eagle3hub.validation.target import identify_target

    found = identify_target(target)
    assert found.name == ("own/target" if "own" in target else "target")
    is_id = "own" in target and "@" not in target
    assert (found.config is None) is is_id
    assert found.source == "own/target" if is_id else (Path(found.source) / "config.json").is_file()


def test_a_repository_is_not_mistaken_for_a_folder_of_its_name(places: Path, cli: Cli):
    """Engines would take the folder: they are given a copy of the repository."""
    from eagle3hub.validation.target import identify_target

    heads.target(places / "own" / "target", hidden_size=8)
    found = identify_target("hf://own/target")
    assert found.name == "own/target"
    assert (Path(found.source) / "config.json").read_bytes() == (places / "target" / "config.json").read_bytes()
    assert Path(identify_target("own/target").source) == places / "own" / "target"


def test_a_manifest_names_a_head_like_a_command_does(places: Path):
    from eagle3hub.card.manifest import load_manifest

    text = (ROOT / "examples" / "smollm2-135m" / "release.yaml").read_text()
    shutil.copytree(places / "head", places / "release" / "head")
    for source, means in (
        ("head", f"{places}/release/head"),
        ("../head", f"{places}/release/../head"),
        ("own/head@kept", "hf://own/head@kept"),
        ("hf://own/head/in", "hf://own/head/in"),
    ):
        (places / "release" / "release.yaml").write_text(text.replace("source: head", f"source: {source}"))
        assert load_manifest(places / "release" / "release.yaml").head_source == means


@pytest.mark.parametrize("name", ["own/nothing", "own/nothing@v1", "head/nothing"])
def test_a_name_that_is_nowhere_is_a_path_that_does_not_exist(places: Path, cli: Cli, name: str):
    status, out, _ = cli("inspect", name, "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"], error["message"]) == (3, "source-missing", f"{name} does not exist")
    assert f"hf://{name}" in error["hint"]
    status, out, _ = cli("inspect", f"hf://{name}", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (5, "hub-not-found")


def test_a_revision_that_is_not_there_is_said_of_the_repository(places: Path, cli: Cli):
    for text in ("own/head@v9", "hf://own/head@v9"):
        status, _, err = cli("inspect", text)
        assert (status, "own/head has no revision v9" in err) == (5, True), err
