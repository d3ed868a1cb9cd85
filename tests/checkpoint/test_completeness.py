"""Weights in several files: what is missing, or not where the index says, is said and never left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import heads
from support.hub_server import HubServer

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.run import convert
from eagle3hub.engines.preflight import examine, preflight_all
from eagle3hub.errors import InputError, SourceError
from eagle3hub.layouts import open_head

Cli = Callable[..., tuple[int, str, str]]
NAMES = {
    "safetensors": ("model-0000{}-of-00002.safetensors", "model.safetensors.index.json"),
    "pickles": ("pytorch_model-0000{}-of-00002.bin", "pytorch_model.bin.index.json"),
}
OPTIONAL = "t2d"
"""A tensor that a SpecForge head may have or not: without it nothing else shows that the head is not whole."""


class Shards:
    """A SpecForge head in two files, the second with `OPTIONAL` alone, and their index."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = heads.specforge(folder)
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        pattern, index = NAMES[kind]
        self.first, self.second = pattern.format(1), pattern.format(2)
        self.index = folder / index
        self.optional = {OPTIONAL: tensors.pop(OPTIONAL)}
        self.rest = tensors
        self.write(self.first, tensors)
        self.write(self.second, self.optional)
        self.place = {**dict.fromkeys(tensors, self.first), OPTIONAL: self.second}
        self.name()

    def write(self, file: str, tensors: dict[str, torch.Tensor]) -> None:
        save = save_file if file.endswith(".safetensors") else torch.save
        save(tensors, self.folder / file)

    def name(self, **changes: str | None) -> None:
        """Write the index, with entries changed; None removes one."""
        place = {name: file for name, file in {**self.place, **changes}.items() if file is not None}
        self.index.write_text(json.dumps({"weight_map": place}))


@pytest.fixture(params=NAMES)
def shards(request: pytest.FixtureRequest, tmp_path: Path) -> Shards:
    return Shards(tmp_path / "head", request.param)


def refused(shards: Shards, cli: Cli, code: str, message: str, hint: str) -> None:
    """`convert` says so, and writes nothing."""
    out = shards.folder.with_name("out")
    status, _, err = cli("convert", shards.folder, out, "--from", "specforge", "--to", "modelopt")
    assert status == 3
    said = err.replace(str(shards.folder), "head").splitlines()
    assert said[0] == f"error: {message}"
    assert hint in said[1]
    assert [p.name for p in shards.folder.parent.iterdir()] == ["head"]
    with pytest.raises(InputError) as caught:
        open_checkpoint(shards.folder)
    assert caught.value.code == code


def test_the_whole_head_is_read_with_and_without_an_index(shards: Shards):
    whole = open_checkpoint(shards.folder)
    assert set(whole.tensors) == {*shards.rest, OPTIONAL}
    shards.index.unlink()
    assert open_checkpoint(shards.folder) == whole


def test_a_tensor_of_the_index_that_no_file_holds(shards: Shards, cli: Cli):
    shards.name(**{"lm_head.bias": shards.second})
    message = f"head/{shards.index.name} says that {shards.second} holds tensor 'lm_head.bias', but it is not there"
    refused(shards, cli, "checkpoint-index", message, "was copied or downloaded in part")


def test_a_file_of_another_export_in_the_place_of_one(shards: Shards, cli: Cli):
    shards.write(shards.second, {"x": torch.ones(2)})
    message = f"head/{shards.index.name} says that {shards.second} holds tensor '{OPTIONAL}', but it is not there"
    refused(shards, cli, "checkpoint-index", message, "mixes two exports")


def test_a_tensor_in_another_file_than_the_index_says(shards: Shards, cli: Cli):
    shards.name(**{OPTIONAL: shards.first, "fc.weight": shards.second})
    message = (
        f"head/{shards.index.name} says that {shards.second} holds tensor 'fc.weight' (and 1 more), "
        f"but it is in {shards.first}"
    )
    refused(shards, cli, "checkpoint-index", message, "mixes two exports")


def test_a_tensor_the_index_does_not_name(shards: Shards, cli: Cli):
    shards.write(shards.second, {**shards.optional, "extra": torch.ones(2)})
    message = f"{shards.second} holds tensor 'extra', which head/{shards.index.name} does not name"
    refused(shards, cli, "checkpoint-index", message, "mixes two exports")


