"""Comparing heads: what is equal, what is only spelled differently, what differs and by how much."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import heads
from support.sampling import examples

from eagle3hub import compare
from eagle3hub.checkpoint.safetensors import read_header
from eagle3hub.comparison import CompareOptions, diff_tensors
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import CheckpointError
from eagle3hub.layouts import LAYOUTS

WEIGHTS = "model.safetensors"
Cli = Callable[..., tuple[int, str, str]]
Q_PROJ = "layers.0.self_attn.q_proj.weight"


def edit(folder: Path, metadata: dict[str, str] | None = None, **tensors: torch.Tensor | None) -> Path:
    every = {**load_file(folder / WEIGHTS), **tensors}
    save_file({k: v for k, v in every.items() if v is not None}, folder / WEIGHTS, metadata=metadata)
    return folder


def edit_config(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def names(found: list) -> list[str]:
    return [entry.name for entry in found]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_is_equal(tmp_path: Path, layout: str):
    found = compare(heads.MAKERS[layout](tmp_path / "a"), heads.MAKERS[layout](tmp_path / "b"))
    assert (found.verdict, found.spelling, found.differences) == ("equal", [], [])


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations(LAYOUTS, 2)))
def test_a_conversion_is_equal_up_to_spelling(tmp_path: Path, target: Path, a: str, b: str):
    source = heads.MAKERS[a](tmp_path / "a")
    convert(source, tmp_path / "b", b, ConvertOptions(target=str(target), speculative_tokens=3))
    found = compare(source, tmp_path / "b", CompareOptions(target=str(target)))
    assert found.verdict == "equal-up-to-spelling", found.differences
    assert found.spelling[0].name == "layout"
    same_names = LAYOUTS[a].contract.tensor_prefix == LAYOUTS[b].contract.tensor_prefix
    assert ("tensor names" in names(found.spelling)) != same_names
    assert {t.status for t in found.tensors} == {"bit-equal"}


SPELLINGS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "d2t dtype": (lambda f: edit(f, {"format": "pt"}, d2t=load_file(f / WEIGHTS)["d2t"].int()), "d2t"),
    "no t2d": (lambda f: edit(f, {"format": "pt"}, t2d=None), "t2d"),
    "t2d dtype": (lambda f: edit(f, {"format": "pt"}, t2d=load_file(f / WEIGHTS)["t2d"].byte()), "t2d"),
    "metadata": (lambda f: edit(f, {"format": "np"}), "header metadata"),
    "unknown field": (
        lambda f: edit_config(f, some_trainer_field=None),
        "config.json (some_trainer_field)",
    ),
    "rope spelling": (
        lambda f: edit_config(f, rope_parameters={"rope_type": "default", "rope_theta": 100000.0}),
        "config.json (rope_parameters)",
    ),
    "no context length": (lambda f: edit_config(f, max_position_embeddings=None), "max_position_embeddings"),
    "context length": (lambda f: edit_config(f, max_position_embeddings=2048), "max_position_embeddings"),
    "token id": (lambda f: edit_config(f, eos_token_id=7), "eos_token_id"),
    "default aux layers left out": (
        lambda f: edit_config(f, eagle_config={"use_aux_hidden_state": True}),
        "aux layers",
    ),
    "shards": (lambda f: shards(f), "files"),
}


def shards(folder: Path) -> Path:
    every = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    for i, part in enumerate((sorted(every)[:5], sorted(every)[5:])):
        save_file({n: every[n] for n in part}, folder / f"model-{i}.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_spelling_is_named(tmp_path: Path, name: str):
    change, said = SPELLINGS[name]
    found = compare(
        heads.specforge(tmp_path / "a"), change(heads.specforge(tmp_path / "b")), CompareOptions(from_b="specforge")
    )
    assert found.verdict == "equal-up-to-spelling", found.differences
    assert said in names(found.spelling)


DIFFERENCES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "theta": (lambda f: edit_config(f, rope_theta=5e5), "semantics", "rope"),
    "epsilon": (lambda f: edit_config(f, rms_norm_eps=1e-6), "semantics", "rms_norm_eps"),
    "aux": (
        lambda f: edit_config(f, eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 14, 25]}),
        "aux",
        "aux layers",
    ),
    "order of the aux layers": (
        lambda f: edit_config(f, eagle_config={"eagle_aux_hidden_state_layer_ids": [14, 1, 26]}),
        "aux",
        "aux layers",
    ),
    "a weight": (lambda f: nudge(f), "tensors", "norm.weight"),
    "its dtype": (
        lambda f: edit(f, {"format": "pt"}, **{"norm.weight": load_file(f / WEIGHTS)["norm.weight"].float()}),
        "tensors",
        "norm.weight",
    ),
    "embeddings": (
        lambda f: edit(f, {"format": "pt"}, **{"embed_tokens.weight": torch.ones(40, 8)}),
        "tensors",
        "embed_tokens.weight",
    ),
}


def nudge(folder: Path) -> Path:
    norm = load_file(folder / WEIGHTS)["norm.weight"].clone()
    norm[3] += 0.5
    return edit(folder, {"format": "pt"}, **{"norm.weight": norm})


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_difference_is_found_alone(tmp_path: Path, name: str):
    change, where, what = DIFFERENCES[name]
    found = compare(
        heads.specforge(tmp_path / "a"), change(heads.specforge(tmp_path / "b")), CompareOptions(from_b="specforge")
    )
    assert found.verdict == "different"
    assert [(d.where, d.name) for d in found.differences] == [(where, what)]


@pytest.mark.parametrize(
    ("name", "stored", "other"),
    [
        ("norm.weight", "BF16 [8]", torch.ones(8)),
        ("embed_tokens.weight", None, torch.ones(40, 8)),
    ],
)
def test_a_difference_says_how_both_sides_store_a_tensor(
    tmp_path: Path, name: str, stored: str | None, other: torch.Tensor
):
    a, b = heads.specforge(tmp_path / "a"), edit(heads.specforge(tmp_path / "b"), {"format": "pt"}, **{name: other})
    sides = (stored or "absent", f"F32 {list(other.shape)}")
    for one, two, expected in ((a, b, sides), (b, a, sides[::-1])):
        (found,) = compare(one, two, CompareOptions(from_a="specforge", from_b="specforge")).differences
        assert (found.a, found.b) == expected


def test_aux_layers_in_another_order_are_told_from_the_default_too(tmp_path: Path):
    order = {"eagle_aux_hidden_state_layer_ids": [14, 1, 26]}
    a = heads.specforge(tmp_path / "a", eagle_config=order)
    found = compare(a, heads.specforge(tmp_path / "b", eagle_config={}))
    assert [(d.name, d.a) for d in found.differences] == [("aux layers", "after 14, 1, 26")]
    assert found.to_json()["aux"] == {"a": [14, 1, 26], "b": None}
    assert compare(a, heads.specforge(tmp_path / "c", eagle_config=order)).verdict == "equal"


def test_a_context_length_counts_where_rope_is_scaled_by_it(tmp_path: Path):
    dynamic = {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    a, b = heads.specforge(tmp_path / "a", **dynamic), heads.specforge(tmp_path / "b", **dynamic)
    assert compare(a, b).verdict == "equal"
    found = compare(a, edit_config(b, max_position_embeddings=2048))
    assert [(d.where, d.name) for d in found.differences] == [("semantics", "max_position_embeddings")]


def test_a_dtype_is_another_head_but_its_values_are_said_to_be_equal(tmp_path: Path):
    a, b = heads.specforge(tmp_path / "a"), heads.specforge(tmp_path / "b")
    edit(b, {"format": "pt"}, **{k: v.float() for k, v in load_file(b / WEIGHTS).items() if v.is_floating_point()})
    found = compare(a, b)
    assert found.verdict == "different"
    assert {t.status for t in found.tensors} == {"equal-values"}
    assert {(t.differing, t.max_abs) for t in found.tensors} == {(0, 0.0)}


def test_how_much_a_tensor_differs(tmp_path: Path):
    a, b = heads.specforge(tmp_path / "a"), nudge(heads.specforge(tmp_path / "b"))
    (norm,) = [t for t in compare(a, b).tensors if t.status != "bit-equal"]
    one, two = (load_file(f / WEIGHTS)["norm.weight"].double() for f in (a, b))
    assert (norm.differing, norm.elements, norm.nonfinite) == (1, 8, 0)
    assert norm.max_abs == float((one - two).abs().max())
    assert norm.relative == pytest.approx(float((one - two).norm() / one.norm()))


def test_two_maps_as_maps(tmp_path: Path):
    a, b = heads.specforge(tmp_path / "a"), heads.specforge(tmp_path / "b")
    ids = heads.sorted_ids(heads.dims())
    moved = ids.clone()
    free = next(t for t in range(int(ids[5]) + 1, 40) if t not in ids.tolist() and t < int(ids[6]))
    moved[5] = free
    edit(b, {"format": "pt"}, **heads.buffers(moved, 40))
    found = compare(a, b)
    assert found.vocab_map.to_json() == {
        "status": "different",
        "first": {"draft_id": 5, "a": int(ids[5]), "b": free},
        "only_a": 1,
        "only_b": 1,
    }
    (difference,) = found.differences
    assert (difference.where, difference.name) == ("vocabulary", "token of draft id 5")
    assert (difference.a, difference.b) == (int(ids[5]), free)


def frequency_order(folder: Path, *, move_rows: bool) -> Path:
    """Draft ids in another order, as ModelOpt has them, with or without the rows of lm_head."""
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    every = load_file(folder / WEIGHTS)
    ids = heads.sorted_ids(heads.dims())[order]
    rows = every["lm_head.weight"][order].contiguous() if move_rows else every["lm_head.weight"]
    return edit(folder, d2t=heads.buffers(ids, 40)["d2t"], **{"lm_head.weight": rows})


def test_the_same_tokens_in_another_order_are_a_spelling_if_the_rows_moved_along(tmp_path: Path):
    a = heads.modelopt(tmp_path / "a")
    found = compare(a, frequency_order(heads.modelopt(tmp_path / "b"), move_rows=True))
    assert (found.verdict, names(found.spelling)) == ("equal-up-to-spelling", ["draft order"])
    assert found.vocab_map.status == "other-order"
    wrong = compare(a, frequency_order(heads.modelopt(tmp_path / "c"), move_rows=False))
    assert wrong.verdict == "different"
    assert {(d.where, d.name) for d in wrong.differences} == {
        ("vocabulary", "order of the draft ids"),
        ("tensors", "lm_head.weight"),
    }


def test_heads_with_a_wrong_map_are_compared_all_the_same(tmp_path: Path):
    zero = torch.zeros(10, dtype=torch.int64)
    a = heads.specforge(tmp_path / "a")
    b, c = (edit(heads.specforge(tmp_path / n), {"format": "pt"}, d2t=zero) for n in "bc")
    found = compare(a, b)
    assert found.vocab_map.status == "unusable"
    assert [(d.a, d.b) for d in found.differences] == [("map ok", "map zero")]
    assert compare(b, c).verdict == "equal"
    edit(c, {"format": "pt"}, t2d=torch.zeros(40, dtype=torch.bool))
    assert compare(b, c).verdict == "different"


def test_a_full_vocabulary_against_a_reduced_one(tmp_path: Path):
    full = heads.dims(draft=40)
    a = heads.write(
        tmp_path / "a",
        heads.weights(full, "layers.0."),
        json.loads((heads.modelopt(tmp_path / "x", full) / "config.json").read_text()),
    )
    found = compare(a, heads.modelopt(tmp_path / "b"))
    assert found.vocab_map.status == "one-side"
    assert ("sizes", "draft_vocab_size") in {(d.where, d.name) for d in found.differences}
    assert next(t for t in found.tensors if t.name == "lm_head.weight").status == "shape"


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def refs(folder: Path, a: torch.Tensor, b: torch.Tensor):
    save_file({"t": a}, folder / "a")
    save_file({"t": b}, folder / "b")
    return (read_header(folder / n).tensors["t"] for n in "ab")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_small_floats_are_decoded_as_torch_does(arithmetic, tmp_path: Path, dtype: str):
    codes = torch.arange(256, dtype=torch.uint8).view(DTYPES[dtype])
    found = diff_tensors("t", *refs(tmp_path, codes, codes.to(torch.float64)))
    assert (found.status, found.differing, found.max_abs, found.nonfinite) == ("equal-values", 0, 0.0, 0)


@settings(max_examples=examples(1.2), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    one=st.sampled_from(sorted(DTYPES)),
    two=st.sampled_from(sorted(DTYPES)),
    values=st.lists(
        st.tuples(*[st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, -2.0, 100.0]))] * 2),
        min_size=1,
        max_size=30,
    ),
)
def test_numbers_agree_with_torch(arithmetic, tmp_path_factory, one: str, two: str, values: list[tuple[float, float]]):
    a, b = (torch.tensor(side, dtype=torch.float64).nan_to_num(0.0, 1e4, -1e4) for side in zip(*values, strict=True))
    floats = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
    if {one, two} <= floats:
        a, b = (torch.tensor(side, dtype=torch.float64) for side in zip(*values, strict=True))
    else:
        a, b = a.clamp(0, 1).round(), b.clamp(0, 1).round()
    a, b = a.to(DTYPES[one]), b.to(DTYPES[two])
    found = diff_tensors("t", *refs(tmp_path_factory.mktemp("t"), a, b))
    x, y = a.double(), b.double()
    both_nan = x.isnan() & y.isnan()
    finite = x.isfinite() & y.isfinite()
    same_bits = one == two and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    assert (found.status == "bit-equal") == same_bits
    assert found.differing == int(((x != y) & ~both_nan).sum())
    if not same_bits:
        assert found.max_abs == (float((x - y)[finite].abs().max()) if finite.any() else 0.0)
        assert found.nonfinite == int(((x != y) & ~both_nan & ~finite).sum())
        norm = float(x[finite].norm())
        assert found.relative == (pytest.approx(float((x - y)[finite].norm()) / norm, rel=1e-6) if norm else None)


@pytest.mark.parametrize("at", [0, 262143, 262144, 600000])
def test_one_element_far_into_a_tensor(arithmetic, tmp_path: Path, at: int):
    a = torch.zeros(600001, dtype=torch.bfloat16)
    b = a.clone()
    b[at] = float("nan")
    found = diff_tensors("t", *refs(tmp_path, a, b))
    assert (found.status, found.differing, found.nonfinite, found.max_abs) == ("differs", 1, 1, 0.0)


def test_a_file_that_shrinks_is_an_error_not_an_equality(tmp_path: Path):
    a, b = refs(tmp_path, torch.zeros(1000), torch.zeros(1000))
    for name in "ab":
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="became shorter"):
        diff_tensors("t", a, b)


PEAK = """
import re, sys
from pathlib import Path
from eagle3hub.checkpoint.safetensors import read_header
from eagle3hub.comparison import diff_tensors
a, b = (read_header(Path(p)).tensors["t"] for p in sys.argv[1:])
found = diff_tensors("t", a, b)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss counts the parent's too
print(found.differing, int(peak[1]) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tensors(tmp_path: Path):
    from eagle3hub.checkpoint.writer import OutTensor, encode_header

    count = 60_000_000
    peaks = []
    for n in (1_000_000, count):
        for side in "ab":
            header = encode_header([OutTensor("t", "BF16", (n,), b"")], None).replace(
                b'"data_offsets":[0,0]', f'"data_offsets":[0,{2 * n}]'.encode()
            )
            body = header[8:].rstrip()
            body += b" " * (-len(body) % 8)
            with (tmp_path / side).open("wb") as f:  # sparse: zeros cost no disk
                f.write(len(body).to_bytes(8, "little") + body)
                f.truncate(8 + len(body) + 2 * n)
                f.seek(-2, 2)
                f.write(b"\x80\x3f" if side == "a" else b"\x00\x00")
        done = subprocess.run(
            [sys.executable, "-c", PEAK, tmp_path / "a", tmp_path / "b"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        differing, peak = map(int, done.stdout.split())
        assert differing == 1
        peaks.append(peak)
    assert peaks[1] < 120
    assert peaks[1] - peaks[0] < 10


def test_the_command_line(tmp_path: Path, cli: Cli, target: Path):
    source = heads.specjax(tmp_path / "a")
    convert(source, tmp_path / "b", "modelopt", ConvertOptions(target=str(target)))
    status, out, err = cli("diff", source, tmp_path / "b", "--target", target)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "equal up to spelling: layout, tensor names, d2t, t2d"
    nudge(heads.specforge(tmp_path / "c"))
    status, out, _ = cli("diff", tmp_path / "b", tmp_path / "c", "--json")
    document = json.loads(out)
    assert (status, document["verdict"]) == (1, "different")
    assert len(document["tensors"]) == 13
    assert document["semantics"]["rope"]["equal"] is True
    status, out, _ = cli("diff", tmp_path / "b", tmp_path / "c")
    assert status == 1
    assert "norm.weight" in out
    assert "1 of 8 differ" in out
    assert Q_PROJ not in cli("diff", source, source)[1]
    assert Q_PROJ in cli("diff", source, source, "--tensors")[1]


def test_the_report_fits_a_screen_even_if_nothing_is_alike(tmp_path: Path, cli: Cli):
    other = heads.dims(hidden=16, inter=20, heads=4, vocab=50, draft=20)
    a, b = heads.specjax(tmp_path / "a"), heads.speculators(tmp_path / "b", other, norm_before_residual=True)
    status, out, _ = cli("diff", a, b)
    assert status == 1
    assert len(out.splitlines()) <= 40


def test_what_cannot_be_read_is_an_error(tmp_path: Path, cli: Cli):
    status, out, err = cli("diff", heads.specjax(tmp_path / "a"), tmp_path / "nowhere")
    assert (status, out) == (3, "")
    assert err.startswith("error: ")
