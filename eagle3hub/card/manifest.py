"""The manifest of a release: everything a card needs and nobody can measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eagle3hub.address import parse_address
from eagle3hub.card import bibliography, markdown
from eagle3hub.card.imported import ImportedTable, load_imported
from eagle3hub.card.vocabulary import HUB_IDS, HUB_LIBRARIES
from eagle3hub.checkpoint.writer import parse_size
from eagle3hub.conversion.edits import Transforms
from eagle3hub.conversion.plan import ConvertOptions, made_for
from eagle3hub.engines.base import EngineSettings
from eagle3hub.engines.options import engine_options
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.errors import ManifestError, SourceError, UsageError
from eagle3hub.head.target import TargetFacts
from eagle3hub.layouts import get_layout, get_reader
from eagle3hub.layouts.base import ReadOptions
from eagle3hub.system import resources
from eagle3hub.system.documents import Document, Location, did_you_mean, hold_to_schema, read_yaml
from eagle3hub.validation.options import ValidateOptions

# A manifest of several heads: what they share is written once, and each entry of ``heads`` adds to it or replaces it.
#
# ``release.yaml#NAME`` names one of them, wherever a manifest can be named.


_FIELD = "heads"


def split_address(text: str | Path) -> tuple[Path, str | None]:
    """Split ``release.yaml#NAME`` into file and name; the name is None if a file with the whole name exists."""
    path = Path(text)
    file, mark, name = path.name.rpartition("#")
    return (path.with_name(file), name) if mark and file and not path.exists() else (path, None)


def is_manifest(source: str | Path) -> bool:
    """Return whether a card's source is named like a manifest, or like one head of a manifest."""
    return split_address(source)[0].suffix in {".yaml", ".yml"}


def head_names(document: Document, schema: Mapping[str, Any]) -> list[str]:
    """Return the names of the heads in a manifest, in its order; none if it describes a single head or none at all.

    ``schema`` is the manifest's. Raises ManifestError if the list itself is wrong.
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


def of_one_head(document: Document, name: str | None, schema: Mapping[str, object]) -> Document:
    """Return the manifest of one head, with the line numbers of the whole.

    It is the document itself, or its entry ``name`` merged over what all heads share.

    Mappings are merged, everything else is replaced. Raises ManifestError (``manifest-heads``) if the manifest has no
    head of this name, or needs a name and gets none.
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
    """Move what is known about the places in an entry to the same places in the whole."""
    return {where[2:]: value for where, value in places.items() if where[:2] == at and len(where) > 2}


# release.yaml: what a release of a draft head needs and nobody can measure.
#
# The file is checked against ``schemas/manifest.schema.json``; every error names file, line and field.


Facts = tuple[tuple[str, str], ...]
"""(label, text as typed), in the file's order."""
Voice = Literal["makers", "we"]
DEFAULT_REPORTS = ("reports/*.json",)
"""Where to look for reports if the manifest names none, relative to the manifest."""