@pytest.mark.parametrize("indexed", [True, False])
def test_a_tensor_in_two_files(shards: Shards, cli: Cli, indexed: bool):
    shards.write(shards.second, {**shards.optional, "norm.weight": torch.ones(2)})
    if not indexed:
        shards.index.unlink()
    message = f"tensor 'norm.weight' is in both {shards.first} and {shards.second}"
    refused(shards, cli, "checkpoint-duplicate", message, "remove the file that is left from another export")


def test_a_file_of_the_index_that_is_not_there(shards: Shards, cli: Cli):
    (shards.folder / shards.second).unlink()
    message = f"head/{shards.index.name} names {shards.second}, which is not there"
    refused(shards, cli, "source-incomplete", message, "fetch the whole folder again")


def test_a_file_of_a_series_that_is_not_there(shards: Shards, cli: Cli):
    shards.index.unlink()
    (shards.folder / shards.second).unlink()
    message = f"head has 1 of 2 weights files: {shards.second} is not there"
    refused(shards, cli, "source-incomplete", message, "weights would be lost")


def test_a_file_of_a_series_that_the_index_leaves_out(shards: Shards, cli: Cli):
    shards.name(**{OPTIONAL: None})
    message = f"head/{shards.index.name} names 1 of 2 weights files, without {shards.second}"
    refused(shards, cli, "source-incomplete", message, "weights would be lost")


def test_files_beyond_the_count_of_a_series_are_none_of_it(tmp_path: Path):
    folder = series(tmp_path / "f", "m-00002-of-00002.safetensors", "m-00003-of-00002.safetensors")
    with pytest.raises(SourceError, match=r"has 1 of 2 weights files: m-00001-of-00002\.safetensors is not there"):
        open_checkpoint(folder)


def series(folder: Path, *names: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for i, name in enumerate(names):
        save_file({f"t{i}": torch.ones(2)}, folder / name)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("model-00001-of-00001.safetensors",),
        ("model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"),
        ("a-1-of-2.safetensors", "a-2-of-2.safetensors", "b-1-of-1.safetensors", "c.safetensors"),
        ("model-00001-of-000000000002.safetensors",),  # counts no files
    ],
)
def test_series_that_are_whole(tmp_path: Path, names: tuple[str, ...]):
    assert [p.name for p in open_checkpoint(series(tmp_path / "f", *names)).weights] == list(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("model-00001-of-00003.safetensors",), r"1 of 3 .* model-00002-of-00003\.\w+, model-00003-of-00003\.\w+ are"),
        (("m-2-of-2.safetensors",), r"1 of 2 weights files: m-1-of-2\.safetensors is not there"),
        (("m-0-of-2.safetensors",), r"1 of 2 weights files: m-1-of-2\.safetensors is not there"),
        (("m-00001-of-99999.safetensors",), r"1 of 99999 .* m-00004-of-99999\.safetensors and 99995 more are not"),
        (
            ("a-1-of-2.safetensors", "a-2-of-2.safetensors", "a-1-of-3.safetensors", "a-3-of-3.safetensors"),
            r"2 of 3 weights files: a-2-of-3\.safetensors is not there",
        ),
    ],
)
def test_series_that_are_not(tmp_path: Path, names: tuple[str, ...], message: str):
    with pytest.raises(SourceError, match=message):
        open_checkpoint(series(tmp_path / "f", *names))


def test_what_an_earlier_export_left_beside_a_whole_file_is_left_alone(tmp_path: Path):
    folder = series(tmp_path / "f", "model.safetensors", "model-00002-of-00003.safetensors")
    assert set(open_checkpoint(folder).tensors) == {"t0"}


@pytest.mark.parametrize("headers_only", [True, False])
@pytest.mark.parametrize("kind", NAMES)
def test_repositories_on_the_hub_are_held_to_the_same(hub: HubServer, tmp_path: Path, kind: str, headers_only: bool):
    def message(repo: str) -> str:
        hub.commit(repo, shards.folder)
        with pytest.raises(InputError) as caught:
            open_checkpoint(f"hf://{repo}", headers_only=headers_only)
        return caught.value.message

    shards = Shards(tmp_path / "head", kind)
    hub.commit("alice/head", shards.folder)
    assert set(open_checkpoint("hf://alice/head", headers_only=headers_only).tensors) == {*shards.rest, OPTIONAL}
    shards.name(**{"lm_head.bias": shards.second})
    assert f"says that {shards.second} holds tensor 'lm_head.bias', but it is not there" in message("alice/of-another")
    (shards.folder / shards.second).unlink()
    assert f"names {shards.second}, which is not there" in message("alice/without-a-file")
    shards.index.unlink()
    assert f"has 1 of 2 weights files: {shards.second} is not there" in message("alice/without-an-index")
    shards.write(shards.second, {"norm.weight": torch.ones(2)})
    assert f"'norm.weight' is in both {shards.first} and {shards.second}" in message("alice/twice")


