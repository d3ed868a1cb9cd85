"""What a layout claims to hold is what it holds: the tables in the documentation come from these claims."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from support import heads

import eagle3hub
from eagle3hub.cli.convert import TO
from eagle3hub.engines.preflight.contracts import ENGINES, contracts
from eagle3hub.errors import Refusal
from eagle3hub.head.aux_defaults import (
    AUX_CAPTURE,
    AUX_COUNT,
    AUX_IDS,
    Layer,
    aux_default,
    boundaries,
    special_trainers,
)
from eagle3hub.layouts import LAYOUTS, ReadOptions, by_readers, open_head
from eagle3hub.layouts.base import FEATURES, WriteOptions
from eagle3hub.system.resources import schema

NAMES = {feature.name for feature in FEATURES}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_contracts_speak_of_features_there_are(layout: str):
    contract = LAYOUTS[layout].contract
    assert contract.expresses <= NAMES
    assert set(contract.cannot) <= NAMES - contract.expresses
    assert contract.reads
    assert contract.writes
    assert contract.tensor_prefix in ("midlayer.", "layers.0.")


def test_features_have_titles_of_their_own():
    assert len({feature.title for feature in FEATURES}) == len(FEATURES) == len(NAMES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_engines_in_contracts_are_engines_there_are(layout: str):
    contract = LAYOUTS[layout].contract
    assert set(contract.engines) <= set(ENGINES)
    assert len(set(contract.engines)) == len(contract.engines)
    assert contract.engines or contract.other_readers
    assert contract.trainer_sorts or not contract.sorted_rows, "a layout whose rows always ascend has such a trainer"


def test_the_single_files_and_the_trainers_that_do_not_sort():
    """Facts of the trainers' own loaders: SpecJAX and SafeAILab know no index, ModelOpt orders by frequency."""
    assert {name for name, layout in LAYOUTS.items() if layout.contract.single_file} == {"specjax", "safeailab"}
    assert {name for name, layout in LAYOUTS.items() if not layout.contract.trainer_sorts} == {"modelopt", "universal"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_layout_needs_is_refused_where_it_is_missing(layout: str, tmp_path: Path):
    """Each need's code is the refusal of a head that lacks just that; the option's name is in its hint."""
    source = heads.specjax(tmp_path / "head")
    masked = {"speculators": "refused-no-mask-token"}.get(layout)
    found = set()
    for known in (
        {},
        {"num_target_layers": heads.TARGET_LAYERS},
        {"num_target_layers": heads.TARGET_LAYERS, "target_name": "owner/target"},
    ):
        head = open_head(
            source,
            target_name=known.get("target_name"),
            options=ReadOptions(num_target_layers=known.get("num_target_layers")),
        )
        try:
            LAYOUTS[layout].write(head, WriteOptions())
        except Refusal as e:
            found.add(e.code)
            assert next(n.option for n in LAYOUTS[layout].contract.needs if n.code == e.code) in str(e.hint)
    assert found == {need.code for need in LAYOUTS[layout].contract.needs} - {masked}
    assert LAYOUTS[layout].contract.needs_draft_tokens == ("refused-no-speculative-tokens" in found)


def test_layouts_are_named_once_and_in_one_order():
    """The manifest's schema, the help of convert and suggestions on cards all name what the registry has."""
    layouts = schema("manifest")["properties"]["layouts"]["properties"]
    assert layouts["main"]["enum"] == layouts["also"]["items"]["enum"] == list(LAYOUTS)
    assert sorted(by_readers()) == sorted(LAYOUTS)
    assert re.findall(r"[a-z]+", TO.replace(" or ", " ")) == list(LAYOUTS)
    counts = [len(LAYOUTS[name].contract.engines) for name in by_readers()]
    assert counts == sorted(counts, reverse=True)


def test_no_module_keeps_a_list_of_layouts_of_its_own():
    """Two names of layouts in one module outside layouts/ are the beginning of a second registry."""
    package = Path(eagle3hub.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text()
        if sum(name in text for name in LAYOUTS) < 2:
            continue
        literals = {n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)}
        named = {str(value) for value in literals} & set(LAYOUTS)
        own = {path.stem} if path.parent.name == "layouts" else set()
        if path.name == "dumps.py":  # programs that write hidden states, three of which write a layout of their name
            own = {"modelopt", "specforge", "speculators"}
        assert len(named - own) <= 1, f"{path.relative_to(package)} names {sorted(named)}"


def test_the_key_of_aux_layers_is_written_once():
    package = Path(eagle3hub.__file__).parent
    keys = {AUX_IDS, AUX_COUNT, AUX_CAPTURE}
    for path in package.rglob("*.py"):
        text = path.read_text()
        if not any(key in text for key in keys):
            continue
        found = {n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and n.value in keys}
        assert not found or path.name == "aux_defaults.py", (
            f"{path.relative_to(package)} writes {sorted(found)} itself"
        )


def test_readings_of_engines_name_keys_there_are():
    for terms in contracts():
        for reading in (terms.aux, *terms.aux_by_target.values()):
            named = {key.rpartition(".")[2] for key, _ in reading.places}
            assert not named or AUX_IDS in named, "the key that codecs write is one an engine that reads any reads"
            assert named <= {AUX_IDS, "target_layer_ids", "layer_ids"}, "the other two are vLLM's V2 runner's"


@pytest.mark.parametrize("layout", special_trainers())
def test_trainers_with_defaults_of_their_own_have_a_layout(layout: str):
    assert layout in LAYOUTS


def test_a_layer_is_read_and_written_as_it_is():
    for text, depth, number in (("1", 30, 1), ("L//2-1", 31, 14), ("L-4", 30, 26), ("L", 9, 9), ("L//2+1", 9, 5)):
        layer = Layer.parse(text)
        assert (str(layer), layer.number(depth)) == (text, number)
    for text in ("", "L/2", "M-1", "L - 4", "L//2-"):
        with pytest.raises(ValueError, match="no layer"):
            Layer.parse(text)


def test_defaults_of_trainers():
    assert aux_default().numbers(30) == [1, 14, 26]
    assert [str(layer) for layer in boundaries(aux_default().layers)] == ["2", "L//2", "L-3"]
    assert aux_default("modelopt").numbers(4) == aux_default("modelopt").numbers(3) == [0, 1], "merged, none below 0"
    assert aux_default("specjax").numbers(48, "qwen3_next") == [3, 23, 47]
    assert aux_default("specjax").numbers(48, "llama") == aux_default("specforge").numbers(48, "qwen3_next")
