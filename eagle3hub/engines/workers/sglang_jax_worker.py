"""Run sglang-jax once, in its own interpreter: load a target with or without a head, generate, count.

It imports only the standard library and sglang-jax. The request has ``engine`` (arguments of
``sgl_jax.srt.entrypoints.engine.Engine``), ``device``, ``sampling`` (arguments of a request), ``prompts`` (messages)
and ``chat_template`` (its arguments).
``protocol.py`` describes how requests and answers are sent.

sglang-jax runs its scheduler in a thread of this process (``enable_single_process``), so the models and the counters
of each request can be read where they are.
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import sys
import threading
import time

from protocol import Stage, processor, serve
from sglang_jax_counters import counters


def _run(request, tell):
    started = time.monotonic()
    tell("stage", stage="import")
    with Stage("import"):
        import jax
        import sgl_jax
        import transformers
        from sgl_jax.srt.entrypoints.engine import Engine
    with Stage("device"):
        hardware = _device(request["device"], jax)
        kernels = _kernels(request["device"])
    tell("stage", stage="load")
    _report_faults(tell)
    draft, seen = watch_draft(request["engine"].get("speculative_draft_model_path")), _watch_requests()
    with Stage("load"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(request["engine"]["model_path"])
        engine = Engine(**request["engine"])
    steps = request["engine"].get("speculative_num_steps")
    if steps is not None:
        draft["aux_boundaries"] = _aux_boundaries(engine)
    tell(
        "ready",
        version=sgl_jax.__version__,
        environment={
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": importlib.metadata.version("flax"),
            "transformers": transformers.__version__,
            "processor": hardware,
            "kernels": kernels,
        },
        load=draft,
        seconds=time.monotonic() - started,
    )
    with Stage("generate"):
        for index, messages in enumerate(request["prompts"]):
            ids = _prompt_ids(tokenizer, messages, request["chat_template"])
            start = time.monotonic()
            output = engine.generate(input_ids=ids, sampling_params=request["sampling"])
            seconds = time.monotonic() - start
            found = seen.pop(output["meta_info"]["id"])
            tell(
                "prompt",
                index=index,
                prompt_tokens=len(ids),
                tokens=found["tokens"][: request["sampling"]["max_new_tokens"]],  # its last round may give more
                counters=None if steps is None else counters(found["accepted"], steps),
                seconds=seconds,
            )


def _device(device, jax):
    """Return the name of the hardware that jax computes on."""
    if jax.default_backend() != device:
        raise RuntimeError(f"jax computes on {jax.default_backend()} here, not on {device}")
    return processor() if device == "cpu" else jax.devices()[0].device_kind


def _kernels(device):
    """Return where its attention kernel comes from; that of the package itself is for TPU."""
    from sgl_jax.srt.layers.attention import flashattention_backend

    module = sys.modules[flashattention_backend.ragged_paged_attention_v3.__module__]
    own = module.__name__.startswith("sgl_jax.")
    if own and device != "tpu":
        raise RuntimeError(f"sglang-jax drafts with an attention kernel for TPU, and has none for {device}")
    return "ragged_paged_attention_v3" if own else f"{module.__name__} {module.__version__}"


def _prompt_ids(tokenizer, messages, options):
    """Return the token ids of a conversation in the target's own chat template."""
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, **options)
    return list(found["input_ids"] if hasattr(found, "keys") else found)


def _report_faults(tell):
    """Have an error reach the parent; sglang-jax kills its own process where it catches one.

    It asks for the traceback first: in the main thread, which loads the models, the error is raised again there; in
    the scheduler's thread nobody would see it, so it is reported from there.
    """
    from sgl_jax.srt.managers import scheduler

    describe = scheduler.get_exception_traceback

    def report():
        error = sys.exc_info()[1]
        if threading.current_thread() is threading.main_thread():
            raise error
        sys.stderr.write(describe())
        sys.stderr.flush()
        tell("error", stage=Stage.current, kind=type(error).__name__, message=str(error))
        os._exit(0)

    scheduler.get_exception_traceback = report


def watch_draft(folder):
    """Return what is found out when the weights of the draft in ``folder`` are loaded; it is filled in then.

    The loader gives a parameter a new array, so one that still has its old array was not loaded. Tensors of the file
    that no parameter's mapping names were ignored.
    """
    from flax import nnx
    from sgl_jax.srt.utils.weight_utils import WeightLoader

    found = {}
    load = WeightLoader.load_weights_from_safetensors

    def watched(self, weight_mappings, *args, **options):
        if self.model_config.model_path != folder:
            return load(self, weight_mappings, *args, **options)
        before = _arrays(nnx, self.model)
        result = load(self, weight_mappings, *args, **options)
        after = _arrays(nnx, self.model)
        missing = [name for name, array in before.items() if after.get(name) is array]
        found.update(
            checked=True,
            not_loaded=[name for name in map(_canonical, missing) if name not in _not_of_the_file(self.model)],
            ignored=sorted(set(_stored(folder)) - set(weight_mappings)),
        )
        return result

    WeightLoader.load_weights_from_safetensors = watched
    return found


def _arrays(nnx, model):
    """Return the arrays of a model's parameters by path."""
    found = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        value = getattr(variable, "value", variable)
        if hasattr(value, "shape"):
            found[".".join(map(str, path))] = value
    return found


def _canonical(path):
    """Return a parameter's path as the tensor's canonical name."""
    name = path.removeprefix("model.").replace("midlayer.", "layers.0.").removesuffix(".value")
    for own in (".scale", ".embedding"):
        if name.endswith(own):
            name = name.removesuffix(own) + ".weight"
    return "d2t" if name == "hot_token_ids" else name


def _not_of_the_file(model):
    """Return the names that no file needs to have: what comes from the target, and a map of a full vocabulary."""
    config = model.config
    shared = {"embed_tokens.weight"}
    if model.load_lm_head_from_target:
        shared.add("lm_head.weight")
    if config.draft_vocab_size == config.vocab_size:
        shared.add("d2t")
    return shared


def _stored(folder):
    """Return the names of all tensors in a folder's safetensors files."""
    from safetensors import safe_open

    names = []
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(file, "np") as stored:
            names += list(stored.keys())
    return names


def _watch_requests():
    """Return what each request generated and how many drafts each of its rounds accepted; it grows as requests run.

    Both are read where the scheduler hands out what was generated. What it hands out itself lacks special tokens, and
    has only sums of the rounds, to which the target's own token of each round is added.
    """
    from sgl_jax.srt.managers.scheduler_output_processor_mixin import SchedulerOutputProcessorMixin

    seen = {}
    hand_out = SchedulerOutputProcessorMixin.stream_output

    def watched(self, reqs, *args, **options):
        for request in reqs:
            found = seen.setdefault(request.rid, {"tokens": [], "accepted": [], "sum": 0})
            if request.spec_verify_ct > len(found["accepted"]):
                found["accepted"].append(int(request.spec_accepted_tokens) - found["sum"] - 1)
                found["sum"] = int(request.spec_accepted_tokens)
            found["tokens"] = [int(token) for token in request.output_ids_through_stop]
        return hand_out(self, reqs, *args, **options)

    SchedulerOutputProcessorMixin.stream_output = watched
    return seen


def _aux_boundaries(engine):
    """Return the boundary ids that sglang-jax captures in the target, or None if its internals have changed."""
    try:
        worker = engine.scheduler_info["scheduler"].tp_worker
        model = getattr(worker, "worker", worker).model_runner.model
        return [int(i) for i in model.model.layers_to_capture]
    except AttributeError:
        return None


if __name__ == "__main__":
    serve(_run)
