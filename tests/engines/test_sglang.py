"""The parent's side of SGLang, TensorRT-LLM and sglang-jax; the real SGLang is in ``test_on_sglang.py``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.versions import SGLANG_JAX

from eagle3hub.engines import ENGINES, environments, get_engine
from eagle3hub.engines.base import EngineFailure, RunSpec
from eagle3hub.engines.environments import diagnose, installed_version
from eagle3hub.engines.specs import default_version, engine_data, environment_spec, interface, name_facts
from eagle3hub.engines.workers import sglang_jax_counters
from eagle3hub.errors import UnavailableError
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import silent


@pytest.fixture
def job(tmp_path: Path) -> RunSpec:
    for name in ("target", "head"):
        (tmp_path / name).mkdir()
    return RunSpec(target=str(tmp_path / "target"), head=tmp_path / "head", prompts=load_prompts("smoke", 2))


def test_a_chain_and_a_tree_in_sglangs_numbers(job: RunSpec) -> None:
    engine = get_engine("sglang")
    numbers = ("speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens")
    chain = engine.flags(job)["engine"]
    assert [chain[name] for name in numbers] == [3, 1, 4]
    tree = engine.flags(replace(job, draft_tokens=5, topk=4, num_draft_tokens=8))["engine"]
    assert [tree[name] for name in numbers] == [5, 4, 8]
    alone = engine.flags(replace(job, head=None))["engine"]
    assert not [name for name in alone if name.startswith("speculative")]
    assert alone["trust_remote_code"] is False


def test_what_belongs_to_the_cpu_stays_there(job: RunSpec) -> None:
    cpu, cuda = (get_engine("sglang").flags(replace(job, device=device)) for device in ("cpu", "cuda"))
    assert cpu["env"]["SGLANG_USE_CPU_ENGINE"] == "1"
    assert "SGLANG_USE_CPU_ENGINE" not in cuda["env"]
    assert not [value for value in cuda["engine"].values() if value == "intel_amx"]


def test_rounds_become_counters() -> None:
    found = sglang_jax_counters.counters([0, 3, 1, 0], 3)
    assert found == {"rounds": 4, "drafted": 12, "accepted": 4, "accepted_per_position": [2, 1, 1]}
    assert sglang_jax_counters.counters([], 3)["rounds"] == 0
    with pytest.raises(RuntimeError, match=r"accepted \[-1, 4\] of 3"):
        sglang_jax_counters.counters([4, -1], 3)


def test_a_run_of_sglang_jax_is_a_chain_as_its_recipe_writes_it(job: RunSpec) -> None:
    engine = get_engine("sglang-jax")
    cpu, tpu = (engine.flags(replace(job, device=device)) for device in ("cpu", "tpu"))
    recipe = engine.recipe("t", "h", draft_tokens=job.draft_tokens)
    numbers = ("speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens")
    assert [tpu["engine"][name] for name in numbers] == [3, 1, 4]
    assert all(f"{name}={tpu['engine'][name]}" in recipe.python for name in numbers)
    assert "from sgl_jax.srt.entrypoints.engine import Engine" in recipe.python
    assert (cpu["env"]["JAX_PLATFORMS"], tpu["env"]["JAX_PLATFORMS"]) == ("cpu", "tpu")
    assert "SGLANG_CI_SMALL_KV_SIZE" not in tpu["env"]
    assert not [name for name in engine.flags(replace(job, head=None))["engine"] if name.startswith("speculative")]
    assert tpu["engine"]["trust_remote_code"] is False


def test_every_argument_is_one_sglang_has(job: RunSpec) -> None:
    known = interface("sglang")
    assert known is not None
    for device in ("cpu", "cuda"):
        assert set(get_engine("sglang").flags(replace(job, device=device))["engine"]) <= set(
            known.keywords["sglang.Engine"]
        )


def test_who_cannot_run_a_job_says_why(job: RunSpec) -> None:
    assert "greedily" in str(get_engine("sglang").unable(replace(job, temperature=0.5)))
    assert get_engine("sglang").unable(replace(job, temperature=0.5, device="cuda")) is None
    assert "CUDA" in str(get_engine("trtllm").unable(job))
    assert get_engine("trtllm").unable(replace(job, device="cuda")) is None
    assert "TPU" in str(get_engine("sglang").unable(replace(job, device="tpu")))
    jax = get_engine("sglang-jax")
    assert jax.unable(replace(job, device="tpu", temperature=0.5)) is None
    assert "kernel for TPU" in str(jax.unable(replace(job, device="cuda")))
    assert SGLANG_JAX in str(jax.unable(replace(job, temperature=0.5)))
    assert "trees were not tried" in str(jax.unable(replace(job, device="tpu", topk=2, num_draft_tokens=6)))


@pytest.mark.parametrize("engine", ["sglang", "trtllm", "sglang_jax"])
def test_an_engine_that_does_not_import_is_unavailable_never_passed(job: RunSpec, engine: str) -> None:
    found = get_engine(engine).run(job, Path(sys.executable), timeout=120, progress=silent)
    assert isinstance(found, EngineFailure)
    assert found.verdict == "unavailable"
    assert "No module named" in found.reason


def test_there_is_no_environment_of_sglang_for_cpu_and_it_says_why() -> None:
    with pytest.raises(UnavailableError, match="no CPU build of its kernel package"):
        environments.install_environment("sglang", "cpu")
    cuda = environment_spec("sglang", "cuda")
    assert not cuda.tested
    assert cuda.resolve
    assert cuda.distribution in cuda.requirements.read_text().splitlines()


@pytest.mark.parametrize("engine", ENGINES)
def test_every_fact_has_a_source_and_contradicts_no_interface(engine: str) -> None:
    own = interface(engine)
    flags = () if own is None else own.flags
    for fact in name_facts(engine):
        assert fact.source
        assert fact.instead
        if fact.code == "flag-removed" and flags:
            assert not set(fact.names) & set(flags)
        if fact.code == "flag-deprecated":
            assert set(fact.names) & set(flags)
        if fact.code == "env-no-effect":
            assert not set(fact.names) & set(own.environment)
    assert engine_data("sglang_jax").minimum.source


def test_the_doctor_names_what_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path))
    found = {(d.engine, d.device): d for d in diagnose(ENGINES)}
    assert found["vllm", "cpu"].state == "not_installed"
    assert found["vllm", "cpu"].mend == "eagle3hub engines install vllm --device cpu"
    assert found["sglang", "cpu"].state == "unobtainable"
    assert found["sglang", "cuda"].tested is False
    assert {d.state for d in found.values() if d.engine == "trtllm"} == {"unobtainable"}
    jax = {device: d.state for (engine, device), d in found.items() if engine == "sglang_jax"}
    assert jax == {"cpu": "unobtainable", "cuda": "unobtainable", "tpu": "not_installed"}
    assert found["sglang_jax", "tpu"].tested is False


@pytest.mark.slow
def test_the_doctor_looks_into_an_interpreter() -> None:
    (found,) = [d for d in diagnose(["vllm"], {"vllm": Path(sys.executable)}) if d.device == "cpu"]
    assert found.state == "broken"
    assert "vllm does not import" in str(found.problem)
    assert found.python_version == ".".join(map(str, sys.version_info[:3]))
    assert found.processor
    assert found.free_gib
    document = found.to_json()
    assert document["framework"] == f"torch {document['torch_version']}"
    (absent,) = [d for d in diagnose(["vllm"], {"vllm": Path("/nowhere/python")}) if d.device == "cpu"]
    assert (absent.state, absent.python_version) == ("broken", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "state", "said"),
    [
        ("9.8.7", "ready", "vLLM 9.8.7 is newer than every version that eagle3hub knows: it is judged as "),
        (default_version("vllm"), "ready", None),
        ("unknown", "broken", "its version is told as 'unknown', which is no version of vLLM"),
    ],
)
def test_the_doctor_judges_a_version_that_is_not_known_as_the_nearest(
    tmp_path: Path, cli: Callable[..., Any], version: str, state: str, said: str | None
) -> None:
    (tmp_path / "vllm.py").write_text(f'__version__ = "{version}"\n')
    (tmp_path / "torch.py").write_text('__version__ = "2"\n')  # the real one, in every process, takes seconds
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (found,) = [d for d in diagnose(["vllm"], {"vllm": python}) if d.device == "cpu"]
    assert (found.state, found.engine_version) == (state, version)
    assert (found.warning or found.problem or "").startswith(said or "")
    assert (found.warning is None) == (state == "broken" or said is None)
    out = cli("engines", "doctor", "vllm", "--engine-python", f"vllm={python}")[1]
    assert (" broken" in out.split("cuda")[0]) == (state == "broken")
    assert said is None or said in out
    assert installed_version("vllm", python) == version
    card = tmp_path / "card.md"
    card.write_text("nothing of an engine\n")
    status, out, err = cli("engines", "check", card, "--engine-python", f"vllm={python}")
    assert status == 0, err
    assert ("it is judged as" in out) == (said is not None and state == "ready")


def test_the_command_line(cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path))
    assert cli("engines", "doctor", "trtllm")[0] == 4
    status, out, _ = cli("engines", "doctor", "--json")
    assert status == 0
    assert {one["engine"] for one in json.loads(out)["engines"]} == set(ENGINES)
    status, out, _ = cli("engines", "list")
    assert status == 0
    assert "no CPU build of its kernel package" in out
    assert "eagle3hub engines install vllm --device cpu" in out
    status, _, error = cli("engines", "install", "sglang", "--device", "cpu")
    assert status == 4
    assert "no CPU build" in error
