"""Which files of a folder count, and that a head in torch pickles converts like one in safetensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import heads
from support.pickles import pickled

from eagle3hub.address import LocalAddress
from eagle3hub.checkpoint import source as checkpoint_source
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.errors import CheckpointError, ConfigError, InputError, SourceError

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


ONE = "name a folder in it that has one: "


@pytest.mark.parametrize(
    ("inside", "hint"),
    [
        (["a"], f"{ONE}/run/a"),
        (["a", "b", "c", "d", "e", ".hidden"], f"{ONE}/run/a, /run/b, /run/c and 2 more"),
        (["snapshots/0123"], f"{ONE}/run/snapshots/0123"),
        (["models--o--n/snapshots/0123"], f"{ONE}/run/models--o--n/snapshots/0123"),
        (["epoch_9_step_90"], f"{ONE}/run/epoch_9_step_90"),
        (
            ["epoch_9_step_90", "epoch_10_step_100", "epoch_0_step_10"],
            "name one of the 3 folders in it that have one; the last is /run/epoch_10_step_100",
        ),
        (["checkpoint-90", "final", "checkpoint-100"], f"{ONE}/run/final, /run/checkpoint-100, /run/checkpoint-90"),
    ],
)
def test_a_folder_of_heads_names_them(tmp_path: Path, cli: Cli, inside: list[str], hint: str):
    """The last checkpoint of a run, in the order of its steps and not of their letters."""
    for name in inside:
        heads.specforge(tmp_path / "run" / name)
    status, _, err = cli("inspect", tmp_path / "run")
    assert status == 3
    assert err.replace(str(tmp_path), "").splitlines() == ["error: there is no config.json in /run", f"hint: {hint}"]


def test_a_folder_with_a_config_and_heads_below_names_them(tmp_path: Path, cli: Cli):
    heads.specforge(tmp_path / "run/final")
    shutil.copy(tmp_path / "run/final/config.json", tmp_path / "run")
    assert f"hint: {ONE}{tmp_path}/run/final\n" in cli("inspect", tmp_path / "run")[2]


def in_the_cache(tmp_path: Path, *snapshots: str) -> Path:
    """A repository in the Hub cache; its main branch is at the last of the snapshots."""
    repository = tmp_path / "hub/models--owner--name"
    for name in snapshots:
        heads.specforge(repository / "snapshots" / name)
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs/main").write_text(snapshots[-1] if snapshots else "0123")
    (repository / "blobs").mkdir()
    return repository


def test_a_repository_of_the_hub_cache_names_its_main_snapshot(tmp_path: Path):
    repository = in_the_cache(tmp_path, "bbbb", "aaaa")
    with pytest.raises(SourceError) as refused:
        open_checkpoint(repository)
    hint = f"name the snapshot in it, {repository}/snapshots/aaaa, or write hf://owner/name"
    assert (refused.value.code, refused.value.hint) == ("source-no-config", hint)
    for ref in (b"\xff", b"gone"):
        (repository / "refs/main").write_bytes(ref)
        with pytest.raises(SourceError) as refused:
            open_checkpoint(repository)
        assert str(refused.value.hint).startswith(ONE)


def unfinished(folder: Path) -> tuple[str, str]:
    with pytest.raises(SourceError) as refused:
        open_checkpoint(folder)
    assert refused.value.code == "source-incomplete"
    return refused.value.message, str(refused.value.hint)


@pytest.mark.parametrize("config", [True, False])
def test_a_download_that_stopped_is_called_so(tmp_path: Path, config: bool):
    """Into a folder, or into the cache of the Hub, of which a snapshot, the repository or the cache is named."""
    lacks = "a weights file" if config else "config.json"
    folder = tmp_path / "head"
    parts = folder / ".cache/huggingface/download/abc.incomplete"
    parts.parent.mkdir(parents=True)
    parts.touch()
    repository = in_the_cache(tmp_path)
    snapshot = repository / "snapshots/0123"
    snapshot.mkdir(parents=True)
    if config:
        (folder / "config.json").write_text("{}")
        (snapshot / "config.json").write_text("{}")
    else:
        assert unfinished(snapshot) == (
            f"a download into {snapshot} did not finish: config.json is missing",
            "finish it: hf download owner/name",
        )
    (repository / "blobs/def.incomplete").touch()
    for place, part, again in (
        (folder, "abc", f"OWNER/NAME --local-dir {folder}, with the repository it comes from"),
        (snapshot, "def", "owner/name"),
        *(() if config else ((repository, "def", "owner/name"), (tmp_path / "hub", "def", "owner/name"))),
    ):
        says = f"a download into {place} did not finish: {lacks} is missing, and {part}.incomplete is a part of a file"
        assert unfinished(place) == (says, f"finish it: hf download {again}")
    whole = heads.specforge(tmp_path / "whole")
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    assert open_checkpoint(folder).tensors, "what is left of a download does no harm beside a whole head"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_to_nothing_is_called_so(tmp_path: Path, name: str):
    """A snapshot of the Hub cache that was copied without the files its links point to."""
    folder = heads.specforge(tmp_path / "head")
    (folder / name).unlink()
    (folder / name).symlink_to("../../blobs/0123")
    message, hint = unfinished(folder)
    assert message == f"{folder}/{name} is a link to a file that is not there"
    assert hint.startswith("copy the folder together with what its links point to (cp -rL), or fetch it again: hf ")


REST = {
    "an archive": ["head.tar.gz"],
    "the state of an optimizer or of a run, with which training goes on": ["optimizer.pt", "rng_state_0.pth"],
    "training data": ["train.jsonl", "README.md"],
    "the logs of a run": ["runs/events.out.tfevents.17.host.0"],
    "a tokenizer": ["tokenizer.json", "tokenizer_config.json", "README.md"],
    "a README": ["README.md", ".gitattributes"],
}


@pytest.mark.parametrize("rest", REST)
def test_a_folder_without_a_head_is_called_by_what_it_holds(tmp_path: Path, rest: str):
    for name in REST[rest]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    (said,) = (r for r in checkpoint_source._data().rest if r.what == rest)
    with pytest.raises(SourceError) as refused:
        open_checkpoint(tmp_path)
    message = f"there is neither config.json nor weights in {tmp_path}: it holds {rest}"
    assert (refused.value.message, refused.value.hint, refused.value.code) == (message, said.hint, "source-no-config")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SourceError) as refused:
        open_checkpoint(tmp_path)
    assert refused.value.message.endswith(f"no torch pickle with weights either: beside config.json it holds {rest}")
    assert (refused.value.hint, refused.value.code) == (said.hint, "source-no-weights")
    assert {r.what for r in checkpoint_source._data().rest} == set(REST)


def test_weights_without_a_config_are_called_so(tmp_path: Path):
    folder = heads.specforge(tmp_path / "head")
    (folder / "config.json").unlink()
    (folder / "README.md").touch()
    for name in ("model.safetensors", "pytorch_model-00001-of-00002.bin", "damaged.pth"):
        with pytest.raises(SourceError, match=r"which holds weights \(") as refused:
            open_checkpoint(folder)
        assert "put the config.json that training began with beside them" in str(refused.value.hint)
        next(path for path in folder.iterdir() if path.suffix != ".md").unlink()
        (folder / name).write_bytes(b"no weights")
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="head is an empty folder"):
        open_checkpoint(folder)
    (folder / "notes.odt").touch()
    with pytest.raises(SourceError, match=r"^there is no config\.json in \S+head$"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("head.zip", "is an archive, not a folder", "unpack it, and name the folder in it that holds config.json"),
        ("head.gguf", "holds a GGUF file; llama.cpp serves it", "name the folder that it was converted from"),
        ("config.json", "is a file, not a folder", "name the folder that holds config.json: {}"),
        ("model.safetensors", "is a file, not a folder", "name the folder that holds config.json: {}"),
        ("other/x.bin", "is a file, not a folder", "name the folder that holds config.json"),
    ],
)
def test_a_file_in_place_of_a_folder(tmp_path: Path, name: str, says: str, hint: str):
    folder = heads.specforge(tmp_path / "head")
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    with pytest.raises(InputError) as refused:
        open_checkpoint(file)
    assert refused.value.message.startswith(f"{file} {says}")
    assert str(refused.value.hint).startswith(hint.format(folder))
    assert ("{}" in hint) == str(refused.value.hint).endswith(str(folder))


def test_a_large_or_hidden_folder_is_not_searched_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a/b/c/d/e/x.distcp", ".git/x.distcp", ".cache/pip/x.distcp", ".cache/huggingface/hub/x.distcp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match="is an empty folder"):
        open_checkpoint(tmp_path)
    for i in range(5):
        (tmp_path / f"{i}.odt").touch()
    monkeypatch.setattr(checkpoint_source, "_MAX_BELOW", 3)
    assert len(checkpoint_source.FolderSource(LocalAddress(str(tmp_path), tmp_path)).below()) == 3


@pytest.mark.parametrize("make", heads.MAKERS.values(), ids=heads.MAKERS)
def test_a_head_is_no_target(tmp_path: Path, cli: Cli, make: Callable[..., Path]):
    head = make(tmp_path / "head")
    status, _, err = cli("inspect", head, "--target", head)
    assert status == 3
    assert err.startswith(f"error: the target {head} is a draft head\nhint: name the model the head was trained for")
