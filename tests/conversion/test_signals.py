"""Two signals in a row, at every moment of the clean-up: nothing stays behind, and what was there is there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.signals import default_signals

STEP = 7
SCRIPT = """
import os, shutil, signal, sys
from pathlib import Path
first, second, at = map(int, sys.argv[1:4])
from eagle3hub.system.signals import stop_once
from eagle3hub.checkpoint.staging import replace_file, staged_folder
stop_once()
dest, calls = Path(sys.argv[4]), 0

def step(frame, event, arg):
    global calls
    file = frame.f_code.co_filename
    if event in ("line", "return") and file.endswith(("staging.py", "signals.py", "contextlib.py")):
        calls += 1
        if calls == at:
            signal.raise_signal(second)
    return step

def started(frame, event, arg):
    return step

try:
    if sys.argv[5] == "folder":
        with staged_folder(dest, force=True) as stage:
            (stage.path / "inner").mkdir()
            (stage.path / "inner" / "new").touch()
            sys.settrace(started)
            sys._getframe().f_trace = None
            if first:
                signal.raise_signal(first)
    else:
        sys.settrace(started)
        replace_file(dest, b"new")
finally:
    sys.settrace(None)
    print(calls)
"""


def signalled(first: int, second: int, at: int, dest: Path, what: str) -> int:
    argv = [sys.executable, "-c", SCRIPT, str(int(first)), str(int(second)), str(at), str(dest), what]
    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=default_signals)
    assert done.returncode in (0, 1, 129, 130, 143, -signal.SIGINT), done.stderr
    assert "Traceback" not in done.stderr or "KeyboardInterrupt" in done.stderr, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("pair", [(signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_at_every_line_of_the_clean_up(tmp_path: Path, pair: tuple[signal.Signals, signal.Signals]):
    dest = tmp_path / "out"
    lines = signalled(*pair, 0, dest, "folder")
    assert lines > 20, "the clean-up was traced"
    for at in range(1, lines + 1, STEP):
        signalled(*pair, at, dest, "folder")
        assert list(tmp_path.iterdir()) == [], f"at line {at}"


@pytest.mark.slow
def test_one_signal_at_every_line_of_replacing_a_file(tmp_path: Path):
    dest = tmp_path / "out"
    dest.write_text("old")
    lines = signalled(0, signal.SIGINT, 0, dest, "file")
    assert lines > 20
    found = set()
    for at in range(1, lines + 1, STEP):
        dest.write_text("old")
        signalled(0, signal.SIGINT, at, dest, "file")
        assert [p.name for p in tmp_path.iterdir()] == ["out"], f"at line {at}"
        found.add(dest.read_text())
    assert found == {"old", "new"}


NAMED = """
import signal, sys
from eagle3hub.cli import app, inspect
number = int(sys.argv.pop())

class Named:
    def __set_name__(self, owner, name):
        signal.raise_signal(number)

def inspected():
    class Owner:
        field = Named()

inspect.inspect = inspected
app.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_out_as_another_exception(tmp_path: Path, number: signal.Signals):
    argv = [sys.executable, "-c", NAMED, "inspect", str(int(number))]
    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=default_signals)
    assert (done.returncode, done.stderr) == (128 + number, "interrupted\n" if number == signal.SIGINT else "")
