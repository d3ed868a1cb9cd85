"""The verdicts on vLLM's CPU runner, compared with vLLM itself: each folder is broken in one way, loaded and run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import variants
from support.sampling import THOROUGH
from support.versions import VLLM

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import Dtype, EngineFailure, EngineRun, RunSpec
from eagle3hub.engines.preflight import PreflightVerdict, examine, preflight
from eagle3hub.head.target import read_target
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import silent

pytestmark = pytest.mark.engine
V, H = 49152, 576
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "smollm2-135m" / "head"


def rewrite(folder: Path, drop: tuple[str, ...] = (), rename: dict[str, str] | None = None, **tensors: Any) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    found = {k: v for k, v in load_file(file).items() if k not in drop}
    for old, new in (rename or {}).items():
        found = {(new + k.removeprefix(old) if k.startswith(old) else k): v for k, v in found.items()}
    save_file({**found, **tensors}, file)


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in config.items() if v != "DELETE"}))


def nested(folder: Path) -> None:
    edit(folder, eagle_config={"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 14, 26]})


def both(folder: Path) -> None:
    nested(folder)
    edit(folder, eagle_aux_hidden_state_layer_ids=[2, 15, 27])


def four_nested(folder: Path) -> None:
    import torch

    rewrite(folder, drop=("fc.weight",), **{"fc.weight": torch.zeros(H, 4 * H, dtype=torch.bfloat16)})
    edit(folder, eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 8, 14, 26]})


def four_at_the_top(folder: Path) -> None:
    four_nested(folder)
    edit(folder, eagle_config="DELETE", eagle_aux_hidden_state_layer_ids=[2, 9, 15, 27])


def full_vocabulary(folder: Path) -> None:
    import torch

    lm_head = torch.zeros(V, H, dtype=torch.bfloat16)
    rewrite(folder, drop=("d2t", "t2d", "lm_head.weight"), **{"lm_head.weight": lm_head})
    edit(folder, draft_vocab_size=V)


def full_vocabulary_with_d2t(folder: Path) -> None:
    import torch

    full_vocabulary(folder)
    rewrite(folder, d2t=torch.zeros(V, dtype=torch.int64))


def without_aux(folder: Path) -> None:
    from safetensors.torch import load_file

    found = load_file(folder / "model.safetensors")
    narrow = {
        k: v[:, :H].contiguous()
        for k, v in found.items()
        if k.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
    }
    rewrite(folder, drop=("fc.weight", "midlayer.hidden_norm.weight", *narrow), **narrow)
    edit(folder, eagle_config={"use_aux_hidden_state": False})


def leftover(folder: Path) -> None:
    import torch

    rewrite(folder, **{"midlayer.self_attn.rotary_emb.inv_freq": torch.zeros(32)})


CASES: dict[str, Any] = {
    "as it is": lambda folder: None,
    "nested ids only": nested,
    "ids in both places": both,
    "four nested ids": four_nested,
    "four ids at the top": four_at_the_top,
    "no d2t": lambda folder: rewrite(folder, drop=("d2t",)),
    "no fc": lambda folder: rewrite(folder, drop=("fc.weight",)),
    "no lm_head": lambda folder: rewrite(folder, drop=("lm_head.weight",)),
    "full vocabulary": full_vocabulary,
    "full vocabulary with d2t": full_vocabulary_with_d2t,
    "model. prefix": lambda folder: rewrite(folder, rename={"midlayer.": "model.midlayer."}),
    "midlayer.0. names": lambda folder: rewrite(folder, rename={"midlayer.": "midlayer.0."}),
    "layers.0. names": lambda folder: rewrite(folder, rename={"midlayer.": "layers.0."}),
    "no draft_vocab_size": lambda folder: edit(folder, draft_vocab_size="DELETE"),
    "draft_vocab_size null": lambda folder: edit(folder, draft_vocab_size=None),
    "draft_vocab_size of another head": lambda folder: edit(folder, draft_vocab_size=4096),
    "target_hidden_size null": lambda folder: edit(folder, target_hidden_size=None),
    "mlp_bias null": lambda folder: edit(folder, mlp_bias=None),
    "final hidden state, narrow q/k/v": without_aux,
    "a leftover of old RoPE": leftover,
    "gelu": lambda folder: edit(folder, hidden_act="gelu"),
    "8-bit integers": lambda folder: variants.with_scheme(folder, "int8"),
    "8-bit integers, fc excepted by its plain name": lambda folder: variants.with_scheme(
        folder, "int8", ignore=["fc", "re:.*lm_head"]
    ),
    "FP8, exceptions for the whole draft": lambda folder: variants.with_scheme(
        folder, "quark", quant_method="modelopt", quant_algo="FP8", ignore=["model*", "lm_head"]
    ),
    "Quark, no settings by type of layer": lambda folder: variants.with_scheme(
        folder, "quark", layer_type_quant_config=None
    ),
    "AWQ": lambda folder: variants.with_scheme(folder, "awq"),
    "AWQ, fc too": lambda folder: variants.with_scheme(folder, "awq", but=("lm_head",)),
    "AWQ, one exception that leaves out none of the plain": lambda folder: variants.with_scheme(
        folder, "awq", modules_to_not_convert=["lm_head"]
    ),
    "AWQ, one matrix plain": lambda folder: variants.with_scheme(folder, "awq", ("fc", "lm_head", "down_proj")),
    "GPTQ": lambda folder: variants.with_scheme(folder, "gptq", group_size=32),
    "GPTQ, modules as vLLM names them": lambda folder: variants.with_scheme(
        folder, "gptq", group_size=32, modules_in_block_to_quantize=["self_attn", "mlp"]
    ),
    "GPTQ, a module left out": lambda folder: variants.with_scheme(
        folder,
        "gptq",
        ("fc", "lm_head", "down_proj"),
        group_size=32,
        modules_in_block_to_quantize=["self_attn", "mlp"],
        dynamic={r"-:.*down_proj": {}},
    ),
    "GPTQ, ordered by activations": lambda folder: variants.with_scheme(
        folder, "gptq", group_size=32, modules_in_block_to_quantize=["self_attn", "mlp"], desc_act=True
    ),
    "GPTQ in groups of 16": lambda folder: variants.with_scheme(
        folder, "gptq", modules_in_block_to_quantize=["self_attn", "mlp"]
    ),
}


def run(folder: Path, target: Path, python: Path, dtype: Dtype = "float32") -> EngineRun | EngineFailure:
    prompts = load_prompts("smoke", 1)
    job = RunSpec(target=str(target), head=folder, prompts=prompts, max_new_tokens=8, dtype=dtype)
    return get_engine("vllm").run(job, python, timeout=600, progress=silent)


TELLING = (
    *("nested ids only", "no d2t", "full vocabulary with d2t", "model. prefix", "layers.0. names"),
    *("8-bit integers", "8-bit integers, fc excepted by its plain name", "FP8, exceptions for the whole draft"),
    *("AWQ", "GPTQ", "GPTQ, modules as vLLM names them"),
)
"""These cases run on every push. Each case starts an engine, so the others run only with EAGLE3HUB_THOROUGH=1."""
FIRST = ("nested ids only", "no d2t", "8-bit integers", "AWQ")
"""Those of them that a run in little time has too."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in FIRST else pytest.mark.slow) for n in (CASES if THOROUGH else TELLING)],
)
def test_vllm_does_what_the_verdict_says(name: str, tmp_path: Path, smollm2_target: Path, vllm_python: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "head"))
    CASES[name](folder)
    target = read_target(str(smollm2_target))
    verdict: PreflightVerdict = preflight(examine(open_checkpoint(folder)), "vllm", f"{VLLM} V1", target)
    half = name.startswith(("AWQ", "GPTQ", "8-bit"))  # not in float32, integers on processors with AMX
    outcome = run(folder, smollm2_target, vllm_python, "bfloat16" if half else "float32")
    said = [r.sentence for r in verdict.reasons if r.effect == verdict.kind]
    if isinstance(outcome, EngineFailure) and outcome.verdict == "unavailable":
        pytest.skip(outcome.reason)  # 4 bits need AVX-512
    if verdict.kind == "refuses":
        assert isinstance(outcome, EngineFailure), said
        return
    assert isinstance(outcome, EngineRun), (outcome.reason, outcome.log_tail)
    assert outcome.load is not None
    boundaries = ", ".join(map(str, outcome.load.aux_boundaries or ()))
    if verdict.kind == "right":
        assert outcome.load.not_loaded == ()
        assert set(outcome.load.ignored) <= {"t2d"} | {
            n for n in outcome.load.ignored if "rotary" in n or "g_idx" in n
        }
        assert any(f"takes the head's boundary ids: {boundaries} " in s for s in said)
    elif "aux-layers" in {r.code for r in verdict.reasons}:
        assert any(f"takes boundary ids {boundaries} instead" in s for s in said)
    else:
        assert outcome.load.not_loaded, said
    if "quantized-where-plain" in {r.code for r in verdict.reasons}:
        assert outcome.load.not_loaded == ("fc.weight_scale",)
