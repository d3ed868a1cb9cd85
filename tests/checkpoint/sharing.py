"""Convert a head on a file system that shares blocks, and print what came of it: run by test_sharing.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from support import heads

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert


def free(folder: Path) -> int:
    os.sync()
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def spaces(file: Path) -> int:
    with file.open("rb") as f:
        text = f.read(int.from_bytes(f.read(8), "little"))
    return len(text) - len(text.rstrip(b" "))


def main(folder: Path) -> None:
    # norms of 4096 bytes, so that every tensor ends with a block, as in heads of common sizes
    sizes = heads.dims(hidden=2048, inter=2048, heads=16, head_dim=128, kv=4, vocab=32000, draft=8000)
    source = heads.specforge(folder / "source", sizes)
    weights = load_file(source / "model.safetensors")
    found = {}
    for to in ("specforge", "modelopt", "speculators"):
        for name, more in ((to, {}), (f"{to}, digests", {"digests": True})):
            before = free(folder)
            out = folder / name
            options = ConvertOptions(speculative_tokens=3, target_name="owner/target", read_back=True, **more)
            convert(source, out, to, options)
            written = load_file(out / "model.safetensors")
            same = {n.replace("layers.0.", "midlayer."): t for n, t in written.items() if n not in ("d2t", "t2d")}
            found[name] = {
                "taken": before - free(folder),
                "size": (out / "model.safetensors").stat().st_size,
                "equal": all(torch.equal(weights[n], t) for n, t in same.items()) and len(same) >= 13,
                "spaces": spaces(out / "model.safetensors"),
            }
    again = folder / "again"
    convert(folder / "modelopt", again, "specforge")
    same_file = (again / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    sys.stdout.write(json.dumps({"found": found, "back": same_file}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
