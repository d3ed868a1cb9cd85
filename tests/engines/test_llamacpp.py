"""The requests of a llama.cpp run, and how its answers are read. The engine itself runs in tests/validation."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from eagle3hub.engines import environments, get_engine
from eagle3hub.engines.base import EngineFailure, RunSpec
from eagle3hub.engines.specs import EnvironmentSpec, Sources, environment_spec
from eagle3hub.errors import HubError, UnavailableError
from eagle3hub.metrics import Counts, Rounds, counts_of, counts_within
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import silent
from eagle3hub.validation.engine_runner import engine_for

WORKERS = Path(environments.__file__).parent / "workers"

# Recorded: xllamacpp, the example head, one prompt of 36 tokens, 16 new tokens, K = 3.
METRICS = """\
# HELP llamacpp:n_decode_total Total number of llama_decode() calls, excluding speculative decoding
# TYPE llamacpp:n_decode_total counter
llamacpp:n_decode_total 12
# TYPE llamacpp:spec_decode_num_draft_tokens_total counter
llamacpp:spec_decode_num_draft_tokens_total 30
# TYPE llamacpp:spec_decode_num_accepted_tokens_total counter
llamacpp:spec_decode_num_accepted_tokens_total 4
# TYPE llamacpp:spec_decode_num_drafts_total counter
llamacpp:spec_decode_num_drafts_total 11
# TYPE llamacpp:spec_decode_num_accepted_tokens_per_pos_total counter
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 3
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="1"} 1
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="2"} 0
"""
NOTHING = """\
llamacpp:spec_decode_num_draft_tokens_total 0
llamacpp:spec_decode_num_accepted_tokens_total 0
llamacpp:spec_decode_num_drafts_total 0
"""
LOG = """\
0.00.368.288 I llama_model_loader: loaded meta data with 33 key-value pairs and 14 tensors from head.gguf
0.00.390.178 I load_arch_hparams: EAGLE3 extract_layers = [2, 15, 27]
0.00.390.193 I load_arch_hparams: EAGLE3 n_embd_tgt = 576 (draft n_embd = 576)
"""


def worker(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, WORKERS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def job(tmp_path: Path) -> RunSpec:
    for name in ("target", "head"):
        (tmp_path / name).mkdir()
    return RunSpec(target=str(tmp_path / "target"), head=tmp_path / "head", prompts=load_prompts("smoke", 2))


def test_counters_are_what_a_prompt_added() -> None:
    counters = worker("llamacpp_counters")
    found = counters.difference(counters.read(NOTHING, 3), counters.read(METRICS, 3))
    assert found == {"rounds": 11, "drafted": 30, "accepted": 4, "accepted_per_position": [3, 1, 0]}
    Counts(11, 30, 4, (3, 1, 0))
    more = METRICS.replace('"0"} 3', '"0"} 7').replace("tokens_total 4", "tokens_total 8")
    later = counters.difference(counters.read(METRICS, 3), counters.read(more, 3))
    assert later == {"rounds": 0, "drafted": 0, "accepted": 4, "accepted_per_position": [4, 0, 0]}


def test_the_loader_names_its_taps_in_the_log() -> None:
    counters = worker("llamacpp_counters")
    assert counters.taps(LOG) == [2, 15, 27]
    assert counters.taps("nothing of the kind") is None


def test_what_the_loader_stops_at_is_in_the_log() -> None:
    counters = worker("llamacpp_counters")
    line = "0.00.390 E llama_model_load: error loading model: done_getting_tensors: wrong number of tensors; {}\n"
    log = LOG + line.format("expected 15, got 14") + "0.00.391 E srv load_model: failed to load draft model\n"
    assert counters.loading_fault(log) == "done_getting_tensors: wrong number of tensors; expected 15, got 14"
    assert counters.loading_fault(LOG) is None


def test_a_tensor_that_nothing_was_made_of_is_ignored() -> None:
    convert = worker("gguf_convert")
    base = type("Base", (), {"index_tensors": lambda self: dict.fromkeys(self.names)})
    writer = type("Writer", (), {"add_tensor": lambda self, name: None})

    class Model(base):  # type: ignore[valid-type,misc]
        names = ("midlayer.mlp.up_proj.weight", "layers.0.hidden_norm.weight", "fc.weight", "d2t", "t2d")

        def modify_tensors(self, data: object, name: str, bid: object) -> Iterator[tuple[str, object]]:
            if name not in ("d2t", "t2d"):
                yield name, data

    watch = convert.Watch(base, Model, writer)
    model = Model()
    model.index_tensors()
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.0.hidden_norm.weight", "d2t", "t2d"):
        list(model.modify_tensors(None, name, 0))
    assert watch.ignored() == ["fc.weight", "d2t", "t2d"]
    writer().add_tensor("d2t")
    assert watch.ignored() == ["fc.weight", "t2d"]
    watch.begin()
    assert watch.ignored() == []


def test_nothing_is_drafted_or_accepted_past_the_end_of_a_response() -> None:
    rounds = Rounds((0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 1), 3)
    assert counts_within(rounds, 16) == Counts(11, 30, 4, (3, 1, 0)), "what was recorded above"
    assert counts_of(rounds) == Counts(11, 33, 4, (3, 1, 0))
    assert counts_within(Rounds((0, 0, 0), 3), 4) == Counts(2, 3, 0, (0, 0, 0)), "the last token is no round"
    assert counts_within(Rounds((3, 3), 3, past_end=2), 7) == Counts(2, 4, 4, (2, 1, 1))
    # recorded: an answer of 21 tokens, whose end the head had drafted first, with another right draft behind it
    ended = Rounds((1, 1, 1, *(0,) * 13, 2), 3, past_end=2)
    assert counts_of(ended) == Counts(17, 51, 5, (4, 1, 0))
    assert counts_within(ended, 64) == Counts(17, 51, 3, (3, 0, 0))
    assert counts_within(Rounds((0, 3), 3, past_end=1), 64) == Counts(2, 6, 3, (1, 1, 1)), "the end drafted last"
    whole = Rounds((3, 2), 3)
    assert counts_within(whole, 64) == counts_of(whole), "the end is the target's own token"
    assert counts_within(Rounds((), 3), 1) == Counts(0, 0, 0, (0, 0, 0))


def test_what_it_is_asked_for(job: RunSpec) -> None:
    engine = get_engine("llamacpp")
    flags = engine.flags(job)
    assert (flags["dtype"], flags["cache_type"]) == ("f32", "GGML_TYPE_F32")
    assert flags["sampling"]["temperature"] == 0
    assert "seed" not in flags["sampling"]
    assert engine.flags(replace(job, temperature=0.5, seed=7))["sampling"]["seed"] == 7
    assert engine.flags(replace(job, dtype="bfloat16"))["cache_type"] == "GGML_TYPE_BF16"
    assert engine.flags(replace(job, head=None))["head"] is None
    assert flags["env"]["HF_HUB_OFFLINE"] == "1"


def test_what_it_cannot_do_is_said(job: RunSpec) -> None:
    engine = get_engine("llamacpp")
    assert engine.unable(job) is None
    assert "not trees" in str(engine.unable(replace(job, topk=4, num_draft_tokens=8)))
    assert "from a folder" in str(engine.unable(replace(job, target="owner/name")))
    with pytest.raises(UnavailableError, match="on CPU here"):
        engine_for("llamacpp", replace(job, device="cuda"), {}, {})


@pytest.mark.parametrize("safe_path", ["", "1"])
def test_an_interpreter_without_it(job: RunSpec, monkeypatch: pytest.MonkeyPatch, safe_path: str) -> None:
    """A worker imports what lies beside it, also where PYTHONSAFEPATH keeps this Python from doing so."""
    monkeypatch.setenv("PYTHONSAFEPATH", safe_path)
    found = get_engine("llamacpp").run(job, Path(sys.executable), timeout=60, progress=silent)
    assert isinstance(found, EngineFailure)
    assert found.verdict == "unavailable"
    assert found.reason.startswith("llama.cpp could not be imported: ModuleNotFoundError")


def test_what_ships_is_pinned() -> None:
    spec = environment_spec("llamacpp", "cpu")
    lines = [line for line in spec.requirements.read_text().splitlines() if line and not line.startswith("#")]
    assert all("==" in line for line in lines)
    assert spec.distribution in lines
    assert spec.sources is not None
    assert spec.sources.requirements.read_text().count("--hash=sha256:") == 1
    inside = "llama_cpp_python-0.3.36/vendor/llama.cpp/"
    assert spec.sources.wanted(inside + "conversion/llama.py") == "conversion/llama.py"
    for name in ("conversion/../../x", "common/arg.cpp", "gguf-py/README.md", "convert_lora_to_gguf.py"):
        assert spec.sources.wanted(inside + name) is None
    assert spec.sources.wanted("llama_cpp_python-0.3.36/LICENSE") is None


BACKEND = """
import pathlib

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    place = pathlib.Path(folder, "tiny-1.0.dist-info")
    place.mkdir()
    place.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
    return place.name

