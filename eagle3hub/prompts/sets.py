"""Prompt sets from the package, from public data sets at a pinned revision, and from your own files."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from eagle3hub.errors import InputError, SourceError, UnavailableError, UsageError
from eagle3hub.system.installation import command_for_extra
from eagle3hub.system.resources import cache_dir, read_toml

# Data sets that can be fetched, as ``datasets.toml`` beside this module describes them


DATASETS_FILE = Path(__file__).resolve().parent / "datasets.toml"


@dataclass(frozen=True, slots=True)
class Rows:
    """How the rows of a file make prompts: fields in braces are filled in, and a list is written on lines of its own.

    Attributes:
        text, question_id, category: the parts of a prompt, as ``{problem}``.
        turns: name of the column that lists the user's turns, in place of ``text``; a row whose turn is SPEED-Bench's
            placeholder is left out.
        first, last: the rows to take, counted from 1; None for all.
        members: of a zip of CSV files, a regular expression for the names of those to take; its group ``name`` is the
            field ``member``. None for another kind of file.
        parquet: whether the file is Parquet, rather than JSON Lines.
        image: name of the column that holds a row's image; None where prompts are text alone.
    """

    text: str
    question_id: str
    category: str
    first: int | None = None
    last: int | None = None
    members: str | None = None
    parquet: bool = False
    image: str | None = None
    turns: str | None = None

    @property
    def suffix(self) -> str:
        """The ending of the file's name."""
        return "parquet" if self.parquet else "jsonl" if self.members is None else "zip"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A prompt set that is fetched on first use: JSON Lines in MT-Bench's form, or rows that make prompts.

    Attributes:
        name: its name on the command line.
        url: address of the file at the pinned revision.
        revision: commit of the repository that holds the file, or a branch.
        sha256: hex digest that the file must have. bytes: its size, or None. Where nobody could state the digest
            beforehand, the first fetch records both, with the commit, and every later one is held to that.
        most_bytes: most bytes to fetch of a file whose size is not stated.
        prompts: number of prompts, or None where nobody states it. turns: most user turns of a prompt.
        license: SPDX identifier, or a sentence if it has none. license_stated: where the license is stated.
        redistribution: whether the text may be passed on; if not, it is never written outside the cache.
        category: category of all prompts, for a file that names none.
        rows: how rows of another form make prompts; None for MT-Bench's form.
    """

    name: str
    title: str
    url: str
    revision: str
    turns: int
    license: str
    license_stated: str
    redistribution: bool
    prompts: int | None = None
    sha256: str | None = None
    bytes: int | None = None
    most_bytes: int = 32 << 20
    category: str | None = None
    rows: Rows | None = None

    @property
    def cache_name(self) -> str:
        """The file's path below the cache folder; it names the digest or the revision: another one, another file."""
        suffix = "jsonl" if self.rows is None else self.rows.suffix
        return f"datasets/{self.name}-{(self.sha256 or self.revision)[:12]}.{suffix}"

    @property
    def pin(self) -> Path:
        """Where the digest is recorded, if the package states none."""
        return cache_dir() / f"datasets/{self.name}-{self.revision[:12]}.pin.json"

    @property
    def path(self) -> Path:
        """Where the fetched file is kept."""
        return cache_dir() / self.cache_name

    @property
    def notice(self) -> str:
        """The notice to show when the set is fetched: its licence, and whether it may be passed on."""
        passing_on = "" if self.redistribution else "; not to be passed on"
        return f"{self.title}, licence: {self.license}{passing_on} ({self.license_stated})"

    def to_json(self) -> dict[str, Any]:
        """Return the ``source`` object of a benchmark's prompts."""
        return {
            "url": self.url,
            "revision": self.revision,
            "sha256": self.sha256,
            "license": self.license,
            "license_stated": self.license_stated,
            "redistribution": self.redistribution,
        }


