"""A target's hidden states by vLLM: what is kept, continued and refused, and what the real engine's give."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import heads, targets
from support.scripts import write_interpreter
from support.validation import validate
from validation.trained import write_prompts

from eagle3hub.engines.base import EngineSettings
from eagle3hub.errors import Eagle3HubError, InputError, OutputError, UnavailableError
from eagle3hub.reference.states import SavedStates
from eagle3hub.reference.target import TargetModel
from eagle3hub.validation.options import ReferenceOptions
from eagle3hub.validation.states import StatesOptions, make_states

Cli = Callable[..., tuple[int, str, str]]

WORKER = """
import json, os, pathlib, sys
import numpy
from safetensors.numpy import save_file
request = json.loads(sys.stdin.readline())
pathlib.Path(os.environ["SEEN"]).open("a").write(json.dumps(request) + "\\n")
def tell(**fields):
    print(json.dumps(fields), flush=True)
tell(event="ready", version="1.2.3", seconds=0.1)
most = int(os.environ.get("MOST", "99"))
for job in request["jobs"][:most]:
    if request["mode"] == "generate":
        ids = [3 + ord(c) % 90 for c in job["text"][:5]]
        answer = {"prompt": ids, "response": [7] * 4, "lookahead": [8] * request["lookahead"], "logprobs": []}
        if request["sampling"]["temperature"]:
            answer["logprobs"] = [-0.5] * (4 + request["lookahead"])
        if os.environ.get("BREAK"):
            answer.pop("prompt")
        tell(event="text", index=job["index"], **answer)
    else:
        count, width = len(job["tokens"]), len(request["layers"]) * request["hidden_size"]
        tensors = {"token_ids": numpy.array(job["tokens"])}
        tensors["aux_hidden_states"] = numpy.ones((count, width), "float32")
        if job.get("logprobs"):
            tensors["logprobs"] = numpy.array(job["logprobs"], "float32")
        save_file(tensors, request["folder"] + f"/{job['index']:06d}.safetensors")
        tell(event="states", index=job["index"])
if os.environ.get("END") == "error" or len(request["jobs"]) > most and os.environ.get("END") != "done":
    tell(event="error", stage="generate", kind="RuntimeError", message="out of memory")
else:
    tell(event="done")
"""
"""What vLLM's worker says and writes, for a target that always answers the same."""