def build_wheel(*_, **__):
    raise SystemExit("nothing is built")
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A source archive whose backend refuses to build."""
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "PKG-INFO": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "backend.py": BACKEND,
        "vendor/it/tool.py": "print('tool')\n",
        "vendor/it/lib/part.py": "",
        "vendor/it/other.py": "",
    }
    folder = tmp_path / "tiny-1.0"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "index").mkdir()
    packed = tmp_path / "index" / "tiny-1.0.tar.gz"
    with tarfile.open(packed, "w:gz") as out:
        out.add(folder, arcname="tiny-1.0")
    return packed


@pytest.mark.slow
@pytest.mark.usefixtures("copied_venv")
def test_files_of_a_source_archive_are_taken_by_their_digest(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    (tmp_path / "none.txt").write_text("# nothing\n")
    pinned = tmp_path / "sources.txt"
    platforms = environment_spec("vllm", "cpu").platforms
    sources = Sources(pinned, "vendor/it", ("tool.py", "lib/"), "it")
    spec = EnvironmentSpec(
        "odd", "1.0", "cpu", "odd==1.0", tmp_path / "none.txt", platforms, 0.01, module="csv", sources=sources
    )
    pinned.write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(HubError) as error:
        environments.install_spec(spec)
    assert error.value.code == "hub-digest"
    pinned.write_text(f"tiny==1.0 --hash=sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}\n")
    made = environments.install_spec(spec)
    assert made.ready
    found = sorted(str(p.relative_to(made.path / "it")) for p in (made.path / "it").rglob("*") if p.is_file())
    assert found == ["lib/part.py", "tool.py"]
    pinned.write_text(pinned.read_text() + "# another pin\n")
    with monkeypatch.context() as patch:
        patch.setattr(environments, "environment_spec", lambda engine, device: spec)
        assert not environments.environment_for("odd", "cpu").ready, "other sources, other environment"
