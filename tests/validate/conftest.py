from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

HEAD = Path(__file__).resolve().parents[2] / "examples" / "smollm2-135m" / "head"


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """An interpreter with the real vLLM: ``EAGLE3HUB_TEST_VLLM_PYTHON``, else the installed environment."""
    given = os.environ.get("EAGLE3HUB_TEST_VLLM_PYTHON")
    if given:
        return Path(given)
    from eagle3hub.engines import envs

    return envs.install("vllm", "cpu").python


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A copy of the example head, to be broken at will."""
    copy = tmp_path / "head"
    shutil.copytree(HEAD, copy)
    return copy
