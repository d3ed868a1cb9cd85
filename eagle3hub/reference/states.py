"""Save hidden states of a target to a folder and read them back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from eagle3hub.checkpoint.folder import read_tensor
from eagle3hub.checkpoint.safetensors import TensorRef, read_header
from eagle3hub.checkpoint.source import parse_json_object
from eagle3hub.conversion.edits.embeddings import find_embeddings
from eagle3hub.errors import CheckpointError, ConfigError, InputError, OutputError, SourceError
from eagle3hub.head import FINAL_NORM, AuxTaps, Head, Tap
from eagle3hub.head.fields import Fields
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Batch, Text, batches, check_finite, check_fit, tap_name
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.reading import read_bytes

# A folder of saved hidden states: its files, and the index that describes them.
#
# A folder of saved states holds
#
# - ``states.json``: ``schema`` (``eagle3hub/states/1``), ``target`` (``name``, ``config_sha256``, ``hidden_size``,
#   ``vocab_size``, ``num_hidden_layers``), ``aux_boundary_ids`` (number of layers that have run), ``final_norm``
#   (whether the state after the final norm follows them), ``dtype`` of the states in safetensors' words,
#   ``temperature`` of the log-probabilities or null, and ``texts``: per text ``question_id``, ``tokens``,
#   ``prompt_length``, ``response_length`` and ``sha256`` of its token ids (as JSON without spaces);
# - ``000000.safetensors`` …: per text ``token_ids`` int64 [T], ``aux_hidden_states`` [T, taps * hidden size] and, with
#   a temperature, ``logprobs`` float32 [T], the natural log of each token's probability, undefined for the first;
# - ``embed_tokens.safetensors``: ``embed_tokens.weight`` [vocabulary, hidden size], as in the target, unscaled.


INDEX = "states.json"
EMBEDDINGS = "embed_tokens.safetensors"
EMBEDDING = "embed_tokens.weight"
SCHEMA = "eagle3hub/states/1"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TextEntry:
    """What is known about one text without opening its file."""

    question_id: int | str
    tokens: int
    prompt_length: int
    response_length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StatesIndex:
    """The content of states.json; ``dtype`` is F32, BF16 or F16."""

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
        """Return the index as the document states.json."""
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
    """Read states.json. Raises SourceError if it is missing, and ConfigError if it is wrong."""
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
    """Find a tensor in a file.

    Raises CheckpointError if it is truncated, and InputError if it is not as expected.
    """
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
    """Load every tensor of a file. Raises CheckpointError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"cannot read {path}: {e}", code="checkpoint-unreadable") from e


def states_file(folder: Path, index: int) -> Path:
    """Return the path of the file of text number ``index``."""
    return folder / f"{index:06d}.safetensors"


def ids_digest(ids: Sequence[int]) -> str:
    """Return the SHA-256 (hex) of token ids as JSON without spaces."""
    return hashlib.sha256(json.dumps(list(ids), separators=(",", ":")).encode()).hexdigest()


def begin_folder(folder: Path, index: StatesIndex) -> None:
    """Write states.json into a new folder, or check that an existing one says the same. Raises OutputError."""
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
    """Write a file, all or nothing. Raises OutputError."""
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


# Hidden states in files: save a target's once, then replay heads from them anywhere, as often as you like.
#
# The section at the head of this module lists the files.


_BATCH_TOKENS = 4096


