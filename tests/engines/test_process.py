"""The end of a run whose worker fails. The workers here are small scripts that fail on purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from support.signals import default_signals

from eagle3hub.engines import process
from eagle3hub.engines.process import WorkerOutcome, run_worker


def script(folder: Path, body: str) -> list[str]:
    file = folder / "worker.py"
    file.write_text("import json, os, signal, subprocess, sys, time\n" + textwrap.dedent(body))
    return [sys.executable, str(file)]


def run(
    command: list[str], *, timeout: float = 20.0, request: Any = None, events: list[Any] | None = None
) -> WorkerOutcome:
    seen = [] if events is None else events
    return run_worker(command, request or {}, env=dict(os.environ), timeout=timeout, on_event=seen.append)


def gone(pid: int, within: float = 5.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_events_arrive_in_order_and_the_request_arrives_whole(tmp_path: Path) -> None:
    events: list[Any] = []
    body = """
        request = json.loads(sys.stdin.readline())
        print(json.dumps({"event": "size", "size": len(request["text"])}))
        print(json.dumps({"event": "done"}))
    """
    outcome = run(script(tmp_path, body), request={"text": "x" * 300_000}, events=events)
    assert outcome.status == "done"
    assert events == [{"event": "size", "size": 300_000}]


def test_a_crash_keeps_the_last_lines_of_the_log(tmp_path: Path) -> None:
    body = """
        for i in range(500):
            print(f"\\x1b[31mline {i}\\x1b[0m", file=sys.stderr)
        sys.exit(3)
    """
    outcome = run(script(tmp_path, body))
    assert outcome.status == "crashed"
    assert "exit status 3" in outcome.detail["message"]
    assert outcome.log_tail[-1] == "line 499"
    assert len(outcome.log_tail) == 40


def test_a_killed_worker_is_called_killed(tmp_path: Path) -> None:
    outcome = run(script(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)"))
    assert outcome.status == "crashed"
    assert "SIGKILL" in outcome.detail["message"]


@pytest.mark.parametrize("text", ["Loading weights 100%", "[1, 2]", '{"no": "event"}', "\\xff\\xfe", "[" * 50_000])
def test_anything_but_a_report_is_garbled(tmp_path: Path, text: str) -> None:
    outcome = run(script(tmp_path, f"os.write(1, b'{text}\\n'); time.sleep(60)"))
    assert outcome.status == "garbled"
    assert "expected" in outcome.detail["message"]


def test_a_line_without_end_is_garbled(tmp_path: Path) -> None:
    outcome = run(script(tmp_path, "while True: os.write(1, b'x' * 1000000)"))
    assert outcome.status == "garbled"


def test_the_time_limit_ends_the_whole_group_even_if_it_ignores_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_GRACE_SECONDS", 1.0)
    events: list[Any] = []
    body = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"
        child = subprocess.Popen([sys.executable, "-c", code])
        print(json.dumps({"event": "pids", "pids": [os.getpid(), child.pid]}), flush=True)
        time.sleep(100)
    """
    started = time.monotonic()
    outcome = run(script(tmp_path, body), timeout=2.0, events=events)
    assert outcome.status == "timeout"
    assert "2 seconds" in outcome.detail["message"]
    assert time.monotonic() - started < 15
    assert all(gone(pid) for pid in events[0]["pids"])


def test_children_left_behind_by_a_good_worker_are_ended_too(tmp_path: Path) -> None:
    events: list[Any] = []
    body = """
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        print(json.dumps({"event": "pids", "pids": [child.pid]}))
        print(json.dumps({"event": "done"}))
    """
    assert run(script(tmp_path, body), events=events).status == "done"
    assert gone(events[0]["pids"][0])


def test_an_exception_while_listening_ends_the_worker(tmp_path: Path) -> None:
    pids: list[int] = []

    def fail(event: dict[str, Any]) -> None:
        pids.append(event["pid"])
        raise KeyboardInterrupt

    command = script(tmp_path, 'print(json.dumps({"event": "x", "pid": os.getpid()}), flush=True); time.sleep(100)')
    with pytest.raises(KeyboardInterrupt):
        run_worker(command, {}, env=dict(os.environ), timeout=30, on_event=fail)
    assert gone(pids[0])


def test_what_cannot_be_started_is_absent(tmp_path: Path) -> None:
    outcome = run([str(tmp_path / "nowhere")])
    assert outcome.status == "absent"
    assert "nowhere" in outcome.detail["message"]
    not_executable = tmp_path / "text"
    not_executable.write_text("hello")
    assert run([str(not_executable)]).status == "absent"


