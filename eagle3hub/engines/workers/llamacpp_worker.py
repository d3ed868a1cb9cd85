"""Run llama.cpp once, in its own interpreter: convert target and head to GGUF, load, generate, count.

It imports only the standard library and xllamacpp; llama.cpp's converter lies in the folder ``llama.cpp`` of the
environment. The request has ``device``, ``target`` and ``head`` (folders; head may be null), ``dtype`` (as the
converter writes it), ``cache_type`` (ggml's name for the dtype of the KV cache), ``context``, ``draft_tokens``,
``threads``, ``sampling`` (fields of a chat completion), ``prompts`` (messages) and ``chat_template`` (its arguments).
``protocol.py`` describes how requests and answers are sent.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
import time

from llamacpp_counters import difference, loading_fault, read, taps
from protocol import Stage, processor, serve

_VERBOSE = 4
"""The log level at which the loader names the aux layers."""
_WRITTEN = 5.0
"""The longest, in seconds, that the log is behind: a thread of its own writes it."""
_LOG = pathlib.Path("/proc/self/fd/2")


class ConversionError(Exception):
    """llama.cpp's converter refused a folder."""


class LoadingError(Exception):
    """llama.cpp's loader refused a GGUF file."""


def _run(request, tell):
    started = time.monotonic()
    tell("stage", stage="import")
    with Stage("import"):
        import xllamacpp

        folder = converter()
    with Stage("device"):
        if request["device"] != "cpu":
            raise RuntimeError("this xllamacpp was built for CPU")
    tell("stage", stage="load")
    with Stage("load"):
        ignored = _convert(request, folder)
        server = start(parameters(request, xllamacpp), xllamacpp, _log)
    report = {}
    if request["head"]:
        # llama.cpp stops loading at a tensor of the GGUF that it does not use, and at one that is missing.
        report = {"checked": True, "not_loaded": [], "ignored": ignored, "aux_boundaries": taps(_log())}
    tell(
        "ready",
        version=xllamacpp.__version__,
        environment={
            "python": platform.python_version(),
            "torch": importlib.metadata.version("torch"),  # used for the conversion only
            "transformers": importlib.metadata.version("transformers"),
            "processor": processor(),
            "threads": request["threads"],
        },
        load=report,
        seconds=time.monotonic() - started,
    )
    with Stage("generate"):
        k = request["draft_tokens"]
        options = {"chat_template_kwargs": request["chat_template"]} if request["chat_template"] else {}
        before = read(server.handle_metrics(), k)
        for index, messages in enumerate(request["prompts"]):
            began = time.monotonic()
            answer = server.handle_chat_completions({"messages": messages, **options, **request["sampling"]})
            seconds = time.monotonic() - began
            after = read(server.handle_metrics(), k)
            tell(
                "prompt",
                index=index,
                prompt_tokens=answer["usage"]["prompt_tokens"],
                tokens=answer["__verbose"]["tokens"],
                counters=difference(before, after),
                seconds=seconds,
            )
            before = after


def converter():
    """Return the folder with llama.cpp's converter."""
    folder = pathlib.Path(sys.prefix) / "llama.cpp"
    if not (folder / "convert_hf_to_gguf.py").is_file():
        raise FileNotFoundError("the environment holds no converter (llama.cpp/convert_hf_to_gguf.py)")
    return folder


def conversions(request):
    """Return what `gguf_convert` has to do to make head.gguf and target.gguf."""
    files = [{"folder": request["target"], "gguf": "target.gguf", "dtype": request["dtype"]}]
    if request["head"]:  # the head first: it is small, and most faults are in it
        head = {"folder": request["head"], "gguf": "head.gguf", "dtype": request["dtype"]}
        files.insert(0, {**head, "target": request["target"]})
    return files


def _convert(request, folder):
    """Make head.gguf and target.gguf in the working folder; return the head's tensors that were not used."""
    report = pathlib.Path("conversion.json")
    asked = {"converter": str(folder), "conversions": conversions(request), "report": str(report)}
    script = pathlib.Path(__file__).with_name("gguf_convert.py")
    ended = subprocess.run([sys.executable, "-s", str(script), json.dumps(asked)], check=False)
    if not report.exists():
        raise ConversionError(f"llama.cpp's converter ended with exit status {ended.returncode} and no report")
    found = json.loads(report.read_text(encoding="utf-8"))
    if "error" in found:
        raise ConversionError(found["error"])
    return found["ignored"]


def start(settings, xllamacpp, log):
    """Start the server. The error of its loader appears only in what ``log()`` returns."""
    try:
        return xllamacpp.Server(settings)
    except RuntimeError as error:
        fault, latest = None, time.monotonic() + _WRITTEN
        while fault is None and time.monotonic() < latest:
            time.sleep(0.02)
            fault = loading_fault(log())
        if fault is None:
            raise
        raise LoadingError(fault) from error


def parameters(request, xllamacpp):
    """Return settings for one sequence at a time, no prompt cache, no flash attention, and drafts of full length."""
    found = xllamacpp.CommonParams()
    found.model.path = "target.gguf"
    found.n_ctx = request["context"]
    found.n_parallel = 1
    found.cache_prompt = False
    found.fit_params = False
    found.warmup = False
    found.no_extra_bufts = True
    found.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    found.endpoint_metrics = True
    found.use_jinja = True
    found.verbosity = _VERBOSE
    _resources(found, request, xllamacpp)
    if request["head"]:
        draft = found.speculative.draft
        draft.mparams.path = "head.gguf"
        draft.n_max = request["draft_tokens"]
        draft.n_min = 0
        draft.p_min = 0.0
        _resources(draft, request, xllamacpp)
        found.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3]
    return found


def _resources(parameters, request, xllamacpp):
    """Set the KV cache and the threads of the target or of the draft."""
    kind = xllamacpp.ggml_type[request["cache_type"]]
    parameters.cache_type_k = kind
    parameters.cache_type_v = kind
    parameters.cpuparams.n_threads = request["threads"]
    parameters.cpuparams_batch.n_threads = request["threads"]


def _log():
    """Return what was written to standard error so far; the parent made it a file."""
    try:
        return _LOG.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    serve(_run)
