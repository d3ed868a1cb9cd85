"""Targets that cannot be loaded, do not fit, or are asked for the impossible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import heads, targets
from support.targets import LAYERS, VOCAB

from eagle3hub.errors import (
    CheckpointError,
    ConfigError,
    Eagle3HubError,
    HubError,
    InputError,
    SourceError,
    TensorError,
    UnavailableError,
    UsageError,
)
from eagle3hub.head import AuxTaps
from eagle3hub.layouts import open_head
from eagle3hub.reference.loading import enough_memory, load_tokenizer
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Text

TAPS = AuxTaps.from_after_layer([0, 2], "flag")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return targets.save(tmp_path / "target", tokenizer=True)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TargetModel]:
    yield TargetModel.load(str(targets.save(tmp_path_factory.mktemp("targets") / "llama", tokenizer=True)))


def refused(source: Path | str, **options: Any) -> Eagle3HubError:
    with pytest.raises(Eagle3HubError) as caught:
        TargetModel.load(str(source), **options)
    return caught.value


def edit(path: Path, **changes: Any) -> None:
    document = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


class TestLoading:
    def test_neither_folder_nor_hub_id(self, tmp_path: Path):
        error = refused(tmp_path / "absent")
        assert (type(error), error.code) == (SourceError, "source-target")

    def test_no_config(self, folder: Path):
        (folder / "config.json").unlink()
        assert refused(folder).code == "source-no-config"

    def test_a_config_that_is_no_json(self, folder: Path):
        (folder / "config.json").write_text("{")
        assert refused(folder).code == "config-json"

    @pytest.mark.parametrize(
        "name",
        ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "more.safetensors", "any"],
    )
    def test_a_pipe_in_its_folder(self, folder: Path, name: str):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        error = refused(folder)
        assert (type(error), error.code) == (SourceError, "source-unreadable")
        assert f"{name} in the target folder {folder} is a pipe, not a file" in error.message

    def test_a_device_behind_a_link_among_its_templates(self, folder: Path):
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates/tools.jinja").symlink_to("/dev/zero")
        with pytest.raises(SourceError, match=r"additional_chat_templates/tools.jinja .* is a device"):
            load_tokenizer(str(folder), folder, None)

    @pytest.mark.parametrize("engine", ["reference", "vllm"])
    def test_a_pipe_is_refused_before_torch_is_imported(self, folder: Path, tmp_path: Path, engine: str):
        (folder / "tokenizer.json").unlink()
        os.mkfifo(folder / "tokenizer.json")
        head = heads.specforge(tmp_path / "head")
        code = (
            "import sys; from eagle3hub.cli.app import run; status = run(sys.argv[1:]); "
            "print('torch' in sys.modules); sys.exit(status)"
        )
        command = [sys.executable, "-c", code, "validate", str(head), "--target", str(folder), "--engine", engine]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (3, "False\n"), done.stderr
        assert "tokenizer.json in the target folder" in done.stderr

    def test_no_model_type(self, folder: Path):
        edit(folder / "config.json", model_type=None)
        error = refused(folder)
        assert (type(error), error.code) == (ConfigError, "config-model-type")

    def test_an_unknown_model_type(self, folder: Path):
        edit(folder / "config.json", model_type="zebra7")
        error = refused(folder)
        assert (type(error), error.code) == (InputError, "reference-target-unsupported")
        assert "'zebra7'" in error.message

    def test_a_model_that_is_no_language_model(self, folder: Path):
        edit(folder / "config.json", model_type="vit")
        assert refused(folder).code == "reference-target-unsupported"

    def test_code_from_the_repository_is_not_run(self, folder: Path, tmp_path: Path):
        marker = tmp_path / "ran"
        (folder / "mine.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
        mapped = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
        edit(folder / "config.json", model_type="zebra7", auto_map=mapped)
        assert refused(folder).code == "reference-target-remote-code"
        edit(folder / "config.json", model_type="llama", auto_map=mapped)
        TargetModel.load(str(folder))  # transformers has a llama of its own
        assert not marker.exists()

    def test_no_weights(self, folder: Path):
        (folder / "model.safetensors").unlink()
        error = refused(folder)
        assert isinstance(error, SourceError)
        assert "\n" not in error.message

    def test_truncated_weights(self, folder: Path):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-8])
        assert type(refused(folder)) is CheckpointError

    def test_a_missing_tensor_is_not_initialised_at_random(self, folder: Path):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        del tensors["model.layers.2.mlp.up_proj.weight"]
        save_file(tensors, path, metadata={"format": "pt"})
        error = refused(folder)
        assert (type(error), error.code) == (TensorError, "tensor-target-missing")
        assert "model.layers.2.mlp.up_proj.weight" in error.message

    def test_a_tensor_of_another_shape(self, folder: Path):
        path = folder / "model.safetensors"
        tensors = {**load_file(path), "model.norm.weight": torch.ones(15)}
        save_file(tensors, path, metadata={"format": "pt"})
        assert refused(folder).code == "reference-target-unreadable"

    def test_a_pickle_with_code_is_not_run(self, folder: Path, tmp_path: Path):
        class Payload:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "ran",))

        (folder / "model.safetensors").unlink()
        torch.save({"model.norm.weight": Payload()}, folder / "pytorch_model.bin")
        assert refused(folder).code == "checkpoint-pickle"
        assert not (tmp_path / "ran").exists()

    def test_a_hub_that_cannot_be_asked(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        assert isinstance(refused("owner/absent"), HubError)

    def test_devices_and_dtypes(self, folder: Path):
        assert isinstance(refused(folder, dtype="int4"), UsageError)
        assert isinstance(refused(folder, device="abacus"), UsageError)
        assert isinstance(refused(folder, device="meta"), UsageError)

    def test_no_cuda(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        error = refused(folder, device="cuda")
        assert (type(error), error.code) == (UnavailableError, "unavailable-cuda")
        assert "no CUDA device here" in error.message

    def test_a_half_precision_target(self, folder: Path):
        target = TargetModel.load(str(folder), dtype="bfloat16", name="owner/name")
        assert (target.dtype, target.name) == (torch.bfloat16, "owner/name")
        (batch,) = target.read([Text((3, 4, 5), 1, 2)], TAPS, temperature=1.0)
        assert batch.aux.dtype == torch.bfloat16
        assert batch.logprobs is not None
        assert batch.logprobs.dtype == torch.float32


class TestMemory:
    @pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
    def test_running_out_says_what_to_lower(self, kind: type[Exception]):
        with pytest.raises(UnavailableError) as caught, enough_memory("reading 3 texts"):
            raise kind("CUDA out of memory")
        assert "while reading 3 texts" in caught.value.message
        for option in ("--batch-tokens", "--dtype", "--device-map"):
            assert option in str(caught.value.hint)

    def test_torchs_own_allocator_is_understood(self):
        with pytest.raises(UnavailableError, match="this machine ran out of memory"), enough_memory("trying"):
            torch.empty(1 << 60, dtype=torch.uint8)

    def test_other_failures_pass_through(self):
        with pytest.raises(RuntimeError, match="shapes"), enough_memory("trying"):
            raise RuntimeError("shapes differ")


class TestFit:
    @pytest.fixture
    def head(self, tmp_path: Path) -> Any:
        head = open_head(heads.specforge(tmp_path / "head", heads.dims(hidden=16, vocab=VOCAB)))
        return replace(head, aux=TAPS)

    def test_a_head_that_fits(self, llama: TargetModel, head: Any):
        llama.fit(head)
        llama.fit(replace(head, aux=AuxTaps.final_norm("flag")))
        llama.fit(replace(head, aux=AuxTaps.from_after_layer([0, LAYERS - 1], "flag")))

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"target_hidden_size": 24}, "of hidden size 24, but llama has 16"),
            ({"vocab_size": 96}, "of vocabulary 96, but llama has 97"),
        ],
    )
    def test_other_sizes(self, llama: TargetModel, head: Any, changes: dict[str, int], says: str):
        with pytest.raises(InputError, match=says) as caught:
            llama.fit(replace(head, dims=replace(head.dims, **changes)))
        assert (caught.value.code, caught.value.exit_code) == ("reference-target-mismatch", 3)

    def test_too_few_layers(self, llama: TargetModel, head: Any):
        with pytest.raises(InputError, match=r"decoder layer 4 .* but llama has 4 layers"):
            llama.fit(replace(head, aux=AuxTaps.from_after_layer([0, 4], "flag")))


class TestTexts:
    def test_empty_too_long_and_unknown_ids(self, llama: TargetModel):
        good = Text((3, 4), 1, 1)
        for text, says in (
            (Text((), 0, 0), "text 1 is empty"),
            (Text((3,) * 257, 1, 256), "text 1 has 257 tokens, but the context of llama is 256"),
            (Text((3, VOCAB), 1, 1), "text 1 has token id 97"),
            (Text((3, -1), 1, 1), "text 1 has token id -1"),
        ):
            with pytest.raises(InputError, match=says):
                list(llama.read([good, text], TAPS))
            with pytest.raises(InputError, match=says):
                llama.extend([good, text], 2)

    def test_prompts_are_named(self, llama: TargetModel):
        for prompt, says in (
            ([], "prompt 1 is empty"),
            ([5] * 300, "prompt 1 has 300 tokens, but the context of llama is 256"),
            ([5] * 256, "prompt 1 has 256 tokens and leaves no room"),
        ):
            with pytest.raises(InputError, match=says):
                llama.respond([[3], prompt], max_new_tokens=3)

    def test_numbers_that_make_no_sense(self, llama: TargetModel):
        for options in ({"max_new_tokens": 0}, {"max_new_tokens": 3, "temperature": -1.0}):
            with pytest.raises(UsageError):
                llama.respond([[3]], **options)
        with pytest.raises(UsageError):
            llama.respond([[3]], max_new_tokens=3, temperature=float("nan"))
        for temperature in (0.0, -1.0, float("inf")):
            with pytest.raises(UsageError):
                list(llama.read([Text((3, 4), 1, 1)], TAPS, temperature=temperature))
        session = llama.session()
        with pytest.raises(UsageError):
            session.advance([], TAPS)
        with pytest.raises(UsageError):
            session.rewind(1)

    def test_states_that_are_not_finite_are_named(self, folder: Path):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors["model.embed_tokens.weight"][7] = float("inf")
        save_file(tensors, path, metadata={"format": "pt"})
        target = TargetModel.load(str(folder))
        good, bad = Text((3, 4, 5, 6), 1, 3), Text((3, 4, 7), 1, 2)
        list(target.read([good], TAPS))
        with pytest.raises(InputError, match="after decoder layer 0 are not finite in text 1") as caught:
            list(target.read([good, bad], TAPS))
        assert caught.value.code == "reference-states-not-finite"


class TestChat:
    def text(self, target: TargetModel, ids: list[int]) -> str:
        return target.tokenizer.decode(ids)

    def test_the_template_up_to_where_the_assistant_begins(self, llama: TargetModel):
        ids = llama.chat("What?")
        assert self.text(llama, ids) == "<s><user>What?\n<assistant>"
        assert ids.count(1) == 1
        rows = [{"role": "user", "content": "What?"}]
        own = llama.tokenizer._tokenizer
        assert ids == own.apply_chat_template(rows, add_generation_prompt=True, return_dict=False)
        assert llama.tokenizer.chat_template == "the target's own"

    def test_system_prompt_and_options(self, llama: TargetModel):
        ids = llama.chat(
            "What?", before=[{"role": "system", "content": "Be brief."}], template_options={"think": True}
        )
        assert self.text(llama, ids) == "<s><system>Be brief.\n<user>What?\n<assistant>?"

    def test_without_a_template_the_text_alone(self, folder: Path):
        (folder / "chat_template.jinja").unlink()
        target = TargetModel.load(str(folder))
        assert target.tokenizer.chat_template == "none"
        assert self.text(target, target.chat("What?")) == "<s>What?"
        with pytest.raises(InputError, match="no chat template"):
            target.chat("What?", before=[{"role": "system", "content": "Be brief."}])

    def test_a_template_that_says_nothing(self, folder: Path):
        (folder / "chat_template.jinja").write_text("{% if false %}x{% endif %}")
        with pytest.raises(InputError, match="empty once"):
            TargetModel.load(str(folder)).chat("What?")

    def test_a_template_that_fails(self, folder: Path):
        (folder / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
        with pytest.raises(InputError, match="roles must alternate") as caught:
            TargetModel.load(str(folder)).chat("What?")
        assert caught.value.code == "reference-chat-template"

    def test_no_tokenizer(self, tmp_path: Path):
        target = TargetModel.load(str(targets.save(tmp_path / "t")))
        with pytest.raises(SourceError, match="no tokenizer"):
            target.chat("What?")
