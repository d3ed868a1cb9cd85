"""How far a command is: on a terminal, in a log, and for other programs."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hub_server import HubServer, client_of

from eagle3hub.checkpoint import remote
from eagle3hub.cli.output import Events, Lines, forget
from eagle3hub.engines.process import LogFollower, run_worker
from eagle3hub.system.documents import schema_faults
from eagle3hub.system.progress import Moment, Pace, starting_torch, tell_bytes, tell_log, telling
from eagle3hub.system.resources import schema
from eagle3hub.system.text import readable_time

Cli = Callable[..., tuple[int, str, str]]
MAIN = "import sys; from eagle3hub.cli.app import main; main()"


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def nothing_was_asked_for() -> None:
    """A command that another test ran in this process may have asked for events."""
    forget()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(remote, "_LISTINGS", {})
    with HubServer() as server, client_of(server, tmp_path / "home", monkeypatch):
        yield server


def events(err: str) -> list[dict[str, Any]]:
    """The events of standard error, each of which fits the schema."""
    found = [json.loads(line) for line in err.splitlines()]
    assert [fault for event in found for fault in schema_faults(event, schema("progress"))] == []
    return found


def test_a_pace_is_known_after_three_values_and_of_one_stage():
    pace = Pace()
    for now, done in ((0.0, 0.0), (1.0, 0.1)):
        pace.saw("a", done, now)
    assert pace.rate is None
    pace.saw("a", 0.2, 2.0)
    assert pace.rate == pytest.approx(0.1)
    assert pace.seconds_left(1.0) == pytest.approx(8.0)
    pace.saw("b", 0.2, 3.0)
    assert pace.rate is None, "another stage"
    for now in (4.0, 5.0, 6.0):
        pace.saw("b", 0.2, now)
    assert pace.seconds_left(1.0) is None, "it stands still"
    for now, done in ((7.0, 0.3), (8.0, 0.4), (9.0, 0.0), (10.0, 0.1)):
        pace.saw("b", done, now)
    assert pace.rate is None, "it began anew"
    for second in range(100):
        pace.saw("c", second if second < 50 else 50 + 2 * (second - 50), float(second))
    assert pace.rate == pytest.approx(2.0), "what was slow long ago does not count"


def test_a_log_gets_each_message_once_and_how_far_it_is_every_half_minute(capsys: pytest.CaptureFixture[str]):
    clock = Clock()
    lines = Lines(1.0, clock)
    lines("reading", 0.5)
    for _ in range(41):
        clock.now += 1.0
        with telling(lines):
            tell_bytes(round((clock.now - 100) * 1e6), 100_000_000)
        lines("downloading x", (clock.now - 100) / 100)
    lines("verifying")
    assert (
        capsys.readouterr().err == "downloading x\ndownloading x: 31%, 31 MB of 100 MB, 1 MB/s, 69 s left\nverifying\n"
    )


def test_events_say_everything_and_not_too_often(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    show = Events(clock, since=100.0)
    show("release: loading the target")
    with telling(show):
        for step in range(101):
            clock.now += 0.05
            tell_bytes(step * 1000, 100_000)
            show("release: downloading x", step / 100)
        tell_log("not asked for")
    clock.now += 0.01
    show("release: replaying", 0.1)
    show("release: replaying", 0.2)
    show.flush()
    show.message("a word\n\nand another\n")
    found = events(capsys.readouterr().err)
    stages = [event["stage"] for event in found]
    assert stages[:2] == ["loading the target", "downloading x"]
    assert stages[-4:] == ["replaying", "replaying", None, None]
    fetched = [event for event in found if event["stage"] == "downloading x"]
    assert 20 < len(fetched) < 32, "five a second"
    last = fetched[-1]
    assert (last["fraction"], last["bytes"], last["total_bytes"], last["seconds_left"]) == (1.0, 100_000, 100_000, 0.0)
    assert last["bytes_per_second"] == pytest.approx(20_000, rel=0.01)
    assert fetched[0]["bytes_per_second"] is None
    assert found[-5]["fraction"] == 1.0
    assert [event["message"] for event in found[-2:]] == ["a word", "and another"]
    assert {event["event"] for event in found} == {"progress", "message"}


def test_what_is_known_in_words():
    whole = Moment("m", 0.5, 200.0, 20_000_000, 40_000_000, 1_000_000)
    assert whole.facts() == ["50%", "20 MB of 40 MB", "1 MB/s", "3 min left"]
    assert Moment("m").facts() == []
    assert [readable_time(s) for s in (8, 89, 100, 4800)] == ["8 s", "89 s", "2 min", "1 h 20 min"]


def test_a_download_of_a_command_in_events(hub: HubServer, example_head: Path, tmp_path: Path, cli: Cli):
    hub.commit("alice/head", example_head)
    argv = ("convert", "hf://alice/head", tmp_path / "out", "--to", "specjax", "--json", "--progress", "json")
    status, out, err = cli(*argv)
    assert status == 0
    assert json.loads(out)["schema"] == "eagle3hub/convert/1"
    found = [event for event in events(err) if event["stage"] == "downloading model.safetensors"]
    assert found[-1]["bytes"] == found[-1]["total_bytes"] == (example_head / "model.safetensors").stat().st_size
    assert found[-1]["fraction"] == 1.0
    next_one = cli("convert", example_head, tmp_path / "again", "--to", "specjax")[2]
    assert "{" not in next_one, "forgotten by the next command"


def test_what_a_command_says_is_an_event_too(tmp_path: Path, cli: Cli):
    status, out, err = cli("convert", tmp_path / "no", tmp_path / "out", "--to", "specjax", "--progress", "json")
    assert (status, out) == (3, "")
    found = events(err)
    assert [event["event"] for event in found[-2:]] == ["message", "message"]
    assert found[-2]["message"].startswith("error: ")
    assert found[-1]["message"].startswith("hint: ")


@pytest.mark.parametrize(
    "words", [("--quiet", "--progress", "json"), ("--progress", "json", "-q"), ("--progress", "x")]
)
def test_options_that_contradict_each_other(words: tuple[str, ...], tmp_path: Path, cli: Cli):
    status, out, _ = cli("convert", tmp_path, tmp_path / "out", "--to", "specjax", "--json", *words)
    assert (status, json.loads(out)["error"]["code"]) == (2, "usage-progress")


class Shown:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, message: str, fraction: float | None = None) -> None: ...

    def of_bytes(self, done: int, whole: int | None) -> None: ...

    def of_log(self, line: str) -> None:
        self.lines.append(line)


def test_a_log_is_followed_line_by_line_and_of_a_bar_the_last_state(tmp_path: Path):
    log = tmp_path / "log"
    follower, shown = LogFollower(log), Shown()
    with telling(shown):
        follower.look()
        for piece in ("loading\n", "shards 1\rshards 2\r", "\x1b[32mdo", "ne\x1b[0m\n\n"):
            with log.open("a") as f:
                f.write(piece)
            follower.look()
    assert shown.lines == ["loading", "shards 2", "done"]


def test_what_a_worker_writes_to_its_log_is_passed_on():
    code = (
        "import sys; sys.stdin.readline(); sys.stderr.write('compiling\\nserving\\n'); print('{\"event\": \"done\"}')"
    )
    shown = Shown()
    with telling(shown):
        outcome = run_worker(
            [sys.executable, "-c", code], {}, env=dict(os.environ), timeout=60, on_event=lambda event: None
        )
    assert (outcome.status, shown.lines) == ("done", ["compiling", "serving"])


@pytest.mark.parametrize("form", ["text", "json"])
def test_verbose_shows_the_log(form: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, cli: Cli):
    from eagle3hub.cli import output as shown

    for words, expected in (((), 0), (("--verbose",), 1)):
        cli("validate", tmp_path, "--target", tmp_path, *words, "--progress", form)
        with shown.progress():
            tell_log("Loading shards: 50%")
        err = capsys.readouterr().err
        assert err.count("Loading shards: 50%") == expected
        if form == "json":
            assert [event["event"] for event in events(err)] == ["log"] * expected


def test_the_bar_fits_a_narrow_terminal(tmp_path: Path):
    """In a terminal of 80 columns no line is longer, and the message gives way before the numbers."""
    code = (
        "import time; from eagle3hub.cli.output import progress\n"
        "from eagle3hub.system.progress import tell_bytes, tell_log\n"
        "with progress(after=0.0) as say:\n"
        "    for step in range(8):\n"
        "        tell_bytes(step * 10**9, 8 * 10**9)\n"
        "        say('universal (1 of 2): vLLM, with the head: ' + 'downloading a long name ' * 4, step / 8)\n"
        "        tell_log('Loading safetensors checkpoint shards: ' + 'x' * 100)\n"
        "        time.sleep(0.15)\n"
    )
    mine, theirs = pty.openpty()
    os.set_blocking(mine, False)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True, timeout=120)
    drawn = os.read(mine, 1 << 20).decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    lines = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert lines
    assert max(map(len, lines)) <= 80
    assert any("…" in line and "GB of 8 GB" in line for line in lines)
    assert any(line.startswith("  Loading safetensors") for line in lines)


def test_torchs_threads_sleep_while_they_wait_and_no_engine_is_told_to(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(KeyboardInterrupt), starting_torch(lambda message, fraction=None: said.append(message), "a: "):
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
        raise KeyboardInterrupt
    assert "OMP_WAIT_POLICY" not in os.environ
    assert said == ["a: starting torch"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    with starting_torch(lambda message, fraction=None: None):
        assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_the_reference_starts_torch_so():
    """Whoever imports torch first decides how its threads wait."""
    code = (
        "import os, sys, traceback\n"
        "seen = []\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        asked = any('importlib.util' in f.filename.replace('/', '.') for f in traceback.extract_stack())\n"
        "        if name == 'torch' and not asked:\n"
        "            seen.append(os.environ.get('OMP_WAIT_POLICY'))\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import eagle3hub\n"
        "try:\n"
        "    eagle3hub.replay(*sys.argv[1:])\n"
        "except KeyboardInterrupt:\n"
        "    print(seen, os.environ.get('OMP_WAIT_POLICY'))\n"
    )
    fixtures = Path(__file__).parent / "fixtures" / "exporters"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", code, fixtures / "specjax-saved" / "head", fixtures / "target"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.splitlines()[-1] == "['PASSIVE'] None", done.stdout + done.stderr
