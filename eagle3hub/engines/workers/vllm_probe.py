"""Ask vLLM what it does with small draft heads; `probe_loop` has the protocol.

vLLM's own model runner reads the config, picks the classes, loads target and draft, shares what they share, and wires
the aux layers. Only the kernels behind its attention layers are replaced (`whole_sequence`), so that no pages need be
laid out; window and scale are the ones that vLLM gave the layer. V2's runner needs Triton: on a CPU, only its look-up
of aux layers runs.
"""

from __future__ import annotations

import os
import pathlib
import tempfile

import probe_loop
import whole_sequence
from protocol import Stage, serve


def _run(request, tell):
    tell("stage", stage="import")
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    with Stage("import"):
        import torch
        import transformers
        import vllm
        import vllm.v1.worker.gpu_model_runner
        from vllm.platforms import current_platform
    with Stage("device"):
        if current_platform.device_type != request["device"]:
            raise RuntimeError(f"this vLLM runs on {current_platform.device_type or 'no known device'}")
    torch.set_num_threads(1)
    _inspect_here()
    tell("ready", version=vllm.__version__, torch=torch.__version__, transformers=transformers.__version__)
    with Stage("questions"):
        probe_loop.answer_all(request, tell, _answer)


def _inspect_here():
    """Let vLLM look at a model's class in the question's own process, not in a new one that imports vLLM again."""
    from vllm.model_executor.models import registry

    if hasattr(registry, "_run_in_subprocess"):
        registry._run_in_subprocess = lambda look: look()


def _answer(question, request, found):
    import torch
    from safetensors.torch import load_file

    found.at("config")
    config = _configure(question, request)
    found.facts["context"] = config.model_config.max_model_len
    found.facts["architecture"] = list(config.speculative_config.draft_model_config.architectures)
    found.at("load")
    runner, watch = _load(config, request["device"], found)
    draft, target = runner.drafter.model, runner.get_model()
    found.facts["class"] = type(draft).__name__
    for model in (draft, target):
        _unpage(model)
    inputs = load_file(question["inputs"])
    inputs = {name: tensor.to(runner.device) for name, tensor in inputs.items()}
    inputs["aux"] = inputs["aux"].to(config.model_config.dtype)
    found.at("taps")
    with torch.no_grad():
        captured = _capture(config, target, inputs["token_ids"], runner.use_aux_hidden_state_outputs)
        layers = config.model_config.get_total_num_hidden_layers()
        found.facts["taps"] = [probe_loop.layers_run(states, layers) for states in captured]
        found.facts["other_taps"] = {"V2": _taps_of_v2(config, draft, target, layers, inputs["token_ids"])}
        found.at("forward")
        _first_step(config, draft, inputs["token_ids"], captured)
        if sum(states.shape[-1] for states in captured) != inputs["aux"].shape[-1]:
            return {}  # it feeds the head other states than those it was trained on, and the taps say so
        tensors = _draft(draft, config, inputs)
        left = found.facts["not_loaded"]
        found.facts["not_loaded"] = probe_loop.that_matter(draft, watch, left, lambda: _draft(draft, config, inputs))
        return tensors


def _configure(question, request):
    """Let vLLM read the target's and the draft's configuration."""
    from vllm.engine.arg_utils import EngineArgs

    settings = question["settings"]
    parallel = {"parallel_drafting": True} if settings.get("parallel_drafting") else {}
    # 0.32's own kernel of RoPE for CPUs takes the queries of MLA, [tokens, heads, size], for one head's
    native = [] if settings.get("own_kernels") else ["-rotary_embedding"]
    return EngineArgs(
        model=request["targets"][question["target"]],
        dtype=settings.get("dtype", "float32"),
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_num_seqs=1,
        max_num_batched_tokens=1024,
        enable_chunked_prefill=True,
        tensor_parallel_size=settings.get("tensor_parallel", 1),
        compilation_config={"custom_ops": native},
        speculative_config={
            "method": "eagle3",
            "model": question["folder"],
            "num_speculative_tokens": 3,
            **parallel,
        },
    ).create_engine_config()


