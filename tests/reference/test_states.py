"""Hidden states in files, against the model they were saved from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import heads, targets
from support.targets import LAYERS, VOCAB

from eagle3hub.errors import CheckpointError, ConfigError, Eagle3HubError, InputError, OutputError, SourceError
from eagle3hub.head import FINAL_NORM, AuxTaps
from eagle3hub.layouts import open_head
from eagle3hub.reference.states import SavedStates, save_states
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Text
from reference.support import whole

TAPS = AuxTaps.from_after_layer([0, 2], "flag")
WITH_NORM = AuxTaps((1, FINAL_NORM), "flag")


def texts(*lengths: int) -> list[Text]:
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]
    return [Text(tuple(ids), 2, len(ids) - 4) for ids in drawn]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> TargetModel:
    return TargetModel.load(str(targets.save(tmp_path_factory.mktemp("targets") / "llama")), name="owner/tiny")


@pytest.fixture(scope="module")
def saved(target: TargetModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states") / "s"
    save_states(folder, target, texts(9, 20, 14), TAPS, question_ids=[7, "b", 9], temperature=0.8)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_what_is_read_is_what_the_target_gives(saved: Path, target: TargetModel):
    states = SavedStates(saved)
    assert list(states.texts) == texts(9, 20, 14)
    assert [record.question_id for record in states.dump.records] == [7, "b", 9]
    assert states.dump.target_name == "owner/tiny"
    (ours,) = states.read(states.texts, TAPS, temperature=0.8)
    (theirs,) = target.read(states.texts, TAPS, temperature=0.8)
    assert (ours.index, ours.texts) == (theirs.index, theirs.texts)
    assert ours.logprobs is not None
    assert theirs.logprobs is not None
    for row, text in enumerate(ours.texts):
        n = len(text.token_ids)
        assert torch.equal(ours.aux[row, :n], theirs.aux[row, :n])
        assert torch.equal(ours.logprobs[row, 1:n], theirs.logprobs[row, 1:n])
    assert torch.equal(whole(states.embeddings), target.embeddings)


def test_fewer_texts_and_taps_can_be_asked_for_in_small_batches(saved: Path, target: TargetModel):
    states = SavedStates(saved, batch_tokens=28)
    some = [states.texts[2], states.texts[0]]
    last = AuxTaps.from_after_layer([2], "flag")
    (batch,) = states.read(some, last)
    assert batch.logprobs is None
    assert batch.index == (0, 1)
    assert batch.aux.shape == (2, 14, 16)
    torch.testing.assert_close(batch.aux[0], next(target.read([some[0]], last)).aux[0])
    assert len(list(states.read(states.texts, TAPS))) == 2


def test_the_state_after_the_final_norm_is_saved_too(target: TargetModel, tmp_path: Path):
    save_states(tmp_path / "s", target, texts(6), WITH_NORM)
    states = SavedStates(tmp_path / "s")
    assert states.dump.columns.taps == (1, FINAL_NORM)
    (batch,) = states.read(states.texts, AuxTaps.final_norm("flag"))
    assert torch.equal(batch.aux, next(target.read(texts(6), AuxTaps.final_norm("flag"))).aux)


def test_bfloat16_states_stay_bfloat16(target: TargetModel, tmp_path: Path):
    half = TargetModel.load(target.source, dtype="bfloat16")
    save_states(tmp_path / "s", half, texts(6), TAPS)
    (batch,) = SavedStates(tmp_path / "s").read(texts(6), TAPS)
    assert batch.aux.dtype == torch.bfloat16
    assert torch.equal(batch.aux, next(half.read(texts(6), TAPS)).aux)


def test_saving_goes_on_where_it_stopped(target: TargetModel, saved: Path, copy: Path):
    (copy / "000001.safetensors").unlink()
    kept = (copy / "000000.safetensors").stat().st_mtime_ns
    with pytest.raises(SourceError, match=r"000001\.safetensors is missing") as caught:
        SavedStates(copy)
    assert caught.value.code == "source-states-missing"
    save_states(copy, target, texts(9, 20, 14), TAPS, question_ids=[7, "b", 9], temperature=0.8)
    assert (copy / "000000.safetensors").stat().st_mtime_ns == kept
    again, before = load_file(copy / "000001.safetensors"), load_file(saved / "000001.safetensors")
    torch.testing.assert_close(again["aux_hidden_states"], before["aux_hidden_states"])
    assert sorted(p.name for p in copy.iterdir()) == sorted(p.name for p in saved.iterdir())


def test_a_folder_with_something_else_is_left_alone(target: TargetModel, copy: Path, tmp_path: Path):
    with pytest.raises(OutputError, match="another run"):
        save_states(copy, target, texts(9, 20), TAPS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="other files"):
        save_states(tmp_path / "mine", target, texts(9), TAPS)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match="no texts"):
        save_states(tmp_path / "none", target, [], TAPS)
    assert not (tmp_path / "none").exists()


class TestEmbeddings:
    def test_they_come_from_the_targets_folder_where_the_states_have_none(self, copy: Path, target: TargetModel):
        (copy / "embed_tokens.safetensors").unlink()
        assert torch.equal(whole(SavedStates(copy, target=target.source).embeddings), target.embeddings)

    def test_without_either_the_option_is_named(self, copy: Path):
        (copy / "embed_tokens.safetensors").unlink()
        with pytest.raises(SourceError) as caught:
            _ = SavedStates(copy).embeddings
        assert caught.value.code == "source-no-embeddings"
        assert "--target" in str(caught.value.hint)

    def test_another_targets_do_not_fit(self, copy: Path, tmp_path: Path):
        (copy / "embed_tokens.safetensors").unlink()
        other = targets.save(tmp_path / "other", vocab_size=50)
        with pytest.raises(
            InputError, match=r"owner/tiny, whose vocabulary is 97, but that of .*other is 50"
        ) as caught:
            SavedStates(copy, target=str(other))
        assert caught.value.code == "states-target"
        save_file({"embed_tokens.weight": torch.zeros(50, 16)}, copy / "embed_tokens.safetensors")
        with pytest.raises(InputError, match=r"\[50, 16\].*\[97, 16\]") as caught:
            _ = SavedStates(copy).embeddings
        assert caught.value.code == "states-embeddings"


class TestFaults:
    def edit(self, folder: Path, **changes: object) -> None:
        path = folder / "states.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def change(self, folder: Path, **changes: torch.Tensor | None) -> None:
        path = folder / "000001.safetensors"
        tensors = {**load_file(path), **changes}
        save_file({k: v for k, v in tensors.items() if v is not None}, path)

    def refused(self, folder: Path) -> Eagle3HubError:
        with pytest.raises(Eagle3HubError) as caught:
            SavedStates(folder)
        return caught.value

    def test_a_truncated_file(self, copy: Path):
        path = copy / "000001.safetensors"
        path.write_bytes(path.read_bytes()[:-3])
        error = self.refused(copy)
        assert isinstance(error, CheckpointError)
        assert "000001.safetensors" in error.message

    def test_states_of_another_width_or_dtype(self, copy: Path):
        self.change(copy, aux_hidden_states=torch.zeros(20, 33))
        assert "F32 [20, 33], but states.json says F32 [20, 32]" in self.refused(copy).message
        self.change(copy, aux_hidden_states=torch.zeros(20, 32, dtype=torch.float16))
        assert "F16 [20, 32], but states.json says F32 [20, 32]" in self.refused(copy).message

    def test_a_missing_tensor(self, copy: Path):
        self.change(copy, logprobs=None)
        assert "000001.safetensors holds no tensor logprobs" in self.refused(copy).message

    def test_the_states_of_another_text(self, copy: Path):
        self.change(copy, token_ids=torch.arange(20))
        assert "another text" in self.refused(copy).message

    def test_states_that_are_not_finite(self, copy: Path):
        states = load_file(copy / "000001.safetensors")["aux_hidden_states"].clone()
        states[5, 20] = float("nan")
        self.change(copy, aux_hidden_states=states)
        opened = SavedStates(copy)
        with pytest.raises(InputError, match="after decoder layer 2 are not finite in text 'b'"):
            list(opened.read(opened.texts, TAPS))
        list(opened.read([opened.texts[0]], TAPS))

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"schema": "other/1"}, "other/1"),
            ({"dtype": "F8_E4M3"}, "F8_E4M3"),
            ({"texts": []}, "names no texts"),
            ({"texts": [3]}, r"texts\[0\]"),
            ({"aux_boundary_ids": []}, "aux_boundary_ids"),
            ({"aux_boundary_ids": [3, 1]}, "not ascending"),
            ({"temperature": "hot"}, "temperature"),
            ({"target": {"name": "x", "config_sha256": "", "vocab_size": 3, "num_hidden_layers": 1}}, "hidden_size"),
        ],
    )
    def test_a_wrong_index(self, copy: Path, changes: dict[str, object], says: str):
        self.edit(copy, **changes)
        with pytest.raises(ConfigError, match=says):
            SavedStates(copy)

    def test_no_index(self, tmp_path: Path):
        assert self.refused(tmp_path).code == "source-no-states"
        (tmp_path / "states.json").mkdir()
        error = self.refused(tmp_path)
        assert error.code == "source-no-states"
        assert "states.json cannot be read" in error.message

    def test_other_taps_than_the_head_reads(self, saved: Path):
        states = SavedStates(saved)
        with pytest.raises(InputError) as caught:
            next(states.read(states.texts, AuxTaps.from_after_layer([0, 1], "flag")))
        assert caught.value.code == "states-taps"
        assert "decoder layer 0, decoder layer 1" in caught.value.message
        assert "decoder layer 0, decoder layer 2" in caught.value.message

    def test_another_temperature_and_another_text(self, saved: Path, target: TargetModel, tmp_path: Path):
        states = SavedStates(saved)
        with pytest.raises(InputError, match=r"temperature 1\.0 are needed.*temperature 0\.8"):
            next(states.read(states.texts, TAPS, temperature=1.0))
        with pytest.raises(InputError, match="not among the 3"):
            next(states.read([replace(states.texts[0], token_ids=(1, 2, 3))], TAPS))

    def test_a_head_for_another_target(self, saved: Path, tmp_path: Path):
        dims = heads.dims(hidden=16, vocab=VOCAB)
        fitting = replace(open_head(heads.specforge(tmp_path / "a", dims)), aux=TAPS)
        SavedStates(saved).fit(fitting)
        with pytest.raises(InputError, match="reads the target after decoder layer 0, decoder layer 3"):
            SavedStates(saved).fit(replace(fitting, aux=AuxTaps.from_after_layer([0, 3], "flag")))
        narrow = open_head(heads.specforge(tmp_path / "b", heads.dims(vocab=VOCAB)))
        with pytest.raises(InputError, match=r"hidden size 8, but .* has 16"):
            SavedStates(saved).fit(narrow)
        deep = open_head(heads.specforge(tmp_path / "c", dims))
        with pytest.raises(InputError, match=f"decoder layer 26 .* has {LAYERS} layers"):
            SavedStates(saved).fit(deep)
