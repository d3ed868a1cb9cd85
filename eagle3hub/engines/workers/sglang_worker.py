"""Run SGLang once, in its own interpreter: load a target with or without a head, generate, count.

It imports only the standard library and SGLang. The request has ``engine`` (arguments of ``sglang.Engine``),
``device``, ``sampling`` (arguments of a request), ``prompts`` (messages) and ``chat_template`` (its arguments).
``protocol.py`` describes how requests and answers are sent.

SGLang loads and runs the models in its own processes. They write what they see (the loading of the draft, the captured
layers, an exception) to files in the run's own temporary folder.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import signal
import sys
import tempfile
import time

from protocol import Stage, load_of_all, processor, serve
from sglang_counters import counters

_LOAD, _FAULT = "draft-load.{}.json", "scheduler-fault.json"


def _run(request, tell):
    started = time.monotonic()
    tell("stage", stage="import")
    with Stage("import"):
        import sglang
        import torch
        import transformers
        from sglang.srt.entrypoints.engine import Engine
    with Stage("device"):
        if request["device"] == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no CUDA device here")
        kernel_package = kernels(request["device"])

    class Watched(Engine):
        run_scheduler_process_func = staticmethod(_scheduler)

    tell("stage", stage="load")
    signal.signal(signal.SIGUSR1, lambda *_: _end_with_fault(tell))
    with Stage("load"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(request["engine"]["model_path"])
        engine = Watched(**request["engine"])
    tell(
        "ready",
        version=sglang.__version__,
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "processor": torch.cuda.get_device_name() if request["device"] == "cuda" else processor(),
            "threads": torch.get_num_threads(),
            "kernels": kernel_package,
        },
        load=_load(request["engine"].get("tp_size", 1)),
        seconds=time.monotonic() - started,
    )
    steps = request["engine"].get("speculative_num_steps")
    with Stage("generate"):
        for index, messages in enumerate(request["prompts"]):
            ids = _prompt_ids(tokenizer, messages, request["chat_template"])
            start = time.monotonic()
            output = engine.generate(input_ids=ids, sampling_params=request["sampling"])
            seconds = time.monotonic() - start
            tell(
                "prompt",
                index=index,
                prompt_tokens=len(ids),
                tokens=list(output["output_ids"]),
                counters=None if steps is None else counters(output["meta_info"], steps),
                seconds=seconds,
            )


def kernels(device):
    """Return the version of SGLang's kernel package; without it SGLang cannot compute on CPU or CUDA."""
    try:
        import sgl_kernel
    except ImportError as error:
        raise RuntimeError(f"SGLang's kernel package does not import for {device}: {error}") from error
    return f"sgl_kernel {getattr(sgl_kernel, '__version__', 'of unknown version')}"


def _prompt_ids(tokenizer, messages, options):
    """Return the token ids of a conversation in the target's own chat template."""
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, **options)
    return list(found["input_ids"] if hasattr(found, "keys") else found)


def _load(processes):
    """Return what the processes of SGLang saw of the draft's loading; one that saw nothing has not watched."""
    seen = [_read(path.name) for path in _path("").glob(_LOAD.format("*"))]
    return load_of_all(seen + [{}] * (processes - len(seen)))


def _end_with_fault(tell):
    """Report that a process of SGLang failed, and end; the event loop would lose an exception."""
    tell("error", stage=Stage.current, **(_read(_FAULT) or {"kind": "Exception", "message": "a process failed"}))
    sys.stderr.flush()
    os._exit(0)


def _path(name):
    return pathlib.Path(tempfile.gettempdir()) / name


def _read(name):
    try:
        return json.loads(_path(name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _write(name, document):
    partial = _path(f"{name}.{os.getpid()}")
    partial.write_text(json.dumps(document), encoding="utf-8")
    partial.replace(_path(name))


def _scheduler(*args, **kwargs):
    """Run SGLang's process that loads and runs the models, and watch it, in a child of the worker."""
    from sglang.srt.managers import scheduler

    original = scheduler.get_exception_traceback

    def report():
        text = original()
        kind, message = _last_line(text)
        _write(_FAULT, {"kind": kind, "message": message})
        sys.stderr.write(text)
        sys.stderr.flush()
        os.kill(os.getppid(), signal.SIGUSR1)
        while True:  # the worker ends this process; SGLang's own way would end the worker before it can say why
            signal.pause()

    scheduler.get_exception_traceback = report
    watch_draft(lambda found: _write(_LOAD.format(os.getpid()), found))
    scheduler.run_scheduler_process(*args, **kwargs)


def _last_line(trace):
    line = next((line for line in reversed(trace.splitlines()) if line and not line.startswith(" ")), "")
    kind, _, message = line.partition(": ")
    return kind.rpartition(".")[2], message


def watch_draft(keep, watches=None):
    """Watch the loading of the draft, and which hidden states of the target are captured.

    ``keep`` is called with what is seen; the watch itself is added to ``watches``.
    """
    from load_watch import LoadWatch
    from sglang.srt.model_executor import model_runner
    from sglang.srt.model_loader.loader import DefaultModelLoader

    found = {}
    drafts = set()
    get_all, load = DefaultModelLoader._get_all_weights, DefaultModelLoader.load_weights_only
    configure = model_runner.configure_aux_hidden_state_capture

    def all_weights(self, model_config, model):
        if model_config.is_draft_model:
            drafts.add(id(model))
        return get_all(self, model_config, model)

    def load_weights_only(model, weights, target_device):
        if id(model) not in drafts:
            load(model, weights, target_device)
            return
        with LoadWatch(model) as watch:
            load(model, watch.weights(weights), target_device)
        found.update(watch.result(), checked=True)
        _settle_sharing(found, model)
        if watches is not None:
            watches.append(watch)
        keep(found)

    def configure_capture(*, model, **options):
        configure(model=model, **options)
        if options.get("eagle_use_aux_hidden_state"):
            owners = (getattr(model, "model", None), model)
            found["aux_boundaries"] = next(
                (list(t) for o in owners if (t := getattr(o, "layers_to_capture", None))), None
            )
            keep(found)

    DefaultModelLoader._get_all_weights = all_weights
    DefaultModelLoader.load_weights_only = staticmethod(load_weights_only)
    model_runner.configure_aux_hidden_state_capture = configure_capture


def _settle_sharing(found, model):
    """Drop from ``not_loaded`` what SGLang takes from the target or does not use, and add a missing vocabulary map."""
    config = model.config
    same_width = getattr(config, "target_hidden_size", config.hidden_size) == config.hidden_size
    shared = {"embed_tokens.weight"} if same_width else set()
    if getattr(model, "load_lm_head_from_target", False):
        shared.add("lm_head.weight")
    # `bias: true` asks for a bias of fc, and has SGLang build one for o_proj too, which starts at zero
    shared |= {
        name.removeprefix("model.")
        for name, parameter in model.named_parameters()
        if name.endswith(".o_proj.bias") and not parameter.any()
    }
    # it builds fc for a head of the final state too, and skips it: the features have the right width (llama_eagle3.py)
    if not (getattr(config, "eagle_config", None) or {}).get("use_aux_hidden_state", True):
        shared |= {"fc.weight", "fc.bias"}
    found["not_loaded"] = [name for name in found["not_loaded"] if name not in shared]
    if getattr(model, "hot_token_id", None) is None and config.draft_vocab_size != config.vocab_size:
        found["not_loaded"].append("d2t")


if __name__ == "__main__":
    serve(_run)
