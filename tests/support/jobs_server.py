"""The Jobs half of the Hub's protocol, as huggingface_hub 2.4.0 speaks it: hardware, start, inspect, logs, cancel.

A job's command really runs, as a process of this machine. What is not real is the image: in place of a container there
is a folder before everything else on PATH whose ``python3`` makes an environment that runs the tests' own interpreter
on this checkout, and whose pip notes what it is asked to install and installs nothing.

``script`` takes the place of the process, for endings that a process here cannot have.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from support.hub_server import Handle, HubServer, _Handler

ROOT = Path(__file__).resolve().parents[2]
BROKE = "hf_broke"
NO_JOBS = "hf_nojobs"
HARDWARE = [
    # name, title, vCPU, GB, GPU and its memory, micro-dollars a minute
    ("cpu-basic", "CPU Basic", 2, 16, None, 167),
    ("cpu-upgrade", "CPU Upgrade", 8, 32, None, 500),
    ("l4x1", "1x Nvidia L4", 8, 30, ("L4", 24), 13333),
    ("h200", "Nvidia H200", 23, 256, ("H200", 141), 83333),
]
_PYTHON3 = f"""#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec {sys.executable} "$@"
for last; do :; done
mkdir -p "$last/bin"
cat > "$last/bin/python" <<'INNER'
#!/bin/sh
[ "$1 $2" = "-m pip" ] && {{ for last; do :; done; echo "$last" >> "$NOTES"; exit 0; }}
exec {sys.executable} "$@"
INNER
chmod +x "$last/bin/python"
"""


@dataclass
class Running:
    """One job: what was asked for, how far it is, and its log."""

    id: str
    owner: str
    spec: dict[str, Any]
    stage: str = "RUNNING"
    message: str | None = None
    lines: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    process: subprocess.Popen[str] | None = None

    @property
    def ended(self) -> bool:
        return self.stage not in ("SCHEDULING", "RUNNING")

    @property
    def nonce(self) -> str:
        return str(self.spec["command"][4])

    def log(self, *lines: str) -> None:
        with self.changed:
            self.lines += lines
            self.changed.notify_all()

    def end(self, stage: str, message: str | None = None) -> None:
        with self.changed:
            if not self.ended:
                self.stage, self.message = stage, message
            self.changed.notify_all()

    def to_json(self) -> dict[str, Any]:
        shown = {k: v for k, v in self.spec.items() if k not in ("secrets", "timeoutSeconds")}
        return {
            "id": self.id,
            "createdAt": "2026-11-22T12:00:00.000Z",
            "dockerImage": self.spec["dockerImage"],
            **shown,
            "secrets": dict.fromkeys(self.spec.get("secrets", {}), ""),
            "status": {"stage": self.stage, "message": self.message},
            "durations": {"schedulingSecs": 1, "runningSecs": 2, "totalSecs": 3},
            "owner": {"id": "1", "name": self.owner, "type": "user"},
            "initiator": {"type": "user", "id": "1", "name": self.owner},
        }


class JobsHub(HubServer):
    """A Hub that runs jobs. ``cuts`` are numbers of lines after which the next log streams break off."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.tokens |= {BROKE: "bob", NO_JOBS: "carol"}
        self.folder = folder
        self.jobs: list[Running] = []
        self.cuts: list[int] = []
        self.script: Callable[[Running], None] | None = None
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python3").write_text(_PYTHON3)
        (folder / "bin" / "python3").chmod(0o755)

    def __exit__(self, *details: object) -> None:
        for job in self.jobs:
            job.end("CANCELED")
            kill(job)
        super().__exit__(*details)

    @property
    def installed(self) -> list[str]:
        """What the jobs' pip was asked for."""
        notes = self.folder / "notes"
        return notes.read_text().splitlines() if notes.exists() else []

    def run(self, job: Running) -> None:
        if self.script is not None:
            self.script(job)
            return
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))},
            **self.env(self.folder / "hf-home"),
            **job.spec["environment"],
            **job.spec.get("secrets", {}),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.folder),
            "NOTES": str(self.folder / "notes"),
            "OMP_NUM_THREADS": "1",
        }
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = [*job.spec["command"], *job.spec["arguments"]]
        job.process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
        assert job.process.stdout is not None
        with job.process:
            for line in job.process.stdout:
                job.log(line.rstrip("\n"))
        status = job.process.returncode
        job.end(*(("COMPLETED", None) if status == 0 else ("ERROR", f"Job failed with exit code: {status}")))


