"""The public form of a manifest: what a card was made from, fit to lie beside it in a public repository.

It says all that the card needs and how the release is published. Comments, local folders and other heads of the same
file are left out; files that it includes are written again beside it. Every text stays as it was typed, so that a card
made from the public form has the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from eagle3hub.card.files import find
from eagle3hub.card.imported import read_imported_document
from eagle3hub.card.manifest import is_prompts_file, read_document
from eagle3hub.schema_faults import Location
from eagle3hub.yaml_lines import TAG, Document, core_resolvers

if TYPE_CHECKING:
    import yaml

MANIFEST = "release.yaml"
"""Name of the public form in a release folder."""
IMPORTED = "imported"
"""Folder of a release with the public forms of imported measurements."""
_ROOT = "."


def public_form(
    path: str | Path, *, publish: Mapping[str, Any], benchmarks: int = 0, weights_digest: str | None = None
) -> dict[str, bytes]:
    """The public form of a manifest, ``release.yaml`` or ``release.yaml#NAME``, and of the files it includes.

    Args:
        publish: what its ``publish`` section says in place of the manifest's own.
        benchmarks: how many files of results lie in ``benchmarks/``, named 1.json and so on.
        weights_digest: of the target that was measured, where the manifest does not name it.

    Returns:
        Bytes by path in the release folder. The public form's own public form is the same.

    Raises what `eagle3hub.card.load_manifest` raises.
    """
    document, here = read_document(path)
    data = deepcopy(document.data)
    files: dict[str, bytes] = {}
    if "head" in data:
        data["head"] = {"source": _ROOT}
    data["target"].pop("path", None)
    if weights_digest is not None:
        data["target"].setdefault("weights_digest", weights_digest)
    settings = data.get("validate", {})
    if is_prompts_file(settings.get("prompts", "")):
        settings["prompts"] = PurePath(settings["prompts"]).name
    data.pop("reports", None)
    for key in ("benchmarks", "imported", "publish"):
        data.pop(key, None)
    if benchmarks:
        data["benchmarks"] = numbered("benchmarks", benchmarks, ".json")
    included = find(here, document.data.get("imported", ()))
    for name, file in zip(numbered(IMPORTED, len(included), ".yaml"), included, strict=True):
        files[name] = _text(read_imported_document(file))
        data.setdefault("imported", []).append(name)
    if publish:
        data["publish"] = dict(publish)
    return {MANIFEST: _text(Document(document.name, data, texts=document.texts)), **files}


def numbered(folder: str, count: int, suffix: str) -> list[str]:
    """Paths of ``count`` files of a release, ``folder/1.json`` and so on, whose order by name is their own."""
    return [f"{folder}/{i:0{len(str(count))}}{suffix}" for i in range(1, count + 1)]


def _text(document: Document) -> bytes:
    import yaml

    node = _node(document, (), document.data)
    text = yaml.serialize(node, Dumper=_dumper(), allow_unicode=True, width=100)
    return str(text).encode("utf-8")


def _node(document: Document, at: Location, value: Any) -> yaml.Node:
    import yaml

    if isinstance(value, dict):
        pairs = [(yaml.ScalarNode(TAG + "str", key), _node(document, (*at, key), one)) for key, one in value.items()]
        return yaml.MappingNode(TAG + "map", pairs, flow_style=False)
    if isinstance(value, list):
        nodes = [_node(document, (*at, i), one) for i, one in enumerate(value)]
        return yaml.SequenceNode(TAG + "seq", nodes, flow_style=False)
    if value is None:
        return yaml.ScalarNode(TAG + "null", "null")
    if isinstance(value, str):
        return yaml.ScalarNode(TAG + "str", value, style="|" if "\n" in value else None)
    typed = document.texts.get(at, "")
    if isinstance(value, bool):
        return yaml.ScalarNode(TAG + "bool", "true" if value else "false")
    kind = "int" if isinstance(value, int) else "float"
    # what is set here and not in the file has no text that was typed
    same = typed and (int(typed) if kind == "int" else float(typed)) == value
    return yaml.ScalarNode(TAG + kind, typed if same else repr(value))


@cache
def _dumper() -> type[yaml.SafeDumper]:
    import yaml

    class CoreDumper(yaml.SafeDumper):
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

        def ignore_aliases(self, data: Any) -> bool:
            return True

    core_resolvers(CoreDumper)
    return CoreDumper