class Stand:
    """A stand-in for vLLM's interpreter, and the requests that it got."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "worker.py").write_text(WORKER)
        self.target = targets.save(folder / "target", tokenizer=True, num_hidden_layers=8)

    def python(self, **variables: str) -> dict[str, Path]:
        import sys

        file = self.folder / f"python-{len(list(self.folder.iterdir()))}"
        write_interpreter(file, sys.executable, SEEN=str(self.folder / "seen"), **variables)
        file.write_text(file.read_text().replace('"$@"', f'"{self.folder / "worker.py"}"'))
        return {"vllm": file}

    def make(self, output: Path, *, variables: dict[str, str] | None = None, **options: Any) -> Any:
        given = {"num_prompts": 3, "dtype": "float32", "max_new_tokens": 4, "lookahead": 2, **options}
        return make_states(self.target, output, StatesOptions(engine_python=self.python(**(variables or {})), **given))

    @property
    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "seen").read_text().splitlines()]


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def refused(kind: type[Eagle3HubError], code: str, says: str, do: Callable[[], object]) -> None:
    with pytest.raises(kind, match=says) as caught:
        do()
    assert caught.value.code == code


def test_the_folder_holds_all_that_a_replay_needs(stand: Stand, tmp_path: Path):
    made = stand.make(tmp_path / "s", aux_layers=(0, 3, 6))
    assert made.to_json() | {"folder": ""} == {
        "folder": "",
        "target": "target",
        "boundary_ids": [1, 4, 7],
        "dtype": "F32",
        "temperature": 0.0,
        "producer": "vllm 1.2.3",
        "texts": 3,
        "tokens": 33,
        "computed_now": 3,
    }
    generate, extract = stand.seen
    assert extract["llm"]["speculative_config"]["draft_model_config"]["hf_config"] == {
        "eagle_aux_hidden_state_layer_ids": [1, 4, 7]
    }
    assert "speculative_config" not in generate["llm"]
    weights = load_file(stand.target / "model.safetensors")
    for file, name in (("embed_tokens", "model.embed_tokens.weight"), ("lm_head", "lm_head.weight")):
        with safe_open(tmp_path / "s" / f"{file}.safetensors", "pt") as f:
            assert (f.get_tensor(f"{file}.weight") == weights[name]).all()
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "s" / "target" / name).read_bytes() == (stand.target / name).read_bytes()
    assert not (tmp_path / "s" / ".vllm").exists()
    assert not (tmp_path / "s" / ".answers.jsonl").exists()
    assert stand.make(tmp_path / "s", aux_layers=(0, 3, 6)).computed == 0
    assert len(stand.seen) == 2, "nothing was asked again"


@pytest.mark.slow
def test_an_interrupted_run_continues_in_both_passes(stand: Stand, tmp_path: Path):
    says = "answering prompts with vLLM did not finish: out of memory"
    folder = tmp_path / "s"
    refused(UnavailableError, "engine-states", says, lambda: stand.make(folder, variables={"MOST": "1"}))
    with (folder / ".answers.jsonl").open("a") as f:
        f.write('{"event": "text", "ind')  # the machine went down
    says = "computing hidden states with vLLM did not finish: out of memory"
    refused(UnavailableError, "engine-states", says, lambda: stand.make(folder, variables={"MOST": "2"}))
    assert [job["index"] for job in stand.seen[1]["jobs"]] == [1, 2]
    assert (folder / "000001.safetensors").exists()
    assert stand.make(folder).computed == 1
    assert [job["index"] for job in stand.seen[-1]["jobs"]] == [2]


def test_a_run_that_ends_before_it_is_done(stand: Stand, tmp_path: Path):
    says = "vLLM gave answers for 2 of 3 prompts and ended"
    short = {"MOST": "2", "END": "done"}
    refused(UnavailableError, "engine-states", says, lambda: stand.make(tmp_path / "s", variables=short))
    says = "an answer of vLLM is malformed .KeyError: 'prompt'."
    refused(UnavailableError, "engine-states", says, lambda: stand.make(tmp_path / "t", variables={"BREAK": "1"}))


def test_sampled_texts_keep_the_targets_probabilities(stand: Stand, tmp_path: Path):
    stand.make(tmp_path / "s", temperature=0.7)
    request = stand.seen[0]
    assert request["llm"]["logprobs_mode"] == "processed_logprobs"
    assert request["sampling"] == {"temperature": 0.7, "max_tokens": 4, "logprobs": 0}
    held = load_file(tmp_path / "s" / "000000.safetensors")["logprobs"]
    assert held.tolist() == [0.0] * 5 + [-0.5] * 6


def test_devices_are_handed_to_vllm(stand: Stand, tmp_path: Path):
    from eagle3hub.engines.base import EngineSettings

    stand.make(tmp_path / "s", engine_settings=EngineSettings(tensor_parallel=2))
    assert [request["llm"]["tensor_parallel_size"] for request in stand.seen] == [2, 2]


@pytest.mark.slow
def test_folders_of_another_run_are_left_alone(stand: Stand, tmp_path: Path):
    folder = tmp_path / "s"
    stand.make(folder)
    refused(OutputError, "output-exists", "states of another run", lambda: stand.make(folder, max_new_tokens=3))
    refused(OutputError, "output-exists", "states of another run", lambda: stand.make(folder, aux_layers=(0, 1, 2)))
    (folder / "responses.jsonl").unlink()
    refused(OutputError, "output-exists", "states of another run", lambda: stand.make(folder))
    with pytest.raises(UnavailableError):
        stand.make(tmp_path / "t", variables={"MOST": "1"})
    refused(OutputError, "output-exists", "answers of another run", lambda: stand.make(tmp_path / "t", seed=3))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    refused(OutputError, "output-foreign", "holds other files", lambda: stand.make(tmp_path / "mine"))
    assert len(stand.seen) == 3


def test_layers_that_the_target_does_not_have(stand: Stand, tmp_path: Path):
    says = "--aux-layers names decoder layer 8 .* has 8 layers"
    refused(InputError, "states-layers", says, lambda: stand.make(tmp_path / "s", aux_layers=(1, 8)))
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_the_command_says_what_to_type_next(stand: Stand, tmp_path: Path, cli: Cli):
    python = stand.python()["vllm"]
    words = (
        "states",
        stand.target,
        "--output",
        tmp_path / "s",
        "--num-prompts",
        2,
        "--engine-python",
        f"vllm={python}",
    )
    status, out, err = cli(*words, "--aux-layers", "2,4,5", "--aux-convention", "boundary", "--dtype", "float32")
    assert status == 0, err
    flat = " ".join(out.split())
    assert "over 2 texts" in flat
    assert "layers that have run: 2, 4, 5; F32; by vllm 1.2.3" in flat
    assert f"eagle3hub validate HEAD --hidden-states {tmp_path / 's'}".replace(" ", "") in out.replace(
        "\n", ""
    ).replace(" ", "")
    again = (*words, "--aux-layers", "1,3,4", "--aux-convention", "after", "--dtype", "float32", "--json")
    status, out, err = cli(*again)
    told = json.loads(out)
    assert (status, told["boundary_ids"], told["folder"]) == (0, [2, 4, 5], str(tmp_path / "s")), err
    assert (told["texts"], told["computed_now"]) == (2, 0), "the same states, which are there"
    status, _, err = cli(*words, "--aux-convention", "boundary")
    assert status == 2
    assert "--aux-layers" in err


@pytest.mark.engine
@pytest.mark.slow
def test_vllms_states_give_the_rounds_of_a_direct_run(
    head: Path, smollm2_target: Path, vllm_python: Path, tmp_path: Path
) -> None:
    """Prompt by prompt, without the target's weights; and its own files give them too."""
    folder = tmp_path / "states"
    options = StatesOptions(
        num_prompts=3, max_new_tokens=12, lookahead=3, dtype="float32", engine_python={"vllm": vllm_python}
    )
    made = make_states(smollm2_target, folder, options)
    assert made.computed == 3
    short = {"num_prompts": 3, "max_new_tokens": 12}
    given = ReferenceOptions(hidden_states=folder)
    replayed = validate(head, target=folder / "target", reference=given, **short)
    direct = validate(
        head, target=smollm2_target, reference=ReferenceOptions(responses=folder / "responses.jsonl"), **short
    )
    (ours,), (theirs,) = (report.document["engines"] for report in (replayed, direct))
    keys = ("question_id", "tokens_sha256", "rounds", "accepted_per_position")
    assert [[row[k] for k in keys] for row in ours["per_prompt"]] == [
        [row[k] for k in keys] for row in theirs["per_prompt"]
    ]
    assert ours["flags"]["states"]["producer"] == "vllm"
    assert ours["flags"]["states"]["boundary_ids"] == [2, 15, 27]


