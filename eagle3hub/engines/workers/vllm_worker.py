"""Run vLLM once, in its own interpreter: load a target with or without a head, generate, count.

It imports only the standard library and vLLM. The request has ``llm`` (arguments of ``vllm.LLM``), ``device``,
``sampling`` (arguments of ``SamplingParams``), ``prompts`` (messages) and ``chat_template`` (its arguments).
``protocol.py`` describes how requests and answers are sent.

vLLM loads and runs the models in one process for each device, of which this one may be the only one:
``vllm_extension.py`` watches in each.
"""

from __future__ import annotations

import json
import pathlib
import platform
import re
import time

from protocol import Stage, load_of_all, processor, serve
from vllm_counters import NAMES, difference


def _run(request, tell):
    started = time.monotonic()
    tell("stage", stage="import")
    with Stage("import"):
        import torch
        import transformers
        import vllm
        from vllm.platforms import current_platform
    with Stage("device"):
        _check_device(request["device"], current_platform, torch)
        check_images(request["llm"]["model"])
    tell("stage", stage="load")
    with Stage("load"):
        llm = vllm.LLM(**request["llm"], worker_extension_cls="vllm_extension.DraftWatch")
        draft = load_of_all(llm.collective_rpc("eagle3hub_draft"))
    tell(
        "ready",
        version=vllm.__version__,
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "processor": torch.cuda.get_device_name() if request["device"] == "cuda" else processor(),
            "threads": torch.get_num_threads(),
        },
        load=draft,
        seconds=time.monotonic() - started,
    )
    with Stage("generate"):
        sampling = vllm.SamplingParams(**request["sampling"])
        before = _counters(llm)
        for index, messages in enumerate(request["prompts"]):
            start = time.monotonic()
            output = llm.chat(messages, sampling, use_tqdm=False, chat_template_kwargs=request["chat_template"])[0]
            seconds = time.monotonic() - start
            after = _counters(llm)
            tell(
                "prompt",
                index=index,
                prompt_tokens=len(output.prompt_token_ids),
                tokens=list(output.outputs[0].token_ids),
                counters=difference(before, after),
                seconds=seconds,
            )
            before = after


def _check_device(device, current_platform, torch):
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no CUDA device here")
    if current_platform.device_type != device:
        raise RuntimeError(f"this vLLM runs on {current_platform.device_type or 'no known device'}, not on {device}")


def check_images(target):
    """Raise RuntimeError for a target that takes images, where the packages are missing that vLLM imports for it."""
    config = pathlib.Path(target) / "config.json"
    if not config.is_file() or "vision_config" not in json.loads(config.read_text(encoding="utf-8")):
        return
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: a build for another torch
        raise RuntimeError(
            "its environment lacks torchvision, which vLLM imports for targets that take images, also where none are "
            f"asked about ({error}): install the build that fits its torch, or name another with --engine-python"
        ) from error


def watch_draft(found, watches=None):
    """Watch the loading of the draft model's weights; store the result in ``found``, the watch in ``watches``."""
    from load_watch import LoadWatch
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    original = DefaultModelLoader.load_weights

    def load_weights(self, model, model_config):
        if getattr(model_config, "runner_type", None) != "draft":
            return original(self, model, model_config)
        get_all = self.get_all_weights
        with LoadWatch(model) as watch:
            self.get_all_weights = lambda *args, **kwargs: watch.weights(get_all(*args, **kwargs))
            result = original(self, model, model_config)
        found.update(watch.result(), checked=True)
        if watches is not None:
            watches.append(watch)
        _forgive_sharing(found, model)
        return result

    DefaultModelLoader.load_weights = load_weights


def _forgive_sharing(found, model):
    """Drop from ``not_loaded`` what vLLM shares with the target, what it has a value for, and what it never uses.

    It shares embeddings, and lm_head for equal vocabularies.
    """
    shared = set()
    if not getattr(model, "has_own_embed_tokens", False):
        shared.add("embed_tokens.weight")
    if not getattr(model, "has_own_lm_head", False) and getattr(model, "draft_id_to_target_id", None) is None:
        shared.add("lm_head.weight")
    found["not_loaded"] = [name for name in found["not_loaded"] if name not in shared and not _needs_no_value(name)]


def _needs_no_value(name):
    """Whether no tensor has to fill a parameter.

    vLLM has a value of its own for scales of the KV cache (quantization/kv_cache.py). It builds a hidden_norm in every
    layer, and uses that of the first only (models/llama_eagle3.py:97-141, qwen3_eagle3.py).
    """
    scale = ".attn." in name and name.endswith(("_scale", "_zero_point"))
    return scale or re.search(r"(^|\.)layers\.[1-9][0-9]*\.hidden_norm\.weight$", name) is not None


def aux_boundaries(model):
    """Return the boundary ids that vLLM captures in the target ``model``, or None if its internals have changed."""
    text = getattr(model, "language_model", None)  # of a target that takes images
    for owner in (getattr(model, "model", None), model, getattr(text, "model", None), text):
        ids = getattr(owner, "aux_hidden_state_layers", None)
        if ids:
            return [int(i) for i in ids]
    return None


def _counters(llm):
    found = {}
    for metric in llm.get_metrics():
        key = NAMES.get(metric.name)
        if key is not None:
            found[key] = list(metric.values) if hasattr(metric, "values") else metric.value
    return found


if __name__ == "__main__":
    serve(_run)
