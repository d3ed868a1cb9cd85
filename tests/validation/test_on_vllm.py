"""The real thing: vLLM on CPU, the example head, few and short prompts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.rewriting import edit
from support.validation import validate
from support.versions import VLLM

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import EngineRun, RunSpec
from eagle3hub.errors import UnavailableError
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import silent
from eagle3hub.validation.engine_runner import Cache
from eagle3hub.validation.report import Report, load_report

pytestmark = pytest.mark.engine
TAPS = [2, 15, 27]


@pytest.fixture(scope="module")
def cache() -> Cache:
    """The target alone, and what the reference knows of it, is the same for every head here."""
    return Cache()


def check(head: Path, target: Path, python: Path, cache: Cache, **options: object) -> Report:
    arguments: dict[str, object] = {"num_prompts": 8, "max_new_tokens": 32, "engine": "vllm", **options}
    arguments["run_anyway"] = True  # what the preflight foresees is measured here
    return validate(
        head,
        target=target,
        engine_python={"vllm": python},
        cache=cache,
        target_name="SmolLM2",
        **arguments,  # type: ignore[arg-type]
    )


def rewrite(head: Path, drop: set[str], add: dict[str, torch.Tensor] | None = None) -> None:
    from safetensors.torch import load_file, save_file

    file = head / "model.safetensors"
    tensors = load_file(file)
    assert drop <= set(tensors)
    save_file({**{name: tensor for name, tensor in tensors.items() if name not in drop}, **(add or {})}, file)


def test_a_good_head_passes(head: Path, smollm2_target: Path, vllm_python: Path, cache: Cache, tmp_path: Path) -> None:
    fractions: list[float] = []
    report = check(
        head,
        smollm2_target,
        vllm_python,
        cache,
        progress=lambda message, fraction=None: fractions.append(fraction or 0),
    )
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    (engine,) = report.document["engines"]
    assert report.verdict == "pass", report.reason
    assert engine["version"] == VLLM
    assert engine["preflight"]["verdict"] == "right"
    assert engine["lossless"] == {"verdict": "identical", "identical": 8, "prompts": 8, "divergences": []}
    assert engine["load"] == {"checked": True, "not_loaded": [], "ignored": ["t2d"], "aux_boundaries": TAPS}
    acceptance = engine["acceptance"]
    assert 1.2 < acceptance["mean_acceptance_length"] < 1.8
    assert acceptance["rounds"] == sum(row["rounds"] for row in engine["per_prompt"])
    for row in engine["per_prompt"]:
        # every token but the first comes out of a round; the last round may be cut short by the limit
        assert row["new_tokens"] - 1 <= row["rounds"] + row["accepted"] <= row["new_tokens"] - 1 + 3
    assert len(cache.baselines) == 1
    text = json.dumps(report.document)
    assert str(smollm2_target) not in text
    assert str(tmp_path) not in text
    report.save(tmp_path / "report.json")
    assert load_report(tmp_path / "report.json").document == report.document


@pytest.mark.parametrize("k", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)])
def test_vllm_counts_what_the_reference_counts(
    head: Path, smollm2_target: Path, vllm_python: Path, cache: Cache, k: int
) -> None:
    report = check(head, smollm2_target, vllm_python, cache, engine="reference,vllm", draft_tokens=k)
    assert report.verdict == "pass", report.reason
    ours, theirs = report.document["engines"]
    assert [(gate["name"], gate["verdict"]) for gate in theirs["gates"]] == [
        ("collapse", "pass"),
        ("agreement", "pass"),
    ]
    assert "all 8 prompts have the counters of the reference exactly" in theirs["gates"][1]["reason"]
    same = ("prompt_tokens", "new_tokens", "tokens_sha256", "rounds", "drafted", "accepted_per_position")
    assert [[row[key] for key in same] for row in ours["per_prompt"]] == [
        [row[key] for key in same] for row in theirs["per_prompt"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["taps", "norm", "theta"])
def test_what_no_threshold_sees_the_reference_sees(
    head: Path, example_head: Path, smollm2_target: Path, vllm_python: Path, cache: Cache, fault: str
) -> None:
    file = head / "config.json"
    config = json.loads(file.read_text())
    if fault == "taps":
        config["eagle_aux_hidden_state_layer_ids"] = [3, 16, 28]
    elif fault == "theta":
        config["rope_theta"] = 10000.0
    else:
        rewrite(head, {"norm.weight"}, {"norm.weight": torch.ones(576)})
    file.write_text(json.dumps(config))
    options = {"engine": "reference,vllm", "reference_head": example_head}
    report = check(head, smollm2_target, vllm_python, cache, max_new_tokens=64, **options)
    ours, theirs = report.document["engines"]
    assert theirs["load"]["not_loaded"] == []
    assert theirs["acceptance"]["mean_acceptance_length"] > 1.2, "no threshold sees this"
    for entry in (ours, theirs):
        _, gate = entry["gates"]
        assert (entry["verdict"], gate["name"], gate["verdict"]) == ("fail", "agreement", "fail")
        assert "the rounds differ from the reference's" in gate["reason"]
    assert [r["accepted_per_position"] for r in ours["per_prompt"]] == [
        r["accepted_per_position"] for r in theirs["per_prompt"]
    ], "of the broken head, too, replay and vLLM count alike"


@pytest.mark.slow
def test_a_norm_vllm_assumes_is_seen_in_the_rounds(
    example_head: Path, smollm2_target: Path, vllm_python: Path, cache: Cache, tmp_path: Path
) -> None:
    """A speculators config that leaves norm_before_residual out: the library's false is vLLM's true."""
    head = tmp_path / "speculators"
    convert(
        example_head,
        head,
        "speculators",
        ConvertOptions(target=str(smollm2_target), target_name="owner/t", speculative_tokens=3),
    )
    edit(head, config={"norm_before_residual": "DELETE"})
    report = check(head, smollm2_target, vllm_python, cache, engine="reference,vllm", reference_head=example_head)
    ours, theirs = report.document["engines"]
    assert ours["verdict"] == "pass"
    assert theirs["preflight"]["verdict"] == "silently_wrong"
    assert theirs["load"]["not_loaded"] == []
    assert theirs["verdict"] == "fail"
    _, gate = theirs["gates"]
    assert (gate["name"], gate["verdict"], gate["evidence"]["different"]) == ("agreement", "fail", 8)


@pytest.mark.slow
def test_a_missing_d2t_is_served_silently_and_fails_here(
    head: Path, smollm2_target: Path, vllm_python: Path, cache: Cache
) -> None:
    before = len(cache.baselines)
    rewrite(head, {"d2t"})  # the files still make sense: t2d says which tokens, and vLLM does not read it
    report = check(head, smollm2_target, vllm_python, cache)
    assert report.document["static"]["verdict"] == "pass"
    assert report.verdict == "fail"
    assert "no tensor of the file fills d2t" in report.reason
    assert report.document["engines"][0]["preflight"]["verdict"] == "silently_wrong"
    assert report.document["engines"][0]["acceptance"]["mean_acceptance_length"] <= 1.1
    assert len(cache.baselines) == max(1, before), "the target alone was not run again"


@pytest.mark.slow
def test_taps_one_layer_too_low_fail_though_tau_looks_well(
    head: Path, smollm2_target: Path, vllm_python: Path, cache: Cache
) -> None:
    file = head / "config.json"
    config = json.loads(file.read_text())
    config["architectures"] = ["LlamaForCausalLMEagle3"]
    config["eagle_config"] = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 14, 26]}
    file.write_text(json.dumps(config))
    report = check(head, smollm2_target, vllm_python, cache)
    assert report.verdict == "fail"
    assert "[1, 14, 26]" in report.reason
    assert "[2, 15, 27]" in report.reason
    (engine,) = report.document["engines"]
    assert engine["preflight"]["verdict"] == "silently_wrong"
    assert engine["load"]["aux_boundaries"] == [1, 14, 26]
    assert engine["acceptance"]["mean_acceptance_length"] > 1.2, "no threshold sees this"


@pytest.mark.slow
def test_every_tensor_vllm_does_not_miss_is_missed_here(head: Path, smollm2_target: Path, vllm_python: Path) -> None:
    rewrite(
        head,
        {"fc.weight", "midlayer.hidden_norm.weight", "lm_head.weight", "midlayer.self_attn.k_proj.weight"},
    )
    job = RunSpec(target=str(smollm2_target), head=head, prompts=load_prompts("smoke", 1), max_new_tokens=8)
    run = get_engine("vllm").run(job, vllm_python, timeout=600, progress=silent)
    assert isinstance(run, EngineRun), "vLLM itself serves such a head"
    assert run.load is not None
    assert set(run.load.not_loaded) == {
        "fc.weight",
        "layers.0.hidden_norm.weight",
        "lm_head.weight",
        "layers.0.self_attn.k_proj.weight",
    }


def test_a_head_the_engine_refuses_is_a_verdict_not_a_traceback(
    head: Path, smollm2_target: Path, vllm_python: Path
) -> None:
    file = head / "config.json"
    config = json.loads(file.read_text())
    config["num_attention_heads"], config["num_key_value_heads"] = 9, 9
    file.write_text(json.dumps(config))
    job = RunSpec(target=str(smollm2_target), head=head, prompts=load_prompts("smoke", 1), max_new_tokens=8)
    failure = get_engine("vllm").run(job, vllm_python, timeout=600, progress=silent)
    assert not isinstance(failure, EngineRun)
    assert failure.verdict == "fail"
    assert failure.reason.startswith("vLLM could not load the model with the head: ")
    assert any("Traceback" in line or "Error" in line for line in failure.log_tail)


def test_vllm_for_cpu_does_not_claim_cuda(head: Path, smollm2_target: Path, vllm_python: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(UnavailableError, match="CUDA"):
        validate(head, target=smollm2_target, engine="vllm", device="cuda")
    report = check(head, smollm2_target, vllm_python, Cache(), device="cuda", num_prompts=1)
    assert report.verdict == "unavailable"
    assert "cuda" in report.reason


def test_why_sampling_is_refused_on_cpu_is_still_true(vllm_python: Path) -> None:
    code = (
        "import torch\n"
        "from vllm.platforms import current_platform\n"
        "current_platform.import_kernels()\n"
        "from vllm.utils.cpu_triton_utils import _expand_kernel_impl as expand\n"
        "out = torch.full((3,), 123.0)\n"
        "expand(out, torch.tensor([0.8]), torch.tensor([3]), 0, 1)\n"
        "assert out.tolist() == [123.0] * 3, 'vLLM has mended it: take cpu out of greedy_only'\n"
    )
    done = subprocess.run(
        [str(vllm_python), "-s", "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_recipe_parses_with_vllms_own_parser(vllm_python: Path) -> None:
    recipe = get_engine("vllm").recipe("org/target", "org/head", draft_tokens=3, dtype="float32")
    code = (
        "import sys\n"
        "from vllm.entrypoints.launchers.cli_args import make_arg_parser\n"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
        "args = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])\n"
        "assert args.speculative_config == {'method': 'eagle3', 'model': 'org/head', 'num_speculative_tokens': 3}\n"
        "assert args.dtype == 'float32'\n"
    )
    command = [str(vllm_python), "-s", "-c", code, *recipe.argv[2:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sys.executable != str(vllm_python)