def save_states(
    folder: str | Path,
    target: TargetModel,
    texts: Sequence[Text],
    taps: AuxTaps,
    *,
    question_ids: Sequence[int | str] | None = None,
    temperature: float | None = None,
    progress: Progress = silent,
) -> None:
    """Save the target's hidden states over some texts, its embeddings, and log-probabilities at a ``temperature``.

    Files that an earlier call for the same texts finished are kept, so a run that was stopped continues. Raises
    InputError if there are no texts, OutputError if the folder holds something else or cannot be written, and whatever
    `TargetModel.read` raises.
    """
    folder = Path(folder)
    ids = list(range(len(texts))) if question_ids is None else question_ids
    if not texts:
        raise InputError("there are no texts to save hidden states of", code="states-no-text")
    index = StatesIndex(
        target_name=target.name,
        config_sha256=target.config_sha256,
        hidden_size=target.hidden_size,
        vocab_size=target.vocab_size,
        num_hidden_layers=target.num_hidden_layers,
        taps=taps,
        dtype=DTYPE_NAMES[target.dtype],
        temperature=temperature,
        texts=tuple(
            TextEntry(i, len(t.token_ids), t.prompt_length, t.response_length, ids_digest(t.token_ids))
            for i, t in zip(ids, texts, strict=True)
        ),
    )
    begin_folder(folder, index)
    if not (folder / EMBEDDINGS).exists():
        save_tensors(folder / EMBEDDINGS, {EMBEDDING: target.embeddings[: target.vocab_size]})
    todo = [i for i in range(len(texts)) if not states_file(folder, i).exists()]
    done = len(texts) - len(todo)
    for batch in target.read([texts[i] for i in todo], taps, temperature=temperature):
        for row, (place, text) in enumerate(zip(batch.index, batch.texts, strict=True)):
            n = len(text.token_ids)
            tensors = {"token_ids": torch.tensor(text.token_ids), "aux_hidden_states": batch.aux[row, :n]}
            if batch.logprobs is not None:
                tensors["logprobs"] = batch.logprobs[row, :n]
            save_tensors(states_file(folder, todo[place]), tensors)
            done += 1
        progress("saving hidden states", done / len(texts))