@pytest.mark.engine
@pytest.mark.slow
def test_sampled_texts_of_a_split_target_give_the_rounds_of_a_direct_run(vllm_python: Path, tmp_path: Path) -> None:
    """At temperature 0.8, by two processes of vLLM: states and log-probabilities are those of the reference."""
    target = targets.save(
        tmp_path / "target",
        "llama",
        tokenizer=True,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
    )
    sizes = heads.dims(hidden=128, inter=192, heads=4, kv=2, head_dim=32, vocab=targets.VOCAB, draft=60)
    taps = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 3, 4]}
    head = heads.specforge(tmp_path / "head", sizes, eagle_config=taps, torch_dtype="float32")
    settings = EngineSettings(tensor_parallel=2, chat_template={"think": True})
    folder = tmp_path / "states"
    options = StatesOptions(
        prompts=write_prompts(tmp_path / "questions.jsonl"),
        max_new_tokens=24,
        lookahead=3,
        temperature=0.8,
        seed=5,
        dtype="float32",
        engine_python={"vllm": vllm_python},
        engine_settings=settings,
    )
    assert make_states(target, folder, options).computed == 8
    run: dict[str, Any] = {"prompts": str(options.prompts), "max_new_tokens": 24, "temperature": 0.8, "seed": 5}
    drafted = ReferenceOptions(drafting="probabilistic", hidden_states=folder)
    replayed = validate(head, target=folder / "target", reference=drafted, **run)
    own = replace(drafted, hidden_states=None, responses=folder / "responses.jsonl")
    direct = validate(head, target=target, reference=own, **run)
    (ours,), (theirs,) = (report.document["engines"] for report in (replayed, direct))
    keys = ("question_id", "tokens_sha256", "rounds", "accepted_per_position")
    assert [[row[k] for k in keys] for row in ours["per_prompt"]] == [
        [row[k] for k in keys] for row in theirs["per_prompt"]
    ]
    assert ours["acceptance"]["mean_acceptance_length"] > 1, "the random head's samples are accepted now and then"
    assert len({row["tokens_sha256"] for row in ours["per_prompt"]}) == 8
    known = TargetModel.load(str(target), dtype="float32")
    states = SavedStates(folder)
    for batch in known.read(states.texts, states.dump.columns, temperature=0.8):
        assert batch.logprobs is not None
        for row, place in enumerate(batch.index):
            saved = load_file(folder / f"{place:06d}.safetensors")
            n, begin = len(saved["token_ids"]), states.texts[place].prompt_length
            torch.testing.assert_close(saved["aux_hidden_states"], batch.aux[row, :n], atol=1e-2, rtol=1e-2)
            torch.testing.assert_close(saved["logprobs"][begin:], batch.logprobs[row, begin:n], atol=1e-2, rtol=1e-2)
