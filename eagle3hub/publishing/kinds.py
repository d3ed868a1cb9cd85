"""What a file of a release may be, by its path, and whether its bytes are that and nothing else.

`TABLE` is the list of what may go up: a path that no line of it matches is no part of a release. To allow another JSON
file, add a line that names its schema: one of `file_schemas.json`, or of the project's own ``schemas/``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from eagle3hub import resources
from eagle3hub.checkpoint.pickles import is_pickle
from eagle3hub.errors import CheckpointError, ManifestError, SourceError
from eagle3hub.publishing import documents_inside as inside
from eagle3hub.publishing.files import LocalFile, parse_sums
from eagle3hub.publishing.jpeg import check_jpeg
from eagle3hub.publishing.png import Malformed, check_png
from eagle3hub.publishing.recognise import FIRST, recognised
from eagle3hub.publishing.svg import check_svg
from eagle3hub.publishing.text import check_license, check_text, text_of
from eagle3hub.publishing.weights import header
from eagle3hub.yaml_lines import hold_to_schema, parse_yaml

_TEXT_BYTES = 4 << 20
_JSON_BYTES = 64 << 20
_PICTURE_BYTES = 32 << 20
_FOLDER = r"([\w.-]+/)?"
_PICTURES = r"(assets|images|charts)/[\w.-]+\."
_RESULTS = ("report", "bench", "matrix", "imported")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file.

    Attributes:
        name: what a file of it is, with its article.
        check: raises Malformed, whose text goes on after ``it``, for bytes that are not of this kind.
        most: most bytes that are read to check one; None where ``check`` reads the file itself.
    """

    name: str
    check: Callable[[bytes], None]
    most: int = _TEXT_BYTES


def _json(name: str, *schemas: str, most: int = _JSON_BYTES, plain: bool = True) -> Kind:
    return Kind(name, lambda data: inside.check_json(data, schemas, plain=plain), most)


def _sums(data: bytes) -> None:
    try:
        parse_sums(text_of(data))
    except SourceError as e:
        raise Malformed("is not a list of digests") from e


def _yaml(name: str, schema: str) -> Kind:
    def check(data: bytes) -> None:
        try:
            hold_to_schema(parse_yaml(text_of(data), name), resources.schema(schema))
        except ManifestError as e:
            raise Malformed(f"departs from its schema: {e.message}") from e

    return Kind(name, check)


_WEIGHTS = Kind("a safetensors file", lambda _: None)
TABLE: tuple[tuple[str, Kind], ...] = (
    (rf"{_FOLDER}[\w.-]+\.safetensors", _WEIGHTS),
    (rf"{_FOLDER}config\.json", _json("a model's configuration", "config")),
    (rf"{_FOLDER}generation_config\.json", _json("a generation configuration", "generation_config")),
    (rf"{_FOLDER}model\.safetensors\.index\.json", _json("an index of weights", "index")),
    (rf"{_FOLDER}hf_quant_config\.json", _json("a quantization record", "hf_quant_config")),
    (rf"{_FOLDER}eagle3hub\.json", _json("a record of eagle3hub convert", "provenance")),
    (rf"{_FOLDER}tokenizer\.json", _json("a tokenizer", "tokenizer", plain=False)),
    (rf"{_FOLDER}tokenizer_config\.json", _json("a tokenizer's configuration", "tokenizer_config", plain=False)),
    (rf"{_FOLDER}special_tokens_map\.json", _json("a map of special tokens", "special_tokens_map", plain=False)),
    (r"(reports|benchmarks)/[\w.-]+\.json", _json("a report or benchmark of eagle3hub", *_RESULTS)),
    (r"release\.json", _json("a record of a release", "release")),
    (r"release\.yaml", _yaml("a release's manifest", "manifest")),
    (r"imported/[0-9]+\.yaml", _yaml("a file of imported measurements", "imported")),
    (r"templates/[\w.-]+\.j2", Kind("a template of a card", inside.check_jinja)),
    (r"model\.sig", _json("a sigstore bundle", "sigstore_bundle")),
    (rf"{_FOLDER}README\.md", Kind("Markdown", check_text)),
    (rf"{_FOLDER}(LICENSE|NOTICE|COPYING)[\w.-]*", Kind("plain text", check_license)),
    (rf"{_FOLDER}CITATION\.cff", Kind("a citation file", inside.check_citation)),
    (rf"{_FOLDER}chat_template\.jinja", Kind("a chat template", inside.check_template)),
    (r"SHA256SUMS", Kind("a list of digests", _sums)),
    (rf"{_PICTURES}png", Kind("a PNG picture", check_png, _PICTURE_BYTES)),
    (rf"{_PICTURES}jpe?g", Kind("a JPEG picture", check_jpeg, _PICTURE_BYTES)),
    (rf"{_PICTURES}svg", Kind("an SVG picture", check_svg, _PICTURE_BYTES)),
)
"""What may be published: a pattern of its whole path, and what it must be."""
_COMPILED = [(re.compile(pattern, re.ASCII), kind) for pattern, kind in TABLE]


def kind_of(path: str) -> Kind | None:
    """What a file at ``path`` must be; None where nothing of a release lies there."""
    return next((kind for pattern, kind in _COMPILED if pattern.fullmatch(path)), None)


def is_executed(file: LocalFile) -> bool:
    """Whether the first bytes are those of a pickle or of a ZIP archive, which torch writes pickles into."""
    return is_pickle(file.head(9))


def mismatch(file: LocalFile, kind: Kind) -> str | None:
    """Why a file is not of a kind, as the end of a sentence that begins with its path; None where it is.

    The bytes decide: the name and the ending only say what they must be.
    """
    try:
        if file.size == 0:
            return f"is empty, not {kind.name}"
        if kind is _WEIGHTS:
            header(file)
            return None
        if file.size > kind.most:
            return f"is larger than {kind.most >> 20} MiB, which {kind.name} is not"
        kind.check(file.head(kind.most + 1))
    except (Malformed, CheckpointError) as e:
        what = recognised(file.head(FIRST))
        if what is not None and what != kind.name:
            return f"is {what}, not {kind.name}"
        why = str(e) if isinstance(e, CheckpointError) else f"it {e}"
        return f"is not {kind.name}: {why}"
    except OSError as e:
        return f"cannot be read: {e.strerror}"
    return None
