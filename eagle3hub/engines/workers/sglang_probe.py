"""Ask SGLang what it does with small draft heads; `probe_loop` has the protocol.

SGLang's own scheduler reads the configs, picks the classes, loads target and draft, shares what they share, wires the
aux layers, lays out its pools and serves one request with speculation: what reaches the draft in it are the ``taps``.
Then its draft class computes the logits, with only the kernel behind ``self_attn.attn`` replaced (`whole_sequence`).
A CPU has no kernels for MLA drafts: their request ends where the draft is reached.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import pathlib
import types

import probe_loop
import whole_sequence
from protocol import Stage, serve

_NEW_TOKENS = 12
_STEPS = 3


def _run(request, tell):
    tell("stage", stage="import")
    if request["device"] == "cpu":
        os.environ |= {"SGLANG_USE_CPU_ENGINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    with Stage("import"):
        import sglang
        import sglang.srt.managers.scheduler
        import sglang.srt.speculative.eagle_worker_v2
        import torch
        import transformers
    with Stage("device"):
        if request["device"] == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no CUDA device here")
        from sglang_worker import kernels

        kernel_package = kernels(request["device"])
    torch.set_num_threads(1)
    versions = {"version": sglang.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    tell("ready", **versions, kernels=kernel_package)
    with Stage("questions"):
        probe_loop.answer_all(request, tell, _answer)


def _answer(question, request, found):
    import torch
    from safetensors.torch import load_file
    from sglang.srt.runtime_context import SpawnRanks, publish

    settings, device = question["settings"], request["device"]
    found.at("config")
    arguments, ports = _configure(question, request)
    ranks = settings.get("tensor_parallel", 1)
    rank = _start_others(ranks, found)
    publish(arguments, role="scheduler", ranks=SpawnRanks(world_rank=rank, gpu_id=rank))
    _read(question["folder"], arguments, found.facts)
    found.at("load")
    if device == "cpu" and _is_quantized(question["folder"]):
        _load_alone(arguments, ports, device, found.facts, settings.get("capability", [9, 0]))
        return {}
    scheduler, watch = _load(arguments, ports, device, found.facts)
    if ranks > 1:
        return {}
    target, draft = scheduler.tp_worker.model_runner, scheduler.draft_worker.draft_worker
    model = draft.draft_runner.model
    inputs = {name: tensor.to(device) for name, tensor in load_file(question["inputs"]).items()}
    inputs["aux"] = inputs["aux"].to(target.dtype)
    if not _has_weights(request["targets"][question["target"]]):
        _number_layers(target.model, target.model_config.num_hidden_layers)
    found.at("taps")
    latent = hasattr(model.model, "midlayer") and device == "cpu"
    _serve(scheduler, model, inputs["token_ids"].tolist(), target.model_config, found.facts, only_reach=latent)
    found.at("forward")
    unpage(model)

    def compute():
        return draft_logits(model, draft.hot_token_id, inputs, target.model_config.vocab_size)

    with torch.no_grad():
        tensors = compute()
        found.facts["not_loaded"] = probe_loop.that_matter(model, watch, found.facts["not_loaded"], compute)
        return tensors


def _configure(question, request):
    """Return SGLang's server arguments, resolved as by its launcher, and its ports."""
    from sglang.srt.server_args import PortArgs, ServerArgs

    settings, folder = question["settings"], request["targets"][question["target"]]
    options = {"attention_backend": "triton"}
    if request["device"] == "cpu":
        # without AMX, SGLang falls back to torch_native, which refuses EAGLE, unless each phase names its backend
        phases = ("prefill_attention_backend", "decode_attention_backend", "speculative_draft_attention_backend")
        options = dict.fromkeys(phases, "intel_amx")
    if not _has_weights(folder):
        options |= {"load_format": "dummy", "speculative_draft_load_format": "auto"}
    arguments = ServerArgs(
        model_path=folder,
        device=request["device"],
        dtype=settings.get("dtype", "float32"),
        skip_tokenizer_init=True,
        tp_size=settings.get("tensor_parallel", 1),
        context_length=settings.get("context"),
        max_running_requests=1,
        max_total_tokens=2048,
        mem_fraction_static=0.8,
        disable_cuda_graph=True,
        disable_radix_cache=True,
        disable_overlap_schedule=True,
        speculative_algorithm="EAGLE3",
        speculative_draft_model_path=question["folder"],
        speculative_num_steps=_STEPS,
        speculative_eagle_topk=1,
        speculative_num_draft_tokens=_STEPS + 1,
        **options,
    )
    return arguments, PortArgs.init_new(arguments)