@cache
def _read(path: Path) -> dict[str, Dataset]:
    entries = read_toml(path)
    return {
        name: Dataset(
            name=name,
            **{
                **entry,
                "url": entry["url"].format(revision=entry["revision"]),
                "rows": Rows(**entry["rows"]) if "rows" in entry else None,
            },
        )
        for name, entry in entries.items()
    }


def datasets() -> dict[str, Dataset]:
    """Return the data sets that can be fetched, by name."""
    return _read(DATASETS_FILE)


# Prompts and prompt sets


Message = Mapping[str, object]
"""One message of a chat: ``role`` and ``content``, which is text, or a list of parts in OpenAI's form."""

_MOST_IMAGE = 32 << 20
_MEDIA_TYPES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)
"""How files of images begin."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a prompt: the bytes of its file, as they are. Raises ValueError for what is no image we know."""

    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.data) > _MOST_IMAGE:
            raise ValueError(f"an image is larger than {_MOST_IMAGE >> 20} MB")
        if not self._kinds:
            raise ValueError("an image is neither PNG, JPEG, GIF nor WebP")

    @property
    def _kinds(self) -> list[str]:
        return [kind for begin, kind in _MEDIA_TYPES if self.data.startswith(begin)]

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of its bytes."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def url(self) -> str:
        """The image as a ``data:`` address."""
        return f"data:{self._kinds[0]};base64,{base64.b64encode(self.data).decode()}"


SECOND_TURNS = "#2"
"""How the name of a set ends whose second turns are asked."""


@dataclass(frozen=True, slots=True)
class ImagesUsed:
    """The images of a set's prompts: how many, and the SHA-256 (hex) of their own digests, one a line, in order."""

    count: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """The ``images`` object of a run's prompts."""
        return {"count": self.count, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its id in the set, its category, the text of the user's turn, and the turns after it.

    ``before`` holds what comes before this turn, as messages of a chat: a system prompt, earlier turns and the
    target's answers to them. ``images`` stand before the text of the turn. A run uses this turn only.
    """

    question_id: int | str
    category: str
    text: str
    later_turns: tuple[str, ...] = ()
    before: tuple[Message, ...] = ()
    images: tuple[Image, ...] = ()

    @property
    def messages(self) -> list[Message]:
        """The conversation that the target answers, which ends with the user's turn.

        A turn with images is a list of parts, as OpenAI's chat requests have it.
        """
        if not self.images:
            return [*self.before, {"role": "user", "content": self.text}]
        parts: list[Message] = [{"type": "image_url", "image_url": {"url": one.url}} for one in self.images]
        return [*self.before, {"role": "user", "content": [*parts, {"type": "text", "text": self.text}]}]

    @property
    def text_bytes(self) -> int:
        """Bytes of text in the conversation, in UTF-8."""
        return len(self.text.encode()) + sum(len(str(message["content"]).encode()) for message in self.before)

    @property
    def turns(self) -> tuple[str, ...]:
        """Every turn of the user, in order."""
        return (self.text, *self.later_turns)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of a run, in order, and the name of their set.

    Attributes:
        dataset: describes a fetched set (licence, revision); None for the packaged set and for files.
        context: how prompts were made long; None for prompts as their set has them.
        turns: which of the user's turns are used: ``first``, or ``second``, after the target's answer to the first.
    """

    name: str
    prompts: tuple[Prompt, ...]
    dataset: Dataset | None = None
    context: Context | None = None
    turns: Literal["first", "second"] = "first"

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of exactly the prompts used, as canonical JSON: sorted keys, no spaces, UTF-8.

        Only the turns that are used are hashed, with what comes before them, and the digests of their images.
        """
        rows: list[Mapping[str, object]] = [
            {"question_id": p.question_id, "category": p.category, "turns": [p.text]}
            | ({"before": [dict(message) for message in p.before]} if p.before else {})
            | ({"images": [image.sha256 for image in p.images]} if p.images else {})
            for p in self.prompts
        ]
        text = json.dumps(rows, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def categories(self) -> dict[str, int]:
        """Number of prompts in each category, in order of first appearance."""
        out: dict[str, int] = {}
        for prompt in self.prompts:
            out[prompt.category] = out.get(prompt.category, 0) + 1
        return out

    def to_json(self) -> dict[str, Any]:
        """Return the ``prompts`` object of a report."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "count": len(self.prompts),
            "categories": self.categories,
            **({} if self.context is None else {"context": self.context.to_json()}),
            **({} if self.images is None else {"images": self.images.to_json()}),
        }

    @property
    def images(self) -> ImagesUsed | None:
        """The images of the prompts; None where they are text alone."""
        found = [image.sha256 for prompt in self.prompts for image in prompt.images]
        if not found:
            return None
        return ImagesUsed(len(found), hashlib.sha256("".join(f"{one}\n" for one in found).encode()).hexdigest())

    @property
    def has_images(self) -> bool:
        """Whether a prompt holds an image."""
        return any(prompt.images for prompt in self.prompts)

    def refuse_images(self, what: str) -> None:
        """Raise UsageError (``usage-images``) where prompts hold images, which ``what`` does not take."""
        if self.has_images:
            raise UsageError(
                f"the prompts of {self.name} hold images, which {what} does not take",
                hint="leave it out, or give prompts of text alone",
                code="usage-images",
            )

    def with_system(self, system_prompt: str | None) -> PromptSet:
        """Return the set with a system prompt before each prompt; with None, as it is."""
        if system_prompt is None:
            return self
        first: Message = {"role": "system", "content": system_prompt}
        return replace(self, prompts=tuple(replace(p, before=(first, *p.before)) for p in self.prompts))


