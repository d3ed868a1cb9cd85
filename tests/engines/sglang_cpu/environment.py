"""Make the environment that runs SGLang on CPU in tests, once in the user's cache, and an interpreter for it.

    python tests/engines/sglang_cpu/environment.py [FOLDER]

prints the interpreter of the environment, which has no kernels. With FOLDER it makes one there that has the stand-in
for them, and serves as well, and prints that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from eagle3hub.engines.environments import install_spec
from eagle3hub.engines.specs import EnvironmentSpec, default_version
from eagle3hub.system.progress import Progress, silent

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / "packages"
SERVER_PACKAGES = HERE / "server_packages"
GIVEN = "EAGLE3HUB_TEST_SGLANG_PYTHON"


def ensure(progress: Progress = silent) -> Path:
    """Return an interpreter with SGLang and without kernels: the given one, or that of an installed environment."""
    given = os.environ.get(GIVEN)
    if given:
        return Path(given)
    version = default_version("sglang")
    spec = EnvironmentSpec(
        engine="sglang",
        version=version,
        device="cpu-test",
        distribution=f"sglang=={version}",
        requirements=HERE / "requirements.txt",
        platforms=("linux-x86_64",),
        disk_gib=2.5,
        import_path=PACKAGES,
    )
    return install_spec(spec, progress=progress).python


def interpreter(folder: Path) -> Path:
    """Make an interpreter in ``folder`` with SGLang and the stand-in for its kernels, also in subprocesses."""
    return _with_path(folder, PACKAGES)


def server_interpreter(folder: Path) -> Path:
    """`interpreter` for SGLang's HTTP server, with what that imports and no test needs."""
    return _with_path(folder, PACKAGES, SERVER_PACKAGES)


def _with_path(folder: Path, *path: Path) -> Path:
    from support.scripts import write_interpreter  # on the path of tests alone

    return write_interpreter(folder / "python", ensure(), PYTHONPATH=os.pathsep.join(str(place) for place in path))


def main() -> None:
    """Make what the command line asks for, and print where its interpreter is."""
    made = ensure(lambda message, _fraction=None: sys.stderr.write(message + chr(10)) and None)
    if len(sys.argv) > 1:
        sys.path.insert(0, str(HERE.parents[1]))
        folder = Path(sys.argv[1]).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        made = server_interpreter(folder)
    sys.stdout.write(f"{made}\n")


if __name__ == "__main__":
    main()
