"""Hidden states of other producers, against the model that they were computed with."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import dumps, targets

from eagle3hub.errors import CheckpointError, Eagle3HubError, InputError, SourceError
from eagle3hub.head import AuxTaps
from eagle3hub.head.target import read_target
from eagle3hub.prompts import Prompt
from eagle3hub.reference.dumps import dumped_prompts, open_dump
from eagle3hub.reference.responses import read_responses, write_responses
from eagle3hub.reference.states import Asked, SavedStates, mapped, save_states
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Text
from reference.support import whole

QUESTIONS = ("How many?", "Why?", "Say something long.")
LAYERS = 8
TAPS = AuxTaps.default_for(LAYERS)
WITH_LAST = AuxTaps((*TAPS.taps, LAYERS - 1), "flag")
K = 3


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> TargetModel:
    """A target of eight layers whose final norm does something, and which never ends an answer."""
    folder = targets.save(
        tmp_path_factory.mktemp("targets") / "deep", tokenizer=True, num_hidden_layers=LAYERS, eos_token_id=None
    )
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.linspace(0.5, 2.0, 16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return TargetModel.load(str(folder), name="owner/deep")


@pytest.fixture(scope="module")
def texts(target: TargetModel) -> list[Text]:
    """The target's own answers, with two tokens after each."""
    made = target.respond([target.chat(q) for q in QUESTIONS], max_new_tokens=20, lookahead=K - 1)
    assert all(text.response_length == 20 for text in made), "no answer of this target ends by itself"
    return made