def second_turns(whole: PromptSet, answers: Mapping[int | str, str], source: str) -> PromptSet:
    """Return the second turns of a set, each after its first turn and the target's answer to that.

    Prompts of a single turn are left out. ``source`` names the answers in messages.

    Raises InputError (``prompts-second-turns``) for a set of single turns, and for a first turn without an answer.
    """
    prompts = []
    for prompt in whole.prompts:
        if not prompt.later_turns:
            continue
        if prompt.question_id not in answers:
            raise InputError(
                f"{source} holds no answer to the first turn of question {prompt.question_id!r} of {whole.name}",
                hint="keep the target's answers to all of them: eagle3hub validate … --save-responses FILE",
                code="prompts-second-turns",
            )
        said: Message = {"role": "assistant", "content": answers[prompt.question_id]}
        second, *later = prompt.later_turns
        before = (*prompt.messages, said)
        prompts.append(replace(prompt, text=second, later_turns=tuple(later), before=before))
    if not prompts:
        raise InputError(
            f"no prompt of {whole.name} has a second turn",
            hint="mt_bench has two turns of each prompt",
            code="prompts-second-turns",
        )
    return replace(whole, name=f"{whole.name}{SECOND_TURNS}", prompts=tuple(prompts), turns="second")


# Long prompts, made of a set's own text


@dataclass(frozen=True, slots=True)
class Context:
    """How the prompts of a set were made long.

    Each is the text of the set's other prompts (every turn of each, from the one after it on, around to the one before
    it), cut at its end, and then its own text: so many that the whole, in the target's chat template, has ``tokens``
    tokens of its tokenizer, or the fewest below that which a cut between two tokens can give.

    Attributes:
        tokens: length of each prompt. of: name of the set. left_out: its prompts that are too long by themselves.
    """

    tokens: int
    of: str
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the ``context`` object of a run's prompts."""
        return {"tokens": self.tokens, "of": self.of, "left_out": self.left_out}


def context_name(tokens: int) -> str:
    """Write a number of tokens as people name contexts: 4k is 4096."""
    return str(tokens) if tokens % 1024 else f"{tokens // 1024}k"


