from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.versions import forget

from eagle3hub.engines import environments, specs

COPYING = """#!/bin/sh
# as `python -m venv --clear FOLDER`, by copying
exec cp -a '{made}' "$4"
"""


@pytest.fixture(scope="session")
def made_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with pip, as Python makes it."""
    folder = tmp_path_factory.mktemp("venv") / "made"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


@pytest.fixture
def copied_venv(made_venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments are copies of one that was made, for tests of what happens in them and not of how they are made."""
    python = tmp_path / "python"
    python.write_text(COPYING.format(made=made_venv))
    python.chmod(0o755)
    monkeypatch.setattr(environments, "find_python", lambda _spec: python)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Use a copy of the data instead of the package's own."""
    copy = Path(shutil.copytree(specs.DATA, tmp_path / "data"))
    monkeypatch.setattr(specs, "DATA", copy)
    forget()
    yield copy
    forget()
