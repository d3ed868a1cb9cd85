"""Install, find, check and remove the virtual environments of engines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.engines.process import Event, bare_environment, run_leashed, run_worker
from eagle3hub.engines.specs import (
    EnvironmentSpec,
    Sources,
    default_version,
    engine_data,
    engine_module,
    engine_title,
    environment_devices,
    environment_spec,
    known_version,
    no_environment,
    version_data,
)
from eagle3hub.errors import HubError, OutputError, UnavailableError, UsageError
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.reading import read_bytes, wait_for_disk
from eagle3hub.system.resources import cache_dir
from eagle3hub.system.signals import held

# Install, find and remove environments
#
# Each engine, version and device has one virtual environment, made from a frozen list of requirements. The last step
# of an installation writes a marker file with the digest of these requirements. An environment without a matching
# marker does not count as installed, and the next installation starts over.


_MARKER = "eagle3hub-environment.json"
_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment of an engine on this machine: its folder, and whether it is complete and up to date."""

    engine: str
    version: str
    device: str
    path: Path
    ready: bool

    @property
    def python(self) -> Path:
        """The environment's Python interpreter."""
        return self.path / "bin" / "python"


def environment_for(engine: str, device: str) -> Environment:
    """Return the environment of ``engine`` for ``device``, installed or not."""
    return environment_of(environment_spec(engine, device))


def list_environments(engines: tuple[str, ...]) -> list[Environment]:
    """List every environment that can be installed, for each of ``engines`` and each device."""
    return [environment_for(engine, device) for engine in engines for device in environment_devices(engine)]


def environment_python(engine: str, device: str) -> Path:
    """Return the interpreter of an installed environment.

    Raises UnavailableError, which says how to install it, if it is not installed.
    """
    found = environment_for(engine, device)
    if not found.ready:
        raise UnavailableError(
            f"{engine} {found.version} is not installed for {device}",
            hint=f"eagle3hub engines install {engine} --device {device}",
            code="engine-not-installed",
        )
    return found.python


def install_environment(
    engine: str, device: str = "cpu", *, force: bool = False, progress: Progress = silent
) -> Environment:
    """Install the environment, check that the engine imports in it, and return it.

    A complete environment is kept as it is, unless ``force`` is set. Raises UnavailableError (no suitable Python or
    platform, or the engine does not import), OutputError (disk), HubError (pip could not get the packages).
    """
    return install_spec(environment_spec(engine, device), force=force, progress=progress)


def install_spec(spec: EnvironmentSpec, *, force: bool = False, progress: Progress = silent) -> Environment:
    """Install an environment that the caller describes; see `install_environment`."""
    _check_platform(spec)
    found = environment_of(spec)
    with _locked(found.path):
        found = environment_of(spec)
        if found.ready and not force:
            return found
        python = find_python(spec)
        _remove_tree(found.path)
        _check_disk(spec, found.path)
        try:
            _build(spec, python, found, progress)
        except BaseException:
            with held():
                shutil.rmtree(found.path, ignore_errors=True)
            raise
    return environment_of(spec)


def remove_environment(engine: str, device: str) -> bool:
    """Delete the environment, and return whether there was one."""
    found = environment_for(engine, device)
    with _locked(found.path):
        existed = found.path.exists()
        _remove_tree(found.path)
    return existed


def find_python(spec: EnvironmentSpec) -> Path:
    """Return a Python that the engine supports: the running one, else the oldest that is on the path or in pyenv.

    Raises UnavailableError if there is none.
    """
    oldest, newest = spec.pythons
    if sys.version_info[0] == 3 and oldest <= sys.version_info[1] <= newest:
        return Path(sys.executable)
    for minor in range(oldest, newest + 1):
        for candidate in _pythons(minor):
            if _runs(candidate, minor):
                return Path(candidate)
    raise UnavailableError(
        f"{engine_title(spec.engine)} needs a Python from 3.{oldest} to 3.{newest}: none was found, "
        f"and this one is {platform.python_version()}",
        hint=f"install Python 3.{oldest} or later, or give the engine's own interpreter: "
        f"--engine-python {spec.engine}=PATH",
        code="engine-python",
    )


def _pythons(minor: int) -> Iterator[str]:
    """Yield the places of ``python3.{minor}``: on the path, then pyenv's own, whose shims may not run it."""
    found = shutil.which(f"python3.{minor}")
    if found:
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(str(path) for path in pyenv.glob(f"versions/3.{minor}.*/bin/python3.{minor}"))