def contexts_of(text: str) -> list[int]:
    """Read ``1k,4k,500`` as numbers of tokens, ascending: 1k is 1024. Raises UsageError (``usage-context``)."""
    out = set()
    for part in text.lower().split(","):
        digits, thousands = part.strip().removesuffix("k"), part.strip().endswith("k")
        if not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 10**9):
            raise UsageError(
                f"--context {text!r} is not a list of lengths in tokens",
                hint="write them like 1k,4k,16k; 1k is 1024",
                code="usage-context",
            )
        out.add(int(digits) * (1024 if thousands else 1))
    return sorted(out)


class Tokenizer(Protocol):
    """What makes prompts long: a tokenizer, and the target's chat template."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids."""

    def length(self, prompt: Prompt) -> int:
        """Return the tokens of a prompt in the chat template."""


def lengthened(
    whole: PromptSet, contexts: Sequence[int], tokenizer: Tokenizer, num_prompts: int | None = None
) -> list[PromptSet]:
    """Return the set with prompts of each length in ``contexts``, made as `Context` says.

    Every length has the same prompts, so that lengths can be compared prompt by prompt: the first ``num_prompts`` of
    those that fit into the shortest.

    Raises InputError where no prompt is short enough (``prompts-context-empty``), or where the set has too little text
    (``prompts-context-text``).
    """
    lengths = {p.question_id: tokenizer.length(p) for p in whole.prompts}
    fitting = [p for p in whole.prompts if lengths[p.question_id] <= min(contexts)]
    if not fitting:
        raise InputError(
            f"no prompt of {whole.name} fits into a context of {min(contexts)} tokens: the shortest has "
            f"{min(lengths.values())}, the chat template included",
            hint="ask for longer contexts, or give another set",
            code="prompts-context-empty",
        )
    if num_prompts is not None and num_prompts > len(fitting):
        raise UsageError(
            f"--num-prompts asks for {num_prompts} prompts, but {len(fitting)} of {whole.name} fit into "
            f"{min(contexts)} tokens"
        )
    left_out = len(whole.prompts) - len(fitting)
    out = []
    for tokens in contexts:
        prompts = tuple(_long(p, whole, tokens, lengths[p.question_id], tokenizer) for p in fitting[:num_prompts])
        name = f"{whole.name}@{context_name(tokens)}"
        out.append(replace(whole, name=name, prompts=prompts, context=Context(tokens, whole.name, left_out)))
    return out


_CUTS = 12
"""Most cuts tried for one prompt: a cut between two tokens can change how many tokens the whole has."""
_CHARACTERS = 8
"""Characters per token that are tokenised at first; where they are too few tokens, twice as many, and so on."""


def _long(prompt: Prompt, whole: PromptSet, tokens: int, own: int, tokenizer: Tokenizer) -> Prompt:
    """Return a prompt with as much text before its own as fits into ``tokens``; alone it has ``own``."""
    place = whole.prompts.index(prompt)
    others = [*whole.prompts[place + 1 :], *whole.prompts[:place]]
    text = "\n\n".join(turn for other in others for turn in other.turns)
    size = _CHARACTERS * tokens
    ids = tokenizer.encode(text[:size])
    while len(ids) < 2 * tokens and size < len(text):
        size *= 2
        ids = tokenizer.encode(text[:size])
    if own + len(ids) < tokens:
        raise InputError(
            f"{whole.name} has about {own + len(ids):,} tokens of text, too few for prompts of {tokens:,}",
            hint="ask for shorter contexts, or give a set with more text, such as sum",
            code="prompts-context-text",
        )
    keep, best, longest = tokens - own, prompt, own
    tried: set[int] = set()
    while 0 < keep <= len(ids) and keep not in tried and len(tried) < _CUTS and longest < tokens:
        tried.add(keep)
        longer = replace(prompt, text=f"{tokenizer.decode(ids[:keep])}\n\n{prompt.text}")
        length = tokenizer.length(longer)
        if longest < length <= tokens:
            best, longest = longer, length
        keep += tokens - length
    return best


# Parse JSON Lines in MT-Bench's form, strictly: an error names the number of the line


