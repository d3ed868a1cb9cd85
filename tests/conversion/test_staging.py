"""The folder that is replaced: it is there or its successor is, and it never comes back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import heads
from support.signals import killed_at_a_call
from support.unprivileged import drop_overrides

from eagle3hub.checkpoint.staging import remove_leftovers, staged_folder

Cli = Callable[..., tuple[int, str, str]]
OLD, NEW = {"eagle3hub.json", "a", "b"}, {"eagle3hub.json", "c"}
REPLACED = killed_at_a_call(
    ("rename", "unlink", "rmdir"),
    """
from pathlib import Path
from eagle3hub.checkpoint.staging import staged_folder
with staged_folder(Path(sys.argv[2]), force=True, flush=False) as stage:
    for name in sys.argv[3:]:
        (stage.path / name).touch()
""",
)
MAIN = "import sys; from eagle3hub.cli.app import run; sys.exit(run(sys.argv[1:]))"


def written(folder: Path) -> Path:
    """A folder this tool wrote, as far as replacing it goes."""
    folder.mkdir()
    for name in OLD:
        (folder / name).touch()
    (folder / "eagle3hub.json").write_text(json.dumps({"files": [{"path": name} for name in OLD]}))
    return folder


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_what_a_killed_run_leaves(tmp_path: Path):
    """Kill it at each step of replacing, then move its result away, as one does with what is finished."""
    ends = []
    for step in range(1, 20):
        work = tmp_path / str(step)
        work.mkdir()
        dest = written(work / "out [1]*")
        done = subprocess.run([sys.executable, "-c", REPLACED, str(step), str(dest), *NEW], capture_output=True)
        if done.returncode == 0:
            assert names(work) == {dest.name}
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        if dest.exists():
            assert names(dest) in (OLD, NEW)
            ends.append("new" if names(dest) == NEW else "old")
            dest.rename(work / "final")
            remove_leftovers(dest)
            assert names(work) == {"final"}
        else:
            ends.append("absent")
            remove_leftovers(dest)
            assert names(dest) == OLD
            assert names(work) == {dest.name}
    assert ends == ["old", "absent", "new", "new", "new", "new"], "two renames, three files and their folder"


def test_a_running_one_is_left_alone(tmp_path: Path):
    dest = written(tmp_path / "out")
    with staged_folder(dest, force=True) as stage:
        aside = dest.rename(stage.path.with_name(stage.path.name + "-old"))  # as between its two renames
        remove_leftovers(dest)
        assert names(tmp_path) == {stage.path.name, aside.name}
        stage.keep = False
    assert names(tmp_path) == {aside.name}


def test_what_was_left_for_another_destination_is_left_alone(tmp_path: Path):
    left = tmp_path / ".out.eagle3hub-0"
    left.mkdir()
    for other in ("o*t", "ou", "[o]ut", "out.eagle3hub-0"):
        remove_leftovers(tmp_path / other)
    assert left.is_dir()
    remove_leftovers(tmp_path / "out")
    assert not left.exists()


def test_a_folder_that_may_not_be_written_to_is_replaced(tmp_path: Path):
    """Renaming it is allowed, removing what is in it only after a change of its mode."""
    dest = written(tmp_path / "out")
    (dest / "reports").mkdir()
    (dest / "reports" / "one").touch()
    code = (
        "import sys; from pathlib import Path; from eagle3hub.checkpoint.staging import staged_folder\n"
        "with staged_folder(Path(sys.argv[1]), force=True, beside=['reports/*']) as stage:\n"
        "    (stage.path / 'c').touch()\n"
        "print(stage.left)"
    )
    for folder in (dest / "reports", dest):
        folder.chmod(0o555)
    argv = [sys.executable, "-c", code, str(dest)]
    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=drop_overrides)
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr
    assert (names(dest), names(tmp_path)) == ({"c"}, {"out"})


def test_what_cannot_be_removed_is_named(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    source = heads.specjax(tmp_path / "head")
    argv = ("convert", source, tmp_path / "out", "--to", "specforge", "--force")
    assert cli(*argv)[0] == 0
    with monkeypatch.context() as m:
        m.setattr("pathlib.Path.rmdir", lambda _: None)
        status, out, _ = cli(*argv)
    (left,) = (p for p in tmp_path.iterdir() if p.name.startswith(".out."))
    assert (status, f"{left} is left of what was replaced" in " ".join(out.split())) == (0, True), out
    assert cli(*argv)[0] == 0
    assert names(tmp_path) == {"head", "out"}