def beside(folder: Path, name: str, **changes: torch.Tensor) -> list[tuple[str, str]]:
    """Severity and code of what is said of a head with a second file of the same tensors, some of them changed."""
    source = heads.specforge(folder)
    tensors = {**load_file(source / "model.safetensors"), **changes}
    (save_file if name.endswith(".safetensors") else torch.save)(tensors, source / name)
    return [(p.severity, p.code) for p in open_head(source).problems if p.code.startswith("checkpoint-")]


@pytest.mark.parametrize("name", ["other.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"])
def test_a_copy_of_the_weights_in_another_file_goes_without_a_word(tmp_path: Path, name: str):
    assert beside(tmp_path / "head", name) == []


NORM = {"norm.weight": torch.full((8,), 3.0, dtype=torch.bfloat16)}
WIDER = {"fc.weight": torch.ones(8, 24)}


@pytest.mark.parametrize("changes", [NORM, WIDER], ids=["values", "dtype"])
def test_other_weights_that_engines_would_load_too_are_an_error(tmp_path: Path, cli: Cli, changes: dict):
    source, (name,) = tmp_path / "head", changes
    assert beside(source, "other.safetensors", **changes) == [("error", "checkpoint-duplicate")]
    judged = preflight_all(examine(open_checkpoint(source), open_head(source)))
    wrong = {v.engine for v in judged if "weights-overlaid" in {r.code for r in v.reasons}}
    assert wrong == {"vllm", "sglang"}
    status, _, err = cli("convert", source, tmp_path / "out", "--to", "modelopt")
    assert (status, f"tensor '{name}' is in both model.safetensors and other.safetensors" in err) == (3, True)
    index = {"weight_map": dict.fromkeys(load_file(source / "model.safetensors"), "model.safetensors")}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "checkpoint-duplicate" not in {p.code for p in open_head(source).problems}, "engines load what it names"


@pytest.mark.parametrize("name", ["embed_tokens.weight", "model.fc.bias"])
def test_more_of_a_head_in_a_file_that_no_index_names_is_an_error(tmp_path: Path, cli: Cli, name: str):
    source = heads.specforge(tmp_path / "head")
    save_file({name: torch.ones(40, 8)}, source / "more.safetensors")
    status, _, err = cli("convert", source, tmp_path / "out", "--to", "specforge")
    assert (status, f"tensor '{name}' is in more.safetensors only, beside model.safetensors" in err) == (3, True)


@pytest.mark.parametrize("maker", [heads.specforge, heads.modelopt])
def test_a_map_in_a_file_that_no_index_names_is_no_engines_mistake(tmp_path: Path, maker: Callable[..., Path]):
    """vLLM and SGLang load the file, and others may not: nobody is said to take draft ids for target ids."""
    source = maker(tmp_path / "head")
    tensors = load_file(source / "model.safetensors")
    maps = {name: tensors.pop(name) for name in ("d2t", "t2d") if name in tensors}
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    save_file(maps, source / "vocab_mapping.safetensors")
    head = open_head(source)
    assert open_checkpoint(source).beside.more == dict.fromkeys(maps, "vocab_mapping.safetensors")
    assert head.layout == ("modelopt" if maker is heads.modelopt else "flat")
    judged = preflight_all(examine(open_checkpoint(source), head))
    told = {r.code for v in judged for r in v.reasons}
    assert "weights-elsewhere" in told and "d2t-missing" not in told
    assert "right" not in {v.kind for v in judged}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00001.bin"])
