"""An interpreter that has the stand-in for TensorRT-LLM; README.md says what it shows."""

from __future__ import annotations

import shlex
import stat
import sys
from pathlib import Path

PACKAGES = Path(__file__).parent / "packages"


def interpreter(folder: Path, version: str) -> Path:
    """Write into ``folder`` an interpreter that has the stand-in, as ``version``."""
    (folder / f"tensorrt_llm-{version}.dist-info").mkdir(exist_ok=True)
    (folder / f"tensorrt_llm-{version}.dist-info/METADATA").write_text(f"Name: tensorrt_llm\nVersion: {version}\n")
    file = folder / f"python-{version}"
    own = f"PYTHONPATH={shlex.quote(f'{PACKAGES}:{folder}')} TENSORRT_LLM_STAND_IN={version}"
    file.write_text(f'#!/bin/sh\nexec env {own} {shlex.quote(sys.executable)} "$@"\n')
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file
