"""Kill a command at a random moment, in a given way, and say what it left.

A way is one signal or two, the second of which comes while the first is being dealt with.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support import heads
from support.hub_writes import WritableHub
from support.signals import default_signals

WAYS: dict[str, tuple[signal.Signals, ...]] = {
    "KILL": (signal.SIGKILL,),
    "INT": (signal.SIGINT,),
    "TERM": (signal.SIGTERM,),
    "HUP": (signal.SIGHUP,),
    "INT INT": (signal.SIGINT, signal.SIGINT),
    "INT TERM": (signal.SIGINT, signal.SIGTERM),
    "HUP HUP": (signal.SIGHUP, signal.SIGHUP),
    "TERM KILL": (signal.SIGTERM, signal.SIGKILL),
}
_ENDINGS = {130, 129, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGKILL, 0}


@dataclass
class Killed:
    """How often each thing happened, over the kills of one command."""

    kills: int = 0
    too_late: int = 0
    old: int = 0
    new: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trial:
    """A command to be killed.

    ``prepare`` puts everything back, ``state`` says ``old``, ``new`` or what else there is, ``left`` what lies about
    that neither the old nor the new state has. ``again`` is the command line of a run that is let be.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    prepare: Callable[[], None]
    state: Callable[[], str]
    left: Callable[[], list[str]]


def run(trial: Trial) -> tuple[subprocess.Popen[bytes], float]:
    """Start the command with a fixed environment."""
    process = subprocess.Popen(
        [sys.executable, "-m", "eagle3hub", *trial.argv],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **trial.env},
        preexec_fn=default_signals,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    return process, time.monotonic()


def killed(trial: Trial, count: int, ways: Mapping[str, tuple[signal.Signals, ...]] = WAYS, seed: int = 0) -> Killed:
    """Kill it ``count`` times, each at a moment of its own between its start and its end."""
    chance = random.Random(seed)
    trial.prepare()
    process, begun = run(trial)
    _, said = process.communicate(timeout=300)
    lasts = time.monotonic() - begun
    found = Killed()
    if process.returncode != 0 or trial.state() != "new" or trial.left():
        found.faults.append(f"let be: {process.returncode}, {trial.state()}, {trial.left()}: {said.decode()[-300:]}")
        return found
    for i in range(count):
        way = list(ways)[i % len(ways)]
        trial.prepare()
        process, begun = run(trial)
        # Imports take most of the time and nothing is begun then: most moments are to lie behind them.
        at = lasts * (chance.random() if i % 4 == 0 else chance.uniform(0.3, 1.05))
        try:
            process.wait(timeout=at)
        except subprocess.TimeoutExpired:
            process.send_signal(ways[way][0])
            for second in ways[way][1:]:
                time.sleep(chance.choice([0.0, 0.001, 0.005, 0.02, 0.08]))
                process.send_signal(second)
            found.kills += 1
        else:
            found.too_late += 1
        _, said = process.communicate(timeout=120)
        lasts = max(0.2, lasts * 0.98 if process.returncode == 0 else lasts)
        _judge(trial, way, at, process.returncode, said.decode(errors="replace"), found)
    return found


def _judge(trial: Trial, way: str, at: float, status: int, said: str, found: Killed) -> None:
    where = f"{way} after {at:.2f} s, status {status}"
    state = trial.state()
    if state == "old":
        found.old += 1
    elif state == "new":
        found.new += 1
    else:
        found.faults.append(f"{where}: {state}")
    if status not in _ENDINGS:
        found.faults.append(f"{where}: {said[-300:]}")
    if "KILL" in way:
        process, _ = run(trial)
        process.communicate(timeout=300)
        if process.returncode != 0:
            found.faults.append(f"{where}: the next run ends with {process.returncode}")
        elif trial.state() != "new":
            found.faults.append(f"{where}: the next run leaves {trial.state()}")
    if left := trial.left():
        found.faults.append(f"{where}: {', '.join(left)} is left over")


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every folder as if it were an empty file; nothing where there is none."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")
    }


