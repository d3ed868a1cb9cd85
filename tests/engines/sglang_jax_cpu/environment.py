"""Make the environment that runs sglang-jax on CPU in tests, once in the user's cache, and an interpreter for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from eagle3hub.engines.environments import install_spec
from eagle3hub.engines.specs import EnvironmentSpec, default_version, engine_module
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.resources import cache_dir

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / "packages"
GIVEN = "EAGLE3HUB_TEST_SGLANG_JAX_PYTHON"


def ensure(progress: Progress = silent) -> Path:
    """Return an interpreter with sglang-jax, without the stand-in: the given one, or an installed environment's."""
    given = os.environ.get(GIVEN)
    if given:
        return Path(given)
    version = default_version("sglang_jax")
    spec = EnvironmentSpec(
        engine="sglang_jax",
        version=version,
        device="cpu-test",
        distribution=f"sglang-jax=={version}",
        requirements=HERE / "requirements.txt",
        platforms=("linux-x86_64",),
        disk_gib=1.2,
        pythons=(12, 13),
        module=engine_module("sglang_jax"),
    )
    return install_spec(spec, progress=progress).python


def interpreter(folder: Path, *, fixed: bool = False) -> Path:
    """Make an interpreter in ``folder`` with sglang-jax and the stand-in; what XLA compiled is kept in the cache.

    ``fixed``: with sglang-jax's drafts where they belong (`tpu_stand_in`).
    """
    from support.scripts import write_interpreter  # not there when this file is run by itself

    variables = {
        "PYTHONPATH": str(PACKAGES),
        "SGLANG_JAX_FIXED": str(int(fixed)),
        "JAX_COMPILATION_CACHE_DIR": str(cache_dir() / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return write_interpreter(folder / ("python-fixed" if fixed else "python"), ensure(), **variables)


if __name__ == "__main__":
    sys.stdout.write(f"{ensure(lambda message, _fraction=None: sys.stderr.write(message + chr(10)) and None)}\n")
