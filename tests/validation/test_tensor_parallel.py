"""A small pair whose sizes divide by two, split over two processes of an engine: the rounds are those of one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from support import heads, targets, variants
from validation.trained import trained, with_equal_rounds, write_prompts

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.base import EngineSettings
from eagle3hub.head import Rope, Semantics

THINKING = {"think": True}
AROUND = [*"<user>\n<assistant>?", "bos"]
"""What the target's chat template puts around a question, one token each."""

pytestmark = pytest.mark.engine
LAYERS, NEW = 8, 40
SEMANTICS = Semantics(rope=Rope(700.0), rms_norm_eps=1e-6)
# vLLM's attention on CPU takes heads of 32 and more
D = {**heads.DIMS, "hidden": 128, "inter": 192, "heads": 4, "kv": 2, "head_dim": 32}
D |= {"vocab": targets.VOCAB, "draft": 60}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return targets.save(
        tmp_path_factory.mktemp("llama") / "target",
        "llama",
        tokenizer=True,
        hidden_size=D["hidden"],
        intermediate_size=D["inter"],
        num_hidden_layers=LAYERS,
        num_attention_heads=D["heads"],
        num_key_value_heads=D["kv"],
        head_dim=D["head_dim"],
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
    )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "questions.jsonl")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, target: Path, prompts: Path) -> Path:
    draft, taps = trained(target, prompts, SEMANTICS, D, NEW, THINKING, epochs=25, rate=0.005)
    assert draft.target_ids is not None
    folder = tmp_path_factory.mktemp("head")
    plain = variants.modelopt(
        folder / "trained",
        D,
        variants.Has(),
        rope_theta=700.0,
        rms_norm_eps=1e-6,
        max_position_embeddings=512,
        torch_dtype="float32",
        mlp_bias=False,
        bos_token_id=1,
        eagle_config={"eagle_aux_hidden_state_layer_ids": taps.after_layer, "use_aux_hidden_state": True},
        eagle_aux_hidden_state_layer_ids=taps.boundary,
    )
    own = variants.replace(plain, **draft.weights, d2t=draft.target_ids - torch.arange(D["draft"]))
    convert(own, folder / "universal", "universal", ConvertOptions(target=str(target), engines=("vllm", "sglang")))
    return folder / "universal"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "argument", "variable"),
    [
        ("vllm", {"max_num_batched_tokens": 640}, {"VLLM_LOGGING_LEVEL": "WARNING"}),
        ("sglang", {"schedule_policy": "lpm"}, {"SGLANG_LOG_MS": "1"}),
    ],
)
def test_an_engine_of_two_processes_counts_what_the_reference_counts(
    head: Path,
    target: Path,
    prompts: Path,
    engine: str,
    argument: dict[str, Any],
    variable: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:
    """Each process watches its part of the draft; the chat template's arguments reach engine and reference alike."""
    settings = EngineSettings(2, {engine: argument}, {engine: variable}, THINKING)
    python = request.getfixturevalue(f"{engine}_python")
    ours, theirs = with_equal_rounds(head, target, prompts, engine, python, engine_settings=settings)
    assert theirs["acceptance"]["mean_acceptance_length"] > 1.5
    assert theirs["load"] == {**ours["load"], "ignored": theirs["load"]["ignored"]}
    assert theirs["load"]["checked"]
    asked = max(len(json.loads(line)["turns"][0]) for line in prompts.read_text().splitlines())
    assert {row["prompt_tokens"] for row in theirs["per_prompt"]} == {asked + len(AROUND)}
    given = theirs["flags"]["llm" if engine == "vllm" else "engine"]
    assert argument.items() <= given.items()
    assert given["tensor_parallel_size" if engine == "vllm" else "tp_size"] == 2
    assert variable.items() <= theirs["flags"]["env"].items()
    assert theirs["recipe"]["env"] == variable
    for word in ("2", *map(str, argument.values()), json.dumps(THINKING)):
        assert word in shlex.split(theirs["recipe"]["server_command"])