@dataclass(frozen=True, slots=True)
class License:
    """A license: its Hub id, and name and link if the id is ``other``."""

    id: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The model the head drafts for.

    ``path`` is a local folder used for measuring. ``also`` are further models by their Hub ids; ``gated``: readers
    must ask for access.
    """

    id: str
    license: License
    revision: str | None = None
    path: Path | None = None
    weights_digest: str | None = None
    also: tuple[str, ...] = ()
    gated: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """The public repository, and what its card says about it.

    ``links`` are (title, address); ``headings`` are by the card's own heading; ``voice`` is who speaks in what the
    card repeats. ``evaluated_on`` are Hub ids of data sets by the name that results have for them.
    """

    repo: str
    title: str
    summary: str
    license: License
    language: tuple[str, ...] = ()
    library_name: str | None = None
    tags: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    links: Facts = ()
    voice: Voice = "makers"
    headings: Mapping[str, str] = field(default_factory=dict)
    evaluated_on: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layouts:
    """Layouts to publish: ``main`` in the repository's root, each of ``also`` in a folder of its name.

    Without a head there are no layouts, and ``main`` is empty. ``engines`` are those that a universal folder is made
    for; empty means all that can serve the target.
    """

    main: str = ""
    also: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        return iter((self.main, *self.also) if self.main else ())

    def only(self, layout: str) -> Layouts:
        """Return these layouts without all others. Raises UsageError (``usage-layout``) for one that is not here."""
        if layout not in self:
            raise UsageError(
                f"the manifest has no layout {layout!r}", hint=f"it has: {', '.join(self)}", code="usage-layout"
            )
        return replace(self, main=layout, also=())

    def folder(self, layout: str) -> str:
        """Return the folder of a layout in the repository; empty for the root."""
        return "" if layout == self.main else layout


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """How to publish the release; names and meanings are those of `eagle3hub.publishing.PublishOptions`."""

    stage: bool = False
    private: bool = False
    branch_per_layout: bool = False
    gated: str | None = None
    collection: str | None = None
    tag: str | None = None


_GRAMS = {"g": 1.0, "kg": 1e3, "t": 1e6}


@dataclass(frozen=True, slots=True)
class Emissions:
    """Energy and CO2 of training. ``co2`` and ``energy_kwh`` are as typed, or empty."""

    grams: float | None
    co2: str
    unit: str
    energy_kwh: str
    about: Facts

    @property
    def factor(self) -> str:
        """Kilograms of CO2 per kWh, with three significant digits; empty unless both are given."""
        if self.grams is None or not self.energy_kwh:
            return ""
        return f"{self.grams / 1000 / float(self.energy_kwh):.3g}"


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of the training; texts are as typed, and empty where nothing was said.

    ``synthetic`` is yes, no or a share in percent; ``share`` is in percent.
    """

    name: str
    id: str = ""
    size: str = ""
    share: str = ""
    synthetic: str = ""
    made_by: str = ""
    license: License | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Training:
    """Facts about training as (label, text as typed), in the file's order, the license of the data, and its sets."""

    facts: Facts = ()
    data_sets: tuple[DataSet, ...] = ()
    data_license: License | None = None
    emissions: Emissions | None = None


