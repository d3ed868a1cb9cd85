"""Run TensorRT-LLM once, in its own interpreter: load a target with or without a head, generate, count.

It imports only the standard library and TensorRT-LLM. It was written from the documented API of 1.2 and has never run
beyond the import. The request has ``llm`` (arguments of ``tensorrt_llm.LLM``), ``draft`` (arguments of
``Eagle3DecodingConfig``, or null), ``sampling``, ``prompts`` (texts) and ``device``. ``protocol.py`` describes how
requests and answers are sent.
"""

from __future__ import annotations

import platform
import time

from protocol import Stage, serve


def _run(request, tell):
    started = time.monotonic()
    tell("stage", stage="import")
    with Stage("import"):
        import tensorrt_llm
        import torch
        import transformers
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.llmapi import Eagle3DecodingConfig
    with Stage("device"):
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no CUDA device here")
    tell("stage", stage="load")
    with Stage("load"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(request["llm"]["model"])
        arguments = dict(request["llm"])
        if request["draft"] is not None:
            arguments["speculative_config"] = Eagle3DecodingConfig(**request["draft"])
        llm = LLM(**arguments)
    tell(
        "ready",
        version=tensorrt_llm.__version__,
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "processor": torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
        },
        load={"checked": False},
        seconds=time.monotonic() - started,
    )
    with Stage("generate"):
        sampling = SamplingParams(**request["sampling"])
        for index, text in enumerate(request["prompts"]):
            messages = [{"role": "user", "content": text}]
            found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
            ids = list(found["input_ids"] if hasattr(found, "keys") else found)
            start = time.monotonic()
            output = llm.generate(ids, sampling)
            seconds = time.monotonic() - start
            tell(
                "prompt",
                index=index,
                prompt_tokens=len(ids),
                tokens=list(output.outputs[0].token_ids),
                counters=None if request["draft"] is None else _counters(llm, request["draft"]["max_draft_len"]),
                seconds=seconds,
            )


def _counters(llm, positions):
    """Count the rounds of the last request from the iteration statistics; one iteration with a draft is one round.

    Each iteration of one sequence says how many drafts it accepted, which gives the counts per position.
    """
    rounds, reached = 0, [0] * positions
    for iteration in llm.get_stats(timeout=2):
        stats = iteration.get("specDecodingStats") or {}
        if stats.get("numRequestsWithDraftTokens"):
            rounds += 1
            for position in range(stats["numAcceptedTokens"]):
                reached[position] += 1
    return {
        "rounds": rounds,
        "drafted": rounds * positions,
        "accepted": sum(reached),
        "accepted_per_position": reached,
    }


if __name__ == "__main__":
    serve(_run)
