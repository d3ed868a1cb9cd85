"""What a fast run leaves out: cases of products, never a value and never a row of a table."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.sampling import FEW, repeats


def test_every_value_of_a_product_is_kept_and_few_cases_are() -> None:
    cases = [{"a": a, "b": b} for a, b in itertools.product(range(6), "wxyz")]
    kept = [case for i, case in enumerate(cases) if i not in repeats(cases)]
    assert len(kept) == 6
    assert {case["a"] for case in kept} == set(range(6))
    assert {case["b"] for case in kept} == set("wxyz")
    pairs = [{"a": a, "b": b} for a, b in itertools.permutations("stuvwxy", 2)]
    kept = [pair for i, pair in enumerate(pairs) if i not in repeats(pairs)]
    assert len(kept) <= 9
    assert {pair["a"] for pair in kept} == {pair["b"] for pair in kept} == set("stuvwxy")


@pytest.mark.parametrize(
    "cases",
    [
        [{"line": f"line {i}", "right": i % 2 == 0} for i in range(40)],
        [{"a": a, "b": b} for a, b in itertools.product(range(FEW // 2), (1, 2))],
        [{"a": i} for i in range(40)],
    ],
    ids=["a table", "few cases", "one parameter"],
)
def test_what_is_no_product_is_kept_whole(cases: list[dict[str, object]]) -> None:
    assert repeats(cases) == set()


def test_equal_values_of_other_types_and_equal_objects_are_not_the_same() -> None:
    kinds, objects = (1, 1.0, True, "1", b"1", None), ([1], [1])
    cases = [{"kind": kind, "object": one} for kind in kinds for one in objects]
    kept = [case for i, case in enumerate(cases) if i not in repeats(cases)]
    assert [type(case["kind"]) for case in kept] == [type(kind) for kind in kinds]
    assert {id(case["object"]) for case in kept} == {id(one) for one in objects}


TESTS = """
import pytest
from hypothesis import given, settings, strategies
from support.sampling import examples

@pytest.mark.parametrize("a", range(4))
@pytest.mark.parametrize("b", range(4))
def test_product(a, b): ...

@pytest.mark.slow
def test_slow(): ...

@pytest.mark.exporters
def test_elsewhere(): ...

RUNS = []

@settings(max_examples=examples(2))
@given(strategies.integers())
def test_random(number):
    RUNS.append(number)

def test_runs():
    print("random inputs:", len(RUNS))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "thorough", "passed", "inputs"),
    [(["--fast"], "", 6, 40), ([], "", 19, 200), ([], "1", 19, 4000)],
    ids=["fast", "usual", "thorough"],
)
def test_a_run_is_as_deep_as_it_is_asked_to_be(
    tmp_path: Path, argv: list[str], thorough: str, passed: int, inputs: int
) -> None:
    here = Path(__file__).parent
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text("from pytest_conftest import *\n")
    (tmp_path / "pytest_conftest.py").symlink_to(here / "conftest.py")
    env = {**os.environ, "PYTHONPATH": f"{here}:{tmp_path}:{here.parent}", "EAGLE3HUB_THOROUGH": thorough}
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-c", str(here.parent / "pyproject.toml"), "--rootdir"]
    command += [str(tmp_path), str(tmp_path), "-p", "no:cacheprovider", "-m", "not exporters", "--costs", "1", *argv]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{passed} passed" in done.stdout
    assert f"random inputs: {inputs}" in done.stdout
    assert f"{passed} tests took " in done.stdout
