from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.signals import default_signals

from eagle3hub.engines import environments
from eagle3hub.engines.specs import EnvironmentSpec, environment_spec
from eagle3hub.errors import HubError, OutputError, UnavailableError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EnvironmentSpec:
    """An "engine" that needs no packages: a module of the standard library."""
    return use(monkeypatch, tmp_path, engine="csv", requirements="# nothing\n")


def use(monkeypatch: pytest.MonkeyPatch, folder: Path, *, engine: str, requirements: str) -> EnvironmentSpec:
    file = folder / "requirements.txt"
    file.write_text(requirements)
    spec = EnvironmentSpec(
        engine, "1.0", "cpu", f"{engine}==1.0", file, environment_spec("vllm", "cpu").platforms, 0.01
    )
    monkeypatch.setattr(environments, "environment_spec", lambda engine, device: spec)
    return spec


def test_what_ships_for_vllm_is_complete() -> None:
    spec = environment_spec("vllm", "cpu")
    lines = [line for line in spec.requirements.read_text().splitlines() if line and not line.startswith("#")]
    assert all("==" in line for line in lines)
    assert spec.distribution in lines
    assert not [line for line in lines if line.startswith(("torchvision", "torchaudio", "torchcodec", "triton"))]


def test_an_engine_that_is_not_installed_says_how_to_install_it() -> None:
    with pytest.raises(UnavailableError) as error:
        environments.environment_python("vllm", "cpu")
    assert error.value.hint == "eagle3hub engines install vllm --device cpu"
    assert error.value.exit_code == 4


def test_a_device_without_a_tested_environment_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="cuda") as error:
        environments.install_environment("vllm", "cuda")
    assert "--engine-python vllm=" in (error.value.hint or "")