class SavedStates:
    """Saved hidden states: an `AuxSource` without a model.

    Attributes:
        folder: where they are. index: the content of states.json, with the target's name and sizes.
        texts: the texts, in the order in which they were saved. Their question ids are in ``index.texts``.
        batch_tokens: most tokens of one batch, padding included.
        device: where batches and embeddings are put.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        target: str | None = None,
        device: torch.device | str = "cpu",
        batch_tokens: int = _BATCH_TOKENS,
    ) -> None:
        """Open a folder and check every file's header.

        Args:
            target: folder or Hub id of the target, for its embeddings if the folder has none.
            device: where batches and embeddings are put.

        Raises SourceError for a missing file, CheckpointError for a truncated one, ConfigError for a wrong
        states.json, InputError (``states-…``) for files that contradict it.
        """
        self.folder = Path(folder)
        self.batch_tokens = batch_tokens
        self.device, self._target = torch.device(device), target
        self.index = read_index(self.folder)
        self.texts = tuple(self._open(i, entry) for i, entry in enumerate(self.index.texts))
        self._place = {text.token_ids: i for i, text in enumerate(self.texts)}

    @cached_property
    def embeddings(self) -> torch.Tensor:
        """The target's token embeddings [vocabulary, hidden size], without any scaling.

        Raises SourceError if neither the folder nor the target has them, and InputError for a wrong size.
        """
        own = self.folder / EMBEDDINGS
        if own.is_file():
            where, ref = str(own), tensor_ref(own, EMBEDDING, None)
        elif self._target is not None:
            where, ref = self._target, find_embeddings(self._target)
        else:
            raise SourceError(
                f"there is no {EMBEDDINGS} in {self.folder}",
                hint="name the target's folder with --target; only its embeddings are read",
                code="source-no-embeddings",
            )
        wanted = (self.index.vocab_size, self.index.hidden_size)
        if ref.dtype not in DTYPES or len(ref.shape) != 2 or ref.shape[0] < wanted[0] or ref.shape[1] != wanted[1]:
            raise InputError(
                f"the embeddings in {where} are {ref.dtype} {list(ref.shape)}, but the states are of a target with "
                f"{list(wanted)}",
                hint="name the target the states were saved from",
                code="states-embeddings",
            )
        data = torch.frombuffer(bytearray(read_tensor(ref)), dtype=DTYPES[ref.dtype])
        return data.view(ref.shape)[: wanted[0]].to(self.device)

    @property
    def lm_head(self) -> torch.Tensor:
        """Raise InputError: saved states are those of the target's decoder layers."""
        raise InputError(
            "the head has no lm_head of its own, and saved hidden states do not hold the target's",
            hint="run the reference with the target itself, without --hidden-states",
            code="states-lm-head",
        )

    def fit(self, head: Head) -> None:
        """Raise InputError if the head was made for a target of other sizes, or reads other layers."""
        check_fit(
            head,
            f"the target of {self.folder}",
            hidden_size=self.index.hidden_size,
            vocab_size=self.index.vocab_size,
            num_hidden_layers=self.index.num_hidden_layers,
        )
        if head.aux is not None:
            self._columns(head.aux)

    def read(
        self, texts: Sequence[Text], taps: AuxTaps, *, temperature: float | None = None, lookahead: bool = True
    ) -> Iterator[Batch]:
        """Yield saved states of some of `texts`, the longest first; ``taps`` may be fewer than were saved.

        Raises InputError for a text or a tap that was not saved, log-probabilities at another temperature, and states
        that are not finite; CheckpointError for a file that cannot be read.
        """
        columns, width = self._columns(taps), self.index.hidden_size
        if temperature is not None and temperature != self.index.temperature:
            own = self.index.temperature
            has = "no log-probabilities" if own is None else f"those at temperature {own}"
            raise InputError(
                f"log-probabilities at temperature {temperature} are needed, but {self.folder} has {has}",
                hint=f"save the states again with --temperature {temperature}",
                code="states-temperature",
            )
        places = [self._find(i, text) for i, text in enumerate(texts)]
        for index in batches([len(t.token_ids) for t in texts], self.batch_tokens):
            rows = tuple(texts[i] for i in index)
            shape = (len(rows), len(rows[0].token_ids))
            aux = torch.zeros(*shape, len(taps) * width, dtype=DTYPES[self.index.dtype])
            logprobs = None if temperature is None else torch.zeros(shape)
            for row, i in enumerate(index):
                tensors = load_tensors(states_file(self.folder, places[i]))
                n = len(rows[row].token_ids)
                aux[row, :n] = tensors["aux_hidden_states"].view(n, -1, width)[:, columns].flatten(1)
                if logprobs is not None:
                    logprobs[row, :n] = tensors["logprobs"]
            check_finite(aux, taps, [places[i] for i in index], rows)
            yield Batch(
                tuple(index),
                rows,
                aux.to(self.device),
                None if logprobs is None else logprobs.to(self.device),
            )

    def _columns(self, taps: AuxTaps) -> list[int]:
        """Return which blocks of the saved states the taps are."""
        if any(tap not in self.index.taps.taps for tap in taps.taps):
            raise InputError(
                f"the head reads the target after {_all(taps)}, but {self.folder} holds its states after "
                f"{_all(self.index.taps)}",
                hint="save the states this head reads",
                code="states-taps",
            )
        return [self.index.taps.taps.index(tap) for tap in taps.taps]

    def _find(self, number: int, text: Text) -> int:
        if text.token_ids not in self._place:
            raise InputError(
                f"text {number} ({len(text.token_ids)} tokens) is not among the {len(self.texts)} whose states are in "
                f"{self.folder}",
                hint="replay the texts the states were saved for",
                code="states-no-text",
            )
        return self._place[text.token_ids]

    def _open(self, number: int, entry: TextEntry) -> Text:
        """Open the file of a text, and check its header against states.json."""
        path = states_file(self.folder, number)
        if not path.is_file():
            raise SourceError(
                f"{path} is missing, the states of text {number} of {len(self.index.texts)}",
                hint="saving was not finished: run it again, it goes on where it stopped",
                code="source-states-missing",
            )
        ids = tensor_ref(path, "token_ids", ("I64", (entry.tokens,)))
        tensor_ref(path, "aux_hidden_states", (self.index.dtype, (entry.tokens, self.index.width)))
        if self.index.temperature is not None:
            tensor_ref(path, "logprobs", ("F32", (entry.tokens,)))
        token_ids = tuple(torch.frombuffer(bytearray(read_tensor(ids)), dtype=torch.int64).tolist())
        if ids_digest(token_ids) != entry.sha256:
            raise InputError(f"{path} holds the states of another text than {INDEX} says", code="states-file")
        return Text(token_ids, entry.prompt_length, entry.response_length)


def _all(taps: AuxTaps) -> str:
    return ", ".join(tap_name(tap) for tap in taps.taps)
