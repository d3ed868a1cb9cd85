"""The real sglang-jax on CPU, with a stand-in for its TPU kernel (``sglang_jax_cpu``): loading, taps, rounds, targets.

sglang-jax places drafts wrongly, so its rounds are held against the reference with that fixed, and seen to differ as
they are. Installing it and compiling for the first time takes minutes: ``EAGLE3HUB_SGLANG_JAX`` asks for these tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engines.sglang_jax_cpu.environment import ensure, interpreter
from support import heads, targets, variants
from support.validation import histogram, validate
from support.versions import SGLANG_JAX

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import EngineFailure, EngineRun, RunSpec
from eagle3hub.engines.environments import diagnose
from eagle3hub.engines.preflight import PreflightVerdict, examine, preflight
from eagle3hub.head.target import read_target
from eagle3hub.layouts import open_head
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import silent

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not os.environ.get("EAGLE3HUB_SGLANG_JAX"), reason="EAGLE3HUB_SGLANG_JAX is not set"),
]
ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "smollm2-135m" / "head"
# rounds that accepted 0, 1, 2, … drafts, prompt by prompt: the example head, float32, K = 3, 64 new tokens
HISTOGRAMS = [[49, 6, 1], [16, 14, 5, 1], [31, 13, 2], [28, 11, 3, 1]]
PROMPTS, TOKENS = 4, 32
DIMS = heads.dims(hidden=64, inter=96, heads=4, kv=2, head_dim=16, vocab=targets.VOCAB, draft=60, aux=3)


@dataclass(frozen=True)
class Pair:
    """A tiny target that sglang-jax takes, and a head trained on what it says to the prompts."""

    target: Path
    head: Path


def change(file: Path, **values: Any) -> None:
    """Set values of a JSON file; None takes a key away."""
    content = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def prepared(source: Path, folder: Path) -> Path:
    """The target as the script of the guide makes it for sglang-jax."""
    page = (ROOT / "docs" / "serving" / "sglang-jax.md").read_text()
    (script,) = re.findall(r"```python\n(import json\n.*?)```", page, re.DOTALL)
    shutil.copytree(source, folder / "target")
    before = os.getcwd()
    os.chdir(folder)
    try:
        exec(compile(script, "sglang-jax.md", "exec"), {})
    finally:
        os.chdir(before)
    return folder / "target-for-sglang-jax"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny target as transformers 5 saves it."""
    folder = tmp_path_factory.mktemp("saved") / "target"
    sizes = {"num_hidden_layers": 8, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    targets.save(folder, tokenizer=True, max_position_embeddings=512, tie_word_embeddings=True, **sizes, **rope)
    # sglang-jax's library for grammars knows only decoders that real tokenizers have
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    change(folder / "tokenizer.json", decoder=decoder)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, saved: Path) -> Pair:
    from readers.engine_logits import soften
    from support.overfit import overfit

    folder = tmp_path_factory.mktemp("pair")
    target = prepared(saved, folder)
    taps = {"eagle_aux_hidden_state_layer_ids": [1, 3, 4], "use_aux_hidden_state": True}
    head = variants.specforge(folder / "head", DIMS, eagle_config=taps, max_position_embeddings=512)
    soften(head)
    overfit(head, target, prompts=PROMPTS, tokens=TOKENS, steps=300)
    return Pair(target, head)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with sglang-jax as it is, and the stand-in."""
    return interpreter(tmp_path_factory.mktemp("python"))


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with sglang-jax's drafts where they belong."""
    return interpreter(tmp_path_factory.mktemp("python"), fixed=True)


def job(target: Path, head: Path | None, prompts: int = 1, **settings: Any) -> RunSpec:
    settings = {"max_new_tokens": TOKENS, "max_model_len": 512, **settings}
    return RunSpec(target=str(target), head=head, prompts=load_prompts("smoke", prompts), **settings)


def run(spec: RunSpec, python: Path) -> EngineRun | EngineFailure:
    return get_engine("sglang-jax").run(spec, python, timeout=1500, progress=silent)


def ran(spec: RunSpec, python: Path) -> EngineRun:
    found = run(spec, python)
    assert isinstance(found, EngineRun), (found.reason, found.log_tail[-15:])
    return found


def judged(head: Path, target: Path) -> PreflightVerdict:
    checkpoint, facts = open_checkpoint(head), read_target(str(target))
    return preflight(examine(checkpoint, open_head(checkpoint, target=facts)), "sglang_jax", SGLANG_JAX, facts)


def per_prompt(entry: dict[str, Any]) -> list[Any]:
    same = ("prompt_tokens", "new_tokens", "tokens_sha256", "rounds", "drafted", "accepted_per_position")
    return [[row[key] for key in same] for row in entry["per_prompt"]]


def validated(pair: Pair, python: Path) -> dict[str, Any]:
    report = validate(
        pair.head,
        target=pair.target,
        engine="reference,sglang_jax",
        engine_python={"sglang_jax": python},
        num_prompts=PROMPTS,
        max_new_tokens=TOKENS,
        timeout=1500.0,
    )
    return {entry["engine"]: entry for entry in report.document["engines"]}


