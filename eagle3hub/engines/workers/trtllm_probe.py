"""Ask TensorRT-LLM what it does with small draft heads; `probe_loop` has the protocol.

TensorRT-LLM's own ``LLM`` reads the configs, picks the classes, loads target and draft, and serves one request with
its executor in this process. Where its drafter reads the target's states, the ``taps`` are seen, and the question's
states take their place; its draft model is given the question's tokens; its own lm_head scores what comes out. So
config, class, loading, fc, layers and head are TensorRT-LLM's, with its kernels.

Written from the source of 1.2.1 and of the candidates of 1.3; run with a stand-in of their API only. Each question
imports TensorRT-LLM in its own process: the import may start CUDA or MPI, and a process that has cannot be forked.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import pathlib

import probe_loop
from protocol import Stage, serve


def _run(request, tell):
    tell("stage", stage="import")
    with Stage("import"):
        if importlib.util.find_spec("tensorrt_llm") is None:
            raise ModuleNotFoundError("No module named 'tensorrt_llm'")
        versions = {name: importlib.metadata.version(name) for name in ("tensorrt_llm", "torch", "transformers")}
    with Stage("device"):
        if request["device"] != "cuda":
            raise RuntimeError("TensorRT-LLM needs a CUDA device")
    tell("ready", version=versions.pop("tensorrt_llm"), **versions)
    with Stage("questions"):
        probe_loop.answer_all(request, tell, _answer, share=False)


def _answer(question, request, found):
    settings, target = question["settings"], request["targets"][question["target"]]
    found.at("import")
    from safetensors.torch import load_file
    from tensorrt_llm import LLM, SamplingParams, llmapi
    from trtllm_worker import draft_config, watch_draft

    ranks = settings.get("tensor_parallel", 1)
    if ranks > 1:
        raise probe_loop.NotAskedError(f"{ranks} ranks are {ranks} processes, which are not watched")
    inputs = load_file(question["inputs"])
    load = {"checked": False}
    watch_draft(load)
    drafting = _Drafting(inputs, json.loads(pathlib.Path(target, "config.json").read_text(encoding="utf-8")), found)
    found.at("config")
    llm = LLM(
        model=target,
        dtype=settings.get("dtype", "float32"),
        skip_tokenizer_init=True,
        max_batch_size=1,
        max_seq_len=settings.get("context") or 256,
        trust_remote_code=False,
        cuda_graph_config=None,
        disable_overlap_scheduler=True,
        kv_cache_config={"enable_block_reuse": False, "free_gpu_memory_fraction": 0.05},
        speculative_config=draft_config(
            llmapi, {"max_draft_len": len(inputs["drafted"]) + 1, "speculative_model": question["folder"]}
        ),
    )
    keys = ("not_loaded", "ignored")
    found.facts |= {"class": type(drafting.model).__name__, "loaded": load["checked"], **{k: load[k] for k in keys}}
    if settings.get("until") == "load":
        return {}
    found.at("taps")
    drafting.on = True
    tokens = inputs["token_ids"].tolist()
    llm.generate(tokens, SamplingParams(max_tokens=1, temperature=0.0, end_id=-1))
    return drafting.logits()


class _Drafting:
    """What TensorRT-LLM's drafter is given for one request, and what its draft model gives back.

    ``inputs``: the question's. ``target``: the target's config. ``model``: the engine's Eagle3ForCausalLM. The
    drafter's first step is over the whole prompt, every later one over one token (_torch/speculative/eagle3.py).
    """

    def __init__(self, inputs, target, found):
        from tensorrt_llm._torch.models import modeling_speculative as classes

        self.inputs, self.target, self.found, self.on, self.model, self.rows = inputs, target, found, False, None, []
        load, feed, run = (
            classes.Eagle3ForCausalLM.load_weights,
            classes.Eagle3ForCausalLM.apply_eagle3_fc,
            classes.Eagle3DraftModel.forward,
        )

        def load_weights(model, *args, **kwargs):
            self.model = model
            found.at("load")
            return load(model, *args, **kwargs)

        def apply_eagle3_fc(model, hidden_states):
            if not self.on or self.rows:
                return feed(model, hidden_states)
            self._tap(hidden_states)
            found.at("forward")
            feed(model, hidden_states)  # with the states that it would feed: their width must fit
            return feed(model, inputs["aux"].to(hidden_states))

        def forward(model, *args, **kwargs):
            step = len(self.rows)
            if not self.on or step > len(inputs["drafted"]):
                return run(model, *args, **kwargs)
            given = inputs["token_ids"] if step == 0 else inputs["drafted"][step - 1 : step]
            kwargs["input_ids"] = given.to(kwargs["input_ids"])
            hidden, carried = run(model, *args, **kwargs)
            self.rows.append(self._scored(hidden, kwargs["attn_metadata"]))
            return hidden, carried

        classes.Eagle3ForCausalLM.load_weights = load_weights
        classes.Eagle3ForCausalLM.apply_eagle3_fc = apply_eagle3_fc
        classes.Eagle3DraftModel.forward = forward

    def _tap(self, states):
        """Note how many layers of the target have run to give each part of ``states`` [T, taps * H]."""
        parts = states.split(self.target["hidden_size"], dim=-1)
        layers = self.target["num_hidden_layers"]
        self.found.facts["taps"] = [probe_loop.layers_run(part, layers) for part in parts]

    def _scored(self, hidden, attn_metadata):
        """Return the logits over the draft's vocabulary, [n, draft vocabulary], as the drafter computes them."""
        return self.model.logits_processor(hidden, self.model.lm_head, attn_metadata, True).float()

    def logits(self):
        """Return what `probe_loop.draft` returns. Raises RuntimeError if the drafter did not run step by step."""
        import torch

        tokens, drafted = len(self.inputs["token_ids"]), len(self.inputs["drafted"])
        seen = [len(row) for row in self.rows]
        if seen != [tokens] + [1] * drafted:
            raise RuntimeError(f"the drafter read {seen} tokens, not {tokens} and then {drafted} times one")
        first, rows = self.rows[0], torch.cat([self.rows[0][-1:], *self.rows[1:]])
        return {"first": self._over_target(first), "draft": self._over_target(rows)}

    def _over_target(self, logits):
        """Return logits over the target's vocabulary, minus infinity elsewhere: a token is token + d2t[token]."""
        import torch

        offsets = getattr(self.model.model, "d2t", None)
        ids = torch.arange(logits.shape[1], device=logits.device)
        ids = ids if offsets is None else ids + offsets
        wide = torch.full((len(logits), self.target["vocab_size"]), float("-inf"), device=logits.device)
        wide[:, ids] = logits
        return wide


if __name__ == "__main__":
    os.environ |= {
        "TLLM_WORKER_USE_SINGLE_PROCESS": "1",
        "TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL": "True",
        "TORCH_COMPILE_DISABLE": "1",
        "TORCHDYNAMO_DISABLE": "1",
    }
    serve(_run)
