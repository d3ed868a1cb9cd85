"""What the reference runs on, as a report states it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
import transformers


def environment(device: torch.device) -> dict[str, Any]:
    """Versions of Python, torch and transformers, the processor's model, and torch's threads."""
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "processor": torch.cuda.get_device_name(device) if cuda else processor(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The CPU's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
