"""Run TensorRT-LLM once, in its own interpreter: load a target with or without a head, generate, count.

It imports only the standard library and TensorRT-LLM. It was written from the documentation and the source of 1.2.1
and of the candidates of 1.3, and has run only with a stand-in of their API. The request has ``llm`` (arguments of
``tensorrt_llm.LLM``), ``draft`` (settings of the draft, see `draft_config`, or null), ``sampling``, ``prompts``
(messages), ``chat_template`` (its arguments) and ``device``. ``protocol.py`` describes how requests and answers are
sent.

The executor runs in this process (``TLLM_WORKER_USE_SINGLE_PROCESS``; executor/utils.py), so that what it loads and
captures can be watched.
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
        from tensorrt_llm import LLM, SamplingParams, llmapi
    with Stage("device"):
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no CUDA device here")
    tell("stage", stage="load")
    draft = {"checked": False}
    with Stage("load"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(request["llm"]["model"])
        arguments = dict(request["llm"])
        if request["draft"] is not None:
            arguments["speculative_config"] = draft_config(llmapi, request["draft"])
            watch_draft(draft)
            watch_taps(draft)
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
        load=draft,
        seconds=time.monotonic() - started,
    )
    with Stage("generate"):
        sampling = SamplingParams(**request["sampling"])
        for index, messages in enumerate(request["prompts"]):
            options = {"add_generation_prompt": True, "tokenize": True, **request["chat_template"]}
            found = tokenizer.apply_chat_template(messages, **options)
            ids = list(found["input_ids"] if hasattr(found, "keys") else found)
            start = time.monotonic()
            output = llm.generate(ids, sampling)
            seconds = time.monotonic() - start
            tell(
                "prompt",
                index=index,
                prompt_tokens=len(ids),
                tokens=list(output.outputs[0].token_ids),
                counters=None if request["draft"] is None else counters(llm, request["draft"]["max_draft_len"]),
                seconds=seconds,
            )


def draft_config(llmapi, settings):
    """Return the config of the draft in the spelling of this version (llmapi/llm_args.py).

    ``settings``: ``max_draft_len``, ``speculative_model`` (a folder), and ``eagle3_layers_to_capture`` if the layers
    are not the default. 1.3 has a class of its own for EAGLE-3; before 1.2 the folder has another name.
    """
    kind = getattr(llmapi, "Eagle3DecodingConfig", None) or llmapi.EagleDecodingConfig
    known = getattr(kind, "model_fields", {})
    renamed = {"speculative_model": "speculative_model_dir"} if known and "speculative_model" not in known else {}
    return kind(**{renamed.get(key, key): value for key, value in settings.items()})


def watch_draft(found):
    """Watch the loading of the draft's weights (Eagle3ForCausalLM.load_weights), and store the result in ``found``.

    TensorRT-LLM draws lm_head from the target where the file has none: right if the vocabularies are the same.
    """
    from load_watch import LoadWatch
    from tensorrt_llm._torch.models.modeling_speculative import Eagle3ForCausalLM

    original = Eagle3ForCausalLM.load_weights

    def load_weights(self, weights, *args, **kwargs):
        with LoadWatch(self) as watch:
            result = original(self, dict(watch.weights(weights.items())), *args, **kwargs)
        found.update(watch.result(), checked=True)
        if self.load_lm_head_from_target and getattr(self.model, "d2t", None) is None:
            found["not_loaded"] = [name for name in found["not_loaded"] if name != "lm_head.weight"]
        return result

    Eagle3ForCausalLM.load_weights = load_weights


def watch_taps(found):
    """Store in ``found`` the boundary ids at which the target is captured; unset for the final, normed state."""
    from tensorrt_llm._torch.speculative.eagle3 import Eagle3OneModelSpecMetadata

    original = Eagle3OneModelSpecMetadata.__post_init__

    def __post_init__(self):
        original(self)
        layers = [int(layer) for layer in self.layers_to_capture]
        if min(layers) >= 0:
            found["aux_boundaries"] = [layer + 1 for layer in layers]

    Eagle3OneModelSpecMetadata.__post_init__ = __post_init__


def counters(llm, positions):
    """Count the rounds of the last request from the iteration statistics.

    An iteration counts the requests past their prompt that had drafts, and the drafts accepted
    (pyexecutor/py_executor.py, _update_iter_stats), so one of one sequence is one round.
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