ImageReader = Callable[[str], bytes]
"""Reads the file of an image that a line names, relative to the file of prompts; ValueError says why it cannot."""


def parse_prompts(
    raw: bytes, shown: str, *, category: str | None = None, image: ImageReader | None = None
) -> tuple[Prompt, ...]:
    """Parse the bytes of a file into prompts, in order.

    Args:
        raw: UTF-8 text with one JSON object per line (``question_id``, ``category`` and ``turns``, and for images
            ``images``: names of files, or ``data:`` addresses); empty lines and other fields are ignored.
        shown: the file's name in messages.
        category: replaces an empty category; without it an empty category is an error.
        image: reads the images that lines name; without it only ``data:`` addresses are taken.

    Raises InputError (``prompts-line``, which names the line, or ``prompts-empty``), and SourceError if the bytes are
    not UTF-8.
    """
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"{shown} is not UTF-8 text (byte {error.start})", code="source-prompts") from error
    prompts: list[Prompt] = []
    seen: dict[int | str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        prompt = _parse(line, shown, number, category, image)
        if prompt.question_id in seen:
            first = seen[prompt.question_id]
            raise _bad(shown, number, f"question_id {prompt.question_id!r} was used on line {first} already")
        seen[prompt.question_id] = number
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"{shown} holds no prompts", code="prompts-empty")
    return tuple(prompts)


_MOST_UNPACKED = 64 << 20
_FIELD = re.compile(r"\{(\w+)\}")


def parse_rows(raw: bytes, shown: str, rows: Rows) -> tuple[Prompt, ...]:
    """Make prompts of the rows of a file, in order, as `Rows` says.

    Raises InputError (``prompts-rows``) for a file of another form, a row without a field, and more than 64 MB
    unpacked; UnavailableError where a package is missing that reads Parquet.
    """
    prompts: list[Prompt] = []
    try:
        for number, row in enumerate(_rows_of(raw, rows), 1):
            if not (rows.first or 1) <= number <= (rows.last or number):
                continue
            question_id, category, text = (
                _filled(template, row) for template in (rows.question_id, rows.category, rows.text)
            )
            turns = [text] if rows.turns is None else _texts(row[rows.turns])
            if any(turn.startswith(_NOT_FETCHED) for turn in turns):
                continue
            images = () if rows.image is None else (Image(_image_bytes(row[rows.image])),)
            prompts.append(Prompt(question_id, category, turns[0], tuple(turns[1:]), images=images))
    except (
        ValueError,
        KeyError,
        TypeError,
        csv.Error,
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        zlib.error,
    ) as error:
        raise InputError(
            f"{shown} has not the rows that this set has: {type(error).__name__}: {error}",
            hint="delete the file to have it fetched again; give your own prompts by path",
            code="prompts-rows",
        ) from error
    if not prompts:
        raise InputError(f"{shown} holds no prompts", code="prompts-empty")
    return tuple(prompts)


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise ValueError("turns is not a list of texts")
    return value


def _image_bytes(value: object) -> bytes:
    """The file of an image in a row: Parquet has it as bytes, or as an object with ``bytes`` beside a ``path``."""
    found = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(found, bytes):
        raise ValueError(f"an image is {type(found).__name__}, not bytes")
    return found


def _rows_of(raw: bytes, rows: Rows) -> Iterator[Mapping[str, object]]:
    if rows.parquet:
        yield from _table_rows(raw)
        return
    if rows.members is None:
        for line in raw.decode("utf-8").split("\n"):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("a line is no JSON object")
                yield row
        return
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        left = _MOST_UNPACKED
        for name in sorted(archive.namelist()):
            match = re.search(rows.members, name)
            if match is None:
                continue
            with archive.open(name) as file:
                data = file.read(left + 1)
            left -= len(data)
            if left < 0:
                raise ValueError("more than 64 MB unpacked")
            for row in csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")):
                yield {**row, "member": match["name"]}


_TABLE_ROWS, _MOST_TABLE = 64, 512 << 20
"""Rows of a table that are unpacked at a time; most bytes of all of them."""


