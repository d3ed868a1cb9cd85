"""Prompts with images: what a target that takes them says to them, by the reference, by vLLM and by its server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from readers.engine_logits import soften
from support import heads, targets
from support.engine_servers import free_port, served
from support.overfit import overfit
from support.validation import validate

from eagle3hub.benchmarking.plan import BenchOptions, bench_plan
from eagle3hub.benchmarking.serving.load import load_generator, send
from eagle3hub.benchmarking.serving.measure import measured_rows
from eagle3hub.benchmarking.serving.plan import Contender, ServingPlan
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.base import RunSpec
from eagle3hub.engines.endpoints import attach
from eagle3hub.engines.vllm import VLLM
from eagle3hub.errors import InputError, SourceError, UnavailableError, UsageError
from eagle3hub.head import AuxTaps
from eagle3hub.prompts import Image, Prompt, load_prompts
from eagle3hub.reference.images import ImagePrompts
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Text
from eagle3hub.validation.options import ReferenceOptions
from eagle3hub.validation.states import StatesOptions, make_states
from eagle3hub.validation.target import identify_target, with_room

LAYERS, PROMPTS, TOKENS = 8, 8, 24
TAPS = (1, 5)
D = {**heads.DIMS, "hidden": 64, "inter": 96, "heads": 2, "kv": 2, "head_dim": 32, "vocab": targets.VOCAB + 1}
D |= {"draft": 90}
QUESTION = "What do you see?"
SAME = ("prompt_tokens", "new_tokens", "tokens_sha256", "rounds", "drafted", "accepted_per_position")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return targets.save_llava(tmp_path_factory.mktemp("llava") / "target", num_hidden_layers=LAYERS)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One question about each of several images, which are files beside it."""
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "images").mkdir()
    rows = []
    for n in range(PROMPTS):
        (folder / "images" / f"{n}.png").write_bytes(targets.picture(n, targets.IMAGE_SIDE))
        rows.append({"question_id": n, "category": "x", "turns": [QUESTION], "images": [f"images/{n}.png"]})
    file = folder / "seen.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, target: Path, prompts: Path) -> Path:
    """A head that knows what the target says to these images."""
    folder = heads.specforge(
        tmp_path_factory.mktemp("head") / "head",
        D,
        max_position_embeddings=512,
        eagle_config={"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 3, 4]},
    )
    soften(folder)
    overfit(folder, target, prompts=load_prompts(prompts), tokens=TOKENS, steps=150)
    out = folder.parent / "universal"
    convert(folder, out, "universal", ConvertOptions(target=str(target), engines=("vllm",)))
    return out


def measured(head: Path, target: Path, prompts: Path, **options: Any) -> Any:
    fixed = {"max_new_tokens": TOKENS, "draft_tokens": 3, "target_name": "owner/target"}
    return validate(head, target=target, prompts=str(prompts), **{**fixed, **options})


@pytest.fixture(scope="module")
def any_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that knows nothing."""
    taps = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 3, 4]}
    return heads.specforge(tmp_path_factory.mktemp("any") / "head", D, eagle_config=taps)


def test_a_template_that_takes_text_gets_a_mark_for_each_image_before_it(tmp_path: Path) -> None:
    """As vLLM renders it: what stands for an image, and the text, on lines of their own."""
    parts = TargetModel.load(str(targets.save_llava(tmp_path / "parts")))
    plain = TargetModel.load(str(targets.save_llava(tmp_path / "text", template=targets.TEMPLATE)))
    prompt = Prompt(1, "x", QUESTION, images=(Image(targets.picture(1)),) * 2)
    mark = targets.VOCAB
    for target in (parts, plain):
        asked = target.prompt(prompt)
        assert asked.token_ids.count(mark) == 2 * 4
        assert asked.images is not None and asked.images.mark == mark
        newline = target.encode("\n")
        text = target.encode("<user>")
        assert list(asked.token_ids)[1:] == [
            *text, *[mark] * 4, *newline, *[mark] * 4, *newline, *target.encode(f"{QUESTION}\n<assistant>")
        ]  # fmt: skip


def test_a_template_that_has_no_place_for_images_is_said(tmp_path: Path) -> None:
    folder = targets.save_llava(tmp_path / "target", template="{{ bos_token }}{{ messages[0]['role'] }}")
    with pytest.raises(InputError, match="does not put '<image>' where an image stands") as error:
        TargetModel.load(str(folder)).prompt(Prompt(1, "x", QUESTION, images=(Image(targets.picture(1)),)))
    assert error.value.code == "reference-images"


def test_an_image_that_cannot_be_read_is_said(target: Path) -> None:
    with pytest.raises(InputError, match="cannot take the images of question 'q'") as error:
        TargetModel.load(str(target)).prompt(Prompt("q", "x", "?", images=(Image(targets.picture(1)[:90]),)))
    assert error.value.code == "reference-images"


def test_a_processor_that_names_no_token_is_said(tmp_path: Path) -> None:
    """A target of text alone has its tokenizer for a processor."""
    folder = targets.save(tmp_path / "target", tokenizer=True)
    with pytest.raises(InputError, match="does not say which token stands for an image") as error:
        ImagePrompts(str(folder), folder, None, "llama")
    assert error.value.code == "reference-images"


def test_a_target_without_a_processor_is_said(target: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(target, tmp_path / "target"))
    (folder / "processor_config.json").unlink()
    with pytest.raises(SourceError, match="cannot load the processor of") as error:
        TargetModel.load(str(folder)).prompt(Prompt(1, "x", "?", images=(Image(targets.picture(1)),)))
    assert error.value.code == "source-unreadable"


def test_states_and_answers_are_those_of_transformers_own_forward(target: Path) -> None:
    """Texts with images and without are read together, and each as if it were alone."""
    model = TargetModel.load(str(target))
    seen = [model.prompt(Prompt(n, "x", QUESTION, images=(Image(targets.picture(n)),))) for n in (1, 2)]
    plain = model.prompt(Prompt(3, "x", "And now?"))
    asked = [seen[0], plain, seen[1]]
    assert seen[0].token_ids == seen[1].token_ids
    images = [one.images for one in asked]
    texts = model.respond([one.token_ids for one in asked], max_new_tokens=6, lookahead=2, images=images)
    assert texts[0].token_ids != texts[2].token_ids, "only the image differs"
    batches = list(model.read(texts, AuxTaps.from_after_layer(TAPS, "flag")))
    assert sorted(batch.index for batch in batches) == [(0,), (1,), (2,)]
    for batch in batches:
        (text,) = batch.texts
        more = {} if text.images is None else dict(text.images.tensors)
        ids = torch.tensor([text.token_ids])
        with torch.no_grad():
            found = model.model(input_ids=ids, output_hidden_states=True, **more)
        assert torch.allclose(batch.aux, torch.cat([found.hidden_states[i + 1] for i in TAPS], dim=-1), atol=1e-4)
        greedy = found.logits[0].argmax(-1)[text.prompt_length - 1 : -1]
        assert greedy.tolist() == list(text.token_ids[text.prompt_length :])


def test_an_answer_that_holds_the_token_of_images_is_said(target: Path) -> None:
    model = TargetModel.load(str(target))
    asked = model.prompt(Prompt(1, "x", "?", images=(Image(targets.picture(1)),)))
    text = Text((*asked.token_ids, targets.VOCAB, 5), len(asked.token_ids), 2, asked.images)
    with pytest.raises(InputError, match="with the token that stands for an image") as error:
        list(model.read([text], AuxTaps.default_for(LAYERS)))
    assert error.value.code == "reference-images"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"context": "100"}, "hold images, which --context does not take"),
        ({"reference": ReferenceOptions(save_hidden_states="states")}, "which --save-hidden-states does not take"),
        ({"reference": ReferenceOptions(hidden_states="states")}, "which --hidden-states does not take"),
        ({"reference": ReferenceOptions(responses="said.jsonl")}, "which --responses does not take"),
        ({"second_turns": "said.jsonl"}, "which --second-turns does not take"),
    ],
)
def test_options_that_take_texts_alone_refuse_images(
    any_head: Path, target: Path, prompts: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says) as error:
        measured(any_head, target, prompts, **options)
    assert error.value.code == "usage-images"


def test_states_refuse_images(target: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which eagle3hub states does not take"):
        make_states(target, tmp_path / "out", StatesOptions(prompts=str(prompts)))
    assert not (tmp_path / "out").exists()


def test_a_target_of_text_alone_refuses_images(any_head: Path, prompts: Path, tmp_path: Path) -> None:
    plain = targets.save(tmp_path / "target", tokenizer=True)
    with pytest.raises(InputError, match=r"takes text alone: its config\.json has no vision_config") as error:
        measured(any_head, plain, prompts)
    assert error.value.code == "target-no-images"
    options = BenchOptions(datasets=str(prompts))
    with pytest.raises(InputError, match="takes text alone"):
        bench_plan([str(any_head)], str(plain), options)


@pytest.mark.parametrize(
    ("engine", "title", "device"),
    [
        ("sglang", "SGLang", "cpu"),
        ("llamacpp", "llama.cpp", "cpu"),
        ("sglang_jax", "sglang-jax", "cpu"),
        ("trtllm", "TensorRT-LLM", "cuda"),
    ],
)
def test_engines_that_are_given_text_alone_refuse_images(
    any_head: Path, target: Path, prompts: Path, engine: str, title: str, device: str
) -> None:
    with pytest.raises(UnavailableError, match=f"{title} is given text alone here, and the prompts of seen") as error:
        measured(any_head, target, prompts, engine=engine, device=device)
    assert error.value.code == "engine-unable"


def test_room_is_made_for_images(target: Path, prompts: Path) -> None:
    job = RunSpec(target=str(target), head=None, prompts=load_prompts(prompts))
    assert with_room(job, identify_target(target)).max_model_len == 512, "the target's whole context"


@pytest.mark.slow
def test_a_head_is_measured_on_what_the_target_says_to_images(head: Path, target: Path, prompts: Path) -> None:
    report = measured(head, target, prompts, engine="reference")
    assert report.verdict == "pass", report.reason
    (entry,) = report.document["engines"]
    assert entry["acceptance"]["mean_acceptance_length"] > 2
    said = {row["tokens_sha256"] for row in entry["per_prompt"]}
    assert len(said) == PROMPTS, "the question is the same: only the images tell the answers apart"
    chosen = load_prompts(prompts)
    assert report.document["prompts"]["images"] == {"count": PROMPTS, "sha256": chosen.images.sha256}  # type: ignore[union-attr]
    assert report.document["prompts"]["sha256"] == chosen.sha256


@pytest.mark.slow
@pytest.mark.engine
def test_vllm_counts_the_references_rounds_with_images(
    head: Path, target: Path, prompts: Path, vllm_images_python: Path
) -> None:
    report = measured(
        head, target, prompts, engine="reference,vllm", engine_python={"vllm": vllm_images_python}, timeout=600
    )
    assert report.verdict == "pass", report.reason
    ours, theirs = report.document["engines"]
    assert theirs["lossless"]["identical"] == PROMPTS
    assert theirs["load"]["not_loaded"] == []
    assert [[row[key] for key in SAME] for row in ours["per_prompt"]] == [
        [row[key] for key in SAME] for row in theirs["per_prompt"]
    ]
    assert theirs["acceptance"]["mean_acceptance_length"] > 2


@pytest.fixture(scope="module")
def vllm_server(
    head: Path, target: Path, prompts: Path, vllm_images_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, RunSpec]]:
    """The server that a benchmark would start, and what it serves."""
    job = RunSpec(target=str(target), head=head, prompts=load_prompts(prompts), draft_tokens=3, max_new_tokens=TOKENS)
    job = replace(with_room(job, identify_target(target)), serves=True, concurrency=2)
    command, variables = VLLM().server(job, vllm_images_python, port := free_port())
    with served(command, port, variables, tmp_path_factory.mktemp("server") / "log") as url:
        yield url, job


@pytest.mark.slow
@pytest.mark.engine
def test_a_running_server_counts_the_references_rounds_with_images(
    head: Path, target: Path, prompts: Path, vllm_server: tuple[str, RunSpec]
) -> None:
    url, job = vllm_server
    report = measured(head, target, prompts, endpoints={"vllm": url}, timeout=600)
    assert report.verdict == "pass", report.reason
    ours, theirs = report.document["engines"]
    assert theirs["lossless"]["identical"] == PROMPTS
    assert [[row[key] for key in SAME] for row in ours["per_prompt"]] == [
        [row[key] for key in SAME] for row in theirs["per_prompt"]
    ]
    assert theirs["acceptance"]["mean_acceptance_length"] > 2

    contender = Contender("head", "eagle3", None, 3, is_baseline=False, url=url)
    plan = ServingPlan(
        identify_target(target), (contender,), (job.prompts,), (2,), 1, 2, ("vllm",), BenchOptions(), 0.0
    )
    (cell,) = next(plan.groups())[2]
    python = load_generator().python
    loaded = measured_rows(cell, attach("vllm", url), job, 600, lambda load: send(load, python))
    counted = [one.counts for one in loaded if one.counts is not None]
    assert [(one.rounds, list(one.accepted_per_position)) for one in counted] == [
        (row["rounds"], row["accepted_per_position"]) for row in ours["per_prompt"]
    ]
    assert [row.tokens_sha256 for row in loaded] == [row["tokens_sha256"] for row in ours["per_prompt"]]
