"""Small targets of random weights, and heads trained within seconds to know what they say, for engines to run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from reference.support import LlamaTarget, fit, random_draft
from support.validation import validate

from eagle3hub.head import AuxTaps, Semantics
from eagle3hub.reference.model import DraftModel
from eagle3hub.reference.text import Text
from eagle3hub.validation.engine_runner import Cache

QUESTIONS = (
    *("Say it again, please", "What is on the table", "Count from 1 up to 10", "Now sing a short song"),
    *("Where is the old key", "Who came in at night", "Is it late or early", "Tell me about rain"),
)
SAME = ("prompt_tokens", "new_tokens", "tokens_sha256", "rounds", "drafted", "accepted_per_position")
"""What two programs that count the same rounds agree in, prompt by prompt."""


def write_prompts(file: Path) -> Path:
    """`QUESTIONS` as a prompt set, all of one length."""
    width = max(map(len, QUESTIONS))
    rows = [
        {"question_id": i, "category": "x", "turns": [q.ljust(width, "?")]} for i, q in enumerate(QUESTIONS, start=1)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def trained(
    target: Path,
    prompts: Path,
    semantics: Semantics,
    sizes: dict[str, int],
    new: int,
    rendering: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[DraftModel, AuxTaps]:
    """A head of these ``sizes`` that knows the target's answers of ``new`` tokens; ``settings``: of `fit`.

    ``rendering``: arguments of the target's chat template.

    Its vocabulary holds every token that was said, and the lowest ids besides.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    world = LlamaTarget(model, AuxTaps.default_for(model.config.num_hidden_layers))
    tokenizer = AutoTokenizer.from_pretrained(target)
    texts = []
    for row in map(json.loads, prompts.read_text().splitlines()):
        asked = [{"role": "user", "content": row["turns"][0]}]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False, **(rendering or {}))
        texts.append(Text(world.greedy(ids, new), len(ids), new))
    draft = random_draft(semantics, embeddings=world.embeddings, **sizes)
    said = torch.tensor([text.token_ids for text in texts]).flatten().unique()
    others = torch.tensor([i for i in range(sizes["vocab"]) if i not in set(said.tolist())])
    chosen = torch.cat([said, others])[: sizes["draft"]].sort().values
    return fit(replace(draft, target_ids=chosen), world.batch(texts), **settings), world.taps


def with_equal_rounds(
    head: Path, target: Path, prompts: Path, engine: str, python: Path, draft_tokens: int = 3, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Validate a head by the reference and an engine, and see that their rounds are equal; return both entries.

    ``options``: further ones of a validation.
    """
    report = validate(
        head,
        target=target,
        target_name="owner/target",
        engine=f"reference,{engine}",
        engine_python={engine: python},
        cache=Cache(),
        prompts=str(prompts),
        num_prompts=len(QUESTIONS),
        max_new_tokens=32,
        draft_tokens=draft_tokens,
        **options,
    )
    assert report.verdict == "pass", report.reason
    ours, theirs = report.document["engines"]
    assert theirs["preflight"]["verdict"] == "right"
    assert theirs["lossless"]["identical"] == len(QUESTIONS)
    assert theirs["load"]["not_loaded"] == []
    assert "have the counters of the reference exactly" in theirs["gates"][1]["reason"]
    assert [[row[key] for key in SAME] for row in ours["per_prompt"]] == [
        [row[key] for key in SAME] for row in theirs["per_prompt"]
    ]
    return ours, theirs