def _is_quantized(folder):
    """Whether a head's files say so."""
    if (pathlib.Path(folder) / "hf_quant_config.json").is_file():
        return True
    config = json.loads((pathlib.Path(folder) / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("quantization_config"))


def _has_weights(folder):
    return any(pathlib.Path(folder).glob("*.safetensors"))


def _number_layers(model, layers):
    """Have each decoder layer of a target with made-up weights do to states what `probe_loop.layers_run` expects."""
    import torch

    class Instead(torch.nn.Module):
        """In place of attention, which adds nothing, or of a layer's MLP, which adds 1 in one dimension."""

        def __init__(self, old, dimension):
            super().__init__()
            self.__dict__["old"], self.dimension = old, dimension

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.__dict__["old"], name)

        def forward(self, *given, **named):
            tensors = [x for x in (*given, *named.values()) if isinstance(x, torch.Tensor)]
            out = torch.zeros_like(next(x for x in tensors if x.dim() == 2 and x.is_floating_point()))
            if self.dimension is not None:
                out[:, self.dimension] = 1
            return out

    stack = next(m for m in model.modules() if len(getattr(m, "layers", None) or ()) == layers)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if "Norm" in type(module).__name__ and weight is not None:
            weight.data.fill_(0.0 if "Gemma3" in type(module).__name__ else 1.0)  # Gemma's norms add 1 to it
    stack.embed_tokens.weight.data.zero_()
    stack.embed_tokens.weight.data[:, [0, layers + 1]] = 1
    for i, layer in enumerate(stack.layers):
        layer.self_attn, layer.mlp = Instead(layer.self_attn, None), Instead(layer.mlp, i + 1)


