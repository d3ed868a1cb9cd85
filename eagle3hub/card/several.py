"""A manifest of several heads: what they share is written once, and each entry of ``heads`` is laid over it.

One of them is named as ``release.yaml#NAME``, wherever a manifest can be named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle3hub.errors import ManifestError
from eagle3hub.schema_faults import Location
from eagle3hub.yaml_lines import Document, hold_to_schema

_FIELD = "heads"


def split_address(text: str | Path) -> tuple[Path, str | None]:
    """``release.yaml#NAME`` as file and name; a file that really is called so has no name."""
    path = Path(text)
    file, mark, name = path.name.rpartition("#")
    return (path.with_name(file), name) if mark and file and not path.exists() else (path, None)


def is_manifest(source: str | Path) -> bool:
    """Whether a card's source is a manifest, by its name, or one head of it."""
    return split_address(source)[0].suffix in {".yaml", ".yml"}


def head_names(document: Document, schema: Mapping[str, Any]) -> list[str]:
    """Names of the heads in a manifest, in its order; none where it is of one head, or of none.

    ``schema`` is the manifest's. Raises ManifestError for what is wrong with the list itself.
    """
    data = document.data
    if not isinstance(data, dict) or _FIELD not in data:
        return []
    alone = {"type": "object", "properties": {_FIELD: schema["properties"][_FIELD]}}
    hold_to_schema(document, alone)
    names: list[str] = [entry["name"] for entry in data[_FIELD]]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise document.error((_FIELD, i, "name"), f"two heads are called {name!r}", "name each once")
    return names


def of_one_head(document: Document, name: str | None, schema: Mapping[str, Any]) -> Document:
    """The manifest of one head: the document itself, or its entry ``name`` over what all share; lines stay right.

    Mappings are merged, everything else is replaced. Raises ManifestError (``manifest-heads``) where the name does not
    fit the manifest.
    """
    names = head_names(document, schema)
    if name is None and not names:
        return document
    if name not in names:
        has = f"has the heads {', '.join(names)}" if names else "is of one head, which has no name"
        asked = f"there is no head {name!r}: the manifest {has}" if name else f"the manifest {has}: name one"
        example = f"write {document.name}#{names[0]}" if names else f"write {document.name}"
        raise ManifestError(f"{document.name}: {asked}", hint=example, code="manifest-heads")
    at: Location = (_FIELD, names.index(name))
    shared = {key: value for key, value in document.data.items() if key != _FIELD}
    own = {key: value for key, value in document.data[_FIELD][at[1]].items() if key != "name"}
    return Document(
        document.name,
        _over(shared, own),
        *({**places, **_moved(places, at)} for places in (document.lines, document.key_lines, document.texts)),
    )


def _over(shared: Any, own: Any) -> Any:
    if not isinstance(shared, dict) or not isinstance(own, dict):
        return own
    return {**shared, **{key: _over(shared[key], value) if key in shared else value for key, value in own.items()}}


def _moved(places: Mapping[Location, Any], at: Location) -> dict[Location, Any]:
    """What is known of an entry's places, as places of the whole."""
    return {where[2:]: value for where, value in places.items() if where[:2] == at and len(where) > 2}
