"""Compute a target's hidden states with vLLM, on as many devices as it needs, for replays anywhere."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub.address import HubAddress, target_address
from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.checkpoint.source import CONFIG, parse_json_object
from eagle3hub.checkpoint.staging import append_file, replace_file
from eagle3hub.checkpoint.writer import OpenFiles, OutTensor, Shard, encode_header, write_safetensors
from eagle3hub.conversion.edits.embeddings import find_embeddings, find_lm_head
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import DTYPES, EngineSettings, RunSpec
from eagle3hub.engines.environments import version_in
from eagle3hub.engines.process import Event, ask_worker
from eagle3hub.engines.specs import DEVICES
from eagle3hub.engines.vllm import states_environment, states_request
from eagle3hub.errors import HubError, InputError, OutputError, UnavailableError
from eagle3hub.head import AuxTaps
from eagle3hub.head.target import TargetFacts, read_target, require_files, require_weights
from eagle3hub.prompts import PromptSet, load_prompts
from eagle3hub.reference.dumps import (
    EMBEDDINGS,
    INDEX,
    LM_HEAD,
    StatesIndex,
    TextEntry,
    begin_folder,
    ids_digest,
    read_index,
    refuse_foreign,
    states_file,
    writing,
)
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.reading import read_text
from eagle3hub.validation.engine_runner import interpreter
from eagle3hub.validation.options import DEFAULT_TIMEOUT, ValidateOptions
from eagle3hub.validation.target import Target, with_room

if TYPE_CHECKING:
    from eagle3hub.engines.base import Dtype
    from eagle3hub.engines.specs import Device

RESPONSES = "responses.jsonl"
TARGET = "target"
_SMALL = (
    *(CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json"),
    *("merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json"),
)
"""Files of a target, beside its weights, that a replay may need."""
_DTYPE_NAMES: Mapping[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True, slots=True)
class StatesOptions:
    """Which texts a target writes, and which of its states are kept.

    Attributes:
        aux_layers: after-layer ids; None for those that most trainers take.
        max_new_tokens: most tokens of an answer. lookahead: tokens after it; a replay of K needs K - 1.
        temperature, seed: of the target's sampling; 0 is greedy.
        engine_settings: number of devices, further arguments of vLLM.
        engine_python: vLLM's interpreter, in place of the installed environment.
        timeout: seconds for each of the two passes.

    Raises UsageError for values that cannot be.
    """

    prompts: str | Path = "smoke"
    num_prompts: int | None = None
    aux_layers: tuple[int, ...] | None = None
    max_new_tokens: int = 64
    lookahead: int = 8
    temperature: float = 0.0
    seed: int = 0
    device: str = "cpu"
    dtype: str = "bfloat16"
    engine_settings: EngineSettings = field(default_factory=EngineSettings)
    engine_python: Mapping[str, str | Path] = field(default_factory=dict)
    timeout: float = DEFAULT_TIMEOUT

    def __post_init__(self) -> None:
        ValidateOptions(  # raises UsageError for the values that both verbs take
            engine="vllm",
            device=self.device,
            dtype=self.dtype,
            max_new_tokens=self.max_new_tokens,
            draft_tokens=max(1, self.lookahead),
            temperature=self.temperature,
            timeout=self.timeout,
            engine_settings=self.engine_settings,
        )


@dataclass(frozen=True, slots=True)
class MadeStates:
    """What a folder of hidden states holds now; ``computed`` of its texts were not there before."""

    folder: Path
    index: StatesIndex
    computed: int

    def to_json(self) -> dict[str, Any]:
        """The facts of the folder."""
        index = self.index
        return {
            "folder": str(self.folder),
            "target": index.target_name,
            "boundary_ids": index.taps.boundary,
            "dtype": index.dtype,
            "temperature": index.temperature or 0.0,
            "producer": None if index.producer is None else " ".join(index.producer),
            "texts": len(index.texts),
            "tokens": sum(entry.tokens for entry in index.texts),
            "computed_now": self.computed,
        }


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the target said to one prompt."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    lookahead: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.prompt, *self.response, *self.lookahead)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> _Answer:
        try:
            parts = [tuple(int(i) for i in data[key]) for key in ("prompt", "response", "lookahead")]
            return cls(parts[0], parts[1], parts[2], tuple(float(x) for x in data["logprobs"]))
        except (KeyError, TypeError, ValueError) as e:
            raise UnavailableError(
                f"an answer of vLLM is malformed ({type(e).__name__}: {e})",
                hint="look at the version of vLLM: eagle3hub engines doctor vllm",
                code="engine-states",
            ) from e


def make_states(
    target: str | Path, output: str | Path, options: StatesOptions, *, progress: Progress = silent
) -> MadeStates:
    """Have vLLM answer prompts with a target, then compute its hidden states over prompts and answers.

    Both passes continue where they were interrupted: an answer is kept as soon as its batch is done, and so are a
    text's states. The folder also gets the target's embeddings, lm_head, config and tokenizer, so that nothing of the
    target is needed where heads are judged.

    Raises SourceError, ConfigError, HubError for a target that cannot be read; InputError for layers it does not have
    (``states-layers``); OutputError for a folder that holds something else; UnavailableError where vLLM is not
    installed, or does not come to its end (``engine-states``).
    """
    folder = Path(output)
    require_files(target)
    facts = read_target(target)
    require_weights(target)
    taps = _taps(options, facts)
    prompts = load_prompts(options.prompts, options.num_prompts, progress=progress)
    prompts.refuse_images("eagle3hub states")
    device: Device = next(d for d in DEVICES if d == options.device)
    vllm = get_engine("vllm", version_in("vllm", options.engine_python))
    python = interpreter(vllm, device, options.engine_python, options.engine_settings.tensor_parallel)
    maker = _Maker(str(target), folder, options, prompts, facts, taps, python, progress)
    return maker.make()


def _taps(options: StatesOptions, facts: TargetFacts) -> AuxTaps:
    if options.aux_layers is None:
        return AuxTaps.default_for(facts.num_hidden_layers)
    taps = AuxTaps.from_after_layer(options.aux_layers, "flag")
    if max(taps.after_layer) >= facts.num_hidden_layers:
        raise InputError(
            f"--aux-layers names decoder layer {max(taps.after_layer)} (counted from 0), but {facts.name} has "
            f"{facts.num_hidden_layers} layers",
            hint="name the layers whose output the head reads, counted from 0",
            code="states-layers",
        )
    return taps


class _Maker:
    """One folder in the making."""

    def __init__(
        self,
        target: str,
        folder: Path,
        options: StatesOptions,
        prompts: PromptSet,
        facts: TargetFacts,
        taps: AuxTaps,
        python: Path,
        progress: Progress,
    ) -> None:
        self._folder, self._options, self._prompts = folder, options, prompts
        self._facts, self._taps, self._python, self._progress = facts, taps, python, progress
        at = target_address(target)
        self._at = at
        self._target = at.repo_id if isinstance(at, HubAddress) else str(at.path.resolve())
        config = self._file(CONFIG)
        assert config is not None  # `read_target` has read it
        raw = config.read_bytes()
        self._config_sha256 = hashlib.sha256(raw).hexdigest()
        name = at.repo_id if isinstance(at, HubAddress) else at.path.resolve().name
        self._name = name
        dtype: Dtype = next(d for d in DTYPES if d == options.dtype)
        device: Device = next(d for d in DEVICES if d == options.device)
        spec = RunSpec(
            target=self._target,
            head=None,
            prompts=prompts,
            device=device,
            dtype=dtype,
            max_new_tokens=options.max_new_tokens + options.lookahead + 1,
            temperature=options.temperature,
            seed=options.seed,
            engine_settings=options.engine_settings,
        )
        identity = Target(self._target, name, self._config_sha256, None, parse_json_object(raw, config))
        self._spec = with_room(spec, identity)
        self._version = ""

    def make(self) -> MadeStates:
        """Answer, then compute states."""
        refuse_foreign(self._folder)
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        answers = self._answers()
        index = self._index(answers)
        begin_folder(self._folder, index)
        self._keep_answers(answers)
        self._keep_target()
        todo = [i for i in range(len(answers)) if not states_file(self._folder, i).exists()]
        if todo:
            self._extract(answers, todo)
        with writing(self._folder):
            self._ledger.unlink(missing_ok=True)
        return MadeStates(self._folder, index, len(todo))

    # The answers, one line each in a hidden file until all are there.

    @property
    def _ledger(self) -> Path:
        return self._folder / ".answers.jsonl"

    @property
    def _settings(self) -> dict[str, Any]:
        """Everything that an answer depends on."""
        options = self._options
        return {
            "target": self._config_sha256,
            "prompts": self._prompts.sha256,
            "max_new_tokens": options.max_new_tokens,
            "lookahead": options.lookahead,
            "temperature": options.temperature,
            "seed": options.seed,
            "dtype": options.dtype,
            "chat_template": dict(options.engine_settings.chat_template),
        }

    def _answers(self) -> list[_Answer]:
        known, version = self._kept()
        self._version = version
        missing = [n for n in range(len(self._prompts.prompts)) if n not in known]
        if missing:
            request = states_request(self._spec)
            request["sampling"]["max_tokens"] = self._options.max_new_tokens
            request |= {"mode": "generate", "lookahead": self._options.lookahead}
            request |= {"longest": self._spec.max_model_len - 1}
            request["jobs"] = [{"index": n, "text": self._prompts.prompts[n].text} for n in missing]

            def on_event(event: Event) -> None:
                if event["event"] == "ready":
                    self._version = str(event["version"])
                    if not self._ledger.exists():
                        head = {"settings": self._settings, "version": self._version}
                        append_file(self._ledger, json.dumps(head) + "\n")
                elif event["event"] == "text":
                    answer = _Answer.from_json(event)
                    append_file(self._ledger, json.dumps(event) + "\n")
                    known[int(event["index"])] = answer
                    done = len(known) / len(self._prompts.prompts)
                    self._progress("vLLM, the target alone: answering", 0.5 * done)

            self._ask(request, "answering prompts with", on_event)
            self._complete(len(known), "answers")
        return [known[n] for n in range(len(self._prompts.prompts))]

    def _kept(self) -> tuple[dict[int, _Answer], str]:
        """The answers of an earlier run with the same settings, and the vLLM that gave them."""
        if (self._folder / INDEX).is_file():
            return self._of_folder()
        try:
            lines = read_text(self._ledger, 1 << 30).split("\n")
        except OSError:
            return {}, ""
        rows = [row for line in lines if (row := _parsed(line)) is not None]
        if not rows or rows[0].get("settings") != self._settings:
            raise OutputError(
                f"{self._folder} holds the answers of another run",
                hint="choose another folder, or remove it",
                code="output-exists",
            )
        return {int(r["index"]): _Answer.from_json(r) for r in rows[1:] if "index" in r}, str(rows[0]["version"])

    def _of_folder(self) -> tuple[dict[int, _Answer], str]:
        """The answers of a folder whose states are being computed."""
        index = read_index(self._folder)
        try:
            lines = read_text(self._folder / RESPONSES, 1 << 30).split("\n")
        except OSError:
            lines = []
        rows = [row for line in lines if (row := _parsed(line)) is not None]
        if len(rows) != len(index.texts) or any(row.get("settings") != self._settings for row in rows[:1]):
            raise OutputError(
                f"{self._folder} holds the states of another run",
                hint="choose another folder, or remove it",
                code="output-exists",
            )
        known = {}
        for n, row in enumerate(rows):
            parts = {key: row[f"{key}_token_ids"] for key in ("prompt", "response", "lookahead")}
            known[n] = _Answer.from_json({**parts, "logprobs": row.get("logprobs", [])})
        return known, "" if index.producer is None else index.producer[1]

    def _keep_answers(self, answers: list[_Answer]) -> None:
        """Write the answers as `--responses` reads them."""
        path = self._folder / RESPONSES
        if path.exists():
            return
        rows: list[str] = []
        for prompt, answer in zip(self._prompts.prompts, answers, strict=True):
            row: dict[str, Any] = {
                "question_id": prompt.question_id,
                "prompt_token_ids": answer.prompt,
                "response_token_ids": answer.response,
                "lookahead_token_ids": answer.lookahead,
            }
            if answer.logprobs:
                row["logprobs"] = answer.logprobs
            if not rows:
                row["settings"] = self._settings
            rows.append(json.dumps(row, ensure_ascii=False) + "\n")
        replace_file(path, "".join(rows).encode())

    # The states.

    def _index(self, answers: list[_Answer]) -> StatesIndex:
        return StatesIndex(
            target_name=self._name,
            config_sha256=self._config_sha256,
            hidden_size=self._facts.hidden_size,
            vocab_size=self._facts.vocab_size,
            num_hidden_layers=self._facts.num_hidden_layers,
            taps=self._taps,
            dtype=_DTYPE_NAMES[self._options.dtype],
            temperature=self._options.temperature or None,
            texts=tuple(
                TextEntry(p.question_id, len(a.tokens), len(a.prompt), len(a.response), ids_digest(a.tokens))
                for p, a in zip(self._prompts.prompts, answers, strict=True)
            ),
            producer=("vllm", self._version),
        )

    def _extract(self, answers: list[_Answer], todo: list[int]) -> None:
        scratch = self._folder.resolve() / ".vllm"
        request = states_request(self._spec, self._taps.boundary, scratch)
        request |= {"mode": "extract", "folder": str(self._folder.resolve()), "layers": self._taps.boundary}
        request |= {"hidden_size": self._facts.hidden_size, "jobs": []}
        for n in todo:
            job: dict[str, Any] = {"index": n, "tokens": answers[n].tokens}
            if self._options.temperature:
                job["logprobs"] = [0.0] * len(answers[n].prompt) + list(answers[n].logprobs)
            request["jobs"].append(job)
        done = len(answers) - len(todo)

        def on_event(event: Event) -> None:
            nonlocal done
            if event["event"] == "states":
                done += 1
                self._progress("vLLM, the target alone: hidden states", 0.5 + 0.5 * done / len(answers))

        try:
            self._ask(request, "computing hidden states with", on_event)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._complete(sum(states_file(self._folder, n).exists() for n in range(len(answers))), "hidden states")

    def _complete(self, count: int, what: str) -> None:
        """Raise UnavailableError where vLLM came to its end and did not do all that it was asked."""
        if count < len(self._prompts.prompts):
            raise UnavailableError(
                f"vLLM gave {what} for {count} of {len(self._prompts.prompts)} prompts and ended",
                hint="run it again: it continues where it stopped",
                code="engine-states",
            )

    def _ask(self, request: Mapping[str, Any], doing: str, on_event: Any) -> None:
        asked = {**request, "device": self._options.device}
        environment = states_environment(self._spec)
        self._progress(f"vLLM: {doing.removesuffix(' with')}, starting")
        ask_worker(
            "vLLM",
            "vllm_states.py",
            asked,
            self._python,
            self._options.device,
            env=environment,
            timeout=self._options.timeout,
            on_event=on_event,
            doing=doing,
            code="engine-states",
        )

    # What of the target a replay needs.

    def _keep_target(self) -> None:
        found: dict[str, tuple[str, TensorRef | None]] = {}
        if not (self._folder / EMBEDDINGS).exists():
            found[EMBEDDINGS] = ("embed_tokens.weight", find_embeddings(self._target))
        if not self._facts.ties_embeddings and not (self._folder / LM_HEAD).exists():
            found[LM_HEAD] = ("lm_head.weight", find_lm_head(self._target))
        for file, (name, ref) in found.items():
            if ref is not None:
                _copy(self._folder / file, name, ref, self._facts.vocab_size)
        for name in _SMALL:
            place = self._folder / TARGET / name
            source = None if place.exists() else self._file(name)
            if source is not None:
                replace_file(place, source.read_bytes(), parents=True)

    def _file(self, name: str) -> Path | None:
        """A small file of the target, if it has one."""
        if not isinstance(self._at, HubAddress):
            path = self._at.path / name
            return path if path.is_file() else None
        from eagle3hub.checkpoint.hub import download_file

        try:
            return download_file(self._at.repo_id, name, self._at.revision)
        except HubError as e:
            if e.code != "hub-no-file":
                raise
            return None


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of a ledger; None for one that was cut off."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _copy(path: Path, name: str, ref: TensorRef, rows: int) -> None:
    """Write the first rows of a matrix into a file of its own, all or nothing."""
    width = ref.nbytes // ref.shape[0]
    part = TensorRef(ref.name, ref.dtype, (rows, *ref.shape[1:]), ref.path, ref.offset, rows * width, ref.remote)
    temporary = path.with_name(f".{path.name}")
    with writing(path):
        temporary.unlink(missing_ok=True)
        with OpenFiles() as files:
            one = [OutTensor(name, part.dtype, part.shape, part)]
            write_safetensors(temporary, Shard(path.name, encode_header(one, None), one, part.nbytes), files, None)
        temporary.replace(path)
