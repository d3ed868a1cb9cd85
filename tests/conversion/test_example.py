"""The example head through every pair of layouts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import heads

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.layouts import LAYOUTS, detect, open_head
from eagle3hub.system.documents import schema_faults
from eagle3hub.system.resources import schema

EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2-135m" / "head"
OPTIONS = {"target_name": "owner/target", "speculative_tokens": 3}


@pytest.fixture
def fitting(tmp_path: Path) -> str:
    d = heads.dims(hidden=576, vocab=49152)
    return str(heads.target(tmp_path / "fitting", d))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The example head in a layout, converted once; tests must not change it."""
    here = tmp_path_factory.mktemp("written")
    target = str(heads.target(here / "fitting", heads.dims(hidden=576, vocab=49152)))

    @cache
    def made(layout: str) -> Path:
        convert(EXAMPLE, here / layout, layout, ConvertOptions(target=target, **OPTIONS))
        return here / layout

    return made


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations(LAYOUTS, 2)))
def test_there_and_back_is_byte_equal(written: Callable[[str], Path], tmp_path: Path, fitting: str, a: str, b: str):
    convert(written(a), tmp_path / "b", b, ConvertOptions(target=fitting, **OPTIONS))
    convert(tmp_path / "b", tmp_path / "back", a)
    assert files(tmp_path / "back") == files(written(a))


