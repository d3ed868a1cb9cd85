"""Repairs of the vocabulary map, maps from files, and sorting: what is asked for happens, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import heads
from support.folders import load, replace

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.edits.repair import REPAIRS, _from_npy, repair_vocab_map
from eagle3hub.engines.preflight import examine, preflight_all
from eagle3hub.errors import VocabMapError
from eagle3hub.head.vocab import check_vocab_map
from eagle3hub.layouts import LAYOUTS, ReadOptions, open_head

D = heads.dims()
IDS = heads.sorted_ids(D)
OFFSETS = IDS - torch.arange(len(IDS))
MASK = heads.buffers(IDS, D["vocab"])["t2d"]
PREFIX = torch.arange(D["vocab"]) < D["draft"]
FLIPPED = IDS.flip(0) - torch.arange(len(IDS))

FITS = {
    "absolute": (IDS, MASK),
    "double-subtracted": (OFFSETS - torch.arange(len(IDS)), MASK),
    "arange": (torch.arange(len(IDS)), PREFIX),
    "from-t2d": (torch.zeros_like(IDS), MASK),
    "from-d2t": (OFFSETS, torch.zeros_like(MASK)),
    "prefix": (torch.zeros_like(IDS), None),
}


EVIDENCE = {
    "absolute": "as absolute ids they are distinct and in range and equal the true entries of t2d",
    "double-subtracted": "d2t + 2 * arange equals the true entries of t2d",
    "arange": f"d2t[i] = i is the identity in absolute ids, and t2d marks the first {D['draft']} tokens",
    "from-t2d": "",
    "from-d2t": "",
    "prefix": f"the draft vocabulary is the first {D['draft']} tokens was given on the command line",
}


ONE_NAME = [name for name in REPAIRS if name != "swapped"]
"""Repairs that look at what the buffers hold; the other has its own tests."""


def broken(folder: Path, name: str) -> Path:
    d2t, t2d = FITS[name]
    return replace(heads.specforge(folder), d2t=d2t, t2d=t2d)


@pytest.mark.parametrize("name", ONE_NAME)
def test_buffers_with_a_prefix_are_repaired_as_well(tmp_path: Path, ok, refused, name: str):
    source = broken(tmp_path / "head", name)
    prefixed = {f"model.{n}": t for n, t in load(source).items()}
    save_file(prefixed, source / "model.safetensors", metadata={"format": "pt"})
    assert f"--repair {name}" in refused(source, "specforge", "--from", "specforge")
    _, tensors, _ = ok(source, "specforge", "--from", "specforge", "--repair", name)
    wanted = torch.arange(len(IDS)) if name in ("arange", "prefix") else IDS
    buffer = next(t for n, t in tensors.items() if n.removeprefix("model.") == "d2t")
    assert (buffer + torch.arange(len(IDS))).tolist() == wanted.tolist()


def test_a_map_of_the_first_tokens_needs_a_mask_to_be_told_from_none(tmp_path: Path, ok, refused):
    """Its offsets are all zero, as in a d2t that nobody filled in."""
    source = replace(heads.specforge(tmp_path / "head"), d2t=torch.zeros_like(IDS), t2d=PREFIX)
    options = ("--target", heads.target(tmp_path / "target"), "--target-name", "o/t", "--speculative-tokens", 3)
    said = refused(source, "modelopt", *options)
    assert "refused-prefix-vocabulary: the draft vocabulary is the first 10 tokens" in said
    assert "--to specforge" in said
    for to in LAYOUTS:
        if to != "modelopt":
            ok(source, to, *options, name=to)


@pytest.mark.parametrize("name", ONE_NAME)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_each_repair_gives_the_right_map_and_is_recorded(tmp_path: Path, ok, refused, name: str, dtype: torch.dtype):
    source = broken(tmp_path / "head", name)
    replace(source, **{n: t.to(dtype) for n, t in load(source).items() if n == "t2d"})
    said = refused(source, "specforge", "--from", "specforge")
    assert f"--repair {name}" in said
    document, tensors, _ = ok(source, "specforge", "--from", "specforge", "--repair", name)
    wanted = torch.arange(len(IDS)) if name in ("arange", "prefix") else IDS
    assert (tensors["d2t"] + torch.arange(len(IDS))).tolist() == wanted.tolist()
    assert tensors["t2d"].nonzero().flatten().tolist() == wanted.tolist()
    assert torch.equal(tensors["lm_head.weight"], load(source)["lm_head.weight"])
    (change,) = document["repairs"]
    assert change["name"] == f"repair:{name}"
    assert change["evidence"].endswith(EVIDENCE[name])
    assert change["lossless"]


@pytest.mark.parametrize("fault", ONE_NAME)
@pytest.mark.parametrize("name", ONE_NAME)
def test_no_repair_touches_a_fault_that_is_not_its_own(fault: str, name: str):
    d2t, t2d = (None if t is None else t.tolist() for t in FITS[fault])
    mask = None if t2d is None else bytes(t2d)
    sizes = {"vocab_size": D["vocab"], "draft_vocab_size": D["draft"]}
    if name == fault:
        assert repair_vocab_map(name, d2t, mask, **sizes).evidence
    else:
        with pytest.raises(VocabMapError, match="does not fit"):
            repair_vocab_map(name, d2t, mask, **sizes)


@given(st.sets(st.integers(0, 39), min_size=10, max_size=10), st.integers(2, 8), st.sampled_from(REPAIRS))
def test_a_repair_gives_the_true_map_or_refuses(ids: set[int], k: int, name: str):
    """Over random sorted vocabularies: every repair that is accepted restores the map that was damaged."""
    true = sorted(ids)
    mask = bytes(t in ids for t in range(40))
    damaged = [
        [t - k * i for i, t in enumerate(true)],
        true,
        [0] * 10,
        [t - i for i, t in enumerate(true)],
    ]
    for d2t in damaged:
        _, status, problems = check_vocab_map(d2t, mask, vocab_size=40, draft_vocab_size=10)
        try:
            mended = repair_vocab_map(name, d2t, mask, vocab_size=40, draft_vocab_size=10)
        except VocabMapError:
            continue
        assert problems
        assert list(mended.vocab.target_id) == true, status


@pytest.mark.parametrize(
    ("d2t", "t2d", "name", "says"),
    [
        (OFFSETS, MASK, "absolute", "nothing to repair"),
        (OFFSETS, torch.roll(MASK, 1), "from-t2d", "nothing here says which"),
        (OFFSETS, torch.roll(MASK, 1), "from-d2t", "--d2t FILE"),
        (torch.arange(len(IDS)), MASK, "arange", "--repair from-t2d"),
        (torch.zeros_like(IDS), MASK, "nonsense", "there is no repair"),
    ],
)
def test_what_is_uncertain_is_refused_with_what_would_settle_it(tmp_path, refused, d2t, t2d, name, says):
    source = replace(heads.specforge(tmp_path / "head"), d2t=d2t, t2d=t2d)
    status = 2 if name == "nonsense" else 3
    assert says in refused(source, "specforge", "--from", "specforge", "--repair", name, status=status)


def test_a_trainer_that_may_be_unsorted_cannot_be_repaired_from_the_mask(tmp_path: Path, refused):
    source = replace(heads.modelopt(tmp_path / "head"), d2t=torch.zeros_like(IDS), t2d=MASK)
    assert "does not say" in refused(source, "modelopt", "--from", "modelopt", "--repair", "from-t2d")


def write_map(folder: Path, kind: str, values: torch.Tensor, t2d: torch.Tensor | None) -> Path:
    path = folder / f"map{kind}"
    if kind == ".npy":
        np.save(path, values.numpy())
    elif kind == ".safetensors":
        save_file({"d2t": values, **({} if t2d is None else {"t2d": t2d})}, path)
    else:
        torch.save(values if t2d is None else {"d2t": values, "t2d": t2d}, path)
    return path


KINDS = [".npy", ".safetensors", ".pt"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("values", "stored"), [(OFFSETS, "offsets"), (IDS, "absolute target ids")])
@pytest.mark.parametrize("mask", [None, torch.bool, torch.int64])
def test_a_map_from_a_file(tmp_path: Path, ok, refused, kind: str, values, stored: str, mask: torch.dtype | None):
    source = replace(heads.modelopt(tmp_path / "head"), d2t=None)
    assert "--d2t FILE" in refused(source, "modelopt", "--from", "modelopt")
    file = write_map(tmp_path, kind, values, None if mask is None or kind == ".npy" else MASK.to(mask))
    document, tensors, _ = ok(source, "modelopt", "--from", "modelopt", "--d2t", file)
    assert tensors["d2t"].tolist() == OFFSETS.tolist()
    (change,) = document["repairs"]
    assert f"{file.name} holds {stored}" in change["evidence"]
    record = (tmp_path / "out/eagle3hub.json").read_text()
    assert f'"{file.name}"' in record


ASCENDING = [2 * i for i in range(9)]


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([*ASCENDING, 18], "offsets"),
        ([*ASCENDING, 30], "offsets"),  # 30 + 9 is the last token of 40
        ([*ASCENDING, 31], "absolute target ids"),
        ([*ASCENDING, 39], "absolute target ids"),
        ([2, 0, *ASCENDING[2:], 18], None),
    ],
)
def test_ascending_numbers_that_can_be_both_are_offsets(tmp_path: Path, ok, refused, values, stored: str | None):
    source = replace(heads.modelopt(tmp_path / "head"), d2t=None)
    file = write_map(tmp_path, ".npy", torch.tensor(values), None)
    arguments = (source, "modelopt", "--from", "modelopt", "--d2t", file)
    if stored is None:
        assert "can be read as offsets and as absolute target ids" in refused(*arguments)
        return
    document, tensors, _ = ok(*arguments)
    assert f"holds {stored}" in document["repairs"][0]["evidence"]
    ids = torch.tensor(values) + (torch.arange(10) if stored == "offsets" else 0)
    assert (tensors["d2t"] + torch.arange(10)).tolist() == ids.tolist()


def test_a_map_in_frequency_order_from_a_file(tmp_path: Path, ok):
    source = replace(heads.modelopt(tmp_path / "head"), d2t=None)
    file = write_map(tmp_path, ".npy", FLIPPED, None)
    _, tensors, _ = ok(source, "modelopt", "--from", "modelopt", "--d2t", file)
    assert tensors["d2t"].tolist() == FLIPPED.tolist()


def test_a_file_settles_which_of_two_buffers_is_wrong(tmp_path: Path, ok, refused):
    source = replace(heads.specforge(tmp_path / "head"), t2d=torch.roll(MASK, 1))
    assert "--d2t FILE" in refused(source, "specforge", "--from", "specforge")
    _, tensors, _ = ok(source, "specforge", "--from", "specforge", "--d2t", write_map(tmp_path, ".npy", OFFSETS, None))
    assert torch.equal(tensors["t2d"], MASK)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (OFFSETS[:-1], "9 entries but lm_head has 10 rows"),
        (torch.zeros(10), "not a vector of integers"),
        (torch.full((10,), 39), "neither as offsets nor as absolute"),
        (torch.tensor([0] * 9 + [30]), "sound map of its own"),
        (torch.roll(IDS, 1) - torch.arange(10), "nothing says which"),
    ],
)
def test_a_file_with_no_map_for_this_head(tmp_path: Path, refused, values: torch.Tensor, says: str):
    source = heads.modelopt(tmp_path / "head")
    file = write_map(tmp_path, ".npy", values, None)
    assert says in refused(source, "modelopt", "--d2t", file)


def test_a_file_that_contradicts_the_mask(tmp_path: Path, refused):
    source = replace(heads.specforge(tmp_path / "head"), d2t=torch.zeros_like(IDS))
    other = (torch.arange(10) * 3) - torch.arange(10)
    said = refused(source, "specforge", "--from", "specforge", "--d2t", write_map(tmp_path, ".npy", other, None))
    assert "vocab-supplied" in said
    assert "t2d" in said


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"not a map at all, just text", b"PK\x03\x04"])
def test_a_file_that_is_no_map_file(tmp_path: Path, refused, content: bytes):
    (tmp_path / "map").write_bytes(content)
    refused(heads.modelopt(tmp_path / "head"), "modelopt", "--d2t", tmp_path / "map")
    refused(tmp_path / "head", "modelopt", "--d2t", tmp_path / "nowhere")


@pytest.mark.parametrize("dtype", ["i1", "<i2", ">i4", "<i8", ">i8", "u1", "<u2", ">u4", "<u8"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_integer_that_numpy_writes_is_read(tmp_path: Path, dtype: str, version: tuple[int, int]):
    values = np.array([0, 1, 127] if "1" in dtype else [0, 258, 31000], dtype)
    signed = "i" in dtype
    with (tmp_path / "map.npy").open("wb") as f:
        np.lib.format.write_array(f, -values if signed else values, version=version)
    assert _from_npy(tmp_path / "map.npy").tolist() == (-values if signed else values).tolist()


def test_a_mask_that_is_none_is_made_anew_from_a_map_in_a_file(tmp_path: Path, ok, refused):
    source = replace(heads.specforge(tmp_path / "head"), t2d=MASK.float())
    assert "t2d is F32 [40], not a vector of booleans or integers" in refused(
        source, "modelopt", "--from", "specforge"
    )
    file = write_map(tmp_path, ".npy", OFFSETS, None)
    _, tensors, _ = ok(source, "specforge", "--from", "specforge", "--d2t", file)
    assert torch.equal(tensors["t2d"], MASK)
    assert tensors["d2t"].tolist() == OFFSETS.tolist()
    assert open_head(tmp_path / "out").problems == []
    source = replace(heads.modelopt(tmp_path / "other"), d2t=OFFSETS.half())
    assert "d2t is F16 [10], not a vector of I32 or I64" in refused(source, "specforge", "--from", "modelopt")
    _, tensors, _ = ok(source, "modelopt", "--from", "modelopt", "--d2t", file, "--force")
    assert tensors["d2t"].tolist() == OFFSETS.tolist()


def test_a_short_d2t_beside_a_whole_mask_is_made_anew_from_it(tmp_path: Path, ok, refused):
    source = replace(heads.specforge(tmp_path / "head"), d2t=OFFSETS[:-1])
    assert "--repair from-t2d" in refused(source, "specforge", "--from", "specforge")
    _, tensors, _ = ok(source, "specforge", "--from", "specforge", "--repair", "from-t2d")
    assert tensors["d2t"].tolist() == OFFSETS.tolist()
    other = replace(tmp_path / "head", t2d=PREFIX.roll(1).logical_or(MASK))
    assert "--repair from-t2d" not in refused(other, "specforge", "--from", "specforge")


def test_a_number_beyond_64_bits_in_a_file(tmp_path: Path, refused):
    np.save(tmp_path / "map.npy", np.full(10, 2**63, "<u8"))
    said = refused(heads.modelopt(tmp_path / "head"), "modelopt", "--d2t", tmp_path / "map.npy")
    assert "not a readable .npy file" in said


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i8', 'fortran_order': False, 'shape': (5,)}",  # more than there are
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': ('1',)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': 10000000000000000000000000}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (10000000000000000000000000,)}",
        "{'descr': '<i8'}",
        "[]",
        "1 +",
        "(" * 9000,
        "__import__('os').getpid()",
        " " * 20_000,
    ],
)
def test_a_header_that_numpy_would_not_write(tmp_path: Path, refused, header: str):
    body = b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header.encode() + bytes(32)
    (tmp_path / "map.npy").write_bytes(body)
    assert "not a readable .npy file" in refused(
        heads.modelopt(tmp_path / "head"), "modelopt", "--d2t", tmp_path / "map.npy"
    )


def test_sorting_the_vocabulary_keeps_every_logit(tmp_path: Path, ok, refused):
    source = heads.modelopt(tmp_path / "head", unsorted=True)
    assert "--resort-vocab" in refused(source, "specforge")
    document, tensors, _ = ok(source, "specforge", "--resort-vocab")
    before = load(source)
    old = dict(zip((before["d2t"] + torch.arange(10)).tolist(), before["lm_head.weight"], strict=True))
    ids = (tensors["d2t"] + torch.arange(10)).tolist()
    assert ids == sorted(old)
    assert all(torch.equal(row, old[i]) for i, row in zip(ids, tensors["lm_head.weight"], strict=True))
    assert tensors["t2d"].nonzero().flatten().tolist() == ids
    (change,) = document["repairs"]
    assert (change["name"], change["lossless"], change["tensors"]) == ("resort-vocab", True, ["lm_head.weight", "d2t"])
    assert {t["how"] for t in document["tensors"] if t["name"] == "lm_head.weight"} == {"reordered"}
    others = set(before) - {"d2t", "lm_head.weight"}
    assert all(torch.equal(before[n], tensors[n.replace("layers.0.", "midlayer.")]) for n in others)


def test_sorting_what_is_sorted_is_refused(tmp_path: Path, refused):
    assert "already" in refused(heads.modelopt(tmp_path / "head"), "specforge", "--resort-vocab")
    assert "vocab-absolute" in refused(
        replace(heads.specforge(tmp_path / "bad"), d2t=IDS), "specforge", "--resort-vocab", "--from", "specforge"
    )


def test_a_permuted_full_vocabulary_becomes_a_plain_one(tmp_path: Path, ok):
    d = heads.dims(draft=40)
    source = heads.modelopt(tmp_path / "head", d, unsorted=True)
    _, tensors, _ = ok(source, "modelopt", "--resort-vocab")
    assert "d2t" not in tensors
    assert torch.equal(tensors["lm_head.weight"], load(source)["lm_head.weight"].flip(0))


@pytest.mark.parametrize("maker", [heads.modelopt, heads.universal, heads.speculators])
def test_a_mask_alone_is_no_map_where_rows_may_be_in_another_order(tmp_path: Path, ok, refused, maker):
    source = replace(maker(tmp_path / "head"), d2t=None, t2d=MASK)
    layout = maker.__name__
    said = refused(source, layout, "--from", layout)
    assert said.startswith("vocab-missing")
    assert "does not say in which order" in said
    assert "--d2t FILE" in said
    file = write_map(tmp_path, ".npy", FLIPPED, None)
    _, tensors, _ = ok(source, layout, "--from", layout, "--d2t", file)
    assert tensors["d2t"].tolist() == FLIPPED.tolist()


def test_a_mask_alone_is_a_map_of_the_speculators_trainer_if_it_is_said_to_be(tmp_path: Path, ok):
    source = replace(heads.speculators(tmp_path / "head"), d2t=None)
    document, tensors, _ = ok(source, "speculators", "--repair", "from-t2d")
    assert tensors["d2t"].tolist() == OFFSETS.tolist()
    assert "no d2t" in document["repairs"][0]["evidence"]


def test_a_mask_that_is_map_enough_needs_no_repair(tmp_path: Path, refused):
    source = replace(heads.specforge(tmp_path / "head"), d2t=None)
    assert "nothing to repair" in refused(source, "specforge", "--from", "specforge", "--repair", "from-t2d")


SORTED = [heads.specjax, heads.specforge, heads.safeailab, heads.angelslim]


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("maker", SORTED)
def test_an_unsorted_map_of_a_trainer_that_sorts_is_a_fault(tmp_path: Path, ok, refused, maker, mask: bool):
    layout = maker.__name__
    dtype = torch.int32 if layout == "specjax" else torch.int64
    source = replace(maker(tmp_path / "head"), d2t=FLIPPED.to(dtype), **({} if mask else {"t2d": None}))
    said = refused(source, layout, "--from", layout)
    assert said.startswith("vocab-unsorted")
    assert "--from modelopt" in said
    assert "does not fit" in refused(source, layout, "--from", layout, "--repair", "from-t2d")
    _, tensors, _ = ok(source, layout, "--from", layout, "--resort-vocab")
    assert torch.equal(tensors["lm_head.weight"], load(source)["lm_head.weight"].flip(0))
    _, tensors, _ = ok(source, "modelopt", "--from", "modelopt", "--target", heads.target(tmp_path / "t"), name="as")
    assert tensors["d2t"].tolist() == FLIPPED.tolist()
    file = write_map(tmp_path, ".npy", OFFSETS, None)
    _, tensors, _ = ok(source, layout, "--from", layout, "--d2t", file, name="given")
    assert tensors["d2t"].tolist() == OFFSETS.tolist()


@pytest.mark.parametrize("maker", [heads.universal, heads.speculators])
def test_an_unsorted_map_is_right_where_a_conversion_may_have_written_it(tmp_path: Path, ok, maker):
    source = replace(maker(tmp_path / "head"), d2t=FLIPPED)
    _, tensors, _ = ok(source, maker.__name__)
    assert tensors["d2t"].tolist() == FLIPPED.tolist()


FULL = heads.dims(draft=40)
ALL, NONE = torch.ones(40, dtype=torch.bool), torch.zeros(40, dtype=torch.bool)
IDENTITY, ZEROS = torch.arange(40), torch.zeros(40, dtype=torch.int64)
FULL_FAULTS = [
    (IDENTITY, ALL, "arange", "vocab-arange: d2t[i] equals i everywhere"),
    (IDENTITY, None, "arange", "vocab-arange"),
    (IDENTITY, NONE, "arange", "vocab-arange"),
    (ZEROS, NONE, "from-d2t", "vocab-t2d-count: t2d is all false but the head covers all 40 tokens"),
    (None, NONE, "prefix", "vocab-t2d-count"),
    (IDENTITY * 2, ALL, "from-t2d", "vocab-out-of-range"),
    (ZEROS, ALL.to(torch.uint8) * 2, "from-d2t", "vocab-t2d-values"),
]


SWAPPED = {
    "as trainers store them": (MASK, OFFSETS),
    "in bytes": (MASK.to(torch.uint8), OFFSETS.to(torch.int32)),
    "both in int64": (MASK.long(), OFFSETS),
}


@pytest.mark.parametrize("swapped", SWAPPED)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_map_and_a_mask_under_each_others_names_are_named_and_swapped_back(
    tmp_path: Path, ok, refused, swapped: str, prefix: str
):
    d2t, t2d = SWAPPED[swapped]
    source = replace(heads.specforge(tmp_path / "head"), d2t=d2t, t2d=t2d)
    tensors = {f"{prefix}{name}": tensor for name, tensor in load(source).items()}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    said = refused(source, "specforge", "--from", "specforge")
    assert said.startswith("vocab-swapped: d2t and t2d are swapped: d2t holds a mask of the target's 40 tokens")
    assert "--repair swapped gives each its own content" in said
    for other in ONE_NAME:
        assert "does not fit" in refused(source, "specforge", "--from", "specforge", "--repair", other)
    document, tensors, _ = ok(source, "specforge", "--from", "specforge", "--repair", "swapped")
    by_name = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    assert (by_name["d2t"].dtype, by_name["d2t"].tolist()) == (t2d.dtype, OFFSETS.tolist())
    assert (by_name["t2d"].dtype, by_name["t2d"].bool().tolist()) == (d2t.dtype, MASK.tolist())
    (change,) = document["repairs"]
    assert (change["name"], change["lossless"]) == ("repair:swapped", True)
    assert change["evidence"] == "t2d holds offsets to exactly the tokens that d2t marks"
    assert open_head(tmp_path / "out").vocab_status == "ok"


@pytest.mark.parametrize(
    ("d2t", "t2d", "status"),
    [
        (MASK.roll(1), OFFSETS, "dtype"),
        (MASK[1:], OFFSETS, "dtype"),
        (MASK, OFFSETS[1:], "dtype"),
        (MASK, OFFSETS.double() + 0.5, "dtype"),
        (MASK.double(), OFFSETS, "shape"),
        (MASK, torch.zeros_like(OFFSETS), "dtype"),
        (MASK.long() * 2, OFFSETS, "shape"),
        (MASK, None, "dtype"),
    ],
)
def test_a_pair_that_is_no_map_the_other_way_round_is_not_swapped(tmp_path: Path, refused, d2t, t2d, status: str):
    source = replace(heads.specforge(tmp_path / "head"), d2t=d2t, t2d=t2d)
    assert open_head(source, layout="specforge").vocab_status == status
    said = refused(source, "specforge", "--from", "specforge", "--repair", "swapped")
    assert "--repair swapped does not fit" in said


@pytest.mark.parametrize("fault", ONE_NAME)
def test_what_is_not_swapped_is_not_swapped_back(tmp_path: Path, refused, fault: str):
    said = refused(broken(tmp_path / "head", fault), "specforge", "--from", "specforge", "--repair", "swapped")
    assert "--repair swapped does not fit" in said


@pytest.mark.parametrize(("d2t", "t2d", "name", "says"), FULL_FAULTS)
def test_faults_of_a_full_vocabulary_have_a_name_and_a_repair(tmp_path: Path, ok, refused, d2t, t2d, name, says):
    source = replace(heads.angelslim(tmp_path / "head", FULL), d2t=d2t, t2d=t2d)
    said = refused(source, "angelslim")
    assert said.startswith(says)
    assert f"--repair {name}" in said
    document, tensors, _ = ok(source, "angelslim", "--repair", name)
    assert not any(tensors.get("d2t", ZEROS))
    assert all(tensors.get("t2d", ALL))
    assert [c["name"] for c in document["repairs"]] == [f"repair:{name}"]
    assert open_head(tmp_path / "out").vocab_status == "full"
    for other in set(REPAIRS) - {name}:
        assert "does not fit" in refused(source, "angelslim", "--repair", other)


def test_a_permutation_of_a_full_vocabulary_stored_as_ids_is_named(tmp_path: Path, ok, refused):
    source = replace(heads.modelopt(tmp_path / "head", FULL), d2t=IDENTITY.flip(0))
    assert refused(source, "modelopt").startswith("vocab-absolute")
    _, tensors, _ = ok(source, "modelopt", "--repair", "absolute", "--resort-vocab")
    assert "d2t" not in tensors
    assert torch.equal(tensors["lm_head.weight"], load(source)["lm_head.weight"].flip(0))


def test_a_mask_of_a_part_contradicts_a_full_vocabulary(tmp_path: Path, refused):
    source = replace(heads.angelslim(tmp_path / "head", FULL), t2d=IDENTITY < 30)
    assert "has 30 true entries but the head covers all 40" in refused(source, "angelslim")
    for name in REPAIRS:
        assert "does not fit" in refused(source, "angelslim", "--repair", name)


def test_a_map_from_a_file_must_be_in_the_order_the_trainer_keeps(tmp_path: Path, ok, refused):
    source = replace(heads.specforge(tmp_path / "head"), d2t=torch.zeros_like(IDS))
    options = ("--from", "specforge", "--d2t", write_map(tmp_path, ".npy", FLIPPED, None))
    said = refused(source, "universal", *options)
    assert said.startswith("vocab-unsorted")
    assert "--resort-vocab" in said
    document, tensors, _ = ok(source, "universal", *options, "--resort-vocab")
    assert [c["name"] for c in document["repairs"]] == ["d2t", "resort-vocab"]
    assert tensors["d2t"].tolist() == OFFSETS.tolist()
    assert torch.equal(tensors["lm_head.weight"], load(source)["lm_head.weight"].flip(0))
    as_modelopt = ("--from", "modelopt", "--target", heads.target(tmp_path / "t"), *options[2:])
    _, tensors, _ = ok(source, "universal", *as_modelopt, name="as")
    assert tensors["d2t"].tolist() == FLIPPED.tolist()


@pytest.mark.parametrize(
    ("name", "d2t", "t2d"), [("absolute", IDS.flip(0), MASK), ("from-d2t", FLIPPED, torch.zeros_like(MASK))]
)
def test_a_repair_does_not_hide_that_a_map_is_unsorted(tmp_path: Path, ok, refused, name, d2t, t2d):
    source = replace(heads.specforge(tmp_path / "head"), d2t=d2t, t2d=t2d)
    options = ("--from", "specforge", "--repair", name)
    assert refused(source, "universal", *options).startswith("vocab-unsorted")
    document, tensors, _ = ok(source, "universal", *options, "--resort-vocab")
    assert [c["name"] for c in document["repairs"]] == [f"repair:{name}", "resort-vocab"]
    assert tensors["d2t"].tolist() == OFFSETS.tolist()
    assert torch.equal(tensors["lm_head.weight"], load(source)["lm_head.weight"].flip(0))


def test_offsets_given_to_the_reader_must_be_in_the_order_the_trainer_keeps(tmp_path: Path):
    source = replace(heads.specforge(tmp_path / "head"), d2t=torch.zeros_like(IDS))
    head = open_head(source, layout="specforge", options=ReadOptions(d2t=FLIPPED.tolist()))
    assert head.vocab_status == "unsorted"


def test_what_a_mask_alone_can_be_mended_with_depends_on_the_trainer(tmp_path: Path, refused):
    said = refused(replace(heads.speculators(tmp_path / "a"), d2t=None), "speculators")
    assert "--repair from-t2d" in said
    modelopt = replace(heads.modelopt(tmp_path / "b"), d2t=None, t2d=MASK)
    said = refused(modelopt, "modelopt", "--from", "modelopt")
    assert said.startswith("vocab-missing")
    assert "from-t2d" not in said
    assert "Megatron" not in said


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_map_in_wide_floats_is_the_integers_it_holds(tmp_path: Path, ok, refused, dtype: torch.dtype):
    source = replace(heads.specforge(tmp_path / "head"), d2t=OFFSETS.to(dtype))
    head = open_head(source, layout="specforge")
    assert ("info", "vocab-float") in [(p.severity, p.code) for p in head.problems]
    assert list(head.vocab_map.target_id) == IDS.tolist()
    judged = preflight_all(examine(open_checkpoint(source), head))
    assert not [r for v in judged for r in v.reasons if r.code.startswith("d2t-float")]
    _, tensors, _ = ok(source, "specforge", "--from", "specforge")
    assert (tensors["d2t"].dtype, tensors["d2t"].tolist()) == (torch.int64, OFFSETS.tolist())
    assert "vocab-float" not in {p.code for p in open_head(tmp_path / "out").problems}
    for other in (OFFSETS + 0.5, OFFSETS.to(dtype).fill_(float("nan")), OFFSETS.to(dtype).fill_(float("inf"))):
        replace(source, d2t=other.to(dtype))
        assert "not a vector of I32 or I64" in refused(source, "specforge", "--from", "specforge", "--force")
