"""Hidden states as each producer writes them, stated once more from its sources: each writer names the file.

A dump is made of what a `TargetModel` computes, so that it can be compared with the model.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from eagle3hub.head import FINAL_NORM, AuxTaps
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Text

Write = Callable[[Path, TargetModel, Sequence[Text]], None]


def states(target: TargetModel, text: Text, after: Sequence[int]) -> torch.Tensor:
    """[tokens, layers, hidden size] after some layers, counted from 0."""
    (batch,) = target.read([text], AuxTaps.from_after_layer(list(after), "flag"))
    return batch.aux[0].view(len(text.token_ids), len(after), -1).contiguous()


def last(target: TargetModel, text: Text) -> torch.Tensor:
    """[tokens, hidden size] after the final norm."""
    (batch,) = target.read([text], AuxTaps((FINAL_NORM,), "flag"))
    return batch.aux[0].contiguous()


def mask(text: Text) -> torch.Tensor:
    """1 for what the target wrote."""
    return (torch.arange(len(text.token_ids)) >= text.prompt_length).long()


def default(target: TargetModel) -> list[int]:
    return AuxTaps.default_for(target.num_hidden_layers).after_layer


def vllm(folder: Path, target: TargetModel, texts: Sequence[Text], name: str = "{}-9f1c02aa.safetensors") -> None:
    """vLLM, ``distributed/kv_transfer/kv_connector/v1/example_hidden_states_connector.py``, `_submit_async_write`.

    With ``eagle_aux_hidden_state_layer_ids`` [2, n // 2, n - 3, n], which counts the layers that have run.
    """
    folder.mkdir()
    layers = [*default(target), target.num_hidden_layers - 1]
    for i, text in enumerate(texts):
        path = folder / name.format(i)
        save_file({"hidden_states": states(target, text, layers), "token_ids": torch.tensor(text.token_ids)}, path)
        path.with_name(path.name + ".lock").touch()


def speculators(folder: Path, target: TargetModel, texts: Sequence[Text]) -> None:
    """speculators, ``scripts/data_generation_offline.py``: vLLM's file, moved."""
    vllm(folder, target, texts, "hs_{}.safetensors")


def old_speculators(folder: Path, target: TargetModel, texts: Sequence[Text]) -> None:
    """speculators 0.4, ``scripts/data_generation_offline.py``, ``data_generation/custom_worker.py`` and
    ``config_generator.py``; the layers are those whose *output* is captured.
    """
    folder.mkdir()
    layers = [*default(target), target.num_hidden_layers - 1]
    for i, text in enumerate(texts):
        found = [part.contiguous() for part in states(target, text, layers).unbind(1)]
        data = {"input_ids": torch.tensor(text.token_ids), "hidden_states": found, "loss_mask": mask(text)}
        torch.save(data, folder / f"data_{i}.pt")
    config = {"package_versions": {"speculators": "0.4.0"}, "generation": {"layer_ids": layers}}
    (folder / "data_config.json").write_text(json.dumps(config))
    (folder / "sample_lengths.json").write_text("{}")


def specforge(folder: Path, target: TargetModel, texts: Sequence[Text], *, packed: bool = False) -> None:
    """SpecForge, ``scripts/prepare_hidden_states.py``, `HiddenStatesGenerator.generate` and `_save_tensor_sync`."""
    rows = folder / "rows_0-2000"
    rows.mkdir(parents=True)
    (folder / "vocab_mapping").mkdir()
    for i, text in enumerate(texts):
        record = {
            "input_ids": torch.tensor(text.token_ids),
            "loss_mask": mask(text),
            "aux_hidden_state": states(target, text, default(target)).flatten(1).unsqueeze(0),
            "hidden_state": last(target, text).unsqueeze(0),
        }
        if packed:
            raw = io.BytesIO()
            torch.save(record, raw)
            (rows / f"data_{i}.ckpt.gz").write_bytes(gzip.compress(raw.getvalue(), 1))
        else:
            torch.save(record, rows / f"data_{i}.ckpt")


def packed_specforge(folder: Path, target: TargetModel, texts: Sequence[Text]) -> None:
    """The same with ``--compress``."""
    specforge(folder, target, texts, packed=True)


def modelopt(folder: Path, target: TargetModel, texts: Sequence[Text]) -> None:
    """ModelOpt, ``examples/speculative_decoding/collect_hidden_states/compute_hidden_states_hf.py``."""
    folder.mkdir()
    for i, text in enumerate(texts):
        data = {
            "input_ids": torch.tensor(text.token_ids),
            "hidden_states": last(target, text),
            "aux_hidden_states": states(target, text, default(target)).flatten(1),
            "loss_mask": mask(text),
            "conversation_id": f"conv-{i}",
        }
        torch.save(data, folder / f"conv-{i}.pt")


def modelopt_by_vllm(folder: Path, target: TargetModel, texts: Sequence[Text]) -> None:
    """ModelOpt, ``compute_hidden_states_vllm.py`` with ``--aux-layers 2,n//2,n-3``, which it hands to vLLM unchanged.

    The last state is the one before the final norm, and both tensors are saved as views of what vLLM wrote.
    """
    folder.mkdir()
    for i, text in enumerate(texts):
        found = states(target, text, [*default(target), target.num_hidden_layers - 1])
        aux = found[:, :-1, :].cpu()
        data = {
            "input_ids": torch.tensor(text.token_ids),
            "hidden_states": found[:, -1, :].cpu(),
            "aux_hidden_states": aux.reshape(aux.shape[0], -1),
            "loss_mask": mask(text)[: len(found)].cpu(),
            "conversation_id": f"conv-{i}",
        }
        assert not data["hidden_states"].is_contiguous()
        torch.save(data, folder / f"conv-{i}.pt")


WRITERS: dict[str, Write] = {
    "vllm": vllm,
    "speculators": speculators,
    "speculators (0.4 or earlier)": old_speculators,
    "specforge": specforge,
    "specforge, packed": packed_specforge,
    "modelopt": modelopt,
    "modelopt by vllm": modelopt_by_vllm,
}