@dataclass(frozen=True, slots=True)
class EngineNote:
    """The makers' note on an engine that the head was not tested on here. Texts may be empty.

    ``title`` tells several notes on one engine apart.
    ``version``, ``requires``, ``requires_link``, ``pull_requests``, ``note``, ``settings`` and ``install`` are printed
    beside the recipe, all else goes into it; ``install`` is shell lines of the makers.
    """

    engine: str
    title: str = ""
    version: str = ""
    requires: str = ""
    requires_link: str = ""
    note: str = ""
    settings: Facts = ()
    tensor_parallel: int | None = None
    dtype: str | None = None
    aux_layers: tuple[int, ...] | None = None
    draft_tokens: int | None = None
    topk: int = 1
    num_draft_tokens: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    install: str = ""
    pull_requests: tuple[str, ...] = ()

    def serving(self, target: str, head: str, draft_tokens: int) -> Serving:
        """Return what the printed recipe serves; ``draft_tokens`` is the release's K."""
        return Serving(
            target,
            head,
            draft_tokens=self.draft_tokens or draft_tokens,
            topk=self.topk,
            num_draft_tokens=self.num_draft_tokens,
            tensor_parallel=self.tensor_parallel,
            dtype=self.dtype,
            aux_layers=self.aux_layers,
            extra=self.flags,
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """One release.yaml, or one head of it; ``name`` is that head's name, else None.

    Local sources are absolute; ``conversion`` is what ``head`` says besides its source. ``reports`` and
    ``benchmarks`` are glob patterns relative to ``path``'s folder.
    ``sections`` are the makers' own, as (title, Markdown). On a card that has only imported results, ``head_source``
    is None and ``architecture`` may be given.
    """

    path: Path
    head_source: str | None
    conversion: ConvertOptions
    target: Target
    release: Release
    layouts: Layouts
    speculative_tokens: int
    validate: ValidateOptions
    training: Training
    limitations: tuple[str, ...]
    citations: tuple[str, ...]
    reports: tuple[str, ...] | None
    style: str = "standard"
    about: Facts = ()
    architecture: Facts = ()
    engines: tuple[EngineNote, ...] = ()
    subcards: tuple[tuple[str, Facts], ...] = ()
    benchmarks: tuple[str, ...] = ()
    imported: tuple[ImportedTable, ...] = ()
    publish: PublishSettings = PublishSettings()
    sections: Facts = ()
    name: str | None = None
    bibtex: str = ""

    @property
    def measured_target(self) -> str:
        """Where to read the target for measuring: the local folder if one is named, else the Hub id."""
        return str(self.target.path) if self.target.path else self.target.id

    def conversion_to(self, layout: str, facts: TargetFacts) -> ConvertOptions:
        """Return how a release converts its head to ``layout`` for a target with these facts."""
        engines = made_for(layout, self.layouts.engines)
        return replace(self.conversion, target=facts, engines=engines)


def load_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest (``release.yaml``), or one head of several (``release.yaml#NAME``).

    Raises SourceError if the file cannot be read, and ManifestError (file, line, field, what is allowed) if it is
    wrong.
    """
    path, name = split_address(path)
    return _load(_read(path), path, name)


def load_manifests(path: str | Path) -> list[Manifest]:
    """Read every head's manifest, in the file's order, or only the one that is named; errors as in `load_manifest`.

    Also raises ManifestError if two heads would go to one repository.
    """
    path, name = split_address(path)
    document = _read(path)
    names = [] if name is not None else head_names(document, resources.schema("manifest"))
    if not names:
        return [_load(document, path, name)]
    found = [_load(document, path, one) for one in names]
    repos = [manifest.release.repo for manifest in found]
    for i, repo in enumerate(repos):
        if repo in repos[:i]:
            raise document.error(
                ("heads", i),
                f"the heads {names[repos.index(repo)]} and {names[i]} both go to {repo}",
                "give each its own",
            )
    return found


def read_manifest_document(path: str | Path) -> tuple[Document, Path]:
    """Return the checked YAML of a manifest, or of one head of it, and its folder. Raises as `load_manifest` does."""
    path, name = split_address(path)
    document = of_one_head(_read(path), name, resources.schema("manifest"))
    _check(document)
    return document, path.absolute().parent


def is_prompts_file(prompts: str) -> bool:
    """Return whether ``validate.prompts`` names a file and not a prompt set."""
    return "/" in prompts or prompts.endswith(".jsonl")


def _read(path: Path) -> Document:
    if path.is_dir():
        raise SourceError(
            f"{path} is a folder", hint=f"name the file: {path / 'release.yaml'}", code="source-manifest"
        )
    return read_yaml(path)


def _load(document: Document, path: Path, name: str | None) -> Manifest:
    one = of_one_head(document, name, resources.schema("manifest"))
    _check(one)
    return replace(_build(one, path.absolute()), name=name)


DEFAULT_ENGINES = "reference,vllm"
"""Settings of a release's measurement that apply where the manifest says nothing."""
_VALIDATE = (
    *(
        "draft_tokens",
        "engine",
        "device",
        "dtype",
        "prompts",
        "num_prompts",
        "context",
        "system_prompt",
        "max_new_tokens",
    ),
    *("topk", "num_draft_tokens", "temperature", "seed", "min_acceptance_length", "target_name"),
)
"""Options of a validation that a manifest can set."""


def validation_settings(manifest: Manifest) -> dict[str, object]:
    """Return the options of ``eagle3hub validate`` that the manifest sets, by name, its target among them."""
    options = {name: getattr(manifest.validate, name) for name in _VALIDATE}
    return {"target": manifest.measured_target, **options, **engine_options(manifest.validate.engine_settings)}


def _check(document: Document) -> None:
    hold_to_schema(document, resources.schema("manifest"))
    _check_head(document)
    layouts = document.data.get("layouts", {"main": ""})
    if "engines" in layouts and not any(
        get_layout(name).contract.held_for for name in (layouts["main"], *layouts.get("also", []))
    ):
        raise document.error(
            ("layouts", "engines"),
            "none of the layouts is made for engines",
            "leave it out, or add the universal layout",
        )
    if layouts["main"] in layouts.get("also", []):
        at = ("layouts", "also", layouts["also"].index(layouts["main"]))
        raise document.error(at, f"{layouts['main']!r} is already the main layout", "name each layout once")
    _check_licenses(document)
    _check_shares(document)
    for i, section in enumerate(document.data.get("sections", ())):
        if why := markdown.section_fault(section["text"]):
            raise document.error(("sections", i, "text"), f"the section {section['title']!r} {why}")
    _check_library(document)
    for i, name in enumerate(document.data.get("citations", [])):
        try:
            bibliography.key_of(name)
        except ManifestError as fault:
            raise document.error(("citations", i), fault.message, fault.hint or "", fault.code) from fault
    try:
        bibliography.own_works(document.data.get("bibtex", ""))
    except ManifestError as fault:
        raise document.error(("bibtex",), fault.message, fault.hint or "", fault.code) from fault


def _check_licenses(document: Document) -> None:
    data = document.data
    sections = {"target": "license", "release": "license", "training": "data_license"}
    given_for: list[tuple[Location, str]] = [
        ((section, name), data.get(section, {}).get(name, "unknown")) for section, name in sections.items()
    ]
    for i, one in enumerate(data.get("training", {}).get("data_sets", ())):
        given_for.append((("training", "data_sets", i, "license"), one.get("license", "unknown")))
    for at, given in given_for:
        if given not in HUB_IDS:
            meant = did_you_mean(given, sorted(HUB_IDS))
            message = f"{'.'.join(map(str, at))} is {given!r}, which is no license id of the Hub{meant}"
            hint = "use an id of the Hub's list, unknown, or other with a name and a link"
            raise document.error(at, message, hint)


def _check_shares(document: Document) -> None:
    shares = [one.get("share", 0) for one in document.data.get("training", {}).get("data_sets", ())]
    if sum(shares) > 100 + len(shares) / 2:  # each may have been rounded
        raise document.error(
            ("training", "data_sets"),
            f"the shares of the data sets make {sum(shares):g} percent together",
            "correct them: they are percent of all the training data",
        )


def _check_library(document: Document) -> None:
    given = document.data["release"].get("library_name")
    if given is not None and given not in HUB_LIBRARIES:
        raise document.error(
            ("release", "library_name"),
            f"release.library_name is {given!r}, which is no library of the Hub"
            f"{did_you_mean(given, sorted(HUB_LIBRARIES))}",
            "leave it out: engines are tags, which the card writes for those that serve these files",
            "manifest-library",
        )


def _check_head(document: Document) -> None:
    data = document.data
    if ("head" in data) != ("layouts" in data):
        absent = "layouts" if "head" in data else "head"
        hint = "head and layouts go together; a card of imported results has neither"
        raise document.error((), f"the field {absent!r} is missing", hint)
    if "head" in data and "architecture" in data:
        raise document.error(
            ("architecture",), "architecture is given for a head", "leave it out: it is read from the head's tensors"
        )
    emissions = data.get("training", {}).get("emissions", {})
    if ("co2" in emissions) != ("co2_unit" in emissions):
        raise document.error(
            ("training", "emissions"), "co2 and co2_unit go together", "give both; the unit is g, kg or t"
        )


def _build(document: Document, path: Path) -> Manifest:
    data, here = document.data, path.parent
    target, release, layouts = data["target"], data["release"], data.get("layouts", {})
    return Manifest(
        path=path,
        head_source=_local(here, data["head"]["source"]) if "head" in data else None,
        conversion=_conversion(document, here),
        target=Target(
            id=target["id"],
            license=_license(target),
            revision=target.get("revision"),
            path=here / Path(target["path"]).expanduser() if "path" in target else None,
            weights_digest=target.get("weights_digest"),
            also=tuple(target.get("also", ())),
            gated=target.get("gated", False),
        ),
        release=Release(
            repo=release["repo"],
            title=release.get("title") or release["repo"].split("/")[1],
            summary=release["summary"],
            license=_license(release),
            library_name=release.get("library_name"),
            pipeline_tag=release.get("pipeline_tag"),
            links=tuple((one["title"], one["url"]) for one in release.get("links", ())),
            voice=release.get("voice", "makers"),
            headings=release.get("headings", {}),
            evaluated_on=release.get("evaluated_on", {}),
            **{key: tuple(release.get(key, ())) for key in ("language", "tags", "datasets", "authors")},
        ),
        layouts=Layouts(layouts.get("main", ""), tuple(layouts.get("also", ())), tuple(layouts.get("engines", ()))),
        speculative_tokens=data["speculative_tokens"],
        validate=_settings(document, here),
        training=_training(document),
        limitations=tuple(data.get("limitations", ())),
        citations=tuple(dict.fromkeys(bibliography.key_of(name) for name in data.get("citations", ()))),
        bibtex=data.get("bibtex", ""),
        reports=tuple(data["reports"]) if "reports" in data else None,
        style=data.get("style", "standard"),
        about=_facts(document, ("about",)),
        architecture=_facts(document, ("architecture",)),
        engines=tuple(_engine(document, i) for i in range(len(data.get("engines", ())))),
        subcards=tuple((name, _facts(document, ("subcards", name))) for name in data.get("subcards", {})),
        benchmarks=tuple(data.get("benchmarks", ())),
        imported=load_imported(here, data.get("imported", ())),
        publish=PublishSettings(**data.get("publish", {})),
        sections=tuple((one["title"], one["text"]) for one in data.get("sections", ())),
    )


_READ = (
    *("aux_convention", "num_target_layers", "norm_output", "norm_before_residual", "rope_theta", "mask_token_id"),
    "allow_suspicious",
)
"""Fields of ``head`` that are options of reading, under the same name."""
_CHANGES = ("resort_vocab", "sort_aux", "drop_embeddings", "dtype")
"""Fields of ``head`` that are changes on the way, under the same name."""


def _conversion(document: Document, here: Path) -> ConvertOptions:
    """Return what ``head`` says about its conversion. Raises ManifestError for what a conversion refuses."""
    data, k = document.data.get("head", {}), document.data["speculative_tokens"]
    d2t, embeddings = data.get("d2t"), data.get("include_embeddings")
    try:
        if "from" in data:
            get_reader(data["from"])
        return ConvertOptions(
            layout=data.get("from"),
            speculative_tokens=k,
            strict=data.get("strict", False),
            read=ReadOptions(
                aux_layers=tuple(data["aux_layers"]) if "aux_layers" in data else None,
                drop=tuple(data.get("drop", ())),
                **{key: data[key] for key in _READ if key in data},
            ),
            transforms=Transforms(
                repair=tuple(data.get("repair", ())),
                d2t=None if d2t is None else here / Path(d2t).expanduser(),
                include_embeddings=None if embeddings is None else _local(here, embeddings),
                **{key: data[key] for key in _CHANGES if key in data},
            ),
            settings=tuple(data.get("set", {}).items()),
            max_shard_size=parse_size(data["max_shard_size"]) if "max_shard_size" in data else None,
            digests=True,
        )
    except UsageError as error:
        raise document.error(("head",), f"head: {error.message}", error.hint) from error


def _facts(document: Document, at: Location) -> Facts:
    data = document.data
    for key in at:
        data = data.get(key, {}) if isinstance(data, dict) else data[key]
    return tuple((label, document.texts[(*at, label)]) for label in data)


def _engine(document: Document, index: int) -> EngineNote:
    data = dict(document.data["engines"][index])
    data["settings"] = _facts(document, ("engines", index, "settings"))
    if "aux_layers" in data:
        data["aux_layers"] = tuple(data["aux_layers"])
    data["env"] = dict(_facts(document, ("engines", index, "env")))
    data["flags"] = tuple(data.get("flags", ()))
    data["pull_requests"] = tuple(data.get("pull_requests", ()))
    data["install"] = data.get("install", "").strip("\n")
    note = EngineNote(**data)
    earlier = [(one["engine"], one.get("title", "")) for one in document.data["engines"][:index]]
    if (note.engine, note.title) in earlier:
        named = f"called {note.title!r}" if note.title else "without a title"
        raise document.error(("engines", index), f"two entries of {note.engine} are {named}", "give each a title")
    try:
        make_recipe(note.engine, note.serving("target", "head", document.data["speculative_tokens"]))
    except UsageError as error:
        raise document.error(("engines", index), f"{note.engine}: {error.message}", error.hint) from error
    return note


def _settings(document: Document, here: Path) -> ValidateOptions:
    data = document.data
    defaults = {"engine": DEFAULT_ENGINES, "draft_tokens": data["speculative_tokens"]}
    given = {**defaults, **data.get("validate", {}), "target_name": data["target"]["id"]}
    prompts = given.get("prompts", "smoke")
    if is_prompts_file(prompts):
        given["prompts"] = str(here / prompts)
    given["engine_settings"] = EngineSettings.from_json(given.get("engine_settings", {}))
    try:
        return ValidateOptions(**given)
    except UsageError as error:
        raise document.error(("validate",), f"validate: {error.message}", error.hint) from error


def _training(document: Document) -> Training:
    section = document.data.get("training", {})
    facts: list[tuple[str, str]] = []
    for key in section:
        if key == "facts":
            facts += [(label, document.texts[("training", "facts", label)]) for label in section["facts"]]
        elif not key.startswith("data_license") and key not in ("emissions", "data_sets"):
            facts.append((_label(key), document.texts[("training", key)]))
    return Training(
        tuple(facts),
        tuple(_data_set(document, i) for i in range(len(section.get("data_sets", ())))),
        _license(section, "data_") if "data_license" in section else None,
        _emissions(document) if "emissions" in section else None,
    )


def _data_set(document: Document, index: int) -> DataSet:
    at: Location = ("training", "data_sets", index)
    data = document.data["training"]["data_sets"][index]
    typed = {key: document.texts[(*at, key)] for key in data if not key.startswith("license")}
    if isinstance(data.get("synthetic"), bool):
        typed["synthetic"] = "yes" if data["synthetic"] else "no"
    elif "synthetic" in data:
        typed["synthetic"] += " %"
    return DataSet(**typed, license=_license(data) if "license" in data else None)


def _emissions(document: Document) -> Emissions:
    at = ("training", "emissions")
    data = document.data["training"]["emissions"]
    typed = {key: document.texts[(*at, key)] for key in data}
    grams = data["co2"] * _GRAMS[data["co2_unit"]] if "co2" in data else None
    about = tuple((key, text) for key, text in typed.items() if key not in ("co2", "co2_unit", "energy_kwh"))
    return Emissions(grams, typed.get("co2", ""), typed.get("co2_unit", ""), typed.get("energy_kwh", ""), about)


def _label(key: str) -> str:
    return {"ttt_length": "TTT length"}.get(key) or key.replace("_", " ").capitalize()


def _license(section: Mapping[str, Any], prefix: str = "") -> License:
    return License(
        section[f"{prefix}license"], section.get(f"{prefix}license_name"), section.get(f"{prefix}license_link")
    )


def _local(here: Path, source: str) -> str:
    return str(parse_address(source, here))
