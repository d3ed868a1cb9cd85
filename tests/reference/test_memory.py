"""How much memory a replay needs whose target's states are in files: of a head and a target of the largest sizes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import heads

from eagle3hub.errors import TensorError
from eagle3hub.head import AuxTaps
from eagle3hub.layouts import open_head
from eagle3hub.reference.dumps import (
    EMBEDDINGS,
    StatesIndex,
    TextEntry,
    begin_folder,
    ids_digest,
    states_file,
    tensor_ref,
)
from eagle3hub.reference.model import Everywhere, StoredMatrix, load_draft
from eagle3hub.reference.states import EMBEDDING, save_tensors

D = heads.dims()
LARGE = {
    "hidden": 7168,
    "inter": 8192,
    "heads": 64,
    "kv": 8,
    "head_dim": 128,
    "vocab": 163_840,
    "draft": 32_000,
    "aux": 3,
}
BOUND_MB = 2000
MEASURED = """
import re, sys
from pathlib import Path
from eagle3hub.cli.app import main
try:
    main()
finally:
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print(f"peak {int(peak[1]) // 1024} MB", file=sys.stderr)
"""


def sparse(path: Path, shapes: dict[str, tuple[int, ...]], **filled: torch.Tensor) -> None:
    """A safetensors file of zeros in bfloat16, which take no room on the disk; some tensors are ``filled``."""
    header, at = {}, 0
    for name, shape in shapes.items():
        nbytes = 2 * int(torch.tensor(shape).prod())
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    tail = b""
    for name, tensor in filled.items():
        data = tensor.numpy().tobytes()
        header[name] = {"dtype": "I64", "shape": list(tensor.shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
        tail += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at - len(tail))
        file.seek(0, 2)
        file.write(tail)


def large_head(folder: Path, d: dict[str, int]) -> Path:
    """A head of zeros that drafts token 0 everywhere."""
    h, q, kv = d["hidden"], d["heads"] * d["head_dim"], d["kv"] * d["head_dim"]
    matrices = {
        "fc": (h, d["aux"] * h),
        "midlayer.self_attn.q_proj": (q, 2 * h),
        "midlayer.self_attn.k_proj": (kv, 2 * h),
        "midlayer.self_attn.v_proj": (kv, 2 * h),
        "midlayer.self_attn.o_proj": (h, q),
        "midlayer.mlp.gate_proj": (d["inter"], h),
        "midlayer.mlp.up_proj": (d["inter"], h),
        "midlayer.mlp.down_proj": (h, d["inter"]),
        "lm_head": (d["draft"], h),
    }
    norms = ("midlayer.input_layernorm", "midlayer.hidden_norm", "midlayer.post_attention_layernorm", "norm")
    shapes = {f"{name}.weight": shape for name, shape in matrices.items()}
    shapes |= {f"{name}.weight": (h,) for name in norms}
    heads.specforge(folder)  # for its config, whose sizes are then replaced
    config = json.loads((folder / "config.json").read_text()) | heads.flat_config(d)
    config["architectures"] = ["LlamaForCausalLMEagle3"]
    (folder / "config.json").write_text(json.dumps(config))
    offsets = torch.arange(d["draft"]) // 2
    sparse(folder / "model.safetensors", shapes, d2t=offsets)
    return folder


def large_states(folder: Path, d: dict[str, int], lengths: list[int], dtype: torch.dtype) -> Path:
    """States of texts whose answers are token 0 again and again, so that every draft is accepted."""
    texts = [(1, 2, 3, *([0] * (n - 3))) for n in lengths]
    index = StatesIndex(
        target_name="large",
        config_sha256="0" * 64,
        hidden_size=d["hidden"],
        vocab_size=d["vocab"],
        num_hidden_layers=heads.TARGET_LAYERS,
        taps=AuxTaps.from_after_layer((1, 14, 26), "config"),
        dtype={torch.bfloat16: "BF16", torch.float32: "F32"}[dtype],
        temperature=None,
        texts=tuple(TextEntry(i, len(t), 3, len(t) - 5, ids_digest(t)) for i, t in enumerate(texts)),
    )
    begin_folder(folder, index)
    sparse(folder / EMBEDDINGS, {EMBEDDING: (d["vocab"], d["hidden"])})
    for i, text in enumerate(texts):
        states = torch.randn(len(text), d["aux"] * d["hidden"]).to(dtype)
        save_tensors(states_file(folder, i), {"token_ids": torch.tensor(text), "aux_hidden_states": states})
    return folder


def peak_of_a_replay(tmp_path: Path, d: dict[str, int], lengths: list[int], dtype: torch.dtype, *more: str) -> int:
    """Replay in a process of its own; return its peak memory in MB."""
    head = large_head(tmp_path / "head", d)
    states = large_states(tmp_path / "states", d, lengths, dtype)
    (tmp_path / "target").mkdir()
    config = heads.flat_config(d) | {"num_hidden_layers": heads.TARGET_LAYERS, "tie_word_embeddings": False}
    del config["draft_vocab_size"]
    (tmp_path / "target" / "config.json").write_text(json.dumps(config))
    words = ["validate", head, "--target", tmp_path / "target", "--hidden-states", states]
    words += ["--prompts", "hidden-states", "--engine", "reference", "--draft-tokens", 1, *more]
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, words), "--report", str(report)], capture_output=True, text=True
    )
    found = re.search(r"peak (\d+) MB", done.stderr)
    assert report.exists() and found, done.stderr
    assert json.loads(report.read_text())["engines"], done.stdout
    counts = json.loads(report.read_text())["engines"][0]["acceptance"]
    assert counts["mean_acceptance_length"] == 2.0, counts
    return int(found[1])


@pytest.mark.slow
def test_a_replay_in_float32_of_the_largest_sizes_stays_below_2_gb(tmp_path: Path):
    peak = peak_of_a_replay(tmp_path, LARGE, [24, 21], torch.bfloat16, "--dtype", "float32")
    assert peak < BOUND_MB, "MB; the head alone has 3.1 GB of weights in float32"


def test_weights_that_stay_in_their_files_compute_the_same(tmp_path: Path):
    head = open_head(heads.specforge(tmp_path / "head"))
    embeddings = torch.randn(D["vocab"], D["hidden"], dtype=torch.bfloat16)
    save_tensors(tmp_path / "e.safetensors", {EMBEDDING: embeddings})
    stored = StoredMatrix(tensor_ref(tmp_path / "e.safetensors", EMBEDDING, None), torch.bfloat16)
    held, left = load_draft(head, embeddings), load_draft(head, stored, room=0)
    assert {name for name, weight in left.weights.items() if isinstance(weight, StoredMatrix)} == {
        name for name, weight in held.weights.items() if weight.ndim == 2
    }
    aux, tokens = torch.randn(2, 7, 3 * D["hidden"]), torch.randint(0, D["vocab"], (2, 7))
    everywhere = torch.arange(7).expand(2, -1)
    found = [
        model.logits(model.hidden(model.features(aux), tokens, everywhere, Everywhere(model.windows).shared))
        for model in (held, left)
    ]
    torch.testing.assert_close(found[0], found[1])


def test_the_largest_matrices_are_left(tmp_path: Path):
    head = open_head(heads.specforge(tmp_path / "head"))
    sizes = {name: 4 * ref.num_elements for name, ref in head.tensors.items()}
    largest = max(sizes, key=lambda name: sizes[name])
    left = load_draft(head, torch.zeros(D["vocab"], D["hidden"]), room=sum(sizes.values()) - 1)
    assert [name for name, weight in left.weights.items() if isinstance(weight, StoredMatrix)] == [largest]


def test_a_matrix_left_in_its_file_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = torch.arange(60.0).reshape(20, 3)
    save_tensors(tmp_path / "t.safetensors", {"t": table})
    stored = StoredMatrix(tensor_ref(tmp_path / "t.safetensors", "t", None), torch.float32)
    monkeypatch.setattr("eagle3hub.reference.model._PART", 7 * 3 * 4)
    assert [(begin, len(rows)) for begin, rows in stored.parts()] == [(0, 7), (7, 7), (14, 6)]
    x = torch.randn(2, 3)
    torch.testing.assert_close(stored.product(x), x @ table.T)
    index = torch.tensor([[5, 19], [5, 0]])
    assert torch.equal(stored.take(index), table[index])
    assert torch.equal(torch.cat([rows for _, rows in stored.first(8).parts()]), table[:8])


def test_features_of_many_positions_are_computed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = load_draft(open_head(heads.specforge(tmp_path / "head")), torch.zeros(D["vocab"], D["hidden"]))
    aux = torch.randn(2, 7, 3 * D["hidden"])
    whole = model.features(aux)
    monkeypatch.setattr("eagle3hub.reference.model._STATES", 3 * 3 * D["hidden"])
    torch.testing.assert_close(model.features(aux), whole)


def test_a_value_that_is_not_finite_is_found_in_a_matrix_that_is_left(tmp_path: Path):
    folder = heads.specforge(tmp_path / "head")
    head = open_head(folder)
    ref = head.tensors["fc.weight"]
    with ref.path.open("r+b") as file:
        file.seek(ref.offset)
        file.write(b"\xff\xff")
    with pytest.raises(TensorError, match="values that are NaN or infinite"):
        load_draft(head, torch.zeros(D["vocab"], D["hidden"]), room=0)
