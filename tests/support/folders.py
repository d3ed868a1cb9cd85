"""Look into a head's folder, and change it, with the safetensors library."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def load(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder, shards merged, by the safetensors library."""
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def replace(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """Replace tensors of a head, remove those that are None."""
    path = folder / "model.safetensors"
    every = {**load_file(path), **tensors}
    save_file({k: v.contiguous() for k, v in every.items() if v is not None}, path)
    return folder