def test_other_weights_in_a_pickle_are_said_and_left_out(tmp_path: Path, cli: Cli, name: str):
    assert beside(tmp_path / "head", name, **NORM) == [("warning", "checkpoint-beside")]
    assert examine(open_checkpoint(tmp_path / "head")).files.stray == (), "no engine loads a pickle beside safetensors"
    done = convert(tmp_path / "head", tmp_path / "out", "modelopt")
    assert "checkpoint-beside" in {p.code for p in done.mended}
    ours = load_file(tmp_path / "head/model.safetensors")["norm.weight"]
    assert torch.equal(load_file(tmp_path / "out/model.safetensors")["norm.weight"], ours)


def pickled(folder: Path, name: str, *others: str) -> Path:
    """A SpecForge head whose weights are in a torch pickle, with other files beside it."""
    heads.specforge(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()
    for other in others:
        torch.save({"step": torch.tensor(7)}, folder / other)
    return folder


@pytest.mark.parametrize("name", ["draft.bin", "eagle3.pt"])
def test_the_only_pickle_of_another_name_has_the_weights(tmp_path: Path, name: str):
    beside = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state.pt")
    source = pickled(tmp_path / "head", name, *beside)
    assert [path.name for path in open_checkpoint(source).weights] == [name]
    convert(source, tmp_path / "out", "specforge")
    ours = load_file(heads.specforge(tmp_path / "same") / "model.safetensors")
    theirs = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)
    kinds = {verdict.title: verdict.kind for verdict in preflight_all(examine(open_checkpoint(source)))}
    refuse = {title for title, kind in kinds.items() if kind == "refuses" and not title.startswith("sglang-jax")}
    of_trtllm = {title for title in kinds if title.startswith("TensorRT-LLM")} if name.endswith(".pt") else set()
    assert refuse == {title for title in kinds if title.startswith("llama.cpp")} | of_trtllm


def test_of_several_pickles_none_is_taken(tmp_path: Path):
    source = pickled(tmp_path / "head", "draft.bin", "ema.pt")
    with pytest.raises(SourceError, match=r"several torch pickles, draft\.bin and ema\.pt, and nothing says") as e:
        open_checkpoint(source)
    assert (e.value.code, e.value.exit_code) == ("source-several-pickles", 3)


