"""release.yaml: what a release of a draft head needs and nobody can measure.

The file is checked against ``schemas/manifest.schema.json``; every error names file, line and field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub import resources
from eagle3hub.card import bibliography
from eagle3hub.card.yaml_lines import Document, hold_to_schema, read_yaml
from eagle3hub.errors import SourceError
from eagle3hub.schema_faults import near

DEFAULT_REPORTS = ("reports/*.json",)
"""Where reports are looked for when the manifest names none, relative to it."""


@dataclass(frozen=True, slots=True)
class License:
    """A license: its Hub id, and name and link where the id is ``other``."""

    id: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The model the head drafts for; ``path`` is a local folder used for measuring."""

    id: str
    license: License
    revision: str | None = None
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """The public repository and what its card says about itself."""

    repo: str
    title: str
    summary: str
    license: License
    language: tuple[str, ...] = ()
    library_name: str | None = None
    tags: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layouts:
    """Layouts to publish: ``main`` in the repository's root, each of ``also`` in a folder of its name."""

    main: str
    also: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        return iter((self.main, *self.also))

    def folder(self, layout: str) -> str:
        """Folder of a layout inside the repository; empty for the root."""
        return "" if layout == self.main else layout


@dataclass(frozen=True, slots=True)
class ValidateSettings:
    """How the release is measured; names and defaults are those of `eagle3hub.validate`."""

    draft_tokens: int
    engine: str = "reference,vllm"
    device: str = "cpu"
    dtype: str = "float32"
    prompts: str = "smoke"
    num_prompts: int | None = None
    max_new_tokens: int = 64
    min_acceptance_length: float | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """Facts about training as (label, text as typed), in the file's order, and the data's license."""

    facts: tuple[tuple[str, str], ...] = ()
    data_license: License | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """One release.yaml. Local sources are absolute; ``reports`` are glob patterns relative to ``path``'s folder."""

    path: Path
    head_source: str
    target: Target
    release: Release
    layouts: Layouts
    speculative_tokens: int
    validate: ValidateSettings
    training: Training
    limitations: tuple[str, ...]
    citations: tuple[str, ...]
    reports: tuple[str, ...]

    @property
    def measured_target(self) -> str:
        """What to open for measuring: the local folder if one is named, else the Hub id."""
        return str(self.target.path) if self.target.path else self.target.id


def load_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest.

    Raises SourceError if the file cannot be read, ManifestError (file, line, field, what is allowed) if it is wrong.
    """
    path = Path(path)
    if path.is_dir():
        raise SourceError(
            f"{path} is a folder", hint=f"name the file: {path / 'release.yaml'}", code="source-manifest"
        )
    document = read_yaml(path)
    _check(document)
    return _build(document, path.absolute())


def _check(document: Document) -> None:
    hold_to_schema(document, resources.schema("manifest"))
    layouts = document.data["layouts"]
    if layouts["main"] in layouts.get("also", []):
        at = ("layouts", "also", layouts["also"].index(layouts["main"]))
        raise document.error(at, f"{layouts['main']!r} is already the main layout", "name each layout once")
    known = bibliography.keys()
    for i, key in enumerate(document.data.get("citations", [])):
        if key not in known:
            hint = f"keys of the bibliography: {', '.join(known)}"
            raise document.error(
                ("citations", i), f"unknown citation {key!r}{near(key, known)}", hint, "manifest-citation"
            )


def _build(document: Document, path: Path) -> Manifest:
    data, here = document.data, path.parent
    target, release, layouts = data["target"], data["release"], data["layouts"]
    return Manifest(
        path=path,
        head_source=_local(here, data["head"]["source"]),
        target=Target(
            id=target["id"],
            license=_license(target),
            revision=target.get("revision"),
            path=here / Path(target["path"]).expanduser() if "path" in target else None,
        ),
        release=Release(
            repo=release["repo"],
            title=release.get("title") or release["repo"].split("/")[1],
            summary=release["summary"],
            license=_license(release),
            library_name=release.get("library_name"),
            **{key: tuple(release.get(key, ())) for key in ("language", "tags", "datasets", "authors")},
        ),
        layouts=Layouts(layouts["main"], tuple(layouts.get("also", ()))),
        speculative_tokens=data["speculative_tokens"],
        validate=_settings(data, here),
        training=_training(document),
        limitations=tuple(data.get("limitations", ())),
        citations=tuple(data.get("citations", ())),
        reports=tuple(data.get("reports", DEFAULT_REPORTS)),
    )


def _settings(data: Mapping[str, Any], here: Path) -> ValidateSettings:
    given = dict(data.get("validate", {}))
    given.setdefault("draft_tokens", data["speculative_tokens"])
    prompts = given.get("prompts", "smoke")
    if "/" in prompts or prompts.endswith(".jsonl"):
        given["prompts"] = str(here / prompts)
    return ValidateSettings(**given)


def _training(document: Document) -> Training:
    section = document.data.get("training", {})
    facts: list[tuple[str, str]] = []
    for key in section:
        if key == "facts":
            facts += [(label, document.texts[("training", "facts", label)]) for label in section["facts"]]
        elif not key.startswith("data_license"):
            facts.append((_label(key), document.texts[("training", key)]))
    return Training(tuple(facts), _license(section, "data_") if "data_license" in section else None)


def _label(key: str) -> str:
    return {"ttt_length": "TTT length"}.get(key) or key.replace("_", " ").capitalize()


def _license(section: Mapping[str, Any], prefix: str = "") -> License:
    return License(
        section[f"{prefix}license"], section.get(f"{prefix}license_name"), section.get(f"{prefix}license_link")
    )


def _local(here: Path, source: str) -> str:
    return source if source.startswith("hf://") else str(here / Path(source).expanduser())
