"""Lay torchvision beside vLLM's CPU environment, once in the user's cache, and make an interpreter that sees it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from engines.sglang_cpu.environment import PACKAGES

from eagle3hub.system.resources import cache_dir

WHEEL = Path(__file__).resolve().parent / "wheel.txt"
GIVEN = "EAGLE3HUB_TEST_VLLM_IMAGES_PYTHON"


def interpreter(folder: Path, vllm: Path) -> Path:
    """Make an interpreter in ``folder`` with vLLM (``vllm`` is its own) and torchvision; or return the given one."""
    from support.scripts import write_interpreter

    given = os.environ.get(GIVEN)
    if given:
        return Path(given)
    place = cache_dir() / "engines" / "vllm-images-cpu-test"
    if not place.is_dir() or (place / "wheel.txt").read_text() != WHEEL.read_text():
        with tempfile.TemporaryDirectory(dir=cache_dir() / "engines") as scratch:
            made = Path(scratch) / "made"
            command = [str(vllm), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
            subprocess.run([*command, "--only-binary", ":all:", "--target", str(made), "-r", str(WHEEL)], check=True)
            (made / "wheel.txt").write_text(WHEEL.read_text())
            if place.is_dir():
                place.rename(Path(scratch) / "old")
            made.rename(place)
    return write_interpreter(folder / "python", vllm, PYTHONPATH=f"{place}:{PACKAGES}")
