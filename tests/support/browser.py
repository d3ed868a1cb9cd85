"""Pages in a browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def browse(address: str, profile: Path, *more: str) -> str:
    """The page as Chromium has it in the end."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", *more, "--dump-dom"]
    done = subprocess.run(["chromium", *options, address], capture_output=True, timeout=120, check=True)
    return done.stdout.decode()


needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