def test_the_only_environment_is_the_one_to_remove(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = environments.environment_for("sglang", "cuda").path
    there.mkdir(parents=True)
    status, out, err = cli("engines", "remove", "sglang")
    assert (status, out) == (0, "sglang for cuda: removed\n"), err
    assert not there.exists()
    assert cli("engines", "remove", "sglang")[:2] == (0, "sglang for cuda: was not installed\n")
    two = [environments.Environment("sglang", "1", device, tmp_path, ready=True) for device in ("cpu", "cuda")]
    monkeypatch.setattr(environments, "list_environments", lambda _: two)
    status, _, err = cli("engines", "remove", "sglang")
    assert status == 2
    assert "sglang has environments for cpu and cuda" in err


@pytest.mark.slow
def test_install_keep_remove(small: EnvironmentSpec) -> None:
    steps: list[str] = []
    made = environments.install_environment("csv", progress=lambda message, fraction=None: steps.append(message))
    assert made.ready
    assert made.python.is_file()
    assert environments.environment_python("csv", "cpu") == made.python
    assert any("importing" in step for step in steps)
    marker = json.loads((made.path / "eagle3hub-environment.json").read_text())
    assert marker["engine"] == "csv"
    assert marker["python"].startswith("3.")
    witness = made.path / "witness"
    witness.touch()
    environments.install_environment("csv")
    assert witness.exists(), "a finished environment is kept"
    small.requirements.write_text("# other\n")
    assert not environments.environment_for("csv", "cpu").ready, "other requirements, other environment"
    assert environments.remove_environment("csv", "cpu")
    assert not made.path.exists()
    assert not environments.remove_environment("csv", "cpu")


@pytest.mark.slow
@pytest.mark.usefixtures("copied_venv")
def test_an_interrupted_install_does_not_count_and_is_redone(
    small: EnvironmentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environments, "_pip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            environments.install_environment("csv")
    left = environments.environment_for("csv", "cpu")
    assert not left.path.exists(), "what is half made is removed"
    left.path.mkdir()
    (left.path / "stale").touch()  # as if there had been no time to
    assert not left.ready
    assert environments.install_environment("csv").ready
    assert not (left.path / "stale").exists()


INSTALLING = """
import sys
from pathlib import Path
from eagle3hub.engines import environments
from eagle3hub.engines.specs import EnvironmentSpec
from eagle3hub.system.signals import stop_once
stop_once()
file = Path(sys.argv[1])
here = f"{sys.platform}-{environments.platform.machine()}"
environments.install_spec(EnvironmentSpec("csv", "1.0", "cpu", "csv==1.0", file, (here,), 0.01))
"""


def running(mark: str) -> list[int]:
    """The processes whose command line names ``mark``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "cmdline").read_bytes() and folder.name != str(os.getpid()):
                found.append(int(folder.name))
    return found


def eventually(what: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    return what()


@pytest.mark.slow
@pytest.mark.usefixtures("copied_venv")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_goes_on_after_an_install_that_was_killed(
    small: EnvironmentSpec, cache: Path, number: signal.Signals
) -> None:
    """ensurepip runs two processes below ours: it ends with us, and what it made does not count."""
    process = subprocess.Popen(
        [sys.executable, "-c", INSTALLING, str(small.requirements)],
        preexec_fn=default_signals,
        stderr=subprocess.DEVNULL,
    )
    place = str(cache / "engines" / "csv-1.0-cpu")
    assert eventually(lambda: any("ensurepip" in command(pid) for pid in running(place))), "the venv is being made"
    process.send_signal(number)
    process.wait(60)
    assert eventually(lambda: not running(place)), [command(pid) for pid in running(place)]
    assert not environments.environment_for("csv", "cpu").ready
    assert Path(place).exists() == (number == signal.SIGKILL)
    assert environments.install_environment("csv").ready


def command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def test_an_engine_that_is_there_is_told_and_not_made_again(
    cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, place = environment_spec("vllm", "cpu"), environments.environment_for("vllm", "cpu")
    place.python.parent.mkdir(parents=True)
    place.python.touch()
    digest = hashlib.sha256(spec.requirements.read_bytes()).hexdigest()
    (place.path / "eagle3hub-environment.json").write_text(json.dumps({"requirements_sha256": digest}))
    monkeypatch.setattr(environments, "_build", lambda *_: pytest.fail("it is made again"))
    status, out, err = cli("engines", "install", "vllm", "--json")
    assert status == 0, err
    assert json.loads(out) == {
        "schema": "eagle3hub/engine/1",
        "engine": "vllm",
        "version": spec.version,
        "device": "cpu",
        "installed": True,
        "path": str(place.path),
    }


def test_a_broken_marker_is_no_marker(small: EnvironmentSpec) -> None:
    place = environments.environment_for("csv", "cpu")
    place.python.parent.mkdir(parents=True)
    place.python.touch()
    marker = place.path / "eagle3hub-environment.json"
    digest = hashlib.sha256(small.requirements.read_bytes()).hexdigest()
    marker.write_text(json.dumps({"requirements_sha256": digest}))
    assert environments.environment_for("csv", "cpu").ready
    for text in ("", "{", "[]", '{"requirements_sha256": "0"}'):
        marker.write_text(text)
        assert not environments.environment_for("csv", "cpu").ready


@pytest.mark.slow
@pytest.mark.usefixtures("copied_venv")
@pytest.mark.usefixtures("copied_venv")
def test_an_engine_that_does_not_import_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path, engine="no_such_engine", requirements="# nothing\n")
    with pytest.raises(UnavailableError, match="does not import") as error:
        environments.install_environment("no_such_engine")
    assert "ModuleNotFoundError" in error.value.message
    assert not environments.environment_for("no_such_engine", "cpu").ready


@pytest.mark.slow
@pytest.mark.usefixtures("copied_venv")
def test_a_missing_cpu_torch_says_what_to_give_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    use(monkeypatch, tmp_path, engine="csv", requirements="torch==2.13.0\n")
    with pytest.raises(HubError, match=r"torch==2\.13\.0, the CPU build") as error:
        environments.install_environment("csv")
    hint = error.value.hint or ""
    assert "PIP_FIND_LINKS" in hint
    assert "PIP_EXTRA_INDEX_URL" in hint
    assert "://" not in hint.split("the whole output")[0]
    assert "No matching distribution found" in hint


@pytest.mark.parametrize(
    ("output", "kind", "code"),
    [
        ("OSError: [Errno 28] No space left on device", OutputError, "output-disk-full"),
        ("NewConnectionError(...)\nNo matching distribution found for numpy==2", HubError, "hub-offline"),
        ("ERROR: No matching distribution found for yarl==9", HubError, "hub-pip"),
        ("something else", HubError, "hub-pip"),
    ],
)
def test_what_pip_says_decides_the_error(tmp_path: Path, output: str, kind: type[Exception], code: str) -> None:
    log = tmp_path / "log"
    log.write_text("Collecting yarl\n" + output + "\n")
    error = environments._pip_error(environment_spec("vllm", "cpu"), log)
    assert isinstance(error, kind)
    assert error.code == code
    assert output.splitlines()[-1] in (error.hint or "")


def test_a_python_that_makes_no_environment(
    small: EnvironmentSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ensurepip is not available'\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(environments, "find_python", lambda _spec: python)
    with pytest.raises(OutputError, match=r"csv-1\.0-cpu failed: ensurepip is not available") as error:
        environments.install_environment("csv")
    assert error.value.code == "output-venv"
    assert not environments.environment_for("csv", "cpu").path.exists()


def test_a_file_in_the_place_of_an_environment_stays(cli: Callable[..., tuple[int, str, str]]) -> None:
    there = environments.environment_for("sglang", "cuda").path
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    status, out, err = cli("engines", "remove", "sglang", "--device", "cuda")
    assert (status, out) == (3, "")
    assert err.startswith(f"error: cannot remove {there}: Not a directory"), err
    assert there.read_text() == "mine"


def test_two_installs_keep_apart(small: EnvironmentSpec, cache: Path) -> None:
    folder = cache / "engines"
    folder.mkdir(parents=True)
    with (folder / "csv-1.0-cpu.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another process"):
            environments.install_environment("csv")
        with pytest.raises(OutputError, match="another process"):
            environments.remove_environment("csv", "cpu")
    assert not environments.remove_environment("csv", "cpu")


def test_a_foreign_platform_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(UnavailableError, match="riscv64"):
        environments.install_environment("vllm")


def test_a_full_disk_is_found_before_anything_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    with pytest.raises(OutputError, match=r"1\.0 GiB free") as error:
        environments.install_environment("vllm")
    assert "EAGLE3HUB_CACHE" in (error.value.hint or "")


def test_a_cache_that_cannot_be_written_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="engines folder"):
        environments.install_environment("vllm")


def test_an_old_python_looks_for_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version_info", (3, 10, 0))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    spec = environment_spec("vllm", "cpu")
    with pytest.raises(UnavailableError, match=r"3\.11 to 3\.14"):
        environments.find_python(spec)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "python3.12" else None)
    monkeypatch.setattr(environments, "_runs", lambda candidate, minor: minor == 12)
    assert environments.find_python(spec) == Path("/bin/python3.12")


def test_an_engine_may_need_a_newer_python_than_runs_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = environment_spec("sglang_jax", "tpu")
    monkeypatch.setattr("sys.version_info", (3, 11, 9))
    monkeypatch.setattr(shutil, "which", lambda name: f"/shims/{name}" if name == "python3.12" else None)
    own = tmp_path / "versions/3.13.2/bin/python3.13"
    own.parent.mkdir(parents=True)
    own.touch()
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(environments, "_runs", lambda candidate, minor: candidate == str(own))
    assert environments.find_python(spec) == own, "a shim that does not run is passed over"
    own.unlink()
    with pytest.raises(UnavailableError, match=r"sglang-jax needs a Python from 3\.12 to 3\.13") as error:
        environments.find_python(spec)
    assert "--engine-python sglang_jax=PATH" in (error.value.hint or "")
    monkeypatch.setattr("sys.version_info", (3, 12, 1))
    assert environments.find_python(spec) == Path(sys.executable)
