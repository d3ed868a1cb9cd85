"""Sizes, weights, inputs and files that all the exporters' fixtures share. Needs numpy and safetensors only.

Weights are drawn from the tensor's name, so that a fixture is the same bytes whenever it is made, and no weight is a
constant: a norm that is left out, or a name that is swapped, changes the logits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import environments

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM = 32, 48, 4, 2, 8
VOCAB, DRAFT_VOCAB, TARGET_LAYERS = 128, 48, 8
BATCH, LENGTH, AUX = 2, 12, 3
ROPE_THETA, EPS, CONTEXT = 50000.0, 1e-5, 512

TARGET_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": TARGET_LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "rope_theta": ROPE_THETA,
    "rms_norm_eps": EPS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def run_in(environment: str, main: Any, *, extra: Iterable[str] = ()) -> None:
    """Parse the options that every script has, and call ``main(options)`` in the exporter's own environment."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, required=True, help="folder for the exporters' virtual environments")
    parser.add_argument("--output", type=Path, required=True, help="folder that the fixtures are written to")
    for name in extra:
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    interpreter = environments.ensure(options.cache.resolve(), environment)
    if Path(sys.prefix).resolve() != interpreter.parent.parent.resolve():
        os.execve(interpreter, [str(interpreter), *sys.argv], {**os.environ, **environments.QUIET})
    with tempfile.TemporaryDirectory(prefix="exporter-") as scratch:
        main(options, Path(scratch))


def round_bf16(x: Any) -> Any:
    """Float32 values rounded to the nearest that bfloat16 can hold."""
    import numpy as np

    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded & 0xFFFF0000).astype(np.uint32).view(np.float32)


def values(name: str, shape: tuple[int, ...]) -> Any:
    """Weights of a tensor: bfloat16 values as float32, fixed by its name and shape."""
    import numpy as np

    rng = np.random.default_rng(zlib.crc32(name.encode()))
    draw = rng.standard_normal(shape)
    if name.endswith(".bias"):
        return round_bf16(0.2 * draw)
    return round_bf16(1 + 0.25 * draw if len(shape) == 1 else draw / shape[-1] ** 0.5)


def embeddings() -> Any:
    """The target's token embeddings [VOCAB, HIDDEN]."""
    return values("model.embed_tokens.weight", (VOCAB, HIDDEN)) * 2


def draft_ids() -> Any:
    """Target ids of the draft vocabulary, ascending."""
    import numpy as np

    return np.sort(np.random.default_rng(7).permutation(VOCAB)[:DRAFT_VOCAB]).astype(np.int64)


def inputs(aux: int = AUX) -> dict[str, Any]:
    """One batch: the token embedded at each position, and the target's aux hidden states that go with it."""
    import numpy as np

    rng = np.random.default_rng(11)
    return {
        "token_ids": rng.integers(1, VOCAB, (BATCH, LENGTH)).astype(np.int64),
        "aux_hidden_states": rng.standard_normal((BATCH, LENGTH, aux * HIDDEN)).astype(np.float32),
        "embed_tokens": embeddings(),
    }


def write_target(folder: Path) -> Path:
    """The target as a folder with weights (made by transformers), for exporters that read it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**TARGET_CONFIG))
    fill(model)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.from_numpy(embeddings()))
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(TARGET_CONFIG, indent=2) + "\n", encoding="utf-8")
    return folder


def fill(module: Any, prefix: str = "", constant: tuple[str, ...] = ()) -> None:
    """Give every parameter of a torch module its weights; those named in ``constant`` become ones."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            new = torch.from_numpy(values(prefix + name, tuple(parameter.shape)))
            parameter.copy_(torch.ones_like(new) if name in constant else new)


def packages() -> dict[str, str]:
    """Versions of what else decides the result, as far as it is installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    found = {}
    for name in ("torch", "transformers", "jax", "numpy", "safetensors"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = installed(name).split("+")[0]
    return found


def write_fixture(
    folder: Path, head: Path, arrays: dict[str, Any] | None, *, exporter: str, version: str, how: str, **facts: Any
) -> None:
    """Put one fixture together: the exporter's files in ``head/``, ``golden.safetensors`` and ``origin.json``."""
    import numpy as np
    from safetensors.numpy import save_file

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(head, folder / "head", ignore=shutil.ignore_patterns("*.py"))
    facts["left_out"] = sorted(p.name for p in head.glob("*.py"))  # the exporter's own code
    for file in (folder / "head").iterdir():
        file.chmod(0o644)
    if arrays is not None:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "golden.safetensors")
    origin = {
        "exporter": exporter,
        "version": version,
        "how": how,
        "packages": packages(),
        **facts,
        "licence": "Output of the exporter run on random weights; the files are this project's, under its licence.",
    }
    (folder / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{folder.name}\n")
