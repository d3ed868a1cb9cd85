"""What Python and the system have on Linux and not on macOS is taken away: everything without an engine goes on."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import heads

from eagle3hub.checkpoint.staging import write_file

PACKAGE = Path(__file__).parent.parent / "eagle3hub"
LINUX_ONLY = {
    *("copy_file_range", "splice", "eventfd", "memfd_create", "getrandom", "sched_getaffinity", "sched_setaffinity"),
    *("posix_fallocate", "posix_fadvise", "fdatasync", "getxattr", "setxattr", "listxattr", "removexattr", "unshare"),
    *("setns", "pidfd_open", "pipe2", "preadv2", "pwritev2"),
    *("O_TMPFILE", "O_PATH", "O_DIRECT", "O_LARGEFILE", "O_NOATIME"),
}
"""Names of the module ``os`` that Python has on Linux and not on every macOS that it runs on."""
GUARDED = {"sched_getaffinity": "engines/sglang.py"}  # SGLang on CPU is for Linux

TAKEN_AWAY = f"""
import ctypes, io, os, pathlib, sys
for name in {sorted(LINUX_ONLY)!r}:
    if hasattr(os, name):
        delattr(os, name)
class Libc:  # macOS has none of the calls that the writer asks for
    def __init__(self, *given, **more): pass
ctypes.CDLL = Libc
real = io.open
def opened(file, *given, **more):
    if str(file).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return real(file, *given, **more)
io.open = opened
import builtins; builtins.open = opened
"""


def on_macos(code: str, *argv: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TAKEN_AWAY + code, *map(str, argv)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=240)


def run(*argv: object) -> str:
    done = on_macos("from eagle3hub.cli.app import main; main()", *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_heads_are_inspected_converted_and_compared(tmp_path: Path):
    source, target = heads.specforge(tmp_path / "head"), heads.target(tmp_path / "target")
    assert json.loads(run("inspect", source, "--json"))["layout"] == "specforge"
    run("convert", source, tmp_path / "made", "--target", target)
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "made" / "model.safetensors")
    assert all((before[name] == after[name]).all() for name in before)
    assert json.loads(run("diff", source, tmp_path / "made", "--json"))["verdict"] == "equal-up-to-spelling"


@pytest.mark.slow
def test_a_chat_template_is_rendered_without_a_limit_of_memory(tmp_path: Path):
    """macOS does not tell how much memory a process uses, nor limits it; what else is limited stays so."""
    code = "import runpy; runpy.run_module('eagle3hub.reference.template_worker', run_name='__main__')"
    asked = {
        "template": "{{ messages[0].content }}!",
        "messages": [{"role": "user", "content": "hi"}],
        "variables": {},
    }
    done = on_macos(code, stdin=json.dumps(asked) + "\n")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"text": "hi!"}), done.stderr


def test_nothing_of_linux_alone_is_used_without_need():
    used = {
        (name, str(path.relative_to(PACKAGE)))
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"\bos\.(\w+)", path.read_text())
        if name in LINUX_ONLY
    }
    assert used == set(GUARDED.items())


@pytest.mark.parametrize("has_it", [True, False])
def test_what_is_flushed_is_on_the_disk_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_it: bool):
    """macOS's fsync leaves data in the disk's cache; a file system there may lack the call that does not."""
    asked: list[str] = []

    def full(fd: int, command: int) -> int:
        assert command == 51
        asked.append("full")
        if not has_it:
            raise OSError(45, "Operation not supported")
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full)
    monkeypatch.setattr(os, "fsync", lambda fd: asked.append("fsync"))
    write_file(tmp_path / "a", b"1")
    assert asked == (["full"] if has_it else ["full", "fsync"])
    assert (tmp_path / "a").read_bytes() == b"1"
