"""Ask llama.cpp what it does with small draft heads; `probe_loop` has the protocol.

llama.cpp's own converter turns target and head into GGUF files, and its own server drafts with them: nothing is
replaced. Targets get a tokenizer, which a GGUF file must have. Logits are not to be had; but the server's log says of
each step of a draft which three tokens were likeliest, and their shares among the ten likeliest. So there are no
tensors, and these facts:

- ``tokens``: of the text, the prompt's and those that the target generated;
- ``rounds``: of each round, of each step, pairs of a token of the target and its share;
- ``taps``: the boundary ids that the draft's loader names. The states of these layers feed the head: the shares tell.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
import time

import gguf_convert
import llamacpp_worker
import probe_loop
from llamacpp_counters import taps
from protocol import Stage, serve

_CONTEXT, _DRAFTED, _NEW = 128, 4, 12
_VERBOSE = 5
"""The log level at which the server writes down what it drafts."""
_CANDIDATE = re.compile(r"draft candidate +(\d+), pos +(\d+): +(\d+) \( *([\d.]+)\)")
_END = "stop processing"
"""What the log says once a request is done; it is written by a thread of its own."""
_LOG = pathlib.Path("log")
_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def _run(request, tell):
    tell("stage", stage="import")
    os.environ["GGML_NO_BACKTRACE"] = "1"
    with Stage("import"):
        converter = llamacpp_worker.converter()
        sys.path.insert(0, str(converter))
        import conversion.base
        import conversion.llama  # every question's process has it then
        import convert_hf_to_gguf  # noqa: F401
        import torch
        import transformers
        import xllamacpp
    with Stage("device"):
        if request["device"] != "cpu":
            raise RuntimeError("this xllamacpp was built for CPU")
    torch.set_num_threads(1)
    for read in ("_set_vocab_gpt2", "_set_vocab_sentencepiece"):  # how other families' tokenizers are read
        setattr(conversion.base.TextModel, read, conversion.base.TextModel._set_vocab_llama_hf)
    tell("ready", version=xllamacpp.__version__, torch=torch.__version__, transformers=transformers.__version__)
    with Stage("questions"):
        for target in {question["target"] for question in request["questions"]}:
            _write_tokenizer(pathlib.Path(request["targets"][target]))
        probe_loop.answer_all(request, tell, _answer)


def _write_tokenizer(folder):
    """Give a target a tokenizer in which every token is a word of its own."""
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    special = ["<unk>", "<s>", "</s>"]
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [f"\N{LOWER ONE EIGHTH BLOCK}w{number}" for number in range(len(words), size)]
    marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": word, **marks} for i, word in enumerate(special)],
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "byte_fallback": True,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [],
        },
    }
    names = {"tokenizer_class": "PreTrainedTokenizerFast"}
    names |= dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")


def _answer(question, request, found):
    from safetensors.numpy import load_file

    settings, folder = question["settings"], pathlib.Path(request["result"], f"{question['name']}-files")
    if settings.get("tensor_parallel", 1) > 1:
        raise probe_loop.NotAskedError("llama.cpp has no tensor parallel size")
    folder.mkdir()
    os.chdir(folder)
    own = os.open(_LOG, os.O_WRONLY | os.O_CREAT)
    for channel in (1, 2):
        os.dup2(own, channel)
    dtype = _DTYPES[settings.get("dtype", "float32")]
    asked = {
        "target": request["targets"][question["target"]],
        "head": question["folder"],
        "dtype": dtype,
        "cache_type": f"GGML_TYPE_{dtype.upper()}",
        "context": _CONTEXT,
        "draft_tokens": _DRAFTED,
        "threads": 1,
    }
    found.at("config")
    found.facts["ignored"] = _convert(asked)
    found.at("load")
    server = _start(asked)
    found.facts |= {"not_loaded": [], "taps": taps(_text())}  # its loader stops at a tensor that is not there
    found.at("forward")
    prompt = load_file(question["inputs"])["token_ids"].tolist()
    found.facts["tokens"] = prompt + _generate(server, prompt)
    while _END not in _text():
        time.sleep(0.01)
    found.facts["rounds"] = drafts(_text())
    return {}


def _convert(asked):
    """Make head.gguf and target.gguf in the working folder; return the head's tensors that were not used."""
    conversions = llamacpp_worker.conversions(asked)
    converter = str(llamacpp_worker.converter())
    report = gguf_convert.convert({"converter": converter, "conversions": conversions})
    if "error" in report:
        raise llamacpp_worker.ConversionError(report["error"])
    return report["ignored"]


def _start(asked):
    import xllamacpp

    parameters = llamacpp_worker.parameters(asked, xllamacpp)
    parameters.verbosity = _VERBOSE
    return llamacpp_worker.start(parameters, xllamacpp, _text)


def _generate(server, prompt):
    """Return the tokens that the target generates after ``prompt``."""
    options = {"temperature": 0, "ignore_eos": True, "max_tokens": _NEW, "verbose": True, "return_tokens": True}
    return server.handle_completions({"prompt": prompt, **options})["__verbose"]["tokens"]


def _text():
    return _LOG.read_text(encoding="utf-8", errors="replace")


def drafts(log):
    """Return what was drafted: by round, by step, the tokens with their shares, the likeliest first."""
    rounds = []
    for number, step, token, share in _CANDIDATE.findall(log):
        if (int(number), int(step)) == (0, 0):
            rounds.append([])
        if int(number) == 0:
            rounds[-1].append([])
        rounds[-1][int(step)].append([int(token), float(share)])
    return rounds


if __name__ == "__main__":
    serve(_run)