def test_no_scratch_files_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    body = 'import tempfile; open(tempfile.mkdtemp() + "/left", "w"); print(json.dumps({"event": "done"}))'
    assert run(script(tmp_path, body)).status == "done"
    assert list(scratch.iterdir()) == []


PARENT = """
import json, os, sys
from eagle3hub.engines import process
from eagle3hub.engines.process import run_worker
run_worker(sys.argv[1:], {}, env=dict(os.environ), timeout=60, on_event=lambda e: print(e["pid"], flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_parent_leaves_no_worker(tmp_path: Path, number: signal.Signals) -> None:
    command = script(tmp_path, 'print(json.dumps({"event": "x", "pid": os.getpid()}), flush=True); time.sleep(100)')
    with parent(command) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(timeout=20) != 0
    assert gone(pid)


def test_the_real_worker_ends_when_the_parent_is_killed_outright(tmp_path: Path) -> None:
    package = tmp_path / "vllm"
    package.mkdir()
    record = tmp_path / "pid"
    package.joinpath("__init__.py").write_text(
        f"import os, time\nopen({str(record)!r}, 'w').write(str(os.getpid()))\ntime.sleep(100)\n"
    )
    tmp_path.joinpath("torch.py").write_text("")
    tmp_path.joinpath("transformers.py").write_text("")
    import eagle3hub.engines

    worker = Path(eagle3hub.engines.__file__).parent / "workers" / "vllm_worker.py"
    request = json.dumps({"llm": {}, "device": "cpu", "sampling": {}, "prompts": [], "chat_template": {}})
    code = PARENT.replace(
        "{}, env=dict(os.environ)", f"{request}, env={{**os.environ, 'PYTHONPATH': {str(tmp_path)!r}}}"
    )
    code = code.replace('print(e["pid"], flush=True)', "None")
    with parent([sys.executable, str(worker)], code) as process:
        end = time.monotonic() + 20
        while not (record.exists() and record.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        pid = int(record.read_text())
        process.kill()
        process.wait()
    assert gone(pid)


def parent(command: list[str], code: str = PARENT) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", code, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "PYTHONSAFEPATH": ""},
        preexec_fn=default_signals,
    )


@pytest.mark.parametrize("size", [1_000_000, 15_000_000])
def test_a_long_report_costs_as_much_as_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Count what is joined with each new piece: a line must not be copied again for every piece."""
    copied: list[int] = []

    class Counted(bytes):
        def __radd__(self, before: bytes) -> bytes:
            copied.append(len(before))
            return before + bytes(self)

    real = os.read
    monkeypatch.setattr("eagle3hub.engines.process.os.read", lambda fd, n: Counted(real(fd, n)))
    events: list[Any] = []
    body = f"""
        print(json.dumps({{"event": "text", "text": "x" * {size}}}))
        print(json.dumps({{"event": "done"}}))
    """
    assert run(script(tmp_path, body), events=events).status == "done"
    assert len(events[0]["text"]) == size
    assert sum(copied) < 3 * size


def test_a_worker_sends_a_long_report_without_copying_what_is_left(tmp_path: Path) -> None:
    """Run `protocol.serve` while every write takes only a part of the line."""
    body = f"""
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        import eagle3hub.engines.workers.protocol as protocol
        real, pieces = os.write, []
        def write(fd, data):
            pieces.append(type(data).__name__)
            return real(fd, data[:100_000])
        protocol.os.write = write
        def work(request, tell):
            tell("text", text="x" * 2_000_000)
            assert set(pieces) == {{"memoryview"}}, pieces
        protocol.serve(work)
    """
    events: list[Any] = []
    assert run(script(tmp_path, body), events=events).status == "done"
    assert len(events[0]["text"]) == 2_000_000


def test_a_line_without_an_end_is_cut_off(tmp_path: Path) -> None:
    body = """
        while True:
            os.write(1, b"x" * 65536)
    """
    outcome = run(script(tmp_path, body), timeout=60)
    assert outcome.status == "garbled"
    assert outcome.detail["message"] == "it wrote a line of more than 16 MiB, longer than any report is"


def test_lines_are_put_together_from_any_pieces(tmp_path: Path) -> None:
    body = """
        lines = [json.dumps({"event": "n", "n": n, "pad": "p" * (n * 37 % 5000)}) for n in range(300)]
        text = ("\\n".join(lines) + "\\n" + json.dumps({"event": "done"}) + "\\n").encode()
        at = 0
        while at < len(text):
            os.write(1, text[at : at + 1 + at * 13 % 7001])
            at += 1 + at * 13 % 7001
    """
    events: list[Any] = []
    assert run(script(tmp_path, body), events=events).status == "done"
    assert [event["n"] for event in events] == list(range(300))