def test_tensors_of_something_else_beside_the_weights_are_said(tmp_path: Path):
    source = heads.specforge(tmp_path / "head")
    save_file({"x": torch.ones(2)}, source / "ema.safetensors")
    (source / "pointer.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (source / "pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    torch.save({"norm.weight": torch.ones(8)}, source / "training_state.pt")
    torch.save({"state": {"norm.weight": torch.ones(8)}}, source / "optimizer.pt")
    (said,) = (p for p in open_head(source).problems if p.code.startswith("checkpoint-"))
    assert said.code == "checkpoint-beside"
    assert said.message.startswith("ema.safetensors beside model.safetensors is left out")
    assert open_checkpoint(source).beside.stray == ("ema.safetensors",)
    judged = preflight_all(examine(open_checkpoint(source), open_head(source)))
    stopped = {v.engine: v.kind for v in judged if "weights-stray" in {r.code for r in v.reasons}}
    assert stopped == {"vllm": "refuses"}, "SGLang skips names that it does not know"
    index = {"weight_map": dict.fromkeys(load_file(source / "model.safetensors"), "model.safetensors")}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    judged = preflight_all(examine(open_checkpoint(source), open_head(source)))
    assert "weights-stray" not in {r.code for v in judged for r in v.reasons}


def judged_of(source: Path) -> dict[str, set[str]]:
    """By engine, the codes of the reasons about other files that are not "right"."""
    found: dict[str, set[str]] = {}
    for verdict in preflight_all(examine(open_checkpoint(source), open_head(source))):
        codes = {r.code for r in verdict.reasons if r.code.startswith("weights-") and r.effect != "right"}
        found.setdefault(verdict.engine, set()).update(codes)
    return {engine: codes for engine, codes in found.items() if codes}


@pytest.mark.parametrize("indexed", [True, False])
def test_vllm_loads_consolidated_files_alone(tmp_path: Path, indexed: bool):
    source = heads.specforge(tmp_path / "head")
    tensors = load_file(source / "model.safetensors")
    if indexed:
        index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
    other = source / "consolidated.safetensors"
    save_file(tensors, other)
    assert (judged_of(source), open_checkpoint(source).problems) == ({}, ())
    save_file({"norm.weight": tensors["norm.weight"]}, other)
    assert judged_of(source) == {"vllm": {"weights-alone"}}
    assert [(p.severity, p.code) for p in open_checkpoint(source).problems] == [("warning", "checkpoint-beside")]
    save_file({**tensors, "norm.weight": tensors["norm.weight"] + 1}, other)
    assert judged_of(source) == {"vllm": {"weights-alone"}, "sglang_jax": {"weights-overlaid-first"}}
    (said,) = open_checkpoint(source).problems
    assert (said.severity, said.code) == ("error", "checkpoint-duplicate")
    assert "vLLM loads the other alone" in said.message
    save_file({"layers.0.attention.wq.weight": torch.ones(2, 2)}, other)
    assert judged_of(source) == {"vllm": {"weights-alone-foreign"}}
    convert(source, tmp_path / "out", "specforge")
    assert not (tmp_path / "out" / other.name).exists()


def test_sglang_skips_one_consolidated_file_beside_one_of_weights(tmp_path: Path):
    source = heads.specforge(tmp_path / "head")
    tensors = load_file(source / "model.safetensors")
    save_file({**tensors, "norm.weight": tensors["norm.weight"] + 1}, source / "consolidated.00.safetensors")
    taken = {"vllm": {"weights-alone"}, "sglang_jax": {"weights-overlaid-first"}}
    assert judged_of(source) == taken  # SGLang loads the weights last
    (source / "consolidated.00.safetensors").rename(source / "consolidated.safetensors")
    assert judged_of(source) == taken


@pytest.mark.parametrize("name", ["model-old.safetensors", "ema.safetensors", "0.safetensors"])
def test_sglang_jax_takes_an_older_export_that_sorts_first(tmp_path: Path, name: str):
    source = heads.specforge(tmp_path / "head")
    tensors = load_file(source / "model.safetensors")
    save_file({"norm.weight": tensors["norm.weight"] + 1}, source / name)
    assert judged_of(source) == {"sglang_jax": {"weights-overlaid-first"}}
    judged = preflight_all(examine(open_checkpoint(source), open_head(source)))
    (said,) = {r.sentence for v in judged for r in v.reasons if r.code == "weights-overlaid-first"}
    assert f"{name} has another under the same name" in said
    write_index(source, tensors)
    assert judged_of(source) == {"sglang_jax": {"weights-overlaid-first"}}, "it reads no index"
    save_file({"norm.weight": tensors["norm.weight"]}, source / name)
    assert judged_of(source) == {}


def write_index(source: Path, tensors: Mapping[str, object]) -> None:
    """Say that model.safetensors holds the weights."""
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (source / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("command", ["inspect", "convert"])
@pytest.mark.parametrize("kind", NAMES)
def test_a_part_of_the_weights_in_the_cache_is_no_fault_of_the_repository(
    hub: HubServer, tmp_path: Path, cli: Cli, monkeypatch, kind: str, command: str, indexed: bool
):
    from huggingface_hub import constants, hf_hub_download

    shards = Shards(tmp_path / "head", kind)
    if not indexed:
        shards.index.unlink()
    hub.commit("alice/head", shards.folder)
    for name in ("config.json", shards.first, *([shards.index.name] if indexed else [])):
        hf_hub_download("alice/head", name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    out = () if command == "inspect" else (tmp_path / "out", "--to", "modelopt")
    status, _, err = cli(command, "hf://alice/head", *out, "--from", "specforge")
    assert status == 5
    assert f"HF_HUB_OFFLINE is set, and the cache does not have {shards.second} of alice/head" in err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hf_hub_download("alice/head", shards.second)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert cli(command, "hf://alice/head", *out, "--from", "specforge")[0] == 0


def test_of_files_beside_the_weights_on_the_hub_only_safetensors_are_fetched(hub: HubServer, tmp_path: Path):
    said = []
    for name in ("other.safetensors", "pytorch_model.bin"):
        beside(tmp_path / name, name, **NORM)
        hub.commit(f"alice/{name}", tmp_path / name)
        found = open_checkpoint(f"hf://alice/{name}", headers_only=True).problems
        said.append([p.code for p in found])
    assert said == [["checkpoint-duplicate"], []]
    beside(tmp_path / "wider", "pytorch_model.bin", **WIDER)
    hub.commit("alice/wider", tmp_path / "wider")
    assert [p.code for p in open_checkpoint("hf://alice/wider", headers_only=True).problems] == ["checkpoint-beside"]
    assert open_checkpoint("hf://alice/wider").problems == (), "nothing is downloaded for it"
