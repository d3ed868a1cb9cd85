"""What the reference refuses of a model's build, a target's files and saved states: the code and the sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import heads, targets
from torch import nn
from transformers import PretrainedConfig

from eagle3hub.address import LocalAddress
from eagle3hub.errors import (
    CheckpointError,
    ConfigError,
    Eagle3HubError,
    HubError,
    InputError,
    OutputError,
    SourceError,
    UnavailableError,
)
from eagle3hub.head import AuxTaps
from eagle3hub.layouts import open_head
from eagle3hub.reference.dumps import begin_folder, read_index, tensor_ref
from eagle3hub.reference.layers import Anatomy, captured, dissect
from eagle3hub.reference.loading import _in_our_words, target_config
from eagle3hub.reference.measure import ReplayedHead, ReplaySettings, replay_texts, taps_of
from eagle3hub.reference.states import SavedStates, mapped, save_states, save_tensors
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Text

TAPS = AuxTaps.from_after_layer([0, 2], "flag")


def refused(kind: type[Eagle3HubError], code: str, sentence: str, act: Callable[[], object]) -> None:
    with pytest.raises(kind, match=sentence) as caught:
        act()
    assert (type(caught.value), caught.value.code) == (kind, code)


# Models that are built otherwise


class Model(nn.Module):
    """A model whose decoder is itself, with the given lists of layers."""

    def __init__(self, **lists: int) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_hidden_layers=2, hidden_size=4)
        for name, count in lists.items():
            setattr(self, name, nn.ModuleList(nn.Identity() for _ in range(count)))

    def get_decoder(self) -> nn.Module:
        return self


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"blocks": 3}, "Model of owner/odd has no lists of 2 decoder layers"),
        ({"left": 2, "right": 2}, "Model of owner/odd has 2 lists of 2 decoder layers"),
    ],
)
def test_a_model_without_one_list_of_layers(lists: dict[str, int], says: str):
    refused(InputError, "reference-target-layers", says, lambda: dissect(Model(**lists), "owner/odd"))
    assert len(dissect(Model(layers=2, **lists), "owner/odd").layers) == 2, "what is called layers, is"
    assert len(dissect(Model(blocks=2), "owner/odd").layers) == 2, "one list is the one"


def test_layers_that_put_out_no_hidden_state():
    layers = (nn.Identity(), nn.Identity())
    anatomy = Anatomy(nn.Identity(), layers, 4)
    for state, shape in ((torch.zeros(3, 4), r"\[3, 4\]"), (torch.zeros(1, 3, 5), r"\[1, 3, 5\]"), ("no", "str")):

        def act(state: object = state) -> None:
            with captured(anatomy, [1]):
                layers[1](state)

        says = rf"decoder layer 1 puts out {shape} instead of \[batch, tokens, 4\]"
        refused(InputError, "reference-target-states", says, act)


# Files of a target


def test_a_config_too_large_to_be_one(tmp_path: Path):
    with (tmp_path / "config.json").open("wb") as f:
        f.truncate((64 << 20) + 1)
    at = LocalAddress(str(tmp_path), tmp_path)
    says = r"cannot read .*config\.json: it is larger than 67,108,864 bytes"
    refused(SourceError, "source-unreadable", says, lambda: target_config(at))


@pytest.mark.parametrize(
    ("error", "local", "kind", "code", "says"),
    [
        (
            ImportError("Loading an AWQ model requires gptqmodel"),
            True,
            UnavailableError,
            "unavailable-validate-extra",
            "loading the tokenizer of a needs a package that is not installed: Loading an AWQ model requires",
        ),
        (OSError("no vocabulary"), True, SourceError, "source-unreadable", "cannot load the tokenizer of a: no voc"),
        (OSError("no file"), False, HubError, "hub-target", "cannot load the tokenizer of a from the Hub: no file"),
        (
            KeyError("rope"),
            True,
            InputError,
            "reference-target-unreadable",
            "cannot load the tokenizer of a: KeyError: 'rope'",
        ),
    ],
    ids=["package", "folder", "Hub", "config"],
)
def test_what_transformers_raises_is_said_in_our_words(
    error: Exception, local: bool, kind: type[Eagle3HubError], code: str, says: str
):
    def act() -> None:
        with _in_our_words("the tokenizer of a", local):
            raise error

    refused(kind, code, says, act)


# What feeds a head


def test_a_head_whose_layers_nobody_states(tmp_path: Path):
    head = replace(open_head(heads.specforge(tmp_path / "head")), aux=None)
    says = "neither the head nor you say which layers of the target feed it"
    refused(InputError, "reference-aux", says, lambda: taps_of(head))


def test_texts_that_end_with_the_response(tmp_path: Path):
    head = open_head(heads.specforge(tmp_path / "head"))
    texts = [Text((1, 2, 3, 4, 5, 6), 2, 2), Text((1, 2, 3, 4), 2, 2)]
    refused(
        InputError,
        "reference-lookahead",
        "text 1 goes on for 0 tokens after the response, K = 3 needs 2",
        lambda: replay_texts(None, ReplayedHead(head), texts, ReplaySettings(draft_tokens=3)),
    )


# Saved states


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("states")
    target = TargetModel.load(str(targets.save(here / "llama")), name="owner/tiny")
    save_states(here / "states", target, [Text((3, 4, 5, 6, 7, 8), 2, 3)], TAPS, question_ids=[7])
    return here / "states"


def test_an_index_whose_text_is_longer_than_its_tokens(saved: Path, tmp_path: Path):
    index = json.loads((saved / "states.json").read_text())
    index["texts"][0]["response_length"] = 5
    (tmp_path / "states.json").write_text(json.dumps(index))
    says = r"texts\[0\]: prompt and response are longer than the 6 tokens"
    refused(ConfigError, "config-states", says, lambda: SavedStates(tmp_path))


def test_a_file_of_states_that_is_gone_or_shorter_than_a_moment_ago(saved: Path, tmp_path: Path):
    path = tmp_path / "000000.safetensors"
    path.write_bytes((saved / path.name).read_bytes())
    ref = tensor_ref(path, "aux_hidden_states", None)
    assert mapped(ref).shape == ref.shape
    path.write_bytes(path.read_bytes()[:-1])
    says = r"000000\.safetensors became shorter while it was read"
    refused(CheckpointError, "checkpoint-truncated", says, lambda: mapped(ref))
    says = r"cannot read .*000000\.safetensors: "
    path.write_bytes(b"")
    refused(CheckpointError, "checkpoint-unreadable", says, lambda: mapped(ref))
    path.unlink()
    refused(CheckpointError, "checkpoint-unreadable", says, lambda: mapped(ref))


def test_states_that_cannot_be_written(tmp_path: Path):
    says = r"cannot write .*none/000000\.safetensors: "
    path = tmp_path / "none" / "000000.safetensors"
    refused(OutputError, "output-unwritable", says, lambda: save_tensors(path, {"x": torch.ones(2)}))


def test_states_where_no_folder_can_be_made(saved: Path, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    index = read_index(saved)
    for folder in (tmp_path / "file", tmp_path / "file" / "states"):
        says = f"cannot write {folder}: "
        refused(OutputError, "output-unwritable", says, lambda folder=folder: begin_folder(folder, index))
    assert (tmp_path / "file").read_text() == "mine"


def test_saved_states_of_an_earlier_version_hold_no_lm_head(saved: Path, tmp_path: Path):
    shutil.copytree(saved, tmp_path / "states")
    (tmp_path / "states" / "lm_head.safetensors").unlink()
    says = "the target's lm_head is needed, and neither .*states nor the target's folder holds it"
    refused(InputError, "states-lm-head", says, lambda: SavedStates(tmp_path / "states").lm_head)
