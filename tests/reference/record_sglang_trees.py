"""Record what SGLang counts on the example head; run by an interpreter that has SGLang.

    python record_sglang_trees.py TARGET HEAD RECORD STEPS TOPK NUM_DRAFT_TOKENS [key=value …]

TARGET is the example's target, HEAD the example head in the ``universal`` layout. One run adds to RECORD (JSON)
the counters of one tree shape over the first smoke prompts, and the texts if it has none yet. ``key=value`` go to the
engine as they are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PROMPTS = Path(__file__).parents[2] / "eagle3hub" / "prompts" / "smoke.jsonl"
FIRST, RESPONSE, LOOKAHEAD = 8, 64, 8


def main() -> None:
    import sglang
    from transformers import AutoTokenizer

    target, head, file = sys.argv[1:4]
    steps, topk, num_draft_tokens = map(int, sys.argv[4:7])
    record = json.loads(Path(file).read_text()) if Path(file).exists() else {"texts": [], "runs": []}
    tokenizer = AutoTokenizer.from_pretrained(target)
    questions = [json.loads(line)["turns"][0] for line in PROMPTS.read_text().splitlines()[:FIRST]]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in questions
    ]
    engine = sglang.Engine(
        model_path=target,
        dtype="float32",
        speculative_algorithm="EAGLE3",
        speculative_draft_model_path=head,
        speculative_num_steps=steps,
        speculative_eagle_topk=topk,
        speculative_num_draft_tokens=num_draft_tokens,
        max_running_requests=1,
        disable_radix_cache=True,
        **{key: value_of(text) for key, text in (pair.split("=", 1) for pair in sys.argv[7:])},
    )

    def generate(prompt: list[int], length: int, *, to_the_end: bool = False) -> dict:
        sampling = {"temperature": 0, "max_new_tokens": length, "ignore_eos": to_the_end}
        return engine.generate(input_ids=prompt, sampling_params=sampling)

    counted = [generate(prompt, RESPONSE) for prompt in prompts]
    responses = [c["output_ids"] for c in counted]
    if not record["texts"]:
        for prompt, response in zip(prompts, responses, strict=True):
            further = generate(prompt + response, LOOKAHEAD, to_the_end=True)["output_ids"]
            record["texts"].append({"prompt": prompt, "response": response, "lookahead": further})
    assert [t["response"] for t in record["texts"]] == responses
    record["runs"].append(
        {
            "sglang": sglang.__version__,
            "steps": steps,
            "topk": topk,
            "num_draft_tokens": num_draft_tokens,
            "spec_verify_ct": [c["meta_info"]["spec_verify_ct"] for c in counted],
            "histogram": [c["meta_info"]["spec_correct_drafts_histogram"] for c in counted],
        }
    )
    Path(file).write_text(json.dumps(record) + "\n")
    engine.shutdown()


def value_of(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
