"""--force removes what this tool wrote and nothing else, at any depth, and nothing that was changed since."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import heads
from support.killing import bytes_of

from eagle3hub.checkpoint.destination import check_destination
from eagle3hub.checkpoint.digest import file_digest
from eagle3hub.checkpoint.staging import staged_folder
from eagle3hub.errors import OutputError
from eagle3hub.releasing.release import BESIDE

Cli = Callable[..., tuple[int, str, str]]
FOREIGN = [
    "NOTES.md", "charts/mine.png", "reports/old-notes.json", "modelopt/data.bin", "modelopt/deeper/x", "notes/today",
    "benchmarks/raw.csv", "reports/specforge-npu.json", "charts/sub/acceptance-by-position.png", ".git/config",
    "README.md.orig", "model.safetensors.bak", "specjax/model.safetensors",
]  # fmt: skip
EDITED = ["README.md", "config.json", "modelopt/config.json", "reports/specforge-cpu.json", "model.safetensors"]


def written(folder: Path, source: Path, cli: Cli) -> Path:
    """A release as this tool writes one: two layouts, card, charts, reports, and the record of all of it."""
    assert cli("convert", source, folder, "--to", "specforge", "--digests")[0] == 0
    assert cli("convert", source, folder / "modelopt", "--to", "modelopt", "--digests")[0] == 0
    for name in ("README.md", "charts/acceptance-by-position.png", "reports/specforge-cpu.json", "benchmarks/1.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{name} of this tool")
    return folder


def recorded(folder: Path) -> Path:
    files = [file_digest(p, p.relative_to(folder).as_posix()) for p in sorted(folder.rglob("*")) if p.is_file()]
    (folder / "release.json").write_text(json.dumps({"files": files}))
    (folder / "SHA256SUMS").write_text("made later")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from eagle3hub.cli.app import run

    here = tmp_path_factory.mktemp("force")
    source = heads.specforge(here / "head")

    def call(*argv: object) -> tuple[int, str, str]:
        return run([str(a) for a in argv]), "", ""

    recorded(written(here / "out", source, call))
    return here / "out"


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def refused(out: Path, named: str, code: str) -> None:
    before = bytes_of(out)
    with pytest.raises(OutputError) as error:
        check_destination(out, force=True, beside=BESIDE)
    assert error.value.code == code
    assert named in error.value.message
    with pytest.raises(OutputError), staged_folder(out, force=True, beside=BESIDE) as stage:
        (stage.path / "new").touch()
    assert bytes_of(out) == before
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("record", ["release.json", "of the heads alone"])
def test_what_this_tool_wrote_is_replaced(out: Path, record: str):
    if record != "release.json":
        (out / "release.json").unlink()
    check_destination(out, force=True, beside=BESIDE)
    with staged_folder(out, force=True, beside=BESIDE) as stage:
        (stage.path / "new").touch()
    assert stage.left is None
    assert list(bytes_of(out)) == ["new"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("record", ["release.json", "of the heads alone"])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_listed_stays_at_any_depth(out: Path, name: str, record: str):
    if record != "release.json":
        (out / "release.json").unlink()
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("mine")
    refused(out, name.split("/")[0], "output-foreign")


@pytest.mark.parametrize("kind", ["link", "dangling link", "empty folder", "pipe", "link to a folder"])
@pytest.mark.parametrize("where", ["", "charts", "modelopt"])
def test_what_is_no_file_counts_as_well(out: Path, where: str, kind: str, tmp_path: Path):
    place = out / where / "mine"
    match kind:
        case "link":
            place.symlink_to("README.md" if not where else "../README.md")
        case "dangling link":
            place.symlink_to("nowhere")
        case "empty folder":
            place.mkdir()
        case "pipe":
            os.mkfifo(place)
        case "link to a folder":
            place.symlink_to(out.parent)
    refused(out, f"{where}/mine" if where else "mine", "output-foreign")


@pytest.mark.parametrize("name", ["README.md", "charts", "modelopt/config.json"])
def test_a_link_in_the_place_of_what_was_written(out: Path, name: str, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.move(out / name, elsewhere)
    (out / name).symlink_to(elsewhere)
    refused(out, name, "output-foreign")
    assert elsewhere.exists()


@pytest.mark.parametrize("name", EDITED)
@pytest.mark.parametrize("length", ["same", "other"])
def test_what_was_changed_since_stays(out: Path, name: str, length: str):
    data = (out / name).read_bytes()
    (out / name).write_bytes(b"#" + data[1:] if length == "same" else data + b"\nmy own words")
    refused(out, name, "output-edited")


def test_what_comes_while_it_is_replaced_stays(out: Path):
    """Between the last look and the removal: only what is listed is removed, and the rest is said."""
    with staged_folder(out, force=True, beside=BESIDE) as stage:
        (stage.path / "new").touch()
        aside = stage.path.with_name(stage.path.name + "-old")
        rename = os.rename

        def renamed(a: object, b: object) -> None:
            rename(a, b)
            if Path(str(b)) == aside:
                (aside / "charts" / "mine.png").write_text("mine")

        os.rename = renamed  # type: ignore[assignment]
    os.rename = rename
    assert stage.left == aside
    assert [name for name, data in bytes_of(aside).items() if data] == ["charts/mine.png"]


def test_a_record_of_another_folder_lists_nothing_here(out: Path):
    """A head that somebody put into a release by hand has a record of its own, and is still theirs."""
    shutil.copytree(out / "modelopt", out / "mine")
    refused(out, "mine", "output-foreign")


@pytest.mark.parametrize(
    "files",
    ['"big"', '[{"path": "NOTES.md", "size": "big"}]', '[{"path": 3}]', "[[]]", '{"path": "NOTES.md"}', "null"],
)
def test_a_record_that_makes_no_sense(out: Path, files: str):
    (out / "release.json").write_text(f'{{"files": {files}}}')
    (out / "NOTES.md").write_text("mine")
    with pytest.raises(OutputError) as error:
        check_destination(out, force=True, beside=BESIDE)
    assert error.value.code in ("output-foreign", "output-edited")


def test_convert_says_what_was_changed(tmp_path: Path, cli: Cli):
    source, out = heads.specjax(tmp_path / "head"), tmp_path / "out"
    assert cli("convert", source, out, "--to", "specforge")[0] == 0
    config = out / "config.json"
    config.write_text(config.read_text().replace("1e-05", "1e-06").replace("1e-5", "1e-6"))
    config.write_text(config.read_text() + "\n")
    status, printed, _ = cli("convert", source, out, "--to", "specforge", "--force", "--json")
    error = json.loads(printed)["error"]
    assert (status, error["code"], "config.json" in error["message"]) == (3, "output-edited", True)
