"""Hidden states in files, as their producers write them: what is in a folder, whose it is, and whether it fits.

Nothing here needs torch: files are looked into, states are not read. A **dump** is a folder with one file per text.
Producers do not say the same things about it, and number layers in two ways. What each writes, from its sources:

- eagle3hub: ``states.json`` (`StatesIndex`) and ``000000.safetensors`` …; says everything.
- vLLM, ``ExampleHiddenStatesConnector``: a safetensors file per request, ``hidden_states`` [tokens, layers, hidden
  size] and ``token_ids``. Which layers, only its configuration says; it counts the layers that have run, and the last
  of n layers is the state *before* the final norm.
- speculators 0.5 and later (``data_generation_offline.py``) moves the same files to ``hs_N.safetensors``. Its
  ``launch_vllm.py`` asks for layers 2, n // 2, n - 3 and n.
- speculators up to 0.4 (``custom_worker.py``): ``data_N.pt`` with ``input_ids``, ``loss_mask`` and a list
  ``hidden_states`` of one tensor per layer. It captures *after* the layer of that number, so its 2 is what 3 is later
  on; ``data_config.json`` has the numbers, which are 2, n // 2, n - 3 and n - 1 unless others were given.
- SpecForge (``prepare_hidden_states.py``): ``data_N.ckpt`` (``.ckpt.gz``) in ``rows_…`` folders; ``input_ids``,
  ``loss_mask``, ``aux_hidden_state`` [1, tokens, layers * hidden size] and ``hidden_state`` [1, tokens, hidden size],
  which is *after* the final norm.
- ModelOpt (``collect_hidden_states``): ``ID.pt`` with ``input_ids``, ``aux_hidden_states`` [tokens, layers * hidden
  size], ``hidden_states`` [tokens, hidden size] and ``loss_mask``, which may be ones everywhere. Its scripts of HF
  and TensorRT-LLM count layers as SpecForge does, and the last state comes *after* the final norm. Its script of vLLM
  hands the same numbers to vLLM, which counts otherwise: the same ``--aux-layers`` are one layer lower there, and the
  last state is the one *before* the final norm. Files do not say which script wrote them; the last state does, where
  the target's norm and lm_head are there to judge it by.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from eagle3hub.checkpoint.folder import read_tensor, read_weights
from eagle3hub.checkpoint.pickles import StridedRef
from eagle3hub.checkpoint.safetensors import ByteReader, TensorRef, open_local, read_header, truncated
from eagle3hub.checkpoint.source import parse_json_object, read_small
from eagle3hub.errors import CheckpointError, ConfigError, InputError, OutputError, SourceError
from eagle3hub.head import FINAL_NORM, AuxTaps, Tap
from eagle3hub.head.fields import Fields
from eagle3hub.head.target import TargetFacts
from eagle3hub.prompts import Prompt, PromptSet
from eagle3hub.system.reading import read_bytes

Last = Literal["post_norm", "pre_norm", "open"]
"""Whether the target's last state comes after its final norm; ``open`` where the producer writes either."""

# A folder of our own: its files, and the index that describes them.
#
# A folder of saved states holds
#
# - ``states.json``: ``schema`` (``eagle3hub/states/1``), ``target`` (``name``, ``config_sha256``, ``hidden_size``,
#   ``vocab_size``, ``num_hidden_layers``), ``aux_boundary_ids`` (number of layers that have run), ``final_norm``
#   (whether the state after the final norm follows them), ``dtype`` of the states in safetensors' words,
#   ``temperature`` of the log-probabilities or null, ``producer`` (``name`` and ``version`` of what computed them) and
#   ``texts``: per text ``question_id``, ``tokens``, ``prompt_length``, ``response_length`` and ``sha256`` of its token
#   ids (as JSON without spaces);
# - ``000000.safetensors`` …: per text ``token_ids`` int64 [T], ``aux_hidden_states`` [T, taps * hidden size] and, with
#   a temperature, ``logprobs`` float32 [T], the natural log of each token's probability, undefined for the first;
# - ``embed_tokens.safetensors``: ``embed_tokens.weight`` [vocabulary, hidden size], as in the target, unscaled;
# - ``lm_head.safetensors`` where the target has one of its own: ``lm_head.weight`` [vocabulary, hidden size];
# - ``target``: the target's config and tokenizer, where `eagle3hub states` wrote the folder.

