"""Heads as torch pickles."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file


def pickled(folder: Path, name: str = "pytorch_model.bin", wrap: str | None = None, **options: object) -> Path:
    """The folder with its safetensors file replaced by a torch pickle of the same tensors."""
    tensors: dict = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state = {wrap: tensors, "optimizer": {"state": {0: torch.ones(3)}}} if wrap else tensors
    torch.save(state, folder / name, **options)
    return folder
