"""What eagle3hub says of every published head: a row for each of its stand-ins.

PYTHONPATH=tests python tests/published/table.py [NAME ...] > tests/published/expected.toml
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from published import standins

import eagle3hub
from eagle3hub import ConvertOptions, InspectOptions
from eagle3hub.errors import Eagle3HubError

TARGET_NAME = "org/target"
DRAFT_TOKENS = 3


def row(name: str, work: Path) -> dict[str, Any]:
    """The layout, aux layers, verdicts and conversions of a head: plain data, in the order of the table."""
    described = standins.described(name)
    head = standins.make_head(name, work / "heads" / name)
    target = described["target"]
    at = None if target is None else str(standins.make_target(target, work / "targets" / target))
    try:
        found = eagle3hub.inspect(head, InspectOptions(target=at)).to_json()
    except Eagle3HubError as e:
        return {"refused": e.code, "says": e.message.replace(f"{work}/", "")}
    aux = found["aux"] or {}
    out: dict[str, Any] = {
        "layout": found["layout"],
        "aux": "final norm" if not found["semantics"]["uses_aux"] else (aux.get("after_layer") or "unknown"),
        "errors": sorted({p["code"] for p in found["problems"] if p["severity"] == "error"}),
    }
    if found["semantics"]["quantization"]:
        out["quantization"] = found["semantics"]["quantization"]
    if doubtful := sorted({a["field"] for verdict in found["engines"] for a in verdict.get("depends", [])}):
        out["doubtful"] = doubtful
    for verdict in found["engines"]:
        decides = [r["code"] for r in verdict["reasons"] if r["effect"] == verdict["verdict"] != "right"]
        fields = [a["field"] for a in verdict.get("depends", [])]
        out[f"{verdict['engine']} {verdict['version']}"] = ", ".join([verdict["verdict"], *(fields or decides)])
    for to in ("universal", "speculators"):
        out[to] = converted(head, at, to, work)
    return out


def converted(head: Path, target: str | None, to: str, work: Path) -> str:
    """``yes``, or the code of the refusal to convert."""
    options = ConvertOptions(target=target, target_name=TARGET_NAME, speculative_tokens=DRAFT_TOKENS, dry_run=True)
    try:
        eagle3hub.convert(head, work / "out", to, options)
    except Eagle3HubError as e:
        return e.code
    return "yes"


def written(name: str, found: dict[str, Any]) -> str:
    """A row as TOML."""

    def value(v: Any) -> str:
        if isinstance(v, list):
            return "[" + ", ".join(map(value, v)) + "]"
        return str(v) if isinstance(v, int) else '"' + str(v).replace("\\", "\\\\").replace('"', '\\"') + '"'

    return f'["{name}"]\n' + "".join(f'"{key}" = {value(v)}\n' for key, v in found.items())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for head_name in sys.argv[1:] or standins.NAMES:
            sys.stdout.write(written(head_name, row(head_name, Path(folder))) + "\n")
