"""A release folder holds, in public form, everything its card is made from; the card can be made from it again."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from eagle3hub._version import __version__
from eagle3hub.card.context import Shown
from eagle3hub.card.imported import CHARTS, find, read_imported_document
from eagle3hub.card.manifest import Manifest, PublishSettings, is_prompts_file, load_manifest, read_manifest_document
from eagle3hub.card.render import draw, render_text
from eagle3hub.card.reports import find_reports, named_reports, runs
from eagle3hub.card.results import Benchmark, find_benchmarks
from eagle3hub.checkpoint.destination import RELEASE
from eagle3hub.checkpoint.digest import FileDigest, file_digest, head_digests, head_files
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.source import CONFIG, PROVENANCE
from eagle3hub.checkpoint.source_tree import SourceTree
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.errors import InputError, ManifestError, OutputError, SourceError
from eagle3hub.head import Head
from eagle3hub.layouts import open_head
from eagle3hub.system.documents import (
    TAG,
    Document,
    Location,
    core_resolvers,
    document_bytes,
    read_document,
    schema_faults,
)
from eagle3hub.system.reading import read_bytes
from eagle3hub.system.resources import schema
from eagle3hub.validation.report import load_report

if TYPE_CHECKING:
    import yaml

# The public form of a manifest: it is fit to lie in a public repository, and the card can be made from it.
#
# It holds everything the card needs, and how the release is published. It leaves out comments, local folders and the
# file's other heads; files that it includes are written again beside it. Texts stay exactly as typed, so a card made
# from the public form has the same bytes.


MANIFEST = "release.yaml"
"""File name of the public form in a release folder."""
IMPORTED = "imported"
"""Folder in a release that holds the public forms of imported measurements."""
_ROOT = "."


def public_form(
    path: str | Path, *, publish: Mapping[str, object], benchmarks: int = 0, weights_digest: str | None = None
) -> dict[str, bytes]:
    """Return the public form of a manifest (``release.yaml`` or ``release.yaml#NAME``) and of the files it includes.

    Args:
        publish: replaces the manifest's own ``publish`` section.
        benchmarks: number of files of results in ``benchmarks/``, named 1.json and so on.
        weights_digest: digest of the measured target's weights, if the manifest does not name it.

    Returns:
        Bytes by path in the release folder. The public form's own public form is the same.

    Raises whatever `eagle3hub.card.load_manifest` raises.
    """
    document, here = read_manifest_document(path)
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
        files[name] = _manifest_text(read_imported_document(file))
        data.setdefault("imported", []).append(name)
    if publish:
        data["publish"] = dict(publish)
    return {MANIFEST: _manifest_text(Document(document.name, data, texts=document.texts)), **files}


def numbered(folder: str, count: int, suffix: str) -> list[str]:
    """Return the paths of ``count`` files, ``folder/1.json`` and so on; sorting by name keeps their order."""
    return [f"{folder}/{i:0{len(str(count))}}{suffix}" for i in range(1, count + 1)]


def _manifest_text(document: Document) -> bytes:
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
    # a value that is set here, and not in the file, has no text that somebody typed
    same = typed and (int(typed) if kind == "int" else float(typed)) == value
    return yaml.ScalarNode(TAG + kind, typed if same else repr(value))


@cache
def _dumper() -> type[yaml.SafeDumper]:
    import yaml

    class CoreDumper(yaml.SafeDumper):
        yaml_implicit_resolvers: dict[str, object] = {}  # noqa: RUF012

        def ignore_aliases(self, data: Any) -> bool:
            return True

    core_resolvers(CoreDumper)
    return CoreDumper


# A release folder: everything its card is made of lies in it, so anybody can make the card again.
#
# ::
#
#     config.json …            the head in its main layout; every other layout in a folder of its name
#     reports/  benchmarks/    what was measured
#     release.yaml  imported/  the manifest's public form, and the files it includes
#     templates/               the makers' own templates, where they have any
#     README.md  charts/       the card and its charts: a pure function of all above
#     release.json             the record: which version of this tool made them, and every file it wrote


CARD = "README.md"
REPORTS = "reports"
BENCHMARKS = "benchmarks"
TEMPLATES = "templates"
RECORD = RELEASE
SCHEMA_NAME = "eagle3hub/release/1"
_MAX_RECORD = 16 << 20
_LISTED = (f"{REPORTS}/*.json", f"{BENCHMARKS}/*.json", f"{TEMPLATES}/*.j2")
"""Files of a release that were there before it was made, or were copied into it."""
_DIFF_LINES = 24


@dataclass(frozen=True, slots=True)
class Record:
    """The record of how a release folder was made.

    Attributes:
        version: of this tool. charts: version of the matplotlib that drew the charts; empty if there are none.
        waived: gates of publishing that the card says were waived, by code.
        files: every file of the release, except the record and files made after it.
    """

    version: str
    charts: str
    waived: tuple[str, ...]
    files: Sequence[FileDigest] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the document, of schema ``release``."""
        return {
            "schema": SCHEMA_NAME,
            "tool": {"name": "eagle3hub", "version": self.version},
            "charts": {"name": "matplotlib", "version": self.charts} if self.charts else None,
            "waived": list(self.waived),
            "files": [dict(f) for f in self.files],
        }


@dataclass(frozen=True, slots=True)
class Rendered:
    """A card and its charts, made from a release folder. ``charts`` maps each path in the folder to bytes."""

    manifest: Manifest
    card: str
    charts: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Difference:
    """A file that differs from what the folder's manifest, reports and heads give.

    ``diff``: for text, a unified diff. ``unknown``: the file could not be made again here, so it was not compared.
    """

    path: str
    what: str
    diff: str = ""
    unknown: bool = False


def load_record(path: Path) -> Record:
    """Read a release's record. Raises SourceError, ManifestError (``release-record``)."""
    document = read_document(path, "release", _MAX_RECORD)
    for fault in schema_faults(document, schema("release")):
        hint = "eagle3hub release writes it: make the folder again, or download it again"
        raise ManifestError(f"{path.name}: {fault.message}", hint=hint, code="release-record")
    charts = document["charts"]
    return Record(
        document["tool"]["version"],
        charts["version"] if charts else "",
        tuple(document["waived"]),
        document["files"],
    )


def complete(
    folder: Path,
    manifest: str | Path,
    *,
    publish: PublishSettings | None = None,
    waived: Sequence[str] = (),
    templates: str | Path | None = None,
) -> Rendered:
    """Complete a release folder that already holds heads and reports, each in its place.

    Args:
        manifest: ``release.yaml`` or ``release.yaml#NAME``. The layouts it names are in ``folder`` already.
        publish: how to publish the release; None: as the manifest says.
        waived: gates of publishing that the card says were waived.
        templates: a folder of the makers' own templates, which are copied.

    Copies the reports and benchmarks that the manifest names, and its license file if that lies beside it. Then writes
    the manifest's public form, the charts, the card and, last, the record. The record lists these files, the heads and
    the reports, and no other file in the folder.

    Raises InputError if manifest, reports, heads or templates are wrong, and OutputError.
    """
    loaded = load_manifest(manifest)
    if templates is not None and not Path(templates).is_dir():
        raise SourceError(f"no folder of templates at {templates}", code="source-templates")
    said = {k: v for k, v in asdict(publish or loaded.publish).items() if v}
    results = find_benchmarks(loaded)
    for name, (path, found) in zip(numbered(BENCHMARKS, len(results), ".json"), results, strict=True):
        if path.resolve() != (folder / name).resolve():
            found.save(folder / name)
    _copy_reports(named_reports(loaded), folder / REPORTS)
    digest = _measured_target(folder)
    form = public_form(manifest, publish=said, benchmarks=len(results), weights_digest=digest)
    for name, content in form.items():
        replace_file(folder / name, content, parents=True)
    if templates is not None:
        _copy_templates(Path(templates), folder / TEMPLATES)
    license_file = _copy_license(loaded, folder)
    record = Record(__version__, "", tuple(waived))
    hashed = _hashed(folder, loaded)
    made = render(folder, record.waived, {name: found["sha256"] for name, found in hashed.items()})
    write_card(folder / CARD, made.card, made.charts)
    charts = version("matplotlib") if made.charts else ""
    names = {*form, *made.charts, CARD, *license_file, *_heads_files(folder, made.manifest)}
    names |= {path.relative_to(folder).as_posix() for part in _LISTED for path in folder.glob(part)}
    files = [hashed.get(name) or file_digest(folder / name, name) for name in sorted(names)]
    replace_file(folder / RECORD, document_bytes(Record(record.version, charts, record.waived, files).to_json()))
    return made


def _measured_target(folder: Path) -> str | None:
    """Return the digest of the weights that every report in the folder measured; None unless all name the same one."""
    reports = [load_report(path) for path in sorted((folder / REPORTS).glob("*.json"))]
    found = {report.target.weights_digest for report in reports}
    return found.pop() if len(found) == 1 else None


def _heads_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the paths of the files that conversion wrote for each layout, as each layout's record lists them."""
    for place in (manifest.layouts.folder(layout) for layout in manifest.layouts):
        record = open_checkpoint(folder / place).provenance or {}
        for name in (PROVENANCE, *(f["path"] for f in _listed(record))):
            path = f"{place}/{name}" if place else name
            if (folder / path).is_file():
                yield path


def _copy_reports(files: Sequence[Path], into: Path) -> None:
    """Put the reports that a manifest names beside those that are there, each under its own name."""
    for file in files:
        content, place = read_bytes(file), into / file.name
        if place.is_file() and read_bytes(place) != content:
            raise ManifestError(
                f"reports: the release has another report called {file.name} already",
                hint="give yours another name",
                code="report-name",
            )
        replace_file(place, content, parents=True)


def _copy_templates(source: Path, into: Path) -> None:
    for file in sorted(source.glob("*.j2")):
        replace_file(into / file.name, read_bytes(file), parents=True)


def _copy_license(manifest: Manifest, folder: Path) -> list[str]:
    """Copy the license file that the manifest names by a path beside it, since the card links to it."""
    link = manifest.release.license.link
    if not link or "://" in link or "/" in link:
        return []
    source = manifest.path.parent / link
    if source.is_file() and not (folder / link).exists():
        shutil.copyfile(source, folder / link)
    return [link] if (folder / link).is_file() else []


def open_heads(folder: Path, manifest: Manifest) -> dict[str, Head]:
    """Open the head of every layout of a release in ``folder``; keys are their folders there. Raises InputError."""
    places = [manifest.layouts.folder(layout) for layout in manifest.layouts]
    return {p: open_head(open_checkpoint(folder / p)) for p in places if (folder / p / CONFIG).is_file()}


def render(folder: Path, waived: Sequence[str] = (), sha256: Mapping[str, str] | None = None) -> Rendered:
    """Make the card and the charts of a release folder from the files in it, and from nothing else.

    Args:
        waived: gates of publishing that the card says were waived.
        sha256: digests of the folder's files by path, if they are known; else the heads are hashed.

    Raises InputError (ManifestError, SourceError …) if manifest, reports, heads or templates are wrong.
    """
    folder = folder.absolute()
    manifest = load_manifest(folder / MANIFEST)
    files = find_reports(manifest)
    documents = [load_report(path) for path in files]
    benchmarks = [Benchmark(found, path.relative_to(folder).as_posix()) for path, found in find_benchmarks(manifest)]
    heads = open_heads(folder, manifest)
    if "" not in heads:
        raise SourceError(f"there is no head in the root of {folder}", code="source-no-config")
    for head in heads.values():
        head.raise_for_errors()
    known = sha256 if sha256 is not None else {n: f["sha256"] for n, f in _hashed(folder, manifest).items()}
    digests = {digest for place, digest in head_digests(known).items() if place in heads}
    record = open_checkpoint(folder).provenance or {}
    if benchmarks:  # they may be runs of the head as it was trained
        digests |= _original(record)
    pictures, charts = draw(manifest, runs(documents, list(manifest.layouts)), benchmarks)
    card = render_text(
        manifest,
        documents,
        heads[""],
        folder / TEMPLATES if (folder / TEMPLATES).is_dir() else None,
        Shown(
            digests=digests,
            report_files=[path.relative_to(folder).as_posix() for path in files],
            benchmarks=benchmarks,
            pictures=pictures,
            waived=waived,
            tree=_tree(record),
            heads=heads,
        ),
    )
    return Rendered(manifest, card, charts)


def _hashed(folder: Path, manifest: Manifest) -> dict[str, FileDigest]:
    """Hash the files of each head of a release, by path; each is read once, since weights are large."""
    places = [manifest.layouts.folder(layout) for layout in manifest.layouts]
    paths = [path for place in places if (folder / place).is_dir() for path in head_files(folder / place)]
    return {name: file_digest(path, name) for path in paths for name in [path.relative_to(folder).as_posix()]}


def _original(record: Mapping[str, Any]) -> set[str]:
    """Return the digest of the head that a release was converted from, as the record beside the weights says."""
    source = record.get("source")
    files = [f for f in _listed(source) if isinstance(f.get("sha256"), str)]
    digest = head_digests({f["path"]: f["sha256"] for f in files}).get("")
    return {digest} if digest else set()


def _tree(record: Mapping[str, object]) -> SourceTree | None:
    found = record.get("release")
    if not isinstance(found, dict) or not isinstance(found.get("commit"), str):
        return None
    return SourceTree(found["commit"], found.get("dirty") is not False)


def _listed(part: Any) -> list[Mapping[str, Any]]:
    """Return the files that a part of a record lists; none if the part is not such a list."""
    files = part.get("files") if isinstance(part, dict) else None
    listed = files if isinstance(files, list) else []
    return [f for f in listed if isinstance(f, dict) and isinstance(f.get("path"), str)]


def differences(folder: Path, sha256: Mapping[str, str] | None = None) -> list[Difference]:
    """List where a release folder's card and charts differ from what its manifest, reports and heads give.

    Only the version of this tool that made the card can make it again, and only the version of matplotlib that drew
    the charts can draw them again; another version counts as a difference. Raises as `render` and `load_record` do.
    """
    record = load_record(folder / RECORD)
    if record.version != __version__:
        what = f"cannot be made again here: eagle3hub {record.version} made it, and this is {__version__}"
        return [Difference(CARD, what, unknown=True)]
    made = render(folder, record.waived, sha256)
    found = []
    stated = _text(folder / CARD)
    if stated != made.card:
        lines = list(
            difflib.unified_diff(made.card.splitlines(), stated.splitlines(), "made again", CARD, lineterm="", n=1)
        )
        more = [f"… and {len(lines) - _DIFF_LINES} more lines"] if len(lines) > _DIFF_LINES else []
        what = "is not what manifest, reports and head give"
        found.append(Difference(CARD, what, "\n".join([*lines[:_DIFF_LINES], *more])))
    shown = {p.relative_to(folder).as_posix() for p in (folder / CHARTS).glob("*") if p.is_file()}
    found += [Difference(name, "is no chart of this card") for name in sorted(shown - set(made.charts))]
    found += [Difference(name, "is missing") for name in sorted(set(made.charts) - shown)]
    drawn_by = version("matplotlib") if made.charts else ""
    if made.charts and record.charts != drawn_by:
        what = f"were drawn by matplotlib {record.charts or 'of no version'}, and this is {drawn_by}"
        return [*found, Difference(f"{CHARTS}/", f"{what}, so they cannot be drawn again here", unknown=True)]
    found += [
        Difference(name, "does not show what the reports hold")
        for name, content in made.charts.items()
        if name in shown and read_bytes(folder / name) != content
    ]
    return found


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8")
    except (OSError, UnicodeDecodeError, InputError):
        return ""


def write_card(path: Path, text: str, drawn: Mapping[str, bytes]) -> None:
    """Write the charts, then the card that shows them; if that fails, a new folder of charts is removed."""
    folder = path.parent / CHARTS
    is_new = not folder.exists()
    try:
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
        for name, content in drawn.items():
            replace_file(path.parent / name, content, parents=True)
        replace_file(path, text.encode("utf-8"))
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
