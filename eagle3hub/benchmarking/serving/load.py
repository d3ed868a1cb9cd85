"""Send prompts to a server with AIPerf, a well-kept load generator, in an environment of its own.

AIPerf (Apache-2.0) sends our requests as they are, in our order, so many at a time, and keeps every piece of every
answer with the moment it came. Token ids, times and counters are read from these pieces. It has some 140 packages,
several of them pinned, so it does not share our environment.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.engines.endpoints.dialects import Piece
from eagle3hub.engines.environments import Environment, install_spec
from eagle3hub.engines.options import ENDPOINT_KEY
from eagle3hub.engines.process import bare_environment, run_leashed
from eagle3hub.engines.specs import EnvironmentSpec
from eagle3hub.system.progress import Progress, silent

AIPERF = EnvironmentSpec(
    engine="aiperf",
    version="0.13.0",
    device="cpu",
    distribution="aiperf==0.13.0",
    requirements=Path(__file__).resolve().parent / "aiperf-requirements.txt",
    platforms=("linux-x86_64",),
    disk_gib=1.5,
    pythons=(11, 13),
    module="aiperf",
)
_RAW = "profile_export_raw.jsonl"
_LAST_LINES = 40
_NS = 1e9


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: requests, how many at a time, and how many to send beforehand so that the server is warm.

    Attributes:
        tokenizer: the target's folder or Hub id; AIPerf loads a tokenizer, and none of its counts are used.
        timeout: seconds that one request may take. deadline: seconds that all of them may take.
    """

    url: str
    requests: Sequence[Mapping[str, Any]]
    concurrency: int
    warmup: int
    tokenizer: str
    timeout: float
    deadline: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request: when it was sent, in seconds of the clock of its pieces, and the pieces of its answer."""

    sent: float
    pieces: tuple[Piece, ...]


class LoadFault(Exception):
    """The requests were not all answered; the message says why, in one sentence."""


def load_generator(progress: Progress = silent) -> Environment:
    """Return AIPerf's environment; it is installed if it is not there.

    Raises what `install_spec` raises: UnavailableError, OutputError, HubError.
    """
    return install_spec(AIPERF, progress=progress)


def send(load: Load, python: Path) -> list[Exchange]:
    """Send all requests, and return what became of each, in the order of the requests.

    Raises LoadFault if a request was not answered in full, or if AIPerf failed.
    """
    with scratch_folder() as scratch:
        file, said = scratch / "load.json", deque[str](maxlen=_LAST_LINES)
        lines = [json.dumps(request, ensure_ascii=False) for request in load.requests]
        (scratch / "requests.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        file.write_text(json.dumps(_config(load, scratch)), encoding="utf-8")

        def told(line: bytes) -> None:
            said.append(line.decode("utf-8", "replace").strip())

        command = [str(python.with_name("aiperf")), "profile", "--config", str(file), "--ui", "none"]
        environment = {**bare_environment(), "HF_HUB_DISABLE_TELEMETRY": "1", "TMPDIR": str(scratch)}
        if Path(load.tokenizer).is_dir():
            environment.pop("HF_HUB_OFFLINE", None)  # AIPerf then takes a folder's name for one on the Hub
        try:
            code = run_leashed(command, environment, told, seconds=load.deadline)
        except TimeoutError:
            raise LoadFault(f"the requests were not answered within {load.deadline:g} seconds") from None
        return _exchanges(scratch / "out" / _RAW, load, code, list(said))


def _config(load: Load, scratch: Path) -> dict[str, Any]:
    endpoint: dict[str, Any] = {
        "url": load.url,
        "type": "chat",
        "streaming": True,
        "timeout": load.timeout,
        "useServerTokenCount": True,
    }
    if os.environ.get(ENDPOINT_KEY):
        endpoint["apiKey"] = f"${{{ENDPOINT_KEY}}}"  # AIPerf reads it from the environment: no file holds it
    phase = {"type": "concurrency", "concurrency": load.concurrency}
    benchmark: dict[str, Any] = {
        "model": str(load.requests[0]["model"]),
        "endpoint": endpoint,
        "tokenizer": {"name": load.tokenizer},
        "artifacts": {"dir": str(scratch / "out"), "records": ["jsonl"], "raw": True},
        "dataset": {
            "type": "file",
            "path": str(scratch / "requests.jsonl"),
            "format": "raw_payload",
            "sampling": "sequential",
        },
        "profiling": {**phase, "requests": len(load.requests)},
        "gpuTelemetry": {"enabled": False},
        "serverMetrics": {"enabled": False},
    }
    if load.warmup:
        benchmark["warmup"] = {**phase, "requests": load.warmup}
    return {"schemaVersion": "2.0", "randomSeed": 0, "benchmark": benchmark}


def _exchanges(raw: Path, load: Load, code: int, said: Sequence[str]) -> list[Exchange]:
    waiting: dict[str, deque[int]] = {}
    for place, request in enumerate(load.requests):
        waiting.setdefault(_canonical(request), deque()).append(place)
    found: dict[int, Exchange] = {}
    faults = []
    for record in _records(raw):
        places = waiting.get(_canonical(record.get("payload")))
        if record.get("metadata", {}).get("benchmark_phase") != "profiling" or not places:
            continue
        place = places.popleft()
        fault = _fault(record)
        if fault is None:
            found[place] = Exchange(record["start_perf_ns"] / _NS, _pieces(record))
        else:
            faults.append((place, fault))
    if faults:
        place, fault = min(faults)
        raise LoadFault(f"{len(faults)} of {len(load.requests)} requests failed, request {place + 1} first: {fault}")
    if len(found) != len(load.requests):
        why = next((line for line in reversed(said) if "ERROR" in line or "Error" in line), said[-1] if said else "")
        raise LoadFault(
            f"{len(found)} of {len(load.requests)} requests were answered, and AIPerf ended with exit status {code}: "
            f"{why}"
        )
    return [found[place] for place in range(len(load.requests))]


def _records(raw: Path) -> list[dict[str, Any]]:
    try:
        lines = raw.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [record for line in lines if isinstance(record := json.loads(line), dict)]


def _canonical(request: object) -> str:
    return json.dumps(request, sort_keys=True)


def _fault(record: Mapping[str, Any]) -> str | None:
    """Return why a request failed. An answer that ended has not failed, even if AIPerf found no text in it."""
    if record.get("status") == 200 and _came_to_its_end(record):
        return None
    error = record.get("error")
    if isinstance(error, dict):
        return " ".join(str(error.get("message") or error.get("type") or "no reason is given").split())[:300]
    status = record.get("status")
    return f"HTTP status {status}" if status != 200 else None


def _came_to_its_end(record: Mapping[str, Any]) -> bool:
    packets = [packet for response in record.get("responses") or [] for packet in response.get("packets") or []]
    return any(packet.get("value") == "[DONE]" for packet in packets)


def _pieces(record: Mapping[str, Any]) -> tuple[Piece, ...]:
    """Return the JSON objects in the events of a streamed answer."""
    out: list[Piece] = []
    for response in record.get("responses") or []:
        for packet in response.get("packets") or []:
            text = packet.get("value") if packet.get("name") == "data" else None
            if not isinstance(text, str) or text == "[DONE]":
                continue
            try:
                found = json.loads(text)
            except ValueError:
                continue
            if isinstance(found, dict):
                out.append((response["perf_ns"] / _NS, found))
    return tuple(out)
