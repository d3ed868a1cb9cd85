"""Compare the counts of vLLM, the replay and the reference's own speculation, for each layout and K.

    python benchmarks/agreement.py [--layouts all] [--draft-tokens 1 3 5] [--num-prompts 16] [--max-new-tokens 64]

Converts the example head to each layout and runs it on vLLM (CPU, float32, greedy). Compares each prompt with the
replay of the original head, and with speculation one round at a time. Prints a row of a Markdown table for every
layout and K: how many prompts have equal rounds, drafts and accepted drafts per position. Ends with status 1 if a
prompt differs. Needs what `make test` sets up.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines import engine_pythons
from eagle3hub.layouts import open_head
from eagle3hub.prompts import load_prompts
from eagle3hub.reference.model import load_draft
from eagle3hub.reference.replay import ReplaySettings
from eagle3hub.reference.speculate import speculate
from eagle3hub.reference.target import TargetModel
from eagle3hub.releasing.demo import NAME, ensure_target
from eagle3hub.validation import validate
from eagle3hub.validation.engine_runner import Cache
from eagle3hub.validation.matrix import layout_names
from eagle3hub.validation.options import ValidateOptions

HEAD = Path(__file__).parent.parent / "examples" / "smollm2-135m" / "head"

Row = tuple[int, int, list[int]]
"""Rounds, drafts, and accepted drafts per position."""


def round_by_round(num_prompts: int, k: int, max_new_tokens: int) -> list[Row]:
    """Return what `speculate` counts on the prompts, with the original head."""
    target = TargetModel.load(str(ensure_target()))
    head = open_head(HEAD, target=str(ensure_target()))
    model = load_draft(head, target.embeddings)
    rows = []
    for prompt in load_prompts("smoke", num_prompts).prompts:
        done = speculate(
            model,
            target.session(),
            target.chat(prompt.text),
            head.aux,
            ReplaySettings(k),
            max_new_tokens=max_new_tokens,
            end=target.eos_ids,
        )
        reached = [sum(accepted >= i for accepted in done.rounds) for i in range(1, k + 1)]
        rows.append((len(done.rounds), k * len(done.rounds), reached))
    return rows


def rows_of(entry: Mapping[str, Any]) -> list[Row]:
    """Return the same from an engine's entry in a report."""
    return [(row["rounds"], row["drafted"], row["accepted_per_position"]) for row in entry["per_prompt"]]


def equal(rows: Sequence[Row], others: Sequence[Row]) -> str:
    """In how many prompts two agree."""
    return f"{sum(a == b for a, b in zip(rows, others, strict=True))} of {len(rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", default="all")
    parser.add_argument("--draft-tokens", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--num-prompts", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--engine-python", action="append", default=[])
    options = parser.parse_args()
    target, cache, unequal = ensure_target(), Cache(), 0
    print("| layout | K | rounds | accepted per position | τ | vLLM = replay | speculation = replay | same text |")
    print("|---|---|---|---|---|---|---|---|")
    for k in options.draft_tokens:
        slow = round_by_round(options.num_prompts, k, options.max_new_tokens)
        for layout in layout_names(options.layouts):
            with tempfile.TemporaryDirectory() as work:
                folder = Path(work) / layout
                convert(
                    HEAD, folder, layout, ConvertOptions(target=str(target), target_name=NAME, speculative_tokens=k)
                )
                report = validate(
                    folder,
                    target,
                    ValidateOptions(
                        engine="reference,vllm",
                        num_prompts=options.num_prompts,
                        max_new_tokens=options.max_new_tokens,
                        draft_tokens=k,
                        reference_head=HEAD,
                        engine_python=engine_pythons(options.engine_python),
                    ),
                    cache=cache,
                )
            replay, vllm = report.document["engines"]
            if not vllm.get("acceptance"):
                print(f"| {layout} | {k} | {vllm['verdict']}: {vllm['reason']} |", flush=True)
                unequal += 1
                continue
            same = [a["tokens_sha256"] == b["tokens_sha256"] for a, b in _pairs(replay, vllm)]
            cells = [
                equal(rows_of(vllm), rows_of(replay)),
                equal(slow, rows_of(replay)),
                f"{sum(same)} of {len(same)}",
            ]
            unequal += sum(cell != f"{len(same)} of {len(same)}" for cell in cells)
            found = replay["acceptance"]
            per_position = ", ".join(map(str, found["accepted_per_position"]))
            tau = f"{found['mean_acceptance_length']:.3f}"
            print(
                "| " + " | ".join([layout, str(k), str(found["rounds"]), per_position, tau, *cells]) + " |", flush=True
            )
    sys.exit(1 if unequal else 0)


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> zip[tuple[Any, Any]]:
    return zip(one["per_prompt"], other["per_prompt"], strict=True)


if __name__ == "__main__":
    main()
