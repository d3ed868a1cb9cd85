"""JSON, YAML and templates among the files of a release, each held to the role its name gives it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from eagle3hub.publishing.png import Malformed
from eagle3hub.publishing.text import check_text, plain, text_of
from eagle3hub.resources import schema
from eagle3hub.schema_faults import faults

_CITATION = {"cff-version", "message", "title", "authors"}


def check_json(data: bytes, schemas: Sequence[str], *, plain: bool) -> None:
    """Raise Malformed unless the bytes are one strict JSON object that fits a schema.

    Args:
        schemas: names of the schemas that it may fit; of several the one whose ``schema`` it states.
        plain: hold the text to `text.plain`, too; vocabularies hold every character there is.
    """
    text = text_of(data)
    if plain:
        check_text(data)
    document = strict_json(text)
    if not isinstance(document, dict):
        raise Malformed("is JSON, but not an object")
    chosen = [found for name in schemas if _fits(document, found := _schema(name))]
    if not chosen:
        titles = " or ".join(str(_schema(name)["title"]) for name in schemas)
        raise Malformed(f"states no schema of {titles}")
    for fault in faults(document, chosen[0]):
        raise Malformed(f"does not fit {chosen[0]['title']}: {fault.message}")


def strict_json(text: str) -> Any:
    """A JSON value without names that occur twice and numbers that are none. Raises Malformed."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise Malformed(f"has the name {twice[:60]!a} twice in one object")
        return made

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise Malformed(f"has a number that is not finite ({digits[:30]})")
        return value

    def constant(name: str) -> None:
        raise Malformed(f"holds {name}, which JSON does not have")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_float=number, parse_constant=constant)
    except Malformed:
        raise
    except json.JSONDecodeError as e:
        raise Malformed(f"is not valid JSON: line {e.lineno}: {e.msg}") from e
    except (ValueError, RecursionError) as e:
        raise Malformed("is not usable JSON: it nests too deeply, or a number is too long") from e


def check_citation(data: bytes) -> None:
    """Raise Malformed unless the bytes are a CITATION.cff: YAML without anchors, aliases and tags."""
    import yaml

    text = plain(data)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            tag = getattr(event, "tag", None)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or tag not in (None, "!"):
                raise Malformed("has an anchor, an alias or a tag, which a citation does not need")
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        if isinstance(e, Malformed):
            raise
        raise Malformed("is not valid YAML") from e
    if not isinstance(document, dict) or not set(document) >= _CITATION:
        raise Malformed(f"lacks fields of a citation file ({', '.join(sorted(_CITATION))})")


def check_template(data: bytes) -> None:
    """Raise Malformed unless the bytes are a Jinja template that chat templates can be."""
    text = plain(data)
    if "{{" not in text and "{%" not in text:
        raise Malformed("holds nothing that a template fills in")
    check_jinja(data)


def check_jinja(data: bytes) -> None:
    """Raise Malformed unless the bytes are a Jinja template."""
    from jinja2 import TemplateError

    text = plain(data)
    try:
        _environment().parse(text)
    except (TemplateError, RecursionError) as e:
        raise Malformed("is not a Jinja template") from e


@cache
def _environment() -> Any:
    """Jinja as transformers reads chat templates: with loop controls and the block ``generation``."""
    from jinja2 import Environment, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            block = nodes.Scope(lineno=next(parser.stream).lineno)
            block.body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return block

    return Environment(extensions=["jinja2.ext.loopcontrols", Generation])


def _fits(document: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    wanted = schema.get("properties", {}).get("schema", {}).get("const")
    return wanted is None or document.get("schema") == wanted


@cache
def _foreign() -> dict[str, Any]:
    text = Path(__file__).with_name("file_schemas.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _schema(name: str) -> dict[str, Any]:
    """A schema of files that other programs define, or of this project."""
    found: dict[str, Any] = _foreign().get(name) or schema(name)
    return found