@pytest.mark.parametrize("b", ["specforge", "modelopt", "speculators"])
def test_the_trainers_own_files_come_back(example_head: Path, tmp_path: Path, fitting: str, b: str):
    convert(example_head, tmp_path / "b", b, ConvertOptions(target=fitting, **OPTIONS))
    convert(tmp_path / "b", tmp_path / "back", "specjax")
    assert (tmp_path / "back/model.safetensors").read_bytes() == (example_head / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "back/config.json").read_text()) == json.loads(
        (example_head / "config.json").read_text()
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_independent_reader_sees_the_same_weights_and_map(
    example_head: Path, written: Callable[[str], Path], layout: str
):
    before = load_file(example_head / "model.safetensors")
    after = load_file(written(layout) / "model.safetensors")
    prefix = LAYOUTS[layout].contract.tensor_prefix
    for name, tensor in before.items():
        if name in ("d2t", "t2d"):
            continue
        spelled = name.replace("midlayer.", prefix)
        assert torch.equal(after[spelled].view(torch.uint8), tensor.view(torch.uint8)), spelled
    draft_ids = torch.arange(len(before["d2t"]))
    assert torch.equal(after["d2t"].long() + draft_ids, before["d2t"].long() + draft_ids)
    assert ("t2d" in after) == LAYOUTS[layout].contract.has_t2d
    if "t2d" in after:
        assert torch.equal(after["t2d"], before["t2d"])
    weights = {n for n in after if n not in ("d2t", "t2d")}
    assert len(weights) == 13


def test_each_layout_writes_layer_ids_where_its_readers_look(written: Callable[[str], Path]):
    configs = {layout: json.loads((written(layout) / "config.json").read_text()) for layout in LAYOUTS}
    key = "eagle_aux_hidden_state_layer_ids"
    assert key not in configs["specjax"]
    assert configs["speculators"][key] == [2, 15, 27]
    assert configs["speculators"]["norm_before_residual"] is False
    for layout in ("specforge", "modelopt"):
        assert configs[layout][key] == [2, 15, 27]
        assert configs[layout]["eagle_config"][key] == [1, 14, 26]
        assert configs[layout]["rope_theta"] == 100000.0
        assert configs[layout]["rope_parameters"]["rope_theta"] == 100000.0
        assert None not in configs[layout].values()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_provenance_fits_its_schema_and_is_reproducible(example_head: Path, tmp_path: Path, fitting: str, layout: str):
    for name in ("one", "two"):
        convert(example_head, tmp_path / name, layout, ConvertOptions(target=fitting, **OPTIONS))
    record = json.loads((tmp_path / "one/eagle3hub.json").read_text())
    assert not [*schema_faults(record, schema("provenance"))]
    assert record["source"]["layout"] == "specjax"
    assert {f["path"] for f in record["files"]} == {"config.json", "model.safetensors"}
    assert (tmp_path / "one/eagle3hub.json").read_bytes() == (tmp_path / "two/eagle3hub.json").read_bytes()
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_told_apart_without_the_record(written: Callable[[str], Path], tmp_path: Path, layout: str):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(written(layout) / name)
    assert open_head(tmp_path).layout == layout


def test_a_record_that_fits_its_files_names_their_layout(tmp_path: Path):
    convert(heads.specforge(tmp_path / "head"), tmp_path / "out", "specjax")
    evidence = "eagle3hub.json says so and matches the files"
    layout, found = detect(open_checkpoint(tmp_path / "out"))
    assert (layout.name, found.evidence) == ("specjax", (evidence,))
    (tmp_path / "out/eagle3hub.json").unlink()
    layout, found = detect(open_checkpoint(tmp_path / "out"))
    assert layout.name == "specjax"
    assert evidence not in found.evidence


def test_an_edited_folder_is_not_believed(example_head: Path, tmp_path: Path, fitting: str):
    convert(example_head, tmp_path / "out", "specforge", ConvertOptions(target=fitting))
    config = json.loads((tmp_path / "out/config.json").read_text())
    config["rope_theta"] = config["rope_parameters"]["rope_theta"] = 5000.0
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    head = open_head(tmp_path / "out")
    assert "provenance-stale" in {p.code for p in head.problems}
    convert(tmp_path / "out", tmp_path / "back", "specjax")
    assert json.loads((tmp_path / "back/config.json").read_text())["rope_theta"] == 5000.0


def test_a_record_cannot_smuggle_fields_into_a_config(example_head: Path, tmp_path: Path, fitting: str):
    convert(example_head, tmp_path / "out", "specforge", ConvertOptions(target=fitting))
    path = tmp_path / "out/eagle3hub.json"
    record = json.loads(path.read_text())
    record["facts"]["token_ids"]["auto_map"] = 7
    path.write_text(json.dumps(record))
    assert "provenance-malformed" in {p.code for p in open_head(tmp_path / "out").problems}
    convert(tmp_path / "out", tmp_path / "again", "modelopt")
    assert "auto_map" not in json.loads((tmp_path / "again/config.json").read_text())


ASSUMED = {"field": "rope_theta", "value": 1e4, "why": "w", "settle": "s"}
MALFORMED: dict[str, dict[str, object]] = {
    "carried is a list": {"carried": []},
    "carried holds no objects": {"carried": {"modelopt": None}},
    "carried without a config": {"carried": {"modelopt": {}}},
    "carried with a number for a config": {"carried": {"modelopt": {"config": 7}}},
    "carried with a text for a config": {"carried": {"modelopt": {"config": "x"}}},
    "a buffer of another dtype": {"carried": {"modelopt": {"config": {}, "buffers": {"d2t": "F32"}}}},
    "a buffer of another name": {"carried": {"modelopt": {"config": {}, "buffers": {"x": "I64"}}}},
    "two tensors of one name": {"carried": {"modelopt": {"config": {}, "names": {"a": "x", "b": "x"}}}},
    "facts are a list": {"facts": []},
    "token ids are a list": {"facts": {"token_ids": []}},
    "a token id of another name": {"facts": {"token_ids": {"auto_map": 7}}},
    "a token id that is a text": {"facts": {"token_ids": {"eos_token_id": "7"}}},
    "token ids with a flag": {"facts": {"token_ids": {"eos_token_id": [7, True]}}},
    "aux layers from nowhere": {"facts": {"aux_origin": "guess"}},
    "aux layers that descend": {"facts": {"aux_after_layer": [14, 1, 26]}},
    "a number that is a text": {"facts": {"num_target_layers": "30"}},
    "a text that is a number": {"facts": {"target_model_type": 7}},
    "assumptions without a field": {"facts": {"assumptions": [{}]}},
    "assumptions that are no objects": {"facts": {"assumptions": [7]}},
    "a doubt that is a number": {"facts": {"assumptions": [{**ASSUMED, "doubtful": 1}]}},
    "no source": {"source": None},
    "a source without a layout": {"source": {}},
    "engines that are a text": {"made_for": "vllm"},
    "engines that are numbers": {"made_for": [7]},
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_record_is_said_and_not_used(tmp_path: Path, what: str):
    convert(heads.specforge(tmp_path / "head"), tmp_path / "out", "modelopt")
    path = tmp_path / "out/eagle3hub.json"
    record = json.loads(path.read_text())
    sound = open_head(tmp_path / "out")
    assert sound.carried
    assert "provenance-malformed" not in {p.code for p in sound.problems}
    path.write_text(json.dumps({**record, **MALFORMED[what]}))
    head = open_head(tmp_path / "out")
    assert [p.severity for p in head.problems if p.code == "provenance-malformed"] == ["warning"]
    assert (head.carried, head.made_for) == ({}, ())


def test_token_ids_of_a_record_come_back_where_the_config_says_none(tmp_path: Path):
    convert(heads.specforge(tmp_path / "head", bos_token_id=3), tmp_path / "out", "modelopt")
    path = tmp_path / "out/eagle3hub.json"
    record = json.loads(path.read_text())
    record["facts"]["token_ids"] = {"bos_token_id": 5, "eos_token_id": [6, 7]}
    path.write_text(json.dumps(record))
    found = open_head(tmp_path / "out").token_ids
    assert (found["bos_token_id"], found["eos_token_id"]) == (3, [6, 7])
