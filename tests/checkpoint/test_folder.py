"""Which files of a folder count, and that a head in torch pickles converts like one in safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import heads
from support.pickles import pickled

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.errors import CheckpointError, ConfigError

Cli = Callable[..., tuple[int, str, str]]
A, B = torch.zeros(2), torch.ones(3)


@pytest.mark.parametrize(
    ("name", "wrap", "zipped"),
    [
        ("pytorch_model.bin", None, True),
        ("pytorch_model.bin", None, False),
        ("model.safetensors", None, True),
        ("training_state.pt", "draft_state_dict", True),
    ],
)
def test_a_head_in_a_pickle_converts_to_the_same_bytes(
    tmp_path: Path, cli: Cli, name: str, wrap: str | None, zipped: bool
):
    plain = heads.specforge(tmp_path / "plain")
    source = pickled(heads.specforge(tmp_path / "head"), name, wrap, _use_new_zipfile_serialization=zipped)
    for folder, out in ((plain, "a"), (source, "b")):
        status, _, err = cli("convert", folder, tmp_path / out, "--to", "specforge", "--from", "specforge")
        assert status == 0, err
    a, b = (load_file(tmp_path / out / "model.safetensors") for out in "ab")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    document = json.loads(cli("inspect", source, "--from", "specforge", "--json")[1])
    assert document["vocab_map"]["status"] == "ok"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "training_state.pt", "config.json"])
def test_a_git_lfs_pointer_is_named(tmp_path: Path, cli: Cli, name: str):
    source = heads.specforge(tmp_path / "head")
    if name != "config.json":
        (source / "model.safetensors").rename(source / name)
    (source / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    for command in (("inspect", source), ("convert", source, tmp_path / "out", "--to", "specforge")):
        status, out, err = cli(*command)
        assert (status, out) == (3, "")
        assert f"{name} is a pointer of Git LFS" in err
        assert "git lfs pull" in err


def test_a_hostile_pickle_writes_nothing(tmp_path: Path, cli: Cli):
    import os

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    source = heads.specforge(tmp_path / "head")
    torch.save({"x": Bomb()}, source / "model.safetensors")
    status, out, err = cli("convert", source, tmp_path / "out", "--to", "specforge")
    assert (status, out) == (3, "")
    assert "names posix.mkdir, which a table of tensors does not need; nothing of it was run" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head"]


def folder_of(folder: Path, **files: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name, tensors in files.items():
        write(folder, name, tensors)
    return folder


def write(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    if name.endswith(".safetensors"):
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)


def index(folder: Path, name: str, **files: str) -> None:
    (folder / name).write_text(json.dumps({"weight_map": files}))


def test_the_order_of_candidates(tmp_path: Path):
    folder = folder_of(tmp_path / "f")
    steps = [
        ("model.pt", ["model.pt"]),
        ("training_state.pt", ["training_state.pt"]),
        ("pytorch_model-00001-of-00001.bin", ["pytorch_model-00001-of-00001.bin"]),
        ("pytorch_model.bin", ["pytorch_model.bin"]),
        ("pytorch_model.bin.index.json", ["pytorch_model-00001-of-00001.bin"]),
        ("other.safetensors", ["other.safetensors"]),
        ("model.safetensors", ["model.safetensors"]),
        ("model.safetensors.index.json", ["other.safetensors"]),
    ]
    for name, expected in steps:
        if name.endswith(".index.json"):
            index(folder, name, a=expected[0])
        else:
            write(folder, name, {"a": A})
        assert [p.name for p in open_checkpoint(folder).weights] == expected
    write(folder, "d2t.pt", {"d2t": B})
    assert set(open_checkpoint(folder).tensors) == {"a"}


def test_pickle_shards_with_and_without_an_index(tmp_path: Path):
    folder = folder_of(tmp_path / "f")
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    write(folder, names[0], {"a": A})
    write(folder, names[1], {"b": B})
    without = open_checkpoint(folder)
    index(folder, "pytorch_model.bin.index.json", a=names[0], b=names[1])
    assert set(without.tensors) == {"a", "b"}
    assert open_checkpoint(folder) == without
    write(folder, names[1], {"a": B})
    with pytest.raises(CheckpointError, match=f"'a' is in both {names[0]} and {names[1]}"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "a/b.bin", ".."])
def test_an_index_may_not_point_outside(tmp_path: Path, name: str):
    folder = folder_of(tmp_path / "f")
    index(folder, "pytorch_model.bin.index.json", a=name)
    with pytest.raises(ConfigError, match="points outside its folder"):
        open_checkpoint(folder)


def test_an_index_must_name_files(tmp_path: Path):
    folder = folder_of(tmp_path / "f")
    index(folder, "pytorch_model.bin.index.json", a="")
    with pytest.raises(ConfigError, match="has no weight_map from tensors to files"):
        open_checkpoint(folder)


def test_a_safetensors_file_that_begins_like_a_pickle(tmp_path: Path):
    """A header of 0x0280 bytes begins like a pickle of protocol 2."""
    folder = folder_of(tmp_path / "f")
    text = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(0x0280)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    assert open_checkpoint(folder).tensors["a"].shape == (2,)


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        (
            "a",
            '{"dtype":"F32","shape":[' + ",".join(["9223372036854775807"] * 100_000) + '],"data_offsets":[0,8]}',
            "not lists of natural numbers",
        ),
        ("\\ud800", '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}', "a tensor name that is not Unicode text"),
    ],
    ids=["a hundred thousand dimensions", "half a character"],
)
def test_headers_made_to_hang_or_to_crash(tmp_path: Path, name: str, entry: str, message: str):
    folder = folder_of(tmp_path / "f")
    text = f'{{"{name}":{entry}}}'.encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(folder)
    caught.value.message.encode()


@pytest.mark.parametrize(
    ("inside", "named"),
    [
        (["a"], "{}/a"),
        (["epoch_0_step_10", "epoch_1_step_20"], "{0}/epoch_0_step_10, {0}/epoch_1_step_20"),
        (["a", "b", "c", "d", "e", ".hidden"], "{0}/a, {0}/b, {0}/c and 2 more"),
        (["snapshots/0123"], "{}/snapshots/0123"),
    ],
)
def test_a_folder_of_heads_names_them(tmp_path: Path, cli: Cli, inside: list[str], named: str):
    for name in inside:
        heads.specforge(tmp_path / "run" / name)
    status, _, err = cli("inspect", tmp_path / "run")
    assert status == 3
    assert err.replace(str(tmp_path), "").splitlines() == [
        "error: there is no config.json in /run",
        f"hint: name a folder in it that has one: {named.format('/run')}",
    ]


@pytest.mark.parametrize("make", heads.MAKERS.values(), ids=heads.MAKERS)
def test_a_head_is_no_target(tmp_path: Path, cli: Cli, make: Callable[..., Path]):
    head = make(tmp_path / "head")
    status, _, err = cli("inspect", head, "--target", head)
    assert status == 3
    assert err.startswith(f"error: the target {head} is a draft head\nhint: name the model the head was trained for")