def _start_others(count, found):
    """Start the other processes of a tensor-parallel world, which go on from here; return the rank of this one."""
    if count > 1:
        os.environ["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(["0"] * count)
    for rank in range(1, count):
        if not os.fork():
            found.step_back()
            return rank
    return 0


def _read(folder, arguments, facts):
    """Let SGLang read the draft's config and choose its class, as it does before it loads the draft."""
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.model_loader.utils import get_model_architecture

    config = ModelConfig.from_server_args(arguments, model_path=folder, is_draft_model=True)
    chosen, architecture = get_model_architecture(config)
    facts |= {"architecture": [architecture], "class": chosen.__name__}


def _load(arguments, ports, device, facts, *, loaded=None):
    """Return SGLang's scheduler with target and draft loaded, and the watch of the draft's loading.

    What it saw is noted in ``facts``. ``loaded`` is called as soon as SGLang has handed every tensor to the draft.
    """
    import sglang_worker
    import torch
    from sglang.srt.layers import linear, parameter
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.model_executor import model_runner
    from sglang.srt.models import deepseek_v2

    def keep(seen):
        scales = (".attn.k_scale", ".attn.v_scale")  # of the KV cache, which are 1 unless the file has them
        missing = [name for name in seen.get("not_loaded", []) if not name.endswith(scales)]
        facts.update(not_loaded=missing, ignored=seen.get("ignored", []))
        if loaded is not None:
            loaded()

    watches = []
    sglang_worker.watch_draft(keep, watches)
    if device == "cpu":
        torch.cuda.synchronize = lambda *_: None  # the MLA class waits for CUDA whatever the device
        # only on a CPU, SGLang pads weights that are too small, and sizes that the number of devices does not divide
        linear._is_cpu = parameter._is_cpu = False
        # and only there, MLA computes one kind of RoPE alone
        wrapper = deepseek_v2.get_rope_wrapper
        deepseek_v2.get_rope_wrapper = lambda *given, **named: wrapper(*given, **named | {"device": None})
        model_runner.adjust_config_with_unaligned_cpu_tp = lambda config, *_: config
    scheduler = Scheduler(arguments, ports)
    facts["context"] = scheduler.model_config.context_len
    return scheduler, watches[0] if watches else None


class _Reached(Exception):
    """What was asked is known."""


def _load_alone(arguments, ports, device, facts, of_device):
    """Load target and draft, and end.

    SGLang's classes choose their code as on a CUDA device of a compute capability, major and minor; what they do with
    weights once they are loaded needs the device, and is left out.
    """
    import torch
    from sglang.srt.layers import quantization
    from sglang.srt.layers.quantization import marlin_utils
    from sglang.srt.layers.quantization.awq import awq
    from sglang.srt.layers.quantization.quark import quark
    from sglang.srt.model_loader import loader

    def capability(*_):
        return tuple(of_device)

    torch.cuda.get_device_capability = marlin_utils.get_device_capability = capability
    quark.get_device_capability = loader.get_device_capability = capability
    awq._is_cuda = True
    for methods in (quantization.BASE_QUANTIZATION_METHODS, quantization.QUANTIZATION_METHODS):
        methods.pop("gptq", None)  # which only a CPU has; others have gptq_marlin alone
    loader.DefaultModelLoader.postprocess_weights = staticmethod(lambda *_: None)

    def loaded():
        raise _Reached

    with contextlib.suppress(_Reached):
        _load(arguments, ports, device, facts, loaded=loaded)


def _serve(scheduler, model, prompt, target, facts, *, only_reach):
    """Serve one request greedily; note the taps that reach the draft."""
    from sglang.srt.managers.io_struct import TokenizedGenerateReqInput
    from sglang.srt.sampling.sampling_params import SamplingParams

    def reached(_module, given):
        states = given[2].spec_info.hidden_states
        if "taps" not in facts:
            facts["taps"] = [
                probe_loop.layers_run(part, target.num_hidden_layers)
                for part in states[: len(prompt)].split(target.hidden_size, dim=-1)
            ]
        if only_reach:
            raise _Reached

    sampling = SamplingParams(max_new_tokens=_NEW_TOKENS, temperature=0, ignore_eos=True)
    sampling.normalize(None)
    sent = dict.fromkeys(("input_text", "input_embeds", "mm_inputs", "token_type_ids", "token_ids_logprob"))
    sent |= {"rid": "probe", "input_ids": array.array("q", prompt), "sampling_params": sampling, "stream": False}
    sent |= {"return_logprob": False, "logprob_start_len": -1, "top_logprobs_num": 0}
    scheduler.handle_generate_request(TokenizedGenerateReqInput(**sent))
    (asked,) = scheduler.waiting_queue
    hook = model.model.register_forward_pre_hook(reached)
    with contextlib.suppress(_Reached):
        while not asked.finished():
            plan = scheduler.get_next_batch_to_run(
                running_batch=scheduler.running_batch, last_batch=scheduler.last_batch
            )
            scheduler.running_batch, batch = plan.running_batch, plan.batch_to_run
            scheduler.process_batch_result(batch, scheduler.run_batch(batch))
            scheduler.last_batch = batch
    hook.remove()


def unpage(model):
    """Replace the kernels behind every attention layer of the draft."""
    for layer in layers_of(model):
        own = layer.self_attn
        if hasattr(own, "attn_mha"):
            _expand(own)
            continue
        paged, window = own.attn, own.attn.sliding_window_size
        own.attn = whole_sequence.Attention(
            paged.tp_q_head_num,
            paged.tp_k_head_num,
            paged.head_dim,
            paged.scaling,
            window if window is not None and window > 0 else None,
        )


def _expand(attention):
    """Have MLA attention go SGLang's way of expanded keys and values (MHA), without its cache and kernels."""
    from sglang.srt.models.deepseek_common.attention_forward_methods import forward_mha
    from sglang.srt.models.deepseek_common.attention_forward_methods.forward_methods import AttnForwardMethod

    forward_mha.resolve_attn_backend = lambda _batch: None
    attention.dispatch_attn_forward_method = lambda _batch: AttnForwardMethod.MHA
    attention._set_mla_kv_buffer = lambda *_given: None
    paged = attention.attn_mha
    attention.attn_mha = whole_sequence.Attention(
        paged.tp_q_head_num, paged.tp_k_head_num, paged.qk_head_dim, paged.scaling, None, value=paged.v_head_dim
    )
    attention.attn_mha.kv_b_proj = attention.kv_b_proj


def layers_of(model):
    """Return the decoder layers of SGLang's Llama drafts, or the one of its MLA drafts."""
    return [model.model.midlayer] if hasattr(model.model, "midlayer") else list(model.model.layers)


def draft_logits(model, ids, inputs, vocabulary):
    """See `probe_loop.draft`; logits are over the target's vocabulary."""
    import torch

    rows = model.config.draft_vocab_size
    # as its worker looks drafted tokens up (eagle_worker_v2.py): a map that is too short is an IndexError
    ids = torch.arange(rows) if ids is None else ids.long()[torch.arange(rows)]
    inside = (ids >= 0) & (ids < vocabulary)

    def forward(tokens, positions, features):
        batch = types.SimpleNamespace(
            mm_input_embeds=None,
            forward_mode=types.SimpleNamespace(is_extend=lambda: False, is_decode=lambda: False),
            spec_info=types.SimpleNamespace(hidden_states=features),
            mrope_positions=positions.expand(3, -1),
            mha_one_shot=False,
        )
        last, (carried,) = model.model(tokens, positions, batch)
        logits = model.lm_head.quant_method.apply(model.lm_head, last)[:, :rows]
        wide = logits.new_full((len(tokens), vocabulary), float("-inf"))
        wide[:, ids[inside]] = logits[:, inside]
        return wide, carried

    seen = []
    hook = layers_of(model)[0].register_forward_pre_hook(lambda _module, given: seen.append(given[2]))
    forward(inputs["token_ids"], torch.arange(len(inputs["token_ids"])), inputs["aux"])
    hook.remove()
    return probe_loop.draft(torch, forward, inputs, seen[0])  # features of the right width are not projected again


if __name__ == "__main__":
    os.environ.setdefault("SGLANG_LOG_LEVEL", "warning")
    serve(_run)
