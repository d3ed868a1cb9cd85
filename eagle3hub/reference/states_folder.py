"""A folder of saved hidden states: its files, and the index that says what they are.

A folder of saved states holds

- ``states.json``: ``schema`` (``eagle3hub/states/1``), ``target`` (``name``, ``config_sha256``, ``hidden_size``,
  ``vocab_size``, ``num_hidden_layers``), ``aux_boundary_ids`` (number of layers that have run), ``final_norm``
  (whether the state after the final norm follows them), ``dtype`` of the states in safetensors' words,
  ``temperature`` of the log-probabilities or null, and ``texts``: per text ``question_id``, ``tokens``,
  ``prompt_length``, ``response_length`` and ``sha256`` of its token ids (as JSON without spaces);
- ``000000.safetensors`` …: per text ``token_ids`` int64 [T], ``aux_hidden_states`` [T, taps * hidden size] and, with
  a temperature, ``logprobs`` float32 [T], the natural log of each token's probability, undefined for the first;
- ``embed_tokens.safetensors``: ``embed_tokens.weight`` [vocabulary, hidden size], as in the target, unscaled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from eagle3hub.checkpoint.header import read_header
from eagle3hub.checkpoint.source import parse_json_object
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import CheckpointError, ConfigError, InputError, OutputError, SourceError
from eagle3hub.fields import Fields
from eagle3hub.head import FINAL_NORM, AuxTaps, Tap
from eagle3hub.reading import read_bytes

INDEX = "states.json"
EMBEDDINGS = "embed_tokens.safetensors"
EMBEDDING = "embed_tokens.weight"
SCHEMA = "eagle3hub/states/1"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TextEntry:
    """What is known of one text without opening its file."""

    question_id: int | str
    tokens: int
    prompt_length: int
    response_length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StatesIndex:
    """What states.json says; ``dtype`` is F32, BF16 or F16."""

    target_name: str
    config_sha256: str
    hidden_size: int
    vocab_size: int
    num_hidden_layers: int
    taps: AuxTaps
    dtype: str
    temperature: float | None
    texts: tuple[TextEntry, ...]

    @property
    def width(self) -> int:
        """Numbers per token: taps * hidden size."""
        return len(self.taps) * self.hidden_size

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return {
            "schema": SCHEMA,
            "target": {
                "name": self.target_name,
                "config_sha256": self.config_sha256,
                "hidden_size": self.hidden_size,
                "vocab_size": self.vocab_size,
                "num_hidden_layers": self.num_hidden_layers,
            },
            "aux_boundary_ids": [tap + 1 for tap in self.taps.taps if isinstance(tap, int)],
            "final_norm": FINAL_NORM in self.taps.taps,
            "dtype": self.dtype,
            "temperature": self.temperature,
            "texts": [asdict(entry) for entry in self.texts],
        }


def read_index(folder: Path) -> StatesIndex:
    """Read states.json. Raises SourceError where there is none, ConfigError where it is wrong."""
    path = folder / INDEX
    try:
        document = parse_json_object(read_bytes(path), path)
    except OSError as e:
        raise SourceError(
            f"there are no saved hidden states in {folder}: {INDEX} cannot be read ({e.strerror})",
            code="source-no-states",
        ) from e
    fields = Fields(document, str(path))
    if fields.get("schema") != SCHEMA:
        raise ConfigError(f"{path} is of schema {fields.get('schema')!r}, not {SCHEMA!r}", code="config-states")
    if fields.text("dtype") not in DTYPES:
        raise ConfigError(
            f"{path}: dtype is {fields.get('dtype')!r}, not one of {', '.join(DTYPES)}", code="config-states"
        )
    target = fields.section("target")
    rows = fields.get("texts")
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{path} names no texts", code="config-states")
    return StatesIndex(
        target.text("name"),
        target.text("config_sha256"),
        target.number("hidden_size"),
        target.number("vocab_size"),
        target.number("num_hidden_layers"),
        _taps(fields),
        fields.text("dtype"),
        fields.real("temperature", default=None),
        tuple(_row(row, f"{path}: texts[{i}]") for i, row in enumerate(rows)),
    )


def _taps(fields: Fields) -> AuxTaps:
    ids = fields.layer_ids("aux_boundary_ids") or []
    numbered: tuple[Tap, ...] = AuxTaps.from_boundary(ids, "config").taps if ids else ()
    taps = (*numbered, FINAL_NORM) if fields.flag("final_norm", default=False) else numbered
    if not taps:
        raise ConfigError(f"{fields.where} names no aux_boundary_ids", code="config-states")
    return AuxTaps(taps, "config")


def _row(row: Any, where: str) -> TextEntry:
    fields = Fields(row if isinstance(row, dict) else {}, where)
    question_id = fields.get("question_id")
    if isinstance(question_id, bool) or not isinstance(question_id, int | str):
        raise ConfigError(f"{where}: question_id is neither an integer nor a string", code="config-states")
    tokens, prompt, response = (fields.number(name) for name in ("tokens", "prompt_length", "response_length"))
    if prompt + response > tokens:
        raise ConfigError(f"{where}: prompt and response are longer than the {tokens} tokens", code="config-states")
    return TextEntry(question_id, tokens, prompt, response, fields.text("sha256"))


def tensor_ref(path: Path, name: str, expected: tuple[str, tuple[int, ...]] | None) -> TensorRef:
    """A tensor of a file. Raises CheckpointError where it is truncated, InputError where it is not as expected."""
    tensors = read_header(path).tensors
    if name not in tensors:
        raise InputError(f"{path} holds no tensor {name}", code="states-file")
    ref = tensors[name]
    if expected is not None and (ref.dtype, ref.shape) != expected:
        raise InputError(
            f"{name} in {path} is {ref.dtype} {list(ref.shape)}, but {INDEX} says {expected[0]} {list(expected[1])}",
            code="states-file",
        )
    return ref


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file. Raises CheckpointError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"cannot read {path}: {e}", code="checkpoint-unreadable") from e


def states_file(folder: Path, index: int) -> Path:
    """The file of the text at this place."""
    return folder / f"{index:06d}.safetensors"


def ids_digest(ids: Sequence[int]) -> str:
    """SHA-256 (hex) of token ids as JSON without spaces."""
    return hashlib.sha256(json.dumps(list(ids), separators=(",", ":")).encode()).hexdigest()


def begin_folder(folder: Path, index: StatesIndex) -> None:
    """Write states.json into a new folder, or find that it says the same already. Raises OutputError."""
    text = json.dumps(index.to_json(), indent=1, ensure_ascii=False) + "\n"
    path = folder / INDEX
    with _writing(folder):
        if path.is_file():
            if path.read_text(encoding="utf-8", errors="replace") != text:
                raise OutputError(
                    f"{folder} holds the states of another run",
                    hint="choose another folder, or remove it",
                    code="output-exists",
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        if any(not file.name.startswith(".") for file in folder.iterdir()):
            raise OutputError(f"{folder} holds other files", hint="choose an empty folder", code="output-foreign")
        temporary = folder / f".{INDEX}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a file that is there whole or not at all. Raises OutputError."""
    temporary = path.with_name(f".{path.name}")
    with _writing(path):
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary)
        temporary.replace(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as e:
        why = e.strerror if isinstance(e, OSError) and e.strerror else e
        raise OutputError(f"cannot write {path}: {why}", code="output-unwritable") from e
