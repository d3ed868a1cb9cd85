"""The vLLM that is newer than its CPU builds, over the kernels of one: what the data say of it is so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from engines.vllm_on_cpu.environment import VERSION
from support.scripts import load_script
from support.validation import validate
from support.versions import VLLM_NEXT

from eagle3hub.engines.check.commands import ask_parser
from eagle3hub.engines.environments import installed_version
from eagle3hub.engines.preflight import contract
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import DATA

pytestmark = pytest.mark.engine
WHERE = "import os, vllm; from importlib.util import find_spec; print(vllm.__file__); "
"""The library is not loaded: a build has one for each kind of processor."""
TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    sys.path.insert(0, str(TOOLS))
    try:
        return load_script(TOOLS / "engine_version.py")
    finally:
        sys.path.remove(str(TOOLS))


def test_it_is_the_version_beside_the_pinned_one(newer_vllm_python: Path):
    assert installed_version("vllm", newer_vllm_python) == VERSION == VLLM_NEXT


def test_its_interface_and_its_targets_are_those_on_file(newer_vllm_python: Path, tool: ModuleType):
    assert tool.interface("vllm", newer_vllm_python) == (DATA / "vllm" / VERSION / "interface.json").read_text()
    known, lacking = tool.target_types.targets("vllm", newer_vllm_python)
    for runner in ("V1", "V2"):
        terms = contract("vllm", f"{VERSION} {runner}")
        assert (terms.known_targets, terms.not_targets) == (frozenset(known), frozenset(lacking))


def test_its_parser_takes_the_recipe(newer_vllm_python: Path, cli: Callable[..., Any], tmp_path: Path):
    serving = Serving("org/t", "org/d", draft_tokens=3, dtype="bfloat16", context=4096, tensor_parallel=2)
    good = make_recipe("vllm", serving, VERSION).argv[2:]
    version, errors = ask_parser("vllm", newer_vllm_python, [good, ["org/t", "--speculative-model", "org/d"]])
    assert (version, errors[0]) == (VERSION, None)
    assert "unrecognized arguments" in str(errors[1])
    status, out, _ = cli("engines", "doctor", "vllm", "--engine-python", f"vllm={newer_vllm_python}")
    assert status == 0
    assert "on cpu: ready" in out
    assert "judged as" not in out


@pytest.mark.slow
def test_the_example_head_runs_the_rounds_of_the_reference(
    example_head: Path, smollm2_target: Path, newer_vllm_python: Path
):
    report = validate(
        example_head,
        target=smollm2_target,
        engine="reference,vllm",
        engine_python={"vllm": newer_vllm_python},
        num_prompts=2,
        max_new_tokens=16,
    )
    (vllm,) = [entry for entry in report.document["engines"] if entry["engine"] == "vllm"]
    assert (vllm["version"], vllm["preflight"]["version"]) == (VERSION, f"{VERSION} V1")
    assert "warning" not in vllm["preflight"]
    assert {gate["name"]: gate["verdict"] for gate in vllm["gates"]}["agreement"] == "pass"
    assert vllm["lossless"]["identical"] == 2
    assert vllm["load"]["not_loaded"] == []


def test_its_libraries_are_the_builds_and_its_python_is_its_own(newer_vllm_python: Path, vllm_python: Path):
    code = WHERE + "print(os.path.realpath(find_spec('vllm._C').origin))"
    done = subprocess.run([str(newer_vllm_python), "-s", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    own, library = map(Path, done.stdout.strip().splitlines()[-2:])
    assert own.is_relative_to(newer_vllm_python.parents[1])
    assert library.is_relative_to(vllm_python.parents[1])


@pytest.mark.slow
def test_v2_takes_a_head_of_the_final_state(newer_vllm_python: Path, cli: Callable[..., Any]):
    """The pinned version's V2 asks for aux states whatever the head is, and refuses it; its own look-up shows both."""
    asked = ("--only", "final-state", "--only", "use-aux-hidden-state-null")
    status, out, err = cli("engines", "probe", "vllm", "--python", newer_vllm_python, *asked, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["differences"] == []
    answers = found["contract"]["answers"]
    assert answers["final-state"]["outcome"] == "right"
    assert found["contract"]["version"] == VERSION
