"""Stand-ins of published heads and their targets, from ``heads/*.json`` and ``targets/*.json``.

A head's file names a lab's head: its config.json, and name, dtype and shape of each tensor. ``facts`` says where they
come from: S is stated in public (the thread is named), P is plausible and filled in. A stand-in has those exact
headers; its weights are holes in the file, but for the norms, the first rows of each matrix and the vocabulary maps,
which are valid. So a head of 3 GB takes no room on a disk that knows sparse files.

    python tests/published/standins.py OUT [NAME ...]    # OUT/heads/NAME and OUT/targets/NAME
"""

from __future__ import annotations

import json
import sys
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in (HERE / "heads").glob("*.json"))
FLOATS = {"BF16": 2, "F16": 2, "F32": 4}
BYTES = {**FLOATS, "I64": 8, "I32": 4, "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1}
FILLED = 4096
"""Numbers of a matrix that are written; the rest of it is a hole."""


def described(name: str) -> dict[str, Any]:
    """What is known of a head."""
    found: dict[str, Any] = json.loads((HERE / "heads" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def make_target(name: str, folder: Path) -> Path:
    """A folder with the config.json of a target."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes((HERE / "targets" / f"{name}.json").read_bytes())
    return folder


def make_head(name: str, folder: Path) -> Path:
    """A folder with the config and the weights file of a head."""
    head = described(name)
    folder.mkdir(parents=True, exist_ok=True)
    for key, file in (("config", "config.json"), ("params_json", "params.json")):
        if head[key] is not None:
            (folder / file).write_text(json.dumps(head[key], indent=1), encoding="utf-8")
    tensors: dict[str, tuple[str, list[int]]] = head["tensors"]
    maps = _maps(head) if "d2t" in tensors else {}
    header: dict[str, Any] = {"__metadata__": head["metadata"]} if head["metadata"] else {}
    end = 0
    for tensor, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * BYTES[dtype]
        header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / head["file"]).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for tensor, (dtype, shape) in tensors.items():
            data = maps.get(tensor)
            if data is None and dtype in FLOATS:
                data = _weights(prod(shape) if len(shape) == 1 else min(prod(shape), FILLED), dtype)
            if data is not None:
                file.seek(8 + len(text) + header[tensor]["data_offsets"][0])
                file.write(data)
    return folder


def _weights(count: int, dtype: str) -> bytes:
    """Numbers between 0.5 and 1.5, as the norms of a trained head."""
    values = (0.5 + np.random.default_rng(count).random(count)).astype("<f4")
    if dtype == "F32":
        return values.tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    return (values.view("<u4") >> 16).astype("<u2").tobytes()


def _maps(head: dict[str, Any]) -> dict[str, bytes]:
    """d2t and t2d of a valid map: ascending, by frequency, or the first tokens only, as the head's file says."""
    tensors, config, kind = head["tensors"], head["config"] or {}, head["map"] or {}
    draft = tensors["d2t"][1][0]
    inner = config.get("transformer_layer_config") or config
    full = tensors["t2d"][1][0] if "t2d" in tensors else inner["vocab_size"]
    random = np.random.default_rng(1)
    ids = np.arange(draft)
    if draft < full and not kind.get("all_zero"):
        ids = np.sort(random.choice(full, draft, replace=False))
    if kind.get("order") == "frequency":
        ids = random.permutation(ids)
    mask = np.zeros(full, np.uint8)
    mask[ids] = 1
    dtype = {"I64": "<i8", "I32": "<i4"}[tensors["d2t"][0]]
    return {"d2t": (ids - np.arange(draft)).astype(dtype).tobytes(), "t2d": mask.tobytes()}


def main(out: str, *names: str) -> None:
    for name in names or NAMES:
        make_head(name, Path(out, "heads", name))
        target = described(name)["target"]
        if target is not None:
            make_target(target, Path(out, "targets", target))


if __name__ == "__main__":
    main(*sys.argv[1:])