def test_fixed_it_runs_the_references_rounds(pair: Pair, fixed: Path) -> None:
    found = validated(pair, fixed)
    entry = found["sglang_jax"]
    assert per_prompt(entry) == per_prompt(found["reference"])
    rows = [row["accepted_per_position"] for row in entry["per_prompt"]]
    accepted = [sum(column) for column in zip(*rows, strict=True)]
    assert min(accepted) >= 8, f"rounds show little if few drafts are accepted: {accepted}"
    assert entry["load"] == {"checked": True, "not_loaded": [], "ignored": ["t2d"], "aux_boundaries": [2, 4, 5]}
    assert entry["lossless"]["identical"] == PROMPTS
    assert entry["version"] == SGLANG_JAX
    assert "stand-in" in entry["environment"]["kernels"], "a report says what it was measured on"


def test_as_it_is_it_drafts_otherwise_and_the_report_says_so(pair: Pair, plain: Path) -> None:
    found = validated(pair, plain)
    entry = found["sglang_jax"]
    assert entry["lossless"]["identical"] == PROMPTS, "what it writes is right"
    assert per_prompt(entry) != per_prompt(found["reference"])
    gate = next(gate for gate in entry["gates"] if gate["name"] == "agreement")
    assert (entry["verdict"], gate["verdict"]) == ("inconclusive", "inconclusive")
    assert "one position too far" in gate["reason"]


@pytest.mark.parametrize("layout", ["specjax", "universal"])
def test_the_example_head_in_its_layouts(tmp_path: Path, smollm2_target: Path, fixed: Path, layout: str) -> None:
    target = prepared(smollm2_target, tmp_path)
    head = EXAMPLE
    if layout != "specjax":
        head = tmp_path / "head"
        convert(EXAMPLE, head, layout, ConvertOptions(target=str(target), speculative_tokens=3))
    assert judged(head, target).kind in ("right", "depends")
    found = ran(job(target, head, len(HISTOGRAMS), max_new_tokens=64), fixed)
    assert found.load is not None
    assert (found.load.not_loaded, set(found.load.ignored) <= {"t2d"}) == ((), True)
    assert found.load.aux_boundaries == (2, 15, 27)
    assert [histogram(p.counts) for p in found.prompts] == HISTOGRAMS


def test_what_it_does_not_load_is_seen(pair: Pair, plain: Path, tmp_path: Path) -> None:
    head = Path(shutil.copytree(pair.head, tmp_path / "head"))
    variants.renamed(head, lambda name: name.replace("midlayer.hidden_norm", "layers.0.hidden_norm"))
    found = ran(job(pair.target, head), plain)
    assert found.load is not None
    assert found.load.not_loaded == ("layers.0.hidden_norm.weight",)
    assert set(found.load.ignored) == {"layers.0.hidden_norm.weight", "t2d"}


def test_a_matrix_that_is_not_loaded_fails_at_the_first_request(pair: Pair, plain: Path, tmp_path: Path) -> None:
    head = Path(shutil.copytree(pair.head, tmp_path / "head"))
    variants.renamed(head, lambda name: name.replace("midlayer.self_attn", "layers.0.self_attn"))
    failed = run(job(pair.target, head), plain)
    assert isinstance(failed, EngineFailure)
    assert failed.reason.startswith("sglang-jax failed while generating: TypeError: dot_general"), failed.reason


def test_what_it_needs_of_a_target(pair: Pair, saved: Path, plain: Path, tmp_path: Path) -> None:
    """Each thing that the script of the guide changes is one that sglang-jax needs, and that the preflight names."""
    tied = judged(pair.head, saved)
    assert {reason.code for reason in tied.reasons} >= {"target-tied", "target-rope", "target-tokenizer"}
    assert not {r.code for r in judged(pair.head, pair.target).reasons if r.code.startswith("target-")}

    def with_one_thing(name: str, file: str, **values: Any) -> Path:
        folder = Path(shutil.copytree(pair.target, tmp_path / name))
        change(folder / file, **values)
        return folder

    failed = run(job(with_one_thing("tied", "config.json", tie_word_embeddings=True), pair.head), plain)
    assert isinstance(failed, EngineFailure)
    assert "could not load the model with the head: AttributeError" in failed.reason, failed.reason
    tokenizer = {"tokenizer_class": "TokenizersBackend"}
    failed = run(job(with_one_thing("tokenizer", "tokenizer_config.json", **tokenizer), pair.head), plain)
    assert isinstance(failed, EngineFailure)
    assert "TokenizersBackend" in failed.reason, failed.reason
    alone = ran(job(pair.target, None), plain)
    other = ran(job(with_one_thing("rope", "config.json", rope_theta=None), None), plain)
    assert other.prompts[0].tokens != alone.prompts[0].tokens, "without rope_theta the target itself is another"


def test_without_the_stand_in_it_is_unavailable(pair: Pair) -> None:
    failed = run(job(pair.target, pair.head), ensure())
    assert isinstance(failed, EngineFailure)
    assert (failed.verdict, "kernel for TPU" in failed.reason) == ("unavailable", True)


def test_the_doctor_looks_into_it() -> None:
    (found,) = [d for d in diagnose(["sglang_jax"], {"sglang_jax": ensure()}) if d.device == "cpu"]
    assert (found.state, found.engine_version) == ("ready", SGLANG_JAX)
    assert str(found.framework).startswith("jax ")


def test_an_interpreter_without_it_says_so(pair: Pair) -> None:
    failed = run(job(pair.target, pair.head), Path(sys.executable))
    assert isinstance(failed, EngineFailure)
    assert (failed.verdict, "No module named" in failed.reason) == ("unavailable", True)