@pytest.fixture(scope="module", params=[*dumps.WRITERS])
def dump(request: pytest.FixtureRequest, target: TargetModel, texts: list[Text], tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("dumps") / "d"
    dumps.WRITERS[request.param](folder, target, texts)
    return request.param, folder


def layers_for(name: str) -> AuxTaps | None:
    """What has to be said: vLLM has no default."""
    return {"vllm": WITH_LAST, "modelopt by vllm": AuxTaps.from_after_layer(TAPS.after_layer, "flag")}.get(name)


def asked(**changes: object) -> Asked:
    prompts = [Prompt(i, "x", q) for i, q in enumerate(QUESTIONS)]
    return replace(Asked(prompts, False, 20, K - 1), **changes)  # type: ignore[arg-type]


def opened(folder: Path, target: TargetModel, name: str = "") -> SavedStates:
    return SavedStates(folder, target=target.source, layers=layers_for(name))


def test_prompts_find_their_texts_and_the_states_are_the_models(
    dump: tuple[str, Path], target: TargetModel, texts: list[Text]
):
    name, folder = dump
    source = opened(folder, target, name)
    found, notes = source.answers(asked())
    assert found == texts
    (ours,) = source.read(found, TAPS, lookahead=False)
    (theirs,) = target.read(found, TAPS, lookahead=False)
    assert ours.index == theirs.index
    for row, text in enumerate(ours.texts):
        torch.testing.assert_close(ours.aux[row, : text.last_start], theirs.aux[row, : text.last_start])
    torch.testing.assert_close(whole(source.embeddings), target.embeddings)
    torch.testing.assert_close(whole(source.lm_head), target.lm_head)
    assert any("60 of 60 tokens" in note and "its own" in note for note in notes), notes
    assert any("by default" in note for note in notes) == (
        name in ("speculators", "specforge", "specforge, packed", "modelopt")
    )


def test_the_last_state_gives_the_targets_probabilities(
    dump: tuple[str, Path], target: TargetModel, texts: list[Text]
):
    """Whether it comes before or after the final norm."""
    name, folder = dump
    source = opened(folder, target, name)
    found, _ = source.answers(asked())
    (ours,) = source.read(found, TAPS, temperature=0.7)
    (theirs,) = target.read(found, TAPS, temperature=0.7)
    assert ours.logprobs is not None
    assert theirs.logprobs is not None
    for row, text in enumerate(ours.texts):
        own = slice(text.prompt_length, len(text.token_ids))
        torch.testing.assert_close(ours.logprobs[row, own], theirs.logprobs[row, own], rtol=1e-4, atol=1e-4)
    (normed,) = source.read(found, AuxTaps.final_norm("flag"))
    (true,) = target.read(found, AuxTaps.final_norm("flag"))
    for row, text in enumerate(true.texts):
        n = len(text.token_ids)
        torch.testing.assert_close(normed.aux[row, :n], true.aux[row, :n], rtol=1e-4, atol=1e-4)


def test_a_dump_that_modelopt_itself_wrote(target: TargetModel):
    """Its layers, its last state, and that the target did not write the conversations."""
    source = opened(Path(__file__).parent.parent / "fixtures" / "states" / "modelopt", target)
    assert [record.question_id for record in source.dump.records] == ["conv-0", "conv-1"]
    for record in source.dump.records:
        held = source.dump.open(record)
        text = Text(record.token_ids, 1, len(record.token_ids) - 1)
        (batch,) = target.read([text], TAPS)
        torch.testing.assert_close(mapped(held.states[0]), batch.aux[0], rtol=1e-4, atol=1e-4)
        assert held.last is not None
        torch.testing.assert_close(mapped(held.last), dumps.last(target, text), rtol=1e-4, atol=1e-4)
        assert held.mask is not None
        assert all(held.mask), "without --answer-only-loss nothing says where the answer is"
    prompts = [Prompt("conv-0", "x", "Why?"), Prompt("conv-1", "x", "How many are there?")]
    refused(source, "states-not-own-text", "not the target's own", prompts=prompts, max_new_tokens=3, lookahead=0)


class TestWhichTexts:
    """Where prompt and answer are, and who wrote them."""

    def test_the_masks_answer_is_taken_where_the_texts_are_the_prompts(
        self, target: TargetModel, texts: list[Text], tmp_path: Path
    ):
        dumps.specforge(tmp_path / "d", target, texts)
        prompts = dumped_prompts(tmp_path / "d", "hidden-states", 2)
        assert [p.question_id for p in prompts.prompts] == [0, 1]
        source = opened(tmp_path / "d", target)
        found, notes = source.answers(asked(prompts=prompts.prompts, own=True))
        assert found == texts[:2]
        assert not any("not judged" in note for note in notes)

    def test_an_answer_that_the_files_end_with_lacks_what_its_last_drafts_need(
        self, target: TargetModel, texts: list[Text], tmp_path: Path
    ):
        dumps.specforge(tmp_path / "d", target, texts)
        found, notes = opened(tmp_path / "d", target).answers(asked(max_new_tokens=40))
        assert [text.response_length for text in found] == [20, 20, 20]
        assert [text.lookahead for text in found] == [K - 1] * 3
        assert any("of 3 of 3 texts the last 2 tokens are not judged" in note for note in notes)

    def test_given_responses_say_where_the_answers_are(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.vllm(tmp_path / "d", target, texts)
        short = [Text(t.token_ids[: t.prompt_length + 11], t.prompt_length, 9) for t in texts]
        write_responses(tmp_path / "r.jsonl", dict(enumerate(short)))
        responses = read_responses(tmp_path / "r.jsonl")
        found, notes = opened(tmp_path / "d", target, "vllm").answers(asked(responses=responses))
        assert found == short
        assert any("27 of 27" in note for note in notes)

    def test_states_may_end_before_the_lookahead(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        """A draft begins at no position after the answer."""
        ended = [Text(t.token_ids[: t.last_start], t.prompt_length, t.last_start - t.prompt_length) for t in texts]
        dumps.vllm(tmp_path / "d", target, ended)
        write_responses(tmp_path / "r.jsonl", dict(enumerate(texts)))
        source = opened(tmp_path / "d", target, "vllm")
        found, _ = source.answers(asked(responses=read_responses(tmp_path / "r.jsonl")))
        (ours,) = source.read(found, TAPS, lookahead=False)
        (theirs,) = target.read(found, TAPS, lookahead=False)
        for row, text in enumerate(ours.texts):
            torch.testing.assert_close(ours.aux[row, : text.last_start], theirs.aux[row, : text.last_start])

    def test_responses_of_other_texts_are_refused(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.vllm(tmp_path / "d", target, texts)
        other = [Text((*t.token_ids[:-5], 5, 5, 5, 5, 5), t.prompt_length, 20) for t in texts]
        write_responses(tmp_path / "r.jsonl", dict(enumerate(other)))
        source = opened(tmp_path / "d", target, "vllm")
        refused(
            source,
            "states-question",
            "no hidden states of the response to question 0",
            responses=read_responses(tmp_path / "r.jsonl"),
        )
        write_responses(
            tmp_path / "r.jsonl", {i: replace(t, token_ids=(*t.token_ids[:-1], 97)) for i, t in enumerate(texts)}
        )
        refused(source, "states-target", "token id 97", responses=read_responses(tmp_path / "r.jsonl"))

    def test_prompts_without_a_text_are_refused(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.specforge(tmp_path / "d", target, texts)
        source = opened(tmp_path / "d", target)
        refused(source, "states-question", "begins with question 9", prompts=[Prompt(9, "x", "Who?")])
        with pytest.raises(InputError, match=r"asks for 4 prompts, but .* holds 3 texts"):
            dumped_prompts(tmp_path / "d", "hidden-states", 4)

    def test_an_answer_that_is_too_short_for_k_is_refused(
        self, target: TargetModel, texts: list[Text], tmp_path: Path
    ):
        dumps.specforge(tmp_path / "d", target, texts)
        says = "the answer of text 0 in .* has 22 tokens, too few for K = 23"
        refused(opened(tmp_path / "d", target), "states-too-short", says, lookahead=22)

    @pytest.mark.parametrize(
        ("mask", "says"), [(1, "loss_mask is the same everywhere"), (0, "the same everywhere"), (None, "no loss_mask")]
    )
    def test_a_mask_that_says_nothing(
        self, target: TargetModel, texts: list[Text], tmp_path: Path, mask: int | None, says: str
    ):
        dumps.modelopt(tmp_path / "d", target, texts[:1])
        change(
            tmp_path / "d" / "conv-0.pt",
            loss_mask=None if mask is None else torch.full((len(texts[0].token_ids),), mask),
        )
        prompts = dumped_prompts(tmp_path / "d", "hidden-states").prompts
        refused(opened(tmp_path / "d", target), "states-boundary", says, prompts=prompts, own=True)

    def test_a_mask_without_a_prompt(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.modelopt(tmp_path / "d", target, texts[:1])
        mask = torch.ones(len(texts[0].token_ids), dtype=torch.int64)
        mask[-1] = 0
        change(tmp_path / "d" / "conv-0.pt", loss_mask=mask)
        prompts = dumped_prompts(tmp_path / "d", "hidden-states").prompts
        refused(opened(tmp_path / "d", target), "states-boundary", "no prompt", prompts=prompts, own=True)

    def test_text_that_another_wrote_is_refused_whatever_is_said(
        self, target: TargetModel, texts: list[Text], tmp_path: Path
    ):
        foreign = [replace(t, token_ids=(*t.token_ids[: t.prompt_length], *([20, 30] * 11))) for t in texts]
        dumps.specforge(tmp_path / "d", target, foreign)
        source = opened(tmp_path / "d", target)
        refused(source, "states-not-own-text", "text 0 .* not the target's own: of its tokens", stated=True)
        refused(source, "states-not-own-text", "standard deviations", temperature=0.3)

    def test_sampled_text_is_known_as_such(self, target: TargetModel, tmp_path: Path):
        prompts = [target.chat(q) for q in QUESTIONS]
        drawn = target.respond(prompts, max_new_tokens=20, lookahead=K - 1, temperature=1.0, seed=1)
        dumps.specforge(tmp_path / "d", target, drawn)
        source = opened(tmp_path / "d", target)
        found, notes = source.answers(asked(temperature=1.0))
        assert found == drawn
        assert any("as likely by the target's saved last states as sampling at 1" in note for note in notes)
        refused(source, "states-not-own-text", "are the target's likeliest")

    def test_without_the_targets_weights_somebody_has_to_say_it(
        self, target: TargetModel, texts: list[Text], tmp_path: Path
    ):
        dumps.specforge(tmp_path / "d", target, texts)
        paper = tmp_path / "paper"
        shutil.copytree(target.source, paper, ignore=shutil.ignore_patterns("*.safetensors"))
        source = SavedStates(tmp_path / "d", target=str(paper))
        refused(source, "states-texts-unknown", "nothing shows that the target wrote the texts")
        found, notes = source.answers(asked(stated=True))
        assert found == texts
        assert any("stated by --own-texts" in note for note in notes)
        write_responses(tmp_path / "r.jsonl", dict(enumerate(texts)))
        found, notes = source.answers(asked(responses=read_responses(tmp_path / "r.jsonl")))
        assert found == texts
        assert any("stated by the file of responses" in note for note in notes)

    def test_texts_of_another_temperature_are_refused(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        save_states(tmp_path / "d", target, texts, TAPS, question_ids=[0, 1, 2])
        source = SavedStates(tmp_path / "d", target=target.source)
        assert source.answers(asked()) == (texts, [])
        refused(source, "states-temperature", "written at temperature 0, not 0.5", temperature=0.5)
        refused(source, "states-question", "no hidden states for question 5", prompts=[Prompt(5, "x", "?")])


class TestWhichLayers:
    def test_vllm_does_not_say(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.vllm(tmp_path / "d", target, texts)
        says = "nothing says which layers of the target the 4 states per token"
        error = cannot_open(tmp_path / "d", target, "states-layers-unknown", says)
        assert "--states-layers" in str(error.hint)

    def test_another_number_of_layers(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.vllm(tmp_path / "d", target, texts)
        says = "the states of 4 layers per token, but --states-layers names 3"
        cannot_open(tmp_path / "d", target, "states-layers", says, TAPS)
        dumps.specforge(tmp_path / "s", target, texts)
        for path in (tmp_path / "s").rglob("*.ckpt"):
            held = torch.load(path)["aux_hidden_state"]
            change(path, aux_hidden_state=held[:, :, :32].contiguous())
        cannot_open(tmp_path / "s", target, "states-layers", "states of 2 layers per token, but specforge writes 3")

    def test_layers_beyond_the_target(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.vllm(tmp_path / "d", target, texts)
        says = "names decoder layer 8 .* but .* has 8 layers"
        cannot_open(tmp_path / "d", target, "states-layers", says, AuxTaps.from_after_layer([1, 3, 4, 8], "flag"))

    def test_old_speculators_count_otherwise(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        """The same numbers are one layer higher; without data_config.json its default is taken."""
        dumps.old_speculators(tmp_path / "d", target, texts)
        assert opened(tmp_path / "d", target).dump.describe()["producer_version"] == "0.4.0"
        (tmp_path / "d" / "data_config.json").unlink()
        dump = opened(tmp_path / "d", target).dump
        assert dump.columns.after_layer == [2, 4, 5, 7]
        assert "after layers 2, 4, 5, 7" in dump.assumed[0]

    def test_the_script_of_modelopt_for_vllm_has_no_default(
        self, target: TargetModel, texts: list[Text], tmp_path: Path
    ):
        dumps.modelopt_by_vllm(tmp_path / "d", target, texts)
        with pytest.raises(InputError, match="come before the target's final norm") as caught:
            opened(tmp_path / "d", target)
        assert caught.value.code == "states-layers-unknown"

    def test_a_folder_that_says_its_layers_is_not_contradicted(
        self, target: TargetModel, texts: list[Text], tmp_path: Path
    ):
        save_states(tmp_path / "d", target, texts, TAPS)
        cannot_open(tmp_path / "d", target, "states-layers", "names other layers than states.json", WITH_LAST)


class TestFaults:
    """Each is one sentence that names the file, and the folder stays as it was."""

    def test_a_folder_without_states(self, target: TargetModel, tmp_path: Path):
        (tmp_path / "notes.txt").write_text("none")
        error = cannot_open(
            tmp_path, target, "source-no-states", "no files of vLLM, speculators, SpecForge or ModelOpt"
        )
        assert isinstance(error, SourceError)
        cannot_open(tmp_path / "none", target, "source-no-states", "No such file or directory")

    def test_files_of_nobody(self, target: TargetModel, tmp_path: Path):
        save_file({"weight": torch.ones(3)}, tmp_path / "model.safetensors")
        cannot_open(tmp_path, target, "states-format", "holds weight, which is not what vLLM, .* write")

    def test_files_of_several_kinds(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.speculators(tmp_path / "d", target, texts)
        save_file({"weight": torch.ones(3)}, tmp_path / "d" / "other.safetensors")
        cannot_open(tmp_path / "d", target, "states-mixed", "such as hs_0.safetensors and other.safetensors")

    def test_two_files_of_one_text(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.specforge(tmp_path / "d", target, texts)
        shutil.copytree(tmp_path / "d" / "rows_0-2000", tmp_path / "d" / "rows_0-1000")
        cannot_open(tmp_path / "d", target, "states-mixed", "two files of text 0")

    def test_no_target(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.speculators(tmp_path / "d", target, texts)
        with pytest.raises(InputError, match="which do not say of which target") as caught:
            SavedStates(tmp_path / "d")
        assert caught.value.code == "states-target"

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"hidden_size": 24}, "have 64 numbers per token, but the hidden size of .* is 24"),
            ({"vocab_size": 40}, "has token id .*, outside the target's vocabulary of 40"),
        ],
    )
    def test_another_target(
        self, target: TargetModel, texts: list[Text], tmp_path: Path, changes: dict[str, int], says: str
    ):
        dumps.speculators(tmp_path / "d", target, texts)
        config = json.loads((Path(target.source) / "config.json").read_text())
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(InputError, match=says) as caught:
            SavedStates(tmp_path / "d", target=str(tmp_path / "t"))
        assert caught.value.code == "states-target"

    def test_a_last_state_of_another_width(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.modelopt(tmp_path / "d", target, texts[:1])
        change(tmp_path / "d" / "conv-0.pt", hidden_states=torch.zeros(len(texts[0].token_ids), 8))
        cannot_open(tmp_path / "d", target, "states-target", "have 8 numbers per token")

    @pytest.mark.parametrize("name", ["vllm", "specforge", "specforge, packed", "modelopt"])
    def test_a_file_that_is_cut_off(self, target: TargetModel, texts: list[Text], tmp_path: Path, name: str):
        dumps.WRITERS[name](tmp_path / "d", target, texts)
        path = sorted(p for p in (tmp_path / "d").rglob("*[0-9a]*.*") if p.is_file() and p.suffix != ".lock")[1]
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(CheckpointError, match=path.name) as caught:
            opened(tmp_path / "d", target, name)
        assert caught.value.code == "checkpoint-truncated"

    def test_a_packed_file_that_is_none(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.packed_specforge(tmp_path / "d", target, texts)
        path = tmp_path / "d" / "rows_0-2000" / "data_1.ckpt.gz"
        path.write_bytes(b"none")
        with pytest.raises(CheckpointError, match=r"data_1\.ckpt\.gz cannot be unpacked"):
            opened(tmp_path / "d", target)
        other = bytearray(gzip.decompress((path.parent / "data_0.ckpt.gz").read_bytes()))
        at = other.index(b"PK\x01\x02") + 42  # where the directory says the first member begins
        other[at : at + 4] = (len(other) - 5).to_bytes(4, "little")
        path.write_bytes(gzip.compress(other))
        with pytest.raises(CheckpointError, match=r"data_1\.ckpt\.gz is truncated"):
            opened(tmp_path / "d", target)

    def test_a_pickle_with_code_in_it_is_not_run(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.modelopt(tmp_path / "d", target, texts)

        class Trap:
            def __reduce__(self) -> object:
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"input_ids": Trap()}, tmp_path / "d" / "conv-1.pt")
        with pytest.raises(CheckpointError, match="nothing of it was run"):
            opened(tmp_path / "d", target)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("changes", "code", "says"),
        [
            ({"aux_hidden_states": None}, "states-format", "holds no aux_hidden_states, which modelopt writes"),
            ({"input_ids": torch.ones(2, 2, dtype=torch.int64)}, "states-file", "not one list of token ids"),
            ({"input_ids": torch.ones(2)}, "states-file", "not one list of token ids"),
            ({"aux_hidden_states": torch.zeros(5, 48)}, "states-file", "not the states of each"),
            ({"loss_mask": torch.ones(5)}, "states-file", r"loss_mask F32 \[5\] beside"),
            ({"hidden_states": torch.zeros(3, 16, dtype=torch.int64)}, "states-file", "not the states of each"),
        ],
    )
    def test_tensors_that_do_not_belong_together(
        self,
        target: TargetModel,
        texts: list[Text],
        tmp_path: Path,
        changes: dict[str, torch.Tensor | None],
        code: str,
        says: str,
    ):
        dumps.modelopt(tmp_path / "d", target, texts)
        change(tmp_path / "d" / "conv-1.pt", **changes)
        cannot_open(tmp_path / "d", target, code, f"conv-1.pt in .*{says}")

    def test_files_of_several_runs(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.modelopt(tmp_path / "d", target, texts)
        held = torch.load(tmp_path / "d" / "conv-1.pt", weights_only=True)["aux_hidden_states"]
        change(tmp_path / "d" / "conv-1.pt", aux_hidden_states=held.bfloat16())
        cannot_open(tmp_path / "d", target, "states-mixed", "48 numbers of F32, .* conv-1.pt has 48 numbers of BF16")

    def test_a_file_that_changes_while_it_is_used(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.speculators(tmp_path / "d", target, texts)
        source = opened(tmp_path / "d", target)
        found, _ = source.answers(asked())
        shutil.copy(tmp_path / "d" / "hs_0.safetensors", tmp_path / "d" / "hs_1.safetensors")
        with pytest.raises(InputError, match=r"hs_1\.safetensors in .* holds another text than a moment ago"):
            list(source.read(found, TAPS))

    def test_states_that_are_not_finite(self, target: TargetModel, texts: list[Text], tmp_path: Path):
        dumps.modelopt(tmp_path / "d", target, texts)
        held = torch.load(tmp_path / "d" / "conv-1.pt", weights_only=True)["aux_hidden_states"].clone()
        held[3, 20] = float("nan")
        change(tmp_path / "d" / "conv-1.pt", aux_hidden_states=held)
        source = opened(tmp_path / "d", target)
        found, _ = source.answers(asked())
        with pytest.raises(InputError, match="after decoder layer 3 are not finite in text 'conv-1'"):
            list(source.read(found, TAPS))
        list(source.read(found[::2], TAPS))


def change(path: Path, **changes: torch.Tensor | None) -> None:
    """Write a pickle again with other tensors; None takes one out."""
    data = {**torch.load(path, weights_only=True), **changes}
    torch.save({name: value for name, value in data.items() if value is not None}, path)


def refused(source: SavedStates, code: str, says: str, **changes: object) -> None:
    with pytest.raises(InputError, match=says) as caught:
        source.answers(asked(**changes))
    assert caught.value.code == code


def cannot_open(
    folder: Path, target: TargetModel, code: str, says: str, layers: AuxTaps | None = None
) -> Eagle3HubError:
    with pytest.raises(Eagle3HubError, match=says) as caught:
        open_dump(folder, read_target(target.source), layers)
    assert caught.value.code == code
    return caught.value