def _load(config, device, found):
    """Return vLLM's runner with target and draft loaded, and the watch of the draft's loading, noted in ``found``."""
    import torch
    import vllm_worker
    from vllm.config import set_current_vllm_config

    seen, watches = {}, []
    vllm_worker.watch_draft(seen, watches)
    with set_current_vllm_config(config):
        _start(config.parallel_config.tensor_parallel_size, device, found)
        if device == "cpu":
            from vllm.v1.worker.cpu_model_runner import CPUModelRunner as Runner
        else:
            from vllm.v1.worker.gpu_model_runner import GPUModelRunner as Runner
        runner = Runner(config, torch.device(device))
        runner.load_model()
    found.facts |= {key: seen[key] for key in ("not_loaded", "ignored")}
    return runner, watches[0]


def _start(size, device, found):
    """Start a world of ``size`` processes, all of which go on from here; only the first one answers."""
    import torch
    from vllm.distributed import init_distributed_environment, initialize_model_parallel

    if device == "cuda" and torch.cuda.device_count() < size:
        raise probe_loop.NotAskedError(f"there are not {size} CUDA devices here")
    file, rank = pathlib.Path(tempfile.mkdtemp(), "rendezvous"), 0
    for other in range(1, size):
        if not os.fork():
            rank = other
            found.step_back()
            break
    init_distributed_environment(size, rank, f"file://{file}", rank, "gloo" if device == "cpu" else "nccl")
    initialize_model_parallel(size)


def _unpage(model):
    """Replace the kernels behind every attention layer of a model."""
    for module in model.modules():
        paged = getattr(module, "attn", None)
        latent = getattr(module, "mla_attn", None)
        if latent is not None and hasattr(latent, "mla_attn"):
            latent.mla_attn = whole_sequence.Latent(latent.mla_attn, module.kv_b_proj)
        elif paged is not None and hasattr(paged, "impl"):
            module.attn = whole_sequence.Attention(
                paged.num_heads, paged.num_kv_heads, paged.head_size, paged.impl.scale, paged.sliding_window
            )


def _forward(config, model, *given):
    from vllm.config import set_current_vllm_config
    from vllm.forward_context import set_forward_context

    with set_current_vllm_config(config), set_forward_context(None, config):
        return model(*given)


def _capture(config, target, tokens, aux):
    """Return the target's states that vLLM would feed to the draft, [T, H] each."""
    import torch

    out = _forward(config, target, tokens, torch.arange(len(tokens), device=tokens.device))
    return list(out[1]) if aux else [out]


def _first_step(config, draft, tokens, captured):
    """Feed the draft what was captured, as for its first token."""
    import torch

    features = draft.combine_hidden_states(torch.cat(captured, dim=-1))
    return _forward(config, draft, tokens, torch.arange(len(tokens), device=tokens.device), features)


def _taps_of_v2(config, draft, target, layers, tokens):
    """Return what V2's own look-up has the target capture.

    Where V2 has no function that decides whether a head wants aux states, it asks for them whatever the head is; with
    one, it asks if that says so (``v1/worker/gpu/model_runner.py:306-417`` in 0.33.0).
    """
    from vllm.v1.worker.gpu.spec_decode.eagle import eagle3_utils

    wants = getattr(eagle3_utils, "requires_aux_hidden_states", None)
    try:
        aux = wants is None or bool(wants(config.speculative_config))
        if aux:
            eagle3_utils.set_eagle3_aux_hidden_state_layers(target, config.speculative_config)
        else:
            target.set_aux_hidden_state_layers(())
        captured = _capture(config, target, tokens, aux=aux)
        _first_step(config, draft, tokens, captured)
        return [probe_loop.layers_run(states, layers) for states in captured]
    except Exception as error:
        return {"kind": type(error).__name__, "message": str(error)}


def _draft(model, config, inputs):
    """See `probe_loop.draft`; logits are over the target's vocabulary."""
    import torch

    def forward(*given):
        last, carried = _forward(config, model, *given)
        return model.compute_logits(last), carried

    masked = None
    if config.speculative_config.parallel_drafting:
        stated = vars(config.speculative_config.draft_model_config.hf_config)
        keys = ("mask_token_id", "pard_token", "ptd_token_id")
        token = next(stated[key] for key in keys if stated.get(key) is not None)
        device = inputs["token_ids"].device
        masked = torch.tensor([token], device=device), model.combine_hidden_states(model.mask_hidden.view(1, -1))
    return probe_loop.draft(torch, forward, inputs, model.combine_hidden_states(inputs["aux"]), masked)


if __name__ == "__main__":
    serve(_run)
