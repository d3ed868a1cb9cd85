"""Heads rewritten by hand, and conversions that keep all of a head or refuse it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from eagle3hub import CompareOptions, compare
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import InputError
from eagle3hub.layouts import LAYOUTS
from support import heads

WEIGHTS = "model.safetensors"


def read(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    return load_file(folder / WEIGHTS), json.loads((folder / "config.json").read_text())


def edit(folder: Path, *, config: dict | None = None, drop: tuple[str, ...] = (), **tensors: torch.Tensor) -> Path:
    every, old = read(folder)
    metadata = None if old.get("architectures") == ["LlamaForCausalLM"] else {"format": "pt"}
    every = {k: v for k, v in {**every, **tensors}.items() if k not in drop}
    save_file(every, folder / WEIGHTS, metadata=metadata)
    new = {k: v for k, v in {**old, **(config or {})}.items() if v != "DELETE"}
    (folder / "config.json").write_text(json.dumps(new))
    return folder


def contents(folder: Path) -> Counter[tuple[str, tuple[int, ...], bytes]]:
    """Every weight as dtype, shape and bytes, whatever it is called."""
    tensors = {k: v for k, v in load_file(folder / WEIGHTS).items() if k not in ("d2t", "t2d")}
    return Counter(
        (str(v.dtype), tuple(v.shape), v.contiguous().view(torch.uint8).numpy().tobytes()) for v in tensors.values()
    )


def kept_or_refused(source: Path, out: Path, to: str, **options) -> bool:
    """Convert; whether it was done (with every weight and all it means) rather than refused (with nothing written)."""
    try:
        convert(source, out, to, ConvertOptions(**options))
    except InputError as refused:
        assert not out.exists()
        assert refused.code
        return False
    assert contents(out) == contents(source)
    found = compare(source, out, CompareOptions(target=options.get("target")))
    assert found.verdict != "different", found.differences
    return True


def everywhere(source: Path, folder: Path, **options) -> set[str]:
    """The layouts a head could be converted to, after checking that the others refused it."""
    return {name for name in LAYOUTS if kept_or_refused(source, folder / f"to-{name}", name, **options)}


def two_layers(folder: Path, second_norm: str = "input_layernorm") -> Path:
    """A ModelOpt head of two decoder layers; layers from the second on take H, not 2H."""
    source = heads.modelopt(folder, num_hidden_layers=2)
    first = read(source)[0]
    second = {
        name.replace("layers.0.", "layers.1."): (t[:, :8] if name.endswith(("q_proj.weight", "k_proj.weight")) else t)
        for name, t in first.items()
        if name.startswith("layers.0.") and not name.endswith(("hidden_norm.weight", "input_layernorm.weight"))
    }
    second["layers.1.self_attn.v_proj.weight"] = first["layers.0.self_attn.v_proj.weight"][:, :8]
    second[f"layers.1.{second_norm}.weight"] = torch.full((8,), 7.0, dtype=torch.bfloat16)
    return edit(source, **{name: (t + 1).contiguous() for name, t in second.items()})