INDEX = "states.json"
EMBEDDINGS = "embed_tokens.safetensors"
LM_HEAD = "lm_head.safetensors"
SCHEMA = "eagle3hub/states/1"
DTYPES = ("F32", "BF16", "F16")
"""Dtypes of states, in safetensors' words."""


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
    producer: tuple[str, str] | None = None

    @property
    def width(self) -> int:
        """Numbers per token: taps * hidden size."""
        return len(self.taps) * self.hidden_size

    def to_json(self) -> dict[str, Any]:
        """Return the index as the document states.json."""
        document: dict[str, object] = {
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
        }
        if self.producer is not None:
            document["producer"] = dict(zip(("name", "version"), self.producer, strict=True))
        return {**document, "texts": [asdict(entry) for entry in self.texts]}


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
    target, producer = fields.section("target"), fields.section("producer")
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
        (producer.text("name"), producer.text("version")) if producer.data else None,
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
    with writing(folder):
        if path.is_file():
            if path.read_text(encoding="utf-8", errors="replace") != text:
                raise OutputError(
                    f"{folder} holds the states of another run",
                    hint="choose another folder, or remove it",
                    code="output-exists",
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        refuse_foreign(folder)
        temporary = folder / f".{INDEX}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def refuse_foreign(folder: Path) -> None:
    """Raise OutputError (``output-foreign``) for a folder of other files than saved states, hidden ones apart."""
    with writing(folder):
        files = list(folder.iterdir()) if folder.exists() and not (folder / INDEX).is_file() else []
    if any(not file.name.startswith(".") for file in files):
        raise OutputError(f"{folder} holds other files", hint="choose an empty folder", code="output-foreign")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block, turn the system's refusal to write into an OutputError."""
    try:
        yield
    except OSError as e:
        raise OutputError(f"cannot write {path}: {e.strerror or e}", code="output-unwritable") from e


# The formats: which tensors a producer writes, and what it means by them.


@dataclass(frozen=True, slots=True)
class Format:
    """How one producer writes states.

    Attributes:
        name: the producer's name in a report.
        files: pattern of its files' names, relative to the folder; group 1 is the text's id.
        states: names of the tensors with the states, by layer in ascending order, [tokens, …] or [1, tokens, …]; a
            name that ends in ``.`` stands for a list. last: name of the tensor with the target's last state, if there
            is one.
        tokens, mask: names of the tensors with the token ids, and with which tokens are trained on, [tokens].
        pickled: whether the files are torch pickles.
        norm: whether ``last`` comes after the final norm.
    """

    name: str
    files: re.Pattern[str]
    states: str
    tokens: str
    mask: str | None = None
    last: str | None = None
    norm: Last | None = None
    pickled: bool = True

    def names(self) -> tuple[str, ...]:
        """The tensors that a file must have."""
        states = f"{self.states}0" if self.states.endswith(".") else self.states
        return (states, self.tokens) if self.last is None else (states, self.tokens, self.last)


OWN = Format("eagle3hub", re.compile(r"(\d{6})\.safetensors"), "aux_hidden_states", "token_ids", pickled=False)
VLLM = Format("vllm", re.compile(r"([^/]+)\.safetensors"), "hidden_states", "token_ids", pickled=False)
SPECULATORS = Format("speculators", re.compile(r"hs_(\d+)\.safetensors"), "hidden_states", "token_ids", pickled=False)
OLD_SPECULATORS = Format(
    "speculators (0.4 or earlier)", re.compile(r"data_(\d+)\.pt"), "hidden_states.", "input_ids", "loss_mask"
)
SPECFORGE = Format(
    "specforge",
    re.compile(r"(?:rows_\d+-\d+/)?data_(\d+)\.ckpt(?:\.gz)?"),
    "aux_hidden_state",
    "input_ids",
    "loss_mask",
    "hidden_state",
    "post_norm",
)
MODELOPT = Format(
    "modelopt", re.compile(r"([^/]+)\.pt"), "aux_hidden_states", "input_ids", "loss_mask", "hidden_states", "open"
)
FORMATS = (SPECULATORS, OLD_SPECULATORS, SPECFORGE, MODELOPT, VLLM)
"""Of the other producers, the narrower file names first."""
_SUFFIXES = (".safetensors", ".pt", ".ckpt", ".ckpt.gz")
_OURS = {EMBEDDINGS, LM_HEAD}


@dataclass(frozen=True, slots=True)
class Opened:
    """Where the tensors of one text lie; blocks of states are one hidden size wide, in ascending order of layers."""

    token_ids: tuple[int, ...]
    states: tuple[TensorRef, ...]
    last: TensorRef | None = None
    mask: tuple[bool, ...] | None = None
    logprobs: TensorRef | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One text of a dump.

    Attributes:
        question_id: from its file's name, or the index.
        token_ids: all of them. mask: which are trained on, where the producer says.
        entry: its row of the index, in a folder of our own.
    """

    path: Path
    question_id: int | str
    token_ids: tuple[int, ...]
    mask: tuple[bool, ...] | None = None
    entry: TextEntry | None = None


@dataclass(frozen=True, slots=True)
class Dump:
    """A folder of hidden states, looked through.

    Attributes:
        producer: the program that computed them, and its version where known.
        columns: which states the files hold, in their order: layers, then `FINAL_NORM` if it is among them. last: what
            the tensor of the last state holds, which comes after ``columns``; None if there is no such tensor.
        dtype: of the states, in safetensors' words. temperature: of log-probabilities in the files, or None.
        config_sha256: of the target that they were computed with, where known. target_name: of that target.
        assumed: the assumptions about them, as sentences for a report.
    """

    folder: Path
    format: Format
    producer: tuple[str, str | None]
    columns: AuxTaps
    last: Last | None
    dtype: str
    hidden_size: int
    vocab_size: int
    num_hidden_layers: int
    records: tuple[Record, ...]
    temperature: float | None = None
    target_name: str | None = None
    config_sha256: str | None = None
    assumed: tuple[str, ...] = ()

    @property
    def says_its_texts(self) -> bool:
        """Whether the index says where prompt and response are, and that the target wrote them."""
        return self.format is OWN

    def describe(self) -> dict[str, Any]:
        """What a report states of them: producer, version, layers (boundary ids), last state, dtype."""
        layers = [tap + 1 for tap in self.columns.taps if isinstance(tap, int)]
        last = "post_norm" if FINAL_NORM in self.columns.taps else self.last
        return {
            "producer": self.producer[0],
            "producer_version": self.producer[1],
            "boundary_ids": layers,
            "layers_from": self.columns.origin,
            "last_state": last,
            "dtype": self.dtype,
        }

    def open(self, record: Record) -> Opened:
        """Find the tensors of a text. Raises CheckpointError or InputError if its file has changed since."""
        opened = open_record(record.path, self.format, self.folder)
        if opened.token_ids != record.token_ids:
            raise _bad(record.path, self.folder, "holds another text than a moment ago")
        return opened


def open_dump(folder: str | Path, target: TargetFacts | None, layers: AuxTaps | None = None) -> Dump:
    """Look through a folder of hidden states: recognise its producer, and check every file's description.

    Args:
        target: the target's facts; only a folder of our own can be read without them.
        layers: what the user says the files' columns are, the last state included where it is one of them.

    Raises SourceError for a folder without states or a missing file, CheckpointError for a truncated file, ConfigError
    for a wrong index, InputError (``states-…``) for files that contradict each other, the index or the target.
    """
    folder = Path(folder)
    if (folder / INDEX).exists():
        return _own(folder, target, layers)
    format, found = _recognise(folder)
    if target is None:
        raise InputError(
            f"the hidden states in {folder} are those of {format.name}, which do not say of which target",
            hint="name it with --target; its config.json is read",
            code="states-target",
        )
    first: Opened | None = None
    records = []
    for question_id, path in found:
        opened = open_record(path, format, folder)
        if first is None:
            first = opened
        _alike(first, opened, path, found[0][1], folder)
        _in_vocabulary(opened.token_ids, target.vocab_size, path, folder)
        records.append(Record(path, question_id, opened.token_ids, opened.mask))
    assert first is not None  # `_recognise` found a file
    columns = _count_columns(first, target, folder)
    taps, assumed = _layers_of(format, columns, target, layers, folder)
    return Dump(
        folder,
        format,
        (format.name, _version(folder)),
        taps,
        format.norm,
        first.states[0].dtype,
        target.hidden_size,
        target.vocab_size,
        target.num_hidden_layers,
        tuple(records),
        assumed=assumed,
    )


def _own(folder: Path, target: TargetFacts | None, layers: AuxTaps | None) -> Dump:
    index = read_index(folder)
    if layers is not None and layers.taps != index.taps.taps:
        raise InputError(
            f"--states-layers names other layers than {INDEX} in {folder}",
            hint="leave it out: the folder says which layers it holds",
            code="states-layers",
        )
    if target is not None:
        for what, ours, theirs in (
            ("hidden size", index.hidden_size, target.hidden_size),
            ("vocabulary", index.vocab_size, target.vocab_size),
            ("number of layers", index.num_hidden_layers, target.num_hidden_layers),
        ):
            if ours != theirs:
                raise InputError(
                    f"the hidden states in {folder} are of {index.target_name}, whose {what} is {ours}, but that of "
                    f"{target.name} is {theirs}",
                    hint="name the target that they were computed with",
                    code="states-target",
                )
    records = tuple(_own_record(folder, i, entry, index) for i, entry in enumerate(index.texts))
    return Dump(
        folder,
        OWN,
        ("eagle3hub", None) if index.producer is None else index.producer,
        index.taps,
        None,
        index.dtype,
        index.hidden_size,
        index.vocab_size,
        index.num_hidden_layers,
        records,
        index.temperature,
        index.target_name,
        index.config_sha256,
    )


def _own_record(folder: Path, number: int, entry: TextEntry, index: StatesIndex) -> Record:
    """Open the file of a text, and check its header against states.json."""
    path = states_file(folder, number)
    if not path.is_file():
        raise SourceError(
            f"{path} is missing, the states of text {number} of {len(index.texts)}",
            hint="saving was not finished: run it again, it goes on where it stopped",
            code="source-states-missing",
        )
    ids = tensor_ref(path, "token_ids", ("I64", (entry.tokens,)))
    tensor_ref(path, "aux_hidden_states", (index.dtype, (entry.tokens, index.width)))
    if index.temperature is not None:
        tensor_ref(path, "logprobs", ("F32", (entry.tokens,)))
    token_ids = _integers(ids)
    if ids_digest(token_ids) != entry.sha256:
        raise InputError(f"{path} holds the states of another text than {INDEX} says", code="states-file")
    return Record(path, entry.question_id, token_ids, None, entry)


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


# Whose files a folder holds.


def _recognise(folder: Path) -> tuple[Format, list[tuple[int | str, Path]]]:
    """The producer whose files these are, and the files with their texts' ids, in order."""
    names = [name for name in _names(folder) if name.endswith(_SUFFIXES)]
    if not names:
        raise SourceError(
            f"there are no saved hidden states in {folder}: it has no {INDEX}, and no files of vLLM, speculators, "
            "SpecForge or ModelOpt",
            hint="compute them: eagle3hub states TARGET --output DIR",
            code="source-no-states",
        )
    with _reader(folder / names[0]) as reader:
        tensors = read_weights(reader, views=True).tensors
    fitting = [f for f in FORMATS if f.files.fullmatch(names[0]) and tensors.keys() >= set(f.names())]
    if not fitting:
        raise _bad(
            folder / names[0],
            folder,
            f"holds {', '.join(list(tensors)[:4])}, which is not what vLLM, speculators, SpecForge or ModelOpt write",
            "states-format",
        )
    matched = [(name, fitting[0].files.fullmatch(name)) for name in names]
    strange = next((name for name, match in matched if match is None), None)
    if strange is not None:
        raise InputError(
            f"{folder} holds files of several kinds, such as {names[0]} and {strange}",
            hint="put the files of one producer and one run into a folder of their own",
            code="states-mixed",
        )
    ids = [match[1] for _, match in matched if match is not None]
    out: list[tuple[int | str, Path]] = [
        (int(i) if i.isdigit() and str(int(i)) == i else i, folder / name) for i, name in zip(ids, names, strict=True)
    ]
    out.sort(key=lambda item: (isinstance(item[0], str), item[0], str(item[1])))
    for (one, path), (other, twice) in pairwise(out):
        if one == other:
            raise InputError(
                f"{folder} holds two files of text {one}: {path.name} and {twice.name}",
                hint="keep one of them",
                code="states-mixed",
            )
    return fitting[0], out


def _names(folder: Path) -> list[str]:
    """Names of the files in a folder and in its ``rows_…`` folders, without locks and hidden ones."""
    try:
        inside = sorted(folder.iterdir())
        rows = [p for p in inside if p.is_dir() and p.name.startswith("rows_")]
        files = [p for p in inside if p.is_file()] + [p for d in rows for p in sorted(d.iterdir()) if p.is_file()]
    except OSError as e:
        raise SourceError(
            f"there are no saved hidden states in {folder}: {e.strerror}", code="source-no-states"
        ) from e
    names = [p.relative_to(folder).as_posix() for p in files if not p.name.startswith(".")]
    return [n for n in names if n not in _OURS]


def _version(folder: Path) -> str | None:
    """The version of speculators, which its data_config.json states."""
    raw = read_small(folder / "data_config.json")
    if raw is None:
        return None
    versions = parse_json_object(raw, folder / "data_config.json").get("package_versions")
    stated = versions.get("speculators") if isinstance(versions, dict) else None
    return stated if isinstance(stated, str) else None


# One file.


class _Unpacked:
    """A `ByteReader` of a gzip file, unpacked in memory: its pickle has its directory at its end."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.shown, self.size, self._data = path, str(path), len(data), data

    def remote(self, offset: int, count: int) -> bytes:
        """The function that a `TensorRef` reads its bytes with."""
        return self.read(offset, count)

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``offset``. Raises CheckpointError where the file ends before."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise truncated(self)
        return self._data[offset : offset + count]


@contextmanager
def _reader(path: Path) -> Iterator[ByteReader]:
    if path.suffix != ".gz":
        with open_local(path) as reader:
            yield reader
        return
    try:
        with gzip.open(path) as f:
            data = f.read()
    except (OSError, EOFError) as e:  # gzip.BadGzipFile is an OSError
        raise CheckpointError(
            f"{path} cannot be unpacked: {e}", hint="copy the file again", code="checkpoint-truncated"
        ) from e
    yield _Unpacked(path, data)


def open_record(path: Path, format: Format, folder: Path) -> Opened:
    """Find the tensors of one text. Raises CheckpointError if they are cut off, InputError if they do not fit."""
    with _reader(path) as reader:
        tensors = read_weights(reader, views=True).tensors
    missing = [name for name in format.names() if name not in tensors]
    if missing:
        raise _bad(path, folder, f"holds no {missing[0]}, which {format.name} writes", "states-format")
    ids = tensors[format.tokens]
    if ids.dtype not in ("I64", "I32") or len(ids.shape) != 1 or not ids.shape[0] or isinstance(ids, StridedRef):
        raise _bad(path, folder, f"holds {_shown(ids)}, not one list of token ids")
    states = [tensors[format.states]] if format.states in tensors else _listed(tensors, format.states)
    last = None if format.last is None else tensors[format.last]
    count = ids.shape[0]
    for ref in [*states, *([last] if last is not None else [])]:
        rows = ref.shape[1:] if len(ref.shape) > 2 and ref.shape[0] == 1 and format.pickled else ref.shape
        if ref.dtype not in DTYPES or len(rows) < 2 or rows[0] != count:
            raise _bad(path, folder, f"holds {_shown(ref)} beside {count} token ids: not the states of each")
    mask = None if format.mask is None else tensors.get(format.mask)
    if mask is not None and (mask.shape != (count,) or mask.dtype not in _INTEGERS or isinstance(mask, StridedRef)):
        raise _bad(path, folder, f"holds {_shown(mask)} beside {count} token ids")
    return Opened(
        _integers(ids),
        tuple(states),
        last,
        None if mask is None else tuple(bool(i) for i in _integers(mask)),
        tensors.get("logprobs"),
    )


def _listed(tensors: dict[str, TensorRef], prefix: str) -> list[TensorRef]:
    numbers = sorted(int(n.removeprefix(prefix)) for n in tensors if re.fullmatch(re.escape(prefix) + r"\d+", n))
    return [tensors[f"{prefix}{i}"] for i in numbers]


_INTEGERS = {"I64": "q", "I32": "i", "I16": "h", "I8": "b", "U8": "B", "BOOL": "B"}
"""How Python's arrays call whole numbers."""


def _integers(ref: TensorRef) -> tuple[int, ...]:
    return tuple(array(_INTEGERS[ref.dtype], read_tensor(ref)))


def _shown(ref: TensorRef) -> str:
    return f"{ref.name} {ref.dtype} {list(ref.shape)}"


def _bad(path: Path, folder: Path, what: str, code: str = "states-file") -> InputError:
    where = path.relative_to(folder) if path.is_relative_to(folder) else path
    return InputError(
        f"{where} in {folder} {what}", hint="write the file again, or take it out of the folder", code=code
    )


# Whether the files fit each other, and the target.


def _alike(first: Opened, other: Opened, path: Path, begun: Path, folder: Path) -> None:
    """Raise InputError (``states-mixed``) for a text whose states have other widths or dtypes than the first."""

    def kind(opened: Opened) -> list[tuple[str, int]]:
        count = len(opened.token_ids)
        refs = [*opened.states, *([opened.last] if opened.last is not None else [])]
        return [(ref.dtype, ref.num_elements // count) for ref in refs]

    if kind(first) != kind(other):
        one, two = (", ".join(f"{w} numbers of {d}" for d, w in kind(o)) for o in (first, other))
        raise InputError(
            f"the files in {folder} are of several runs: {begun.name} has {one} per token, {path.name} has {two}",
            hint="put the files of one producer and one run into a folder of their own",
            code="states-mixed",
        )


def _in_vocabulary(ids: Sequence[int], size: int, path: Path, folder: Path) -> None:
    if min(ids) < 0 or max(ids) >= size:
        wrong = next(i for i in ids if not 0 <= i < size)
        raise InputError(
            f"{path.name} in {folder} has token id {wrong}, outside the target's vocabulary of {size}",
            hint="name the target that the states were computed with",
            code="states-target",
        )


def _count_columns(first: Opened, target: TargetFacts, folder: Path) -> int:
    """How many layers' states a file has; raises InputError where the target's hidden size does not divide them."""
    hidden, count = target.hidden_size, len(first.token_ids)
    last = [] if first.last is None else [first.last]
    widths = [ref.num_elements // count for ref in first.states]
    stated = [ref.shape[-1] for ref in first.states if len(ref.shape) > 2 and ref.shape[0] != 1]
    wrong = [w for w in widths if w % hidden] + [w for w in stated if w != hidden]
    wrong += [ref.shape[-1] for ref in last if ref.shape[-1] != hidden]
    if wrong:
        raise InputError(
            f"the hidden states in {folder} have {wrong[0]} numbers per token, but the hidden size of {target.name} "
            f"is {hidden}",
            hint="name the target that the states were computed with",
            code="states-target",
        )
    return sum(width // hidden for width in widths)


def _layers_of(
    format: Format, columns: int, target: TargetFacts, stated: AuxTaps | None, folder: Path
) -> tuple[AuxTaps, tuple[str, ...]]:
    """Which layers the columns are: what the user says, else the producer's default; and what had to be assumed."""
    n = target.num_hidden_layers
    assumed: tuple[str, ...] = ()
    if stated is not None:
        taps = stated
        if max(t for t in taps.taps if isinstance(t, int)) >= n:
            raise InputError(
                f"--states-layers names decoder layer {max(taps.after_layer)} (counted from 0), but {target.name} has "
                f"{n} layers",
                code="states-layers",
            )
    else:
        default = _default(format, target, folder)
        if default is None:
            raise InputError(
                f"nothing says which layers of the target the {columns} states per token in {folder} are: "
                f"{format.name} does not write it down",
                hint="--states-layers 1,14,26: the layers whose output they are, counted from 0, as in its "
                "configuration; with --states-convention boundary as vLLM counts them, 2,15,27",
                code="states-layers-unknown",
            )
        taps, sentence = default
        assumed = () if sentence is None else (sentence,)
    if len(taps) != columns:
        raise InputError(
            f"the files in {folder} have the states of {columns} layers per token, but "
            + (f"--states-layers names {len(taps)}" if stated is not None else f"{format.name} writes {len(taps)}"),
            hint="name each of them, in ascending order, with --states-layers; the last state too where it is one "
            "of them",
            code="states-layers",
        )
    return taps, assumed


def _default(format: Format, target: TargetFacts, folder: Path) -> tuple[AuxTaps, str | None] | None:
    """The layers that a producer captures unless told otherwise, with the sentence that says so."""
    n = target.num_hidden_layers
    if format is VLLM:
        return None
    common = AuxTaps.default_for(n)
    if format in (SPECFORGE, MODELOPT):
        return common, _ASSUMED.format(format.name, _in_words(common))
    if format is SPECULATORS:
        taps = AuxTaps((*common.taps, n - 1), "default")
        return taps, _ASSUMED.format(format.name, _in_words(taps))
    path = folder / "data_config.json"
    raw = read_small(path)
    generation = None if raw is None else parse_json_object(raw, path).get("generation")
    ids = None if not isinstance(generation, dict) else Fields(generation, str(path)).layer_ids("layer_ids")
    if ids:
        return AuxTaps.from_after_layer(ids, "config"), None
    old = AuxTaps.from_after_layer([2, n // 2, n - 3, n - 1], "default")
    return old, _ASSUMED.format(format.name, _in_words(old))


_ASSUMED = "the files do not say which layers they hold; taken are those that {} captures by default, after layers {}"


def _in_words(taps: AuxTaps) -> str:
    return ", ".join(str(tap) for tap in taps.taps)


# The texts of a dump as prompts.


def dumped_prompts(folder: str | Path, name: str, num_prompts: int | None = None) -> PromptSet:
    """The texts of a dump as a prompt set: ids from its files, and the digest of the tokens in place of words.

    Raises what `open_dump` raises for the folder, and InputError (``states-question``) for fewer texts than asked for.
    """
    folder = Path(folder)
    if (folder / INDEX).exists():
        rows = [(entry.question_id, entry.sha256) for entry in read_index(folder).texts]
    else:
        format, found = _recognise(folder)
        rows = [(i, ids_digest(open_record(path, format, folder).token_ids)) for i, path in found]
    if num_prompts is not None and num_prompts > len(rows):
        raise InputError(
            f"--num-prompts asks for {num_prompts} prompts, but {folder} holds {len(rows)} texts",
            code="states-question",
        )
    prompts = tuple(Prompt(i, "hidden states", f"sha256:{digest}") for i, digest in rows[:num_prompts])
    return PromptSet(name, prompts)