def kill(job: Running) -> None:
    if job.process is not None and job.process.poll() is None:
        os.killpg(job.process.pid, signal.SIGKILL)


def _hub(h: _Handler) -> JobsHub:
    assert isinstance(h.hub, JobsHub)
    return h.hub


def _allowed(h: _Handler, owner: str) -> bool:
    token = h.request_seen.token
    if token not in h.hub.tokens:
        h.send_json({"error": "Invalid username or password."}, 401)
    elif token == NO_JOBS or h.hub.tokens[token] != owner:
        h.send_json({"error": "You don't have the required permissions"}, 403)
    else:
        return True
    return False


def _hardware(h: _Handler) -> None:
    rows = []
    for name, title, cpu, memory, gpu, price in HARDWARE:
        accelerator = gpu and {
            "type": "gpu",
            "model": gpu[0],
            "quantity": "1",
            "vram": f"{gpu[1]} GB",
            "manufacturer": "Nvidia",
        }
        rows.append(
            {
                "name": name,
                "prettyName": title,
                "cpu": f"{cpu} vCPU",
                "ram": f"{memory} GB",
                "ephemeralStorage": "50 GB",
                "accelerator": accelerator,
                "unitCostMicroUSD": price,
                "unitCostUSD": price / 1e6,
                "unitLabel": "minute",
            }
        )
    h.send_json(rows)


def _start(h: _Handler, owner: str) -> None:
    if not _allowed(h, owner):
        return
    hub = _hub(h)
    if h.request_seen.token == BROKE:
        h.send_json({"error": "Pre-paid credit balance is insufficient"}, 402)
        return
    spec = json.loads(h.body)
    if spec["flavor"] not in {row[0] for row in HARDWARE} or not spec["dockerImage"] or not spec["command"]:
        h.send_json({"error": "Invalid job"}, 400)
        return
    job = Running(f"{len(hub.jobs) + 1:024x}", owner, spec)
    hub.jobs.append(job)
    threading.Thread(target=hub.run, args=(job,), daemon=True).start()
    h.send_json(job.to_json())


def _find(h: _Handler, owner: str, job: str) -> Running | None:
    if not _allowed(h, owner):
        return None
    found = next((j for j in _hub(h).jobs if (j.owner, j.id) == (owner, job)), None)
    if found is None:
        h.send_json({"error": "Job not found"}, 404)
    return found


def _inspect(h: _Handler, owner: str, job: str) -> None:
    found = _find(h, owner, job)
    if found is not None:
        h.send_json(found.to_json())


def _cancel(h: _Handler, owner: str, job: str) -> None:
    found = _find(h, owner, job)
    if found is not None:
        found.end("CANCELED")
        kill(found)
        h.send_json(found.to_json())


def _logs(h: _Handler, owner: str, job: str) -> None:
    """Server-sent events from the first line on, until the job ends."""
    found = _find(h, owner, job)
    if found is None:
        return
    cuts = _hub(h).cuts
    cut = cuts.pop(0) if cuts else None
    h.send_response(200)
    h.send_header("Content-Type", "text/event-stream")
    h.send_header("Transfer-Encoding", "chunked")
    h.end_headers()
    h.request_seen.status = 200
    h.close_connection = True

    def send(text: str) -> None:
        data = text.encode()
        h.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        h.wfile.flush()

    send(": keep-alive\n\n")
    sent = 0
    while cut is None or sent < cut:
        with found.changed:
            if len(found.lines) == sent and not found.ended:
                found.changed.wait(1.0)
            line = found.lines[sent] if len(found.lines) > sent else None
            over = found.ended
        if line is not None:
            now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            send(f"data: {json.dumps({'data': line, 'timestamp': now})}\n\n")
            sent += 1
        elif over:
            h.wfile.write(b"0\r\n\r\n")
            return


_OWNER = r"(?P<owner>[\w.-]+)"
_JOB = rf"/api/jobs/{_OWNER}/(?P<job>[0-9a-f]{{24}})"
JOB_ROUTES: list[tuple[str, str, Handle]] = [
    ("GET", "/api/jobs/hardware", _hardware),
    ("POST", rf"/api/jobs/{_OWNER}", _start),
    ("GET", _JOB, _inspect),
    ("GET", rf"{_JOB}/logs", _logs),
    ("POST", rf"{_JOB}/cancel", _cancel),
]
JobsHub.routes = [*JOB_ROUTES, *HubServer.routes]
