"""A head with MLA attention and a small target of DeepSeek-V3's kind, on vLLM's CPU backend of MLA.

The head is trained here to know what the target says, so that vLLM accepts much of what it drafts.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference.support import LlamaTarget, fit, random_draft
from support import heads, targets, variants
from support.validation import validate

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.head import AuxTaps, Rope, Semantics
from eagle3hub.reference.text import Text
from eagle3hub.validation.engine_runner import Cache

pytestmark = pytest.mark.engine
LAYERS, NEW = 8, 40
# vLLM's CPU backend of MLA keeps 512 + 64 numbers a token
SIZES = {"q_lora_rank": 48, "kv_lora_rank": 512, "qk_nope_head_dim": 32, "qk_rope_head_dim": 64, "v_head_dim": 48}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0}
YARN |= {"mscale_all_dim": 0.7, "beta_fast": 32.0, "beta_slow": 1.0}
SEMANTICS = Semantics(rope=Rope(700.0, YARN), rms_norm_eps=1e-6, attention="mla")
D = {**heads.DIMS, **SIZES, "hidden": 128, "inter": 96, "heads": 4, "vocab": targets.VOCAB, "draft": 60}
QUESTIONS = (
    *("Say it again, please", "What is on the table", "Count from 1 up to 10", "Now sing a short song"),
    *("Where is the old key", "Who came in at night", "Is it late or early", "Tell me about rain"),
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepseek") / "target"
    return targets.save(
        folder,
        "deepseek_v3",
        tokenizer=True,
        hidden_size=D["hidden"],
        intermediate_size=160,
        num_hidden_layers=LAYERS,
        head_dim=SIZES["qk_rope_head_dim"],
        first_k_dense_replace=LAYERS,  # no layer has experts
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
        rope_parameters={**YARN, "rope_theta": 500.0},
        **SIZES,
    )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "questions.jsonl"
    width = max(map(len, QUESTIONS))
    rows = [
        {"question_id": i, "category": "x", "turns": [q.ljust(width, "?")]} for i, q in enumerate(QUESTIONS, start=1)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, target: Path, prompts: Path) -> Path:
    """As ModelOpt writes it, over 60 of the 97 tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    world = LlamaTarget(model, AuxTaps.default_for(LAYERS))
    tokenizer = AutoTokenizer.from_pretrained(target)
    texts = []
    for row in map(json.loads, prompts.read_text().splitlines()):
        asked = [{"role": "user", "content": row["turns"][0]}]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        texts.append(Text(world.greedy(ids, NEW), len(ids), NEW))
    draft = random_draft(SEMANTICS, embeddings=world.embeddings, **D)
    said = torch.tensor([text.token_ids for text in texts]).flatten().unique()
    others = torch.tensor([i for i in range(D["vocab"]) if i not in set(said.tolist())])
    chosen = torch.cat([said, others])[: D["draft"]].sort().values
    draft = fit(replace(draft, target_ids=chosen), world.batch(texts), epochs=25, rate=0.005)
    plain = variants.modelopt(
        tmp_path_factory.mktemp("head"),
        D,
        variants.Has(mla=True),
        rope_theta=700.0,
        rope_scaling=YARN,
        rms_norm_eps=1e-6,
        max_position_embeddings=512,
        torch_dtype="float32",
        mlp_bias=False,
        bos_token_id=1,
        eagle_config={"eagle_aux_hidden_state_layer_ids": world.taps.after_layer, "use_aux_hidden_state": True},
        eagle_aux_hidden_state_layer_ids=world.taps.boundary,
    )
    return variants.replace(plain, **draft.weights, d2t=chosen - torch.arange(len(chosen)))


@pytest.mark.parametrize("layout", ["modelopt", "universal"])
def test_vllm_counts_what_the_reference_counts(
    head: Path, target: Path, prompts: Path, vllm_python: Path, layout: str, tmp_path: Path
) -> None:
    folder = tmp_path / layout
    convert(head, folder, layout, ConvertOptions(target=str(target)))
    report = validate(
        folder,
        target=target,
        target_name="owner/target",
        engine="reference,vllm",
        engine_python={"vllm": vllm_python},
        cache=Cache(),
        prompts=str(prompts),
        num_prompts=len(QUESTIONS),
        max_new_tokens=32,
        draft_tokens=3,
    )
    assert report.verdict == "pass", report.reason
    ours, theirs = report.document["engines"]
    assert theirs["preflight"]["verdict"] == "right"
    assert theirs["lossless"]["identical"] == len(QUESTIONS)
    assert theirs["load"]["not_loaded"] == []
    assert "have the counters of the reference exactly" in theirs["gates"][1]["reason"]
    assert theirs["acceptance"]["mean_acceptance_length"] > 1.5
    same = ("prompt_tokens", "new_tokens", "tokens_sha256", "rounds", "drafted", "accepted_per_position")
    assert [[row[key] for key in same] for row in ours["per_prompt"]] == [
        [row[key] for key in same] for row in theirs["per_prompt"]
    ]
