"""An interpreter that has the stand-in for TensorRT-LLM; README.md says what it shows."""

from __future__ import annotations

import sys
from pathlib import Path

from support.scripts import write_interpreter

PACKAGES = Path(__file__).parent / "packages"


def interpreter(folder: Path, version: str) -> Path:
    """Write into ``folder`` an interpreter that has the stand-in, as ``version``."""
    (folder / f"tensorrt_llm-{version}.dist-info").mkdir(exist_ok=True)
    (folder / f"tensorrt_llm-{version}.dist-info/METADATA").write_text(f"Name: tensorrt_llm\nVersion: {version}\n")
    own = {"PYTHONPATH": f"{PACKAGES}:{folder}", "TENSORRT_LLM_STAND_IN": version}
    return write_interpreter(folder / f"python-{version}", sys.executable, **own)
