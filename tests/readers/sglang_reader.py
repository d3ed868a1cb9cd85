"""Load heads with SGLang's own draft model class and its own load_weights, on CPU. Run by SGLang's interpreter:

    python sglang_reader.py JOB.json    # {"heads": {name: folder}, "exporters": …, "result": file}

No engine is started and no kernel runs: the class is built, every parameter is poisoned with NaN, and the tensors of
the file are handed to load_weights one by one, so that each can be seen to arrive somewhere or nowhere.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

os.environ["SGLANG_USE_CPU_ENGINE"] = "1"


def declare_torchvision_operators() -> Any:
    """SGLang imports torchvision, whose compiled operators are CUDA's; importing it asks only for their schemas."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


class NoKernels(types.ModuleType):
    """Stands in for sgl_kernel, of which there is no CPU build: anything can be imported from it, nothing runs."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*_args: Any, **_options: Any) -> None:
            raise NotImplementedError(f"sgl_kernel.{name}")

        return absent


def start(target: Path, draft: str) -> Any:
    """Server arguments and a one-process world, as SGLang's scheduler sets them up before it builds a model."""
    from sglang.srt.distributed.parallel_state import init_distributed_environment, initialize_model_parallel
    from sglang.srt.layers.dp_attention import initialize_dp_attention
    from sglang.srt.runtime_context import SpawnRanks, publish
    from sglang.srt.server_args import ServerArgs

    arguments = ServerArgs(
        model_path=str(target),
        device="cpu",
        context_length=256,
        speculative_algorithm="EAGLE3",
        speculative_draft_model_path=draft,
        speculative_num_steps=3,
        speculative_eagle_topk=1,
        speculative_num_draft_tokens=4,
    )
    publish(arguments, role="scheduler", ranks=SpawnRanks(world_rank=0))
    rendezvous = f"file://{target.parent / 'rendezvous'}"
    init_distributed_environment(
        backend="gloo", world_size=1, rank=0, local_rank=0, distributed_init_method=rendezvous
    )
    initialize_model_parallel()
    initialize_dp_attention(server_args=arguments)
    return arguments


def read(folder: str, arguments: Any) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.model_loader.utils import get_model_architecture
    from sglang.srt.runtime_context import get_model

    config = ModelConfig.from_server_args(arguments, model_path=folder, is_draft_model=True)
    model_class, architecture = get_model_architecture(config)
    with get_model().override(shared_experts=None):
        model = model_class(config=config.hf_config, quant_config=None)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.fill_(float("nan"))
    arrived: dict[str, str] = {}
    ignored: list[str] = []
    altered: list[str] = []
    for name, tensor in load_file(Path(folder) / "model.safetensors").items():
        missing = {k: p.isnan() for k, p in parameters.items()}
        before = getattr(model, "hot_token_id", None)
        model.load_weights([(name, tensor)])
        filled = [k for k, p in parameters.items() if not torch.equal(missing[k], p.isnan())]
        if filled:
            (arrived[name],) = filled
            now = parameters[filled[0]]
            new, wanted = now[missing[filled[0]] & ~now.isnan()], tensor.to(now.dtype).flatten()
            # lm_head is padded to a multiple of 64 rows, with zeros
            if not torch.equal(new[: len(wanted)], wanted) or new[len(wanted) :].any():
                altered.append(name)
        elif getattr(model, "hot_token_id", None) is before:
            ignored.append(name)
    hot = getattr(model, "hot_token_id", None)
    body = model.model
    rotary = body.layers[0].self_attn.rotary_emb
    return {
        "class": type(model).__name__,
        "architecture": architecture,
        "arrived": arrived,
        "ignored": sorted(ignored),
        "altered": altered,
        "unset": sorted(k for k, p in parameters.items() if p.isnan().any()),
        "target_ids": None if hot is None else hot.tolist(),
        "norm_before_fc": bool(getattr(body, "norm_before_fc", False)),
        "fc_norm": getattr(body, "fc_norm", None) is not None,
        "norm_output": bool(getattr(body, "norm_output", False)),
        "eps": body.norm.variance_epsilon,
        "rotation": rotary.cos_sin_cache[:16].float().tolist(),
        "captured": captured(folder, arguments),
    }


def captured(folder: str, arguments: Any) -> list[int]:
    """The boundaries of the target at which SGLang captures hidden states for this draft model."""
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.model_executor.model_runner_components.spec_aux_hidden_state import (
        resolve_spec_aux_hidden_state_config,
    )
    from sglang.srt.models.llama import LlamaForCausalLM
    from sglang.srt.runtime_context import get_spec
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    config = ModelConfig.from_server_args(arguments)
    with get_spec().override(speculative_draft_model_path=folder):
        found = resolve_spec_aux_hidden_state_config(
            server_args=arguments,
            model_config=config,
            spec_algorithm=SpeculativeAlgorithm.EAGLE3,
            is_draft_worker=False,
        )
    target = types.SimpleNamespace(
        pp_group=types.SimpleNamespace(is_last_rank=True), config=config.hf_config, model=types.SimpleNamespace()
    )
    LlamaForCausalLM.set_eagle3_layers_to_capture(target, found.eagle_aux_hidden_state_layer_ids)
    return list(target.model.layers_to_capture)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path.insert(0, job["exporters"])
    keep = declare_torchvision_operators()
    sys.modules["sgl_kernel"] = NoKernels("sgl_kernel")
    import common

    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        target = common.write_target(Path(work) / "target")
        arguments = start(target, next(iter(job["heads"].values())))
        import torch

        torch.set_default_dtype(torch.bfloat16)
        for name, folder in job["heads"].items():
            try:
                out[name] = read(folder, arguments)
            except Exception as e:
                out[name] = {"failed": f"{type(e).__name__}: {e}"}
    Path(job["result"]).write_text(json.dumps(out), encoding="utf-8")
    del keep


if __name__ == "__main__":
    main()