def hidden(folder: Path) -> list[str]:
    """What this tool may leave beside what it writes, anywhere below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*") if "eagle3hub-" in path.name)


class Scenes:
    """The commands that are killed, each in a folder of its own below ``work``."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.scratch = work / "scratch"
        self.scratch.mkdir(parents=True)
        self.env = {
            "EAGLE3HUB_CACHE": str(work / "cache"),
            "TMPDIR": str(self.scratch),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *argv: object) -> None:
        """A run that is let be."""
        done = subprocess.run(
            [sys.executable, "-m", "eagle3hub", *map(str, argv)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **self.env},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()

    def replacing(self, argv: Sequence[object], out: Path, old: dict[str, bytes]) -> Trial:
        """A command that makes ``out`` anew; what it makes depends on nothing but its inputs."""
        self.call(*argv)
        new = bytes_of(out)
        assert new != old

        def prepare() -> None:
            shutil.rmtree(out, ignore_errors=True)
            for name, data in sorted(old.items()):
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                if data:
                    (out / name).write_bytes(data)

        def state() -> str:
            found = bytes_of(out)
            return "old" if found == old else "new" if found == new else f"neither: {sorted(found)}"

        return Trial([str(a) for a in argv], self.env, prepare, state, self.left)

    def left(self) -> list[str]:
        """What is left over anywhere."""
        return [*hidden(self.work), *(f"scratch/{p.name}" for p in self.scratch.iterdir())]

    def convert(self) -> Trial:
        """A head in one layout takes the place of one in another."""
        here = self.work / "convert"
        here.mkdir()
        head, out = heads.specforge(here / "head"), here / "out"
        self.call("convert", head, out, "--to", "specjax")
        return self.replacing(["convert", head, out, "--to", "modelopt", "--force", "-q"], out, bytes_of(out))

    def release(self) -> Trial:
        """A release takes the place of an earlier one with another title; its report is kept."""
        here = self.project("release")
        manifest, out = here / "release.yaml", here / "out"
        argv = ["release", manifest, "--dry-run", "--output", out, "-q"]
        self.call(*argv)
        manifest.write_text(manifest.read_text().replace("title: Old", "title: New"))
        return self.replacing([*argv, "--force"], out, bytes_of(out))

    def validate(self) -> Trial:
        """A report takes the place of what lay there."""
        here = self.project("validate")
        report = here / "report.json"

        def state() -> str:
            text = report.read_text()
            if text == "old":
                return "old"
            try:
                return "new" if json.loads(text)["verdict"] == "pass" else text
            except ValueError:
                return f"no JSON: {text[:80]}"

        argv = ["validate", here / "head", "--target", here / "target", "--num-prompts", "8", "--max-new-tokens", "8"]
        return Trial(
            [str(a) for a in (*argv, "--report", report, "-q")],
            self.env,
            lambda: (report.write_text("old"), None)[1],
            state,
            self.left,
        )

    def publish(self, hub: WritableHub) -> Trial:
        """A release is published to a repository that has another commit."""
        from publishing import folders

        here = self.work / "publish"
        here.mkdir()
        made = here / "made"
        made.mkdir()
        folders.make_release(here / "release", folders.write_manifest(made / "release.yaml"))
        before = bytes_of(here / "release")
        home = here / "home"
        oid = hub.commit(folders.REPO, {"old.txt": b"old"})
        old = copy.deepcopy(hub.repos[folders.REPO])

        def prepare() -> None:
            hub.repos[folders.REPO] = copy.deepcopy(old)

        def state() -> str:
            repo = hub.repos[folders.REPO]
            now = repo.refs["main"]
            if now == oid:
                return "old" if not repo.tags else "a tag without its commit"
            there = repo.commits[now].files
            whole = all(
                there.get(name) == data for name, data in before.items() if (here / "release" / name).is_file()
            )
            return "new" if whole and "SHA256SUMS" in there else f"neither: {sorted(there)}"

        def left() -> list[str]:
            return [*self.left(), *sorted(bytes_of(here / "release").keys() ^ before.keys())]

        argv = ["publish", str(here / "release"), "--repo", folders.REPO, "-q"]
        argv += ["--manifest", str(made / "release.yaml")]
        env = {**self.env, **hub.env(home, "hf_good"), "HF_HUB_OFFLINE": "0"}
        return Trial(argv, env, prepare, state, left)

    def project(self, name: str) -> Path:
        """A folder with a tiny head, its target and a manifest."""
        from workflows import agreeing

        here = self.work / name
        here.mkdir()
        agreeing.make_target(here / "target")
        agreeing.make_head(here / "head")
        (here / "release.yaml").write_text(
            "schema: eagle3hub/manifest/1\nhead: {source: head}\n"
            "target: {id: alice/target, license: mit, path: target}\n"
            "release:\n  repo: alice/head\n  title: Old\n  summary: S.\n  license: mit\n"
            "layouts: {main: specforge, also: [modelopt]}\nspeculative_tokens: 3\n"
            "validate: {engine: reference, num_prompts: 8, max_new_tokens: 8}\n"
        )
        return here
