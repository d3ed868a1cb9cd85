"""Refusals of convert that need a head made for them: each by its code, with nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import heads, variants
from support.folders import load, replace

Case = tuple[Callable[[Path], Path], str, Callable[[Path], list[Any]], str, int]
IDS = heads.sorted_ids(heads.dims())


def nothing(_: Path) -> list[Any]:
    return []


def saved(name: str, **tensors: torch.Tensor) -> Callable[[Path], list[Any]]:
    def option(work: Path) -> list[Any]:
        save_file(tensors, work / "given.safetensors")
        return [name, work / "given.safetensors"]

    return option


def folder_of(**files: str) -> Callable[[Path], list[Any]]:
    def option(work: Path) -> list[Any]:
        (work / "model").mkdir()
        for file, text in files.items():
            (work / "model" / file.replace("_json", ".json").replace("__", ".")).write_text(text)
        return ["--include-embeddings", work / "model"]

    return option


def no_aux(work: Path) -> Path:
    return heads.specforge(work / "head", eagle_config={"use_aux_hidden_state": False})


def narrow(work: Path) -> Path:
    """Eight wide, with a target sixteen wide, and embeddings of its own."""
    return variants.specforge(work / "head", heads.dims(target_hidden=16), variants.Has(embeddings=True))


def unreadable_side_file(work: Path) -> Path:
    source = variants.quantized(work / "head")
    (source / "hf_quant_config.json").unlink()
    (source / "hf_quant_config.json").mkdir()
    return source


def whole_numbers(work: Path) -> Path:
    source = heads.modelopt(work / "head")
    name = "layers.0.mlp.up_proj.weight"
    return replace(source, **{name: load(source)[name].to(torch.int16)})


def packed_and_whole_numbers(work: Path) -> Path:
    source = variants.quantized(work / "head", "FP8")
    name = "layers.0.mlp.up_proj.weight"
    return replace(source, **{name: load(source)[name].to(torch.float32).to(torch.int16)})


def of_another_mask(work: Path) -> Path:
    """Its own d2t was never set, its mask is sound, and both say nothing of the map that is given."""
    return replace(heads.specforge(work / "head"), d2t=torch.zeros_like(IDS))


def packed_lm_head(work: Path) -> Path:
    source = variants.quantized(work / "head", "FP8")
    every = load(source)
    every["d2t"] = every["d2t"].clone()
    ids = (every["d2t"] + torch.arange(len(every["d2t"]))).flip(0)
    return replace(
        source,
        **{
            "d2t": ids - torch.arange(len(ids)),
            "lm_head.weight": every["lm_head.weight"].to(torch.float8_e4m3fn),
            "lm_head.weight_scale": torch.tensor(0.5),
        },
    )


OTHER = torch.tensor([i for i in range(40) if i not in IDS][:10])
CASES: dict[str, Case] = {
    "no aux states": (no_aux, "specforge", nothing, "config-no-aux", 3),
    "a bias in the MLP": (
        lambda w: heads.specforge(w / "head", mlp_bias=True),
        "specforge",
        nothing,
        "config-bias",
        3,
    ),
    "heads that do not divide": (
        lambda w: heads.specforge(w / "head", head_dim=None, num_attention_heads=3),
        "specforge",
        nothing,
        "config-head-dim",
        3,
    ),
    "a side file that cannot be read": (unreadable_side_file, "modelopt", nothing, "source-unreadable", 3),
    "weights that are whole numbers": (whole_numbers, "modelopt", nothing, "tensor-dtype", 3),
    "packed weights, and some that are whole numbers": (
        packed_and_whole_numbers,
        "modelopt",
        nothing,
        "tensor-dtype",
        3,
    ),
    "no transformer_layer_config": (
        lambda w: heads.speculators(w / "head", transformer_layer_config=None),
        "speculators",
        nothing,
        "config-missing",
        3,
    ),
    "no aux ids in a universal folder": (
        lambda w: heads.universal(w / "head", eagle_aux_hidden_state_layer_ids=None),
        "universal",
        nothing,
        "config-missing",
        3,
    ),
    "a repair and a map": (
        lambda w: replace(heads.specforge(w / "head"), d2t=IDS),
        "specforge",
        lambda w: ["--repair", "absolute", *saved("--d2t", d2t=IDS)(w)],
        "usage",
        2,
    ),
    "two repairs": (
        lambda w: replace(heads.specforge(w / "head"), d2t=IDS),
        "specforge",
        lambda w: ["--repair", "absolute", "--repair", "from-t2d"],
        "usage-repair",
        2,
    ),
    "casting packed weights": (
        lambda w: variants.quantized(w / "head"),
        "modelopt",
        lambda w: ["--dtype", "fp16"],
        "refused-dtype-quantized",
        3,
    ),
    "sorting packed rows": (packed_lm_head, "modelopt", lambda w: ["--resort-vocab"], "refused-resort-quantized", 3),
    "sorting a full vocabulary": (
        lambda w: replace(heads.modelopt(w / "head", heads.dims(draft=40)), d2t=None),
        "modelopt",
        lambda w: ["--resort-vocab"],
        "vocab-nothing-to-sort",
        3,
    ),
    "dropping embeddings of another width": (
        narrow,
        "specforge",
        lambda w: ["--drop-embeddings"],
        "refused-embeddings-width",
        3,
    ),
    "embeddings of a folder without weights": (
        lambda w: heads.specforge(w / "head"),
        "specforge",
        folder_of(),
        "source-no-weights",
        3,
    ),
    "embeddings of a shard that is not there": (
        lambda w: heads.specforge(w / "head"),
        "specforge",
        folder_of(
            model__safetensors__index_json=json.dumps(
                {"weight_map": {"model.embed_tokens.weight": "model-00001-of-00001.safetensors"}}
            )
        ),
        "source-no-weights",
        3,
    ),
    "a map that the mask contradicts": (
        of_another_mask,
        "specforge",
        saved("--d2t", d2t=OTHER - torch.arange(10), t2d=heads.buffers(OTHER, 40)["t2d"]),
        "vocab-supplied-conflict",
        3,
    ),
    "a map of fractions": (
        lambda w: heads.specforge(w / "head"),
        "specforge",
        saved("--d2t", d2t=IDS.to(torch.float32) + 0.5),
        "vocab-supplied-format",
        3,
    ),
    "a map of two axes": (
        lambda w: heads.specforge(w / "head"),
        "specforge",
        saved("--d2t", d2t=IDS.view(2, 5)),
        "vocab-supplied-format",
        3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_refusal_has_its_code_and_writes_nothing(tmp_path: Path, refused: Any, name: str) -> None:
    make, layout, options, code, status = CASES[name]
    source = make(tmp_path)
    said = refused(source, layout, "--from", layout, *options(tmp_path), status=status)
    assert said.split(":")[0] == code, said
