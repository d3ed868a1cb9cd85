"""Read llama.cpp's counters from its metrics (Prometheus's text format), and its loader's messages from its log."""

from __future__ import annotations

import re

_TOTALS = {
    "llamacpp:spec_decode_num_drafts_total": "rounds",
    "llamacpp:spec_decode_num_draft_tokens_total": "drafted",
    "llamacpp:spec_decode_num_accepted_tokens_total": "accepted",
}
_POSITION = re.compile(r'llamacpp:spec_decode_num_accepted_tokens_per_pos_total\{position="(\d+)"\} (\d+)')
_FAULT = re.compile(r"error loading model: (.+)")
_TAPS = re.compile(r"EAGLE3 extract_layers = \[([-\d, ]+)\]")


def read(metrics, draft_tokens):
    """Return the counters so far; llama.cpp lists no position before the first round has ended."""
    found = {}
    for line in metrics.splitlines():
        name, _, value = line.partition(" ")
        if name in _TOTALS:
            found[_TOTALS[name]] = int(float(value))
    positions = {int(position): int(count) for position, count in _POSITION.findall(metrics)}
    return {**found, "accepted_per_position": [positions.get(i, 0) for i in range(draft_tokens)]}


def difference(before, after):
    """Return what was counted between two readings."""
    pairs = zip(before["accepted_per_position"], after["accepted_per_position"], strict=True)
    totals = {key: after[key] - before[key] for key in _TOTALS.values()}
    return {**totals, "accepted_per_position": [b - a for a, b in pairs]}


def taps(log):
    """Return the boundary ids that the draft's loader names in the log, or None."""
    named = _TAPS.findall(log)
    return [int(i) for i in named[-1].split(",")] if named else None


def loading_fault(log):
    """Return the error that stopped the loader, or None."""
    named = _FAULT.findall(log)
    return named[-1] if named else None
