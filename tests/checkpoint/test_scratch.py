"""Folders in the temporary directory: gone with the work, and what SIGKILL leaves is gone with the next one."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.engines.process import run_worker
from eagle3hub.errors import OutputError

OWNER = """
import sys, time
from eagle3hub.checkpoint.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "inner").mkdir()
    (folder / "inner/weights").write_text("large")
    (folder / "inner").chmod(0o500)
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def start() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def stop(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_it_is_there_for_this_user_alone_and_then_gone(temporary: Path):
    with scratch_folder() as folder:
        assert folder.parent == temporary.resolve()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "file").write_text("x")
    assert list(temporary.iterdir()) == []
    with pytest.raises(ZeroDivisionError), scratch_folder() as folder:
        1 / 0  # noqa: B018
    assert list(temporary.iterdir()) == []


def test_what_sigkill_leaves_goes_with_the_next_one(temporary: Path):
    process, left = start()
    with scratch_folder():
        assert (left / "inner/weights").exists(), "its owner lives"
    stop(process, signal.SIGKILL)
    assert left.exists()
    with scratch_folder() as folder:
        assert list(temporary.iterdir()) == [folder]


def test_a_killed_run_of_a_worker_is_cleaned_up_by_the_next(temporary: Path):
    process, left = start()
    stop(process, signal.SIGKILL)
    run_worker([sys.executable, "-c", ""], {}, env=os.environ, timeout=20, on_event=lambda _: None)
    assert not left.exists()


def _link(place: Path) -> None:
    (place.parent / "kept").mkdir()
    (place.parent / "kept/file").write_text("kept")
    place.symlink_to(place.parent / "kept")


FOREIGN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a link": ("eagle3hub-scratch-0123456789abcdef", _link),
    "a file": ("eagle3hub-scratch-0123456789abcdef", Path.touch),
    "a pipe": ("eagle3hub-scratch-0123456789abcdef", os.mkfifo),
    "another name": ("eagle3hub-scratch-mine", Path.mkdir),
    "a longer name": ("eagle3hub-scratch-0123456789abcdef.old", Path.mkdir),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_ours_stays(temporary: Path, what: str):
    name, make = FOREIGN[what]
    make(temporary / name)
    with scratch_folder():
        pass
    assert os.path.lexists(temporary / name)
    assert what != "a link" or (temporary / "kept/file").read_text() == "kept"


def test_what_is_another_users_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch):
    place = temporary / "eagle3hub-scratch-0123456789abcdef"
    place.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with scratch_folder():
        assert place.exists()
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with scratch_folder():
        assert not place.exists()


def test_a_temporary_directory_that_takes_nothing_is_said(temporary: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "gone"))
    with pytest.raises(OutputError, match=r"cannot write .*gone"), scratch_folder():
        raise AssertionError