def _runs(candidate: str, minor: int) -> bool:
    code = f"import sys, venv; sys.exit(sys.version_info[:2] != (3, {minor}))"
    try:
        return subprocess.run([candidate, "-c", code], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def environment_of(spec: EnvironmentSpec) -> Environment:
    """Return the environment that the caller describes, installed or not."""
    path = cache_dir() / "engines" / f"{spec.engine}-{spec.version}-{spec.device}"
    try:
        marker = json.loads(read_bytes(path / _MARKER))
    except (OSError, ValueError):
        marker = None
    ready = (
        isinstance(marker, dict)
        and marker.get("requirements_sha256") == _digest(spec)
        and (path / "bin" / "python").exists()
    )
    return Environment(spec.engine, spec.version, spec.device, path, ready)


def _digest(spec: EnvironmentSpec) -> str:
    files = [spec.requirements, *([spec.sources.requirements] if spec.sources else [])]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _check_platform(spec: EnvironmentSpec) -> None:
    here = f"{sys.platform}-{platform.machine()}"
    if here not in spec.platforms:
        raise UnavailableError(
            f"{spec.distribution} was tested on {', '.join(spec.platforms)}, and this machine is {here}",
            hint=f"install {spec.engine} yourself and name its interpreter: --engine-python {spec.engine}=PATH",
            code="engine-platform",
        )


def _check_disk(spec: EnvironmentSpec, path: Path) -> None:
    free = shutil.disk_usage(path.parent).free / 2**30
    if free < spec.disk_gib * 1.2:
        raise OutputError(
            f"{spec.engine} takes about {spec.disk_gib:g} GiB, but {path.parent} has {free:.1f} GiB free",
            hint="free some space, or put the cache elsewhere with EAGLE3HUB_CACHE",
            code="output-disk-full",
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the environment against other installs and removals; the kernel frees the lock if this process dies."""
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.with_name(path.name + ".lock").open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot write to the engines folder {path.parent}: {error.strerror or error}",
            hint="put the cache elsewhere with EAGLE3HUB_CACHE",
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{path.name} is being installed or removed by another process",
                hint="wait until it has finished",
                code="output-locked",
            ) from None
        yield


def _remove_tree(path: Path) -> None:
    try:
        (path / _MARKER).unlink(missing_ok=True)
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror or error}") from error


def _build(spec: EnvironmentSpec, python: Path, target: Environment, progress: Progress) -> None:
    log = target.path.with_name(target.path.name + ".log")
    progress(f"{spec.engine} {spec.version}: making the environment", 0.0)
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_USER")
    }
    with log.open("wb", buffering=0) as output:
        made = _logged([str(python), "-m", "venv", "--clear", str(target.path)], output, environment)
    if made:
        raise OutputError(
            f"making the virtual environment {target.path} failed: {_last_line(log)}",
            hint=f"the whole output is in {log}",
            code="output-venv",
        )
    _pip(spec, target, log, environment, progress)
    if spec.sources is not None:
        progress(f"{spec.engine} {spec.version}: getting its sources", 0.9)
        _get_sources(spec, spec.sources, target, log, environment)
    progress(f"{spec.engine} {spec.version}: importing it once", 0.98)
    importing = environment if spec.import_path is None else {**environment, "PYTHONPATH": str(spec.import_path)}
    with log.open("ab", buffering=0) as output:
        module = spec.module or spec.engine
        code = f"import {module}; print({module}.__version__)"
        if _logged([str(target.python), "-s", "-c", code], output, importing):
            raise UnavailableError(
                f"{spec.engine} {spec.version} was installed but does not import: {_last_line(log)}",
                hint=f"the whole output is in {log}",
                code="engine-import",
            )
    marker = {
        "engine": spec.engine,
        "version": spec.version,
        "device": spec.device,
        "requirements_sha256": _digest(spec),
        "python": _version_of(target.python),
    }
    partial = target.path / (_MARKER + ".part")
    with partial.open("w", encoding="utf-8") as out:
        json.dump(marker, out, indent=2)
        out.flush()
        wait_for_disk(out.fileno())
    partial.replace(target.path / _MARKER)


def _pip(
    spec: EnvironmentSpec, target: Environment, log: Path, environment: dict[str, str], progress: Progress
) -> None:
    wanted = sum(
        1 for line in spec.requirements.read_text(encoding="utf-8").splitlines() if re.match(r"[\w.-]+==", line)
    )
    command = [str(target.python), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    command += [] if spec.resolve else ["--no-deps"]
    command += ["--disable-pip-version-check", "-r", str(spec.requirements)]
    seen = 0
    with log.open("ab", buffering=0) as output:

        def told(line: bytes) -> None:
            nonlocal seen
            output.write(line)
            if line.lstrip().startswith((b"Collecting ", b"Processing ")):
                seen += 1
                progress(f"{spec.engine} {spec.version}: getting packages", 0.02 + 0.6 * min(1.0, seen / wanted))
            elif line.startswith(b"Installing collected packages"):
                progress(f"{spec.engine} {spec.version}: installing {wanted} packages", 0.65)

        code = run_leashed(command, environment, told)
    if code:
        raise _pip_error(spec, log)


def _get_sources(
    spec: EnvironmentSpec, sources: Sources, target: Environment, log: Path, environment: dict[str, str]
) -> None:
    """Download a source archive (pip checks its digest) and unpack the wanted files, without building anything."""
    with scratch_folder() as folder:
        command = [str(target.python), "-m", "pip", "download", "--no-input", "--progress-bar", "off", "--no-deps"]
        command += ["--no-build-isolation", "--no-binary", ":all:", "--require-hashes"]
        command += ["--disable-pip-version-check", "--dest", str(folder), "-r", str(sources.requirements)]
        with log.open("ab", buffering=0) as output:
            if _logged(command, output, environment):
                raise _pip_error(spec, log)
        (archive,) = folder.iterdir()
        with tarfile.open(archive) as packed:
            for member in packed:
                inner = sources.wanted(member.name)
                content = packed.extractfile(member) if inner and member.isfile() else None
                if inner and content is not None:
                    file = target.path / sources.into / inner
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(content.read())


def _pip_error(spec: EnvironmentSpec, log: Path) -> HubError | OutputError:
    text = log.read_text(encoding="utf-8", errors="replace")
    tail = "\n".join(line for line in text.splitlines() if line.strip() and not line.startswith("["))
    tail = "\n".join(tail.splitlines()[-_TAIL_LINES:])
    whole = f"the whole output is in {log}; its last lines:\n{tail}"
    if "No space left on device" in text:
        return OutputError(
            f"the disk is full: {spec.engine} could not be installed",
            hint=f"free {spec.disk_gib:g} GiB, or put the cache elsewhere with EAGLE3HUB_CACHE; {whole}",
            code="output-disk-full",
        )
    if "DO NOT MATCH THE HASHES" in text:
        return HubError(
            f"the package index has a different file from the one {spec.engine} was tested with: the digests differ",
            hint=f"point pip at an index or a folder that has the original file; {whole}",
            code="hub-digest",
        )
    missing = re.search(r"No matching distribution found for (\S+)", text)
    offline = re.search(
        r"NewConnectionError|NameResolutionError|Temporary failure in name resolution|ProxyError", text
    )
    if missing and missing[1].startswith("torch=="):
        hint = (
            "point pip at the package index with PyTorch's CPU wheels (PIP_EXTRA_INDEX_URL), or at a folder that "
            f"holds the wheel (PIP_FIND_LINKS); {whole}"
        )
        return HubError(f"pip found no {missing[1]}, the CPU build of PyTorch", hint=hint, code="hub-torch-wheel")
    if offline:
        return HubError(
            f"pip reached no package index, so {spec.engine} could not be installed",
            hint=f"check the network, or give pip a folder of wheels (PIP_FIND_LINKS, PIP_NO_INDEX); {whole}",
            code="hub-offline",
        )
    what = f"pip found no {missing[1]}" if missing else f"pip could not install {spec.engine}"
    return HubError(what, hint=whole, code="hub-pip")


def _logged(command: list[str], output: IO[bytes], environment: dict[str, str]) -> int:
    return run_leashed(command, environment, output.write)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


def _version_of(python: Path) -> str:
    code = "import platform; print(platform.python_version())"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False).stdout.strip()


_TELL_VERSION = """
import importlib, importlib.metadata as metadata, sys
owners = metadata.packages_distributions().get(sys.argv[1])
print("version", metadata.version(owners[0]) if owners else importlib.import_module(sys.argv[1]).__version__)
"""


def installed_version(engine: str, python: Path) -> str | None:
    """Return the version of ``engine`` that an interpreter has, without its local part; None if it does not tell.

    The engine is not imported, unless it lies there without being installed.
    """
    said = _ask(python, "-s", "-c", _TELL_VERSION, engine_module(engine))
    told = re.search(rb"^version ([\w.!-]+)", said or b"", re.MULTILINE)
    return told[1].decode() if told else None


def sees_cuda(python: Path) -> bool:
    """Whether PyTorch of an interpreter sees a CUDA device; False where it has no PyTorch."""
    return b"cuda True" in (_ask(python, "-c", "import torch; print('cuda', torch.cuda.is_available())") or b"")


def _ask(python: Path, *words: str) -> bytes | None:
    """Return what an interpreter prints; None if it does not run, fails, or takes too long."""
    try:
        done = subprocess.run(
            [str(python), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=bare_environment(),
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def version_in(name: str, pythons: Mapping[str, str | Path] | None) -> str | None:
    """Return the version of an engine in the interpreter given for it; None if none was given, or it does not tell."""
    given = (pythons or {}).get(name)
    return None if given is None else installed_version(name, Path(given).expanduser().absolute())


# Check each engine on this machine: interpreter, versions, device, memory, and how to fix what is missing


EnvironmentState = Literal["ready", "not_installed", "broken", "unobtainable"]

_PROBE = Path(__file__).resolve().parent / "workers" / "environment_probe.py"
_TIMEOUT = 180.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of one engine on one device of this machine.

    Attributes:
        version: the version that this program pins.
        engine_version, python_version, framework, processor: what the interpreter reports (``framework``: torch or
            jax, with its version); None if it was not started.
        free_gib: free memory of the device, in GiB.
        problem: what is missing or wrong, or None. mend: the command or the step that fixes it.
        tested: whether the authors ever tried this kind of environment.
        warning: which known version the engine is judged as, if its own is not known (`known_version`).
    """

    engine: str
    device: str
    version: str
    state: EnvironmentState
    python: str | None = None
    engine_version: str | None = None
    python_version: str | None = None
    framework: str | None = None
    processor: str | None = None
    free_gib: float | None = None
    problem: str | None = None
    mend: str | None = None
    tested: bool = True
    warning: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return every field by name, and ``torch_version``, None where the engine does not compute with torch."""
        name, _, version = (self.framework or "").partition(" ")
        return {**asdict(self), "torch_version": version if name == "torch" else None}


def diagnose(engines: Sequence[str], pythons: Mapping[str, Path] | None = None) -> list[Diagnosis]:
    """Check each engine on each of its devices; ``pythons`` maps an engine to the interpreter to check instead."""
    given = pythons or {}
    found = []
    for engine in engines:
        known = [*environment_devices(engine), *version_data(engine).no_environment]
        for device in sorted(set(known)):
            found.append(_diagnose(engine, device, given.get(engine)))
    return found


def _diagnose(engine: str, device: str, given: Path | None) -> Diagnosis:
    version = default_version(engine)
    if given is not None:
        return _probe(engine, device, given, f"install {engine_title(engine)} {version} for {given}")
    why = no_environment(engine, device)
    if why is not None:
        title = engine_title(engine)
        mend = f"install {title} where it can run, and give its interpreter: --engine-python {engine}=PATH"
        return Diagnosis(engine, device, version, "unobtainable", problem=why, mend=mend)
    environment = environment_for(engine, device)
    install = f"eagle3hub engines install {engine} --device {device}"
    tested = environment_spec(engine, device).tested
    if not environment.ready:
        half = environment.path.exists()
        problem = "its environment is unfinished or out of date" if half else "it is not installed"
        return Diagnosis(engine, device, version, "not_installed", problem=problem, mend=install, tested=tested)
    return _probe(engine, device, environment.python, f"{install} --force", tested=tested)


def _probe(engine: str, device: str, python: Path, mend: str, *, tested: bool = True) -> Diagnosis:
    answer: Event = {}
    request = {"module": engine_module(engine), "framework": engine_data(engine).framework, "device": device}
    outcome = run_worker(
        [str(python), "-s", str(_PROBE)],
        request,
        env=bare_environment(),
        timeout=_TIMEOUT,
        on_event=lambda event: answer.update(event),
    )
    version = default_version(engine)
    problem = answer.get("problem") if outcome.status == "done" else str(outcome.detail.get("message", outcome.status))
    warning = None
    if problem is None:
        try:
            warning = known_version(engine, answer["engine"]).warning
        except UsageError:
            problem = f"its version is told as {answer['engine']!r}, which is no version of {engine_title(engine)}"
    if problem == "PyTorch sees no CUDA device":
        mend = "run it on a machine with a CUDA device, or ask for --device cpu"
    return Diagnosis(
        engine,
        device,
        version,
        "ready" if problem is None else "broken",
        python=str(python),
        engine_version=answer.get("engine"),
        python_version=answer.get("python"),
        framework=answer.get("framework"),
        processor=answer.get("processor"),
        free_gib=answer.get("free_gib") if device == "cuda" else _free_memory(),
        problem=problem,
        mend=mend if problem else None,
        tested=tested,
        warning=warning,
    )


def _free_memory() -> float | None:
    """Return the memory available on this machine without swapping, in GiB, or None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20, 1)
    except (OSError, StopIteration, ValueError):
        return None
