"""vLLM's server: per-prompt counters are the growth of its metrics around one request.

Names as vLLM has them (``v1/spec_decode/metrics.py``, ``v1/metrics/loggers.py``). The metrics of a request are
written after it is answered, so they are read until all its tokens are counted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eagle3hub.engines.base import Job
from eagle3hub.engines.endpoints.dialect import (
    Answer,
    Busy,
    Strange,
    base_model,
    chat_request,
    count,
    only_choice,
    token_ids,
    words,
)
from eagle3hub.engines.endpoints.shown import Shown
from eagle3hub.engines.http_client import HttpClient, HttpFault
from eagle3hub.engines.workers.vllm_counters import NAMES, difference

_SAMPLE = re.compile(r"(?P<name>vllm:\w+)(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>\S+)(?:[ \t]+-?\d+)?[ \t]*", re.ASCII)
_NUMBER = re.compile(r"\+?[0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)
_POSITION = re.compile(r'(?:^|,)position="(\d{1,4})"', re.ASCII)
_READ = {*NAMES, "vllm:generation_tokens", "vllm:request_success", "vllm:num_requests_running"}
_READ |= {"vllm:num_requests_waiting"}
_SETTLE_SECONDS = 10.0
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Reading:
    """Metrics at one moment, summed over engines: counters, tokens and requests done, requests under way."""

    counters: dict[str, Any]
    tokens: int
    requests: int
    active: int


class VLLMDialect:
    """See `Dialect`."""

    def look(self, client: HttpClient, *, deadline: float) -> Shown:
        """The model, K from the metrics, and head, method and dtype where its development mode shows them."""
        model = base_model(client, deadline)
        version = words(client.json("/version", deadline=deadline).get("version"), "version") or "unknown"
        positions = len(self._read(client, deadline).counters["accepted_per_position"])
        shown = {
            "target": words(model.get("root"), "target"),
            "draft_tokens": positions,
            "topk": 1,
            **_own_config(client, deadline),
        }
        return Shown(version=version, model=model["id"], **shown)

    def ask(self, client: HttpClient, shown: Shown, job: Job, text: str, *, deadline: float) -> Answer:
        """One request between two readings of the metrics, alone on the server."""
        before = self._read(client, deadline)
        if before.active:
            raise Busy(f"{before.active} other requests are under way")
        answer = client.json("/v1/chat/completions", chat_request(shown, job, text), deadline=deadline)
        tokens = token_ids(only_choice(answer), "token_ids")
        prompt = token_ids(answer, "prompt_token_ids")
        until = min(deadline, time.monotonic() + _SETTLE_SECONDS)
        while True:
            after = self._read(client, deadline)
            counted, requests = after.tokens - before.tokens, after.requests - before.requests
            if (counted >= len(tokens) and requests >= 1) or time.monotonic() > until:
                break
            time.sleep(_PAUSE_SECONDS)
        if (counted, requests, after.active) != (len(tokens), 1, 0):
            raise Busy(
                f"it answered one request with {len(tokens)} tokens, and counted {requests} requests and "
                f"{counted} tokens"
            )
        grown = difference(before.counters, after.counters)
        assert grown is not None
        return Answer(len(prompt), tokens, grown)

    def _read(self, client: HttpClient, deadline: float) -> Reading:
        sums: dict[str, int] = {}
        positions: dict[int, int] = {}
        for name, labels, value in _samples(client.text("/metrics", deadline=deadline)):
            position = _POSITION.search(labels)
            if position and NAMES.get(name) == "accepted_per_position":
                positions[int(position[1])] = positions.get(int(position[1]), 0) + value
            else:
                sums[name] = sums.get(name, 0) + value
        if "vllm:generation_tokens" not in sums:
            raise Strange(
                "its /metrics has no metrics of vLLM", "start it without --disable-log-stats", "endpoint-metrics"
            )
        counters: dict[str, Any] = {NAMES[name]: value for name, value in sums.items() if name in NAMES}
        if len(counters) != len(NAMES) - 1 or sorted(positions) != list(range(len(positions))) or not positions:
            raise Strange(
                "its metrics have no counters of speculative decoding: it serves the target alone",
                "start it with --speculative-config",
                "endpoint-no-speculation",
            )
        return Reading(
            counters={**counters, "accepted_per_position": [positions[i] for i in sorted(positions)]},
            tokens=sums["vllm:generation_tokens"],
            requests=sums.get("vllm:request_success", 0),
            active=sums.get("vllm:num_requests_running", 0) + sums.get("vllm:num_requests_waiting", 0),
        )


def _samples(text: str) -> Iterator[tuple[str, str, int]]:
    """Name (without ``_total``), labels and value of each sample that is used, in Prometheus's text format.

    Raises Strange (``endpoint-metrics``) for a value that counts nothing, and for a sample that is there twice.
    """
    seen: set[tuple[str, str]] = set()
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line) if line.startswith("vllm:") else None
        if match is None or (name := match["name"].removesuffix("_total")) not in _READ:
            continue
        labels = match["labels"] or ""
        value = float(match["value"]) if _NUMBER.fullmatch(match["value"]) else match["value"]
        if (name, labels) in seen:
            raise Strange(f"its /metrics has {name} twice for the same labels", code="endpoint-metrics")
        seen.add((name, labels))
        yield name, labels, count(value, f"metric {name}", "endpoint-metrics")


def _own_config(client: HttpClient, deadline: float) -> dict[str, Any]:
    """What ``/server_info`` tells, which is there with ``VLLM_SERVER_DEV_MODE=1`` only."""
    try:
        config = client.json("/server_info?config_format=json", deadline=deadline).get("vllm_config")
    except HttpFault as fault:
        if fault.status is None:
            raise
        return {}
    if not isinstance(config, dict):
        return {}
    model, draft, on = (_part(config, f"{key}_config") for key in ("model", "speculative", "device"))
    device = on.get("device")
    found = {
        "head": words(draft.get("model"), "head"),
        "method": words(draft.get("method"), "speculative method"),
        "dtype": (words(model.get("dtype"), "dtype") or "").removeprefix("torch.") or None,
        "device": device if isinstance(device, str) and device.isprintable() else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _part(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of a configuration, empty where there is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}
