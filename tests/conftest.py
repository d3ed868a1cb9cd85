from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from support import aloud, documents, heads, raised, sampling

from eagle3hub.cli.app import run

NOTES = "EAGLE3HUB_RAISED"
"""The variable that names the folder in which every process of a run leaves the places where it saw errors made."""

LEFT = pytest.StashKey[list[str]]()

COSTS = "processor seconds"
STARTED: list[float] = []
"""The processor seconds used before the test that runs now."""

EXAMPLE = Path(__file__).parent.parent / "examples" / "smollm2-135m" / "head"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-error", action="store_true", help="fail where a place that makes an error was not reached"
    )
    parser.addoption(
        "--fast", action="store_true", help="leave out slow tests and most cases of products, try few random inputs"
    )
    parser.addoption(
        "--costs", type=int, metavar="N", help="print the N tests that took most processor time, and the sum of all"
    )


def pytest_configure(config: pytest.Config) -> None:
    sampling.load(fast=config.getoption("--fast"))
    if config.getoption("--fast"):
        chosen = config.option.markexpr
        config.option.markexpr = f"({chosen}) and not slow" if chosen else "not slow"
    if config.getoption("--every-error") and NOTES not in os.environ:
        os.environ[NOTES] = tempfile.mkdtemp(prefix="raised-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(NOTES)))
    if NOTES in os.environ:
        raised.watch(Path(os.environ[NOTES]))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--fast"):
        left = sampling.left_out(items)
        config.hook.pytest_deselected(items=[item for item in items if item in left])
        items[:] = [item for item in items if item not in left]


def processor_seconds() -> float:
    """Of this process and of those it has waited for: about the same on a busy machine, unlike a duration."""
    return sum(os.times()[:4])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart(nodeid: str) -> None:
    STARTED.append(processor_seconds())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.when == "teardown":
        item.user_properties.append((COSTS, processor_seconds() - STARTED.pop()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What a test with random inputs reaches does not count."""
    by_chance = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
    with raised.by_chance() if by_chance else nullcontext():
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--every-error") and not hasattr(session.config, "workerinput"):
        notes = Path(os.environ[NOTES])
        left = [f"no test makes the error of eagle3hub/{place}" for place in raised.missed(raised.reached(notes))]
        left += [f"no test prints the document of schemas/{name}.schema.json" for name in documents.unseen(notes)]
        session.config.stash[LEFT] = left
        if left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(LEFT, ()):
        terminalreporter.write_line(line)
    if number := config.getoption("--costs"):
        costs = {r.nodeid: seconds for r in terminalreporter.getreports("") if (seconds := _costs(r)) is not None}
        terminalreporter.section(f"{len(costs)} tests took {sum(costs.values()):.1f} seconds of processor time")
        for name in sorted(costs, key=costs.__getitem__, reverse=True)[:number]:
            terminalreporter.write_line(f"{costs[name]:6.2f} s  {name}")


def _costs(report: pytest.TestReport) -> float | None:
    return next((value for name, value in report.user_properties if name == COSTS), None)


@pytest.fixture(autouse=True, scope="session")
def held_documents() -> Iterator[None]:
    """Every document that a command prints in the tests' own process fits its schema."""
    with pytest.MonkeyPatch.context() as patch:
        documents.watch(patch, Path(os.environ[NOTES]) if NOTES in os.environ else None)
        yield


@pytest.fixture(autouse=True)
def every_meaning_has_a_word() -> Iterator[None]:
    """What a command prints in the tests' own process says nothing by a colour or a sign alone."""
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        aloud.watch(patch, found)
        yield
    assert not found


@pytest.fixture
def example_head(tmp_path: Path) -> Path:
    """A private copy of the example head."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "example-head"))


@pytest.fixture(params=["numpy", "Python alone"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test twice: with numpy, and as in an installation without it."""
    if request.param != "numpy":
        monkeypatch.setattr("eagle3hub.checkpoint.numbers.find_spec", lambda name: None)
    return request.param


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Config of a target that fits the small heads."""
    return heads.target(tmp_path / "small-target")


@pytest.fixture(scope="session")
def smollm2_target() -> Path:
    """The demo's target model, fetched into the cache if it is not there."""
    from eagle3hub.releasing.demo import ensure_target

    return ensure_target()


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """An interpreter with the real vLLM: ``EAGLE3HUB_TEST_VLLM_PYTHON``, else the installed environment."""
    given = os.environ.get("EAGLE3HUB_TEST_VLLM_PYTHON")
    if given:
        return Path(given)
    from eagle3hub.engines import environments

    return environments.install_environment("vllm", "cpu").python


@pytest.fixture(scope="session")
def newer_vllm_python(vllm_python: Path) -> Path:
    """An interpreter with a vLLM newer than its CPU builds, over the kernels of one; see ``engines/vllm_on_cpu``."""
    from engines.vllm_on_cpu.environment import ensure

    return ensure(vllm_python)


@pytest.fixture(scope="session")
def vllm_images_python(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the real vLLM, and with torchvision beside it; see ``engines/vllm_images``."""
    from engines.vllm_images.environment import interpreter

    return interpreter(tmp_path_factory.mktemp("vllm-images-python"), vllm_python)


@pytest.fixture(scope="session")
def llamacpp_python() -> Path:
    """The interpreter of an environment with llama.cpp and its converter, made if it is not there."""
    from eagle3hub.engines import environments

    return environments.install_environment("llamacpp", "cpu").python


@pytest.fixture(scope="session")
def sglang_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the real SGLang and a stand-in for its kernels; see ``engines/sglang_cpu``."""
    from engines.sglang_cpu.environment import interpreter

    return interpreter(tmp_path_factory.mktemp("sglang-python"))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run one command line; returns exit status, standard output and standard error."""

    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run([str(a) for a in argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