def _table_rows(raw: bytes) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a file, each an object of its columns, a few at a time.

    Raises UnavailableError (``prompts-parquet``) without pyarrow, and ValueError for a file that is no Parquet, or of
    which more than 512 MB would be unpacked.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UnavailableError(
            "the file of this set is Parquet, which pyarrow reads, and this environment does not have it",
            hint=command_for_extra("validate"),
            code="prompts-parquet",
        ) from error
    try:
        file = parquet.ParquetFile(io.BytesIO(raw))
        groups = (file.metadata.row_group(n).total_byte_size for n in range(file.metadata.num_row_groups))
        if sum(groups) > _MOST_TABLE:
            raise ValueError(f"more than {_MOST_TABLE >> 20} MB unpacked")
        for batch in file.iter_batches(batch_size=_TABLE_ROWS):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _filled(template: str, row: Mapping[str, object]) -> str:
    def value(match: re.Match[str]) -> str:
        found = row[match[1]]
        return "\n".join(map(str, found)) if isinstance(found, list) else str(found)

    return _FIELD.sub(value, template)


def _parse(line: str, shown: str, number: int, default_category: str | None, read_image: ImageReader | None) -> Prompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad(shown, number, f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise _bad(shown, number, "not a JSON object")
    if "turns" not in row and isinstance(row.get("messages"), list):
        row = {**row, "turns": _turns_of(row["messages"])}
    missing = [key for key in ("question_id", "category", "turns") if key not in row]
    if missing:
        raise _bad(shown, number, f"no {' and no '.join(missing)}")
    question_id, category, turns = row["question_id"], row["category"] or default_category, row["turns"]
    if isinstance(question_id, bool) or not isinstance(question_id, int | str):
        raise _bad(shown, number, "question_id is neither an integer nor a string")
    if not isinstance(category, str) or not category:
        raise _bad(shown, number, "category is not a non-empty string")
    texts = turns if isinstance(turns, list) and all(isinstance(turn, str) for turn in turns) else []
    if not texts or not texts[0].strip():
        raise _bad(shown, number, "turns is not a list of strings that starts with a non-empty one")
    if any(text.startswith(_NOT_FETCHED) for text in texts):
        raise InputError(
            f"{shown}, line {number}: SPEED-Bench's placeholder stands in place of a prompt",
            hint="run its own prepare.py to the end: it fetches these texts from where they are",
            code="prompts-placeholder",
        )
    images = _images(row.get("images", []), shown, number, read_image)
    return Prompt(question_id, category, texts[0], tuple(texts[1:]), images=images)


def _images(named: object, shown: str, number: int, read_image: ImageReader | None) -> tuple[Image, ...]:
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise _bad(shown, number, "images is not a list of names of files")
    out = []
    for one in named:
        try:
            if one.startswith("data:"):
                kind, _, text = one.partition(",")
                if not kind.endswith(";base64"):
                    raise ValueError("a data: address of an image is not base64")
                out.append(Image(base64.b64decode(text, validate=True)))
            elif read_image is None:
                raise ValueError("images are named, and no folder is known for them")
            else:
                out.append(Image(read_image(one)))
        except (ValueError, binascii.Error) as error:
            raise _bad(shown, number, str(error)) from error
    return tuple(out)


_NOT_FETCHED = "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE"
"""What SPEED-Bench's files hold where the licence of a source forbids passing its text on."""


def _turns_of(messages: list[Any]) -> list[Any]:
    """The user's turns of a conversation, as SPEED-Bench's own ``prepare.py`` writes it."""
    return [m.get("content") for m in messages if isinstance(m, dict) and m.get("role") == "user"]


def _bad(shown: str, number: int, what: str) -> InputError:
    return InputError(
        f"{shown}, line {number}: {what}",
        hint='each line is an object like {"question_id": 1, "category": "writing", "turns": ["Write a note."]}',
        code="prompts-line",
    )
