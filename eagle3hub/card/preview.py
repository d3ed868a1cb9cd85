"""Preview a card before its release; it says what has not been measured yet."""

from __future__ import annotations

import hashlib
import html
import json
import mimetypes
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from eagle3hub.card.manifest import Manifest, is_manifest, load_manifest, split_address
from eagle3hub.card.reports import find_reports
from eagle3hub.checkpoint.digest import file_digest, folder_digest
from eagle3hub.checkpoint.source import PROVENANCE, parse_json_object, read_small
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.conversion.run import convert
from eagle3hub.errors import Eagle3HubError, InputError, ManifestError, SourceError
from eagle3hub.head.target import read_target
from eagle3hub.system import resources
from eagle3hub.system.documents import parse_yaml
from eagle3hub.system.reading import read_bytes, read_text
from eagle3hub.system.text import visible
from eagle3hub.validation.report import Report, load_report

# The reports that ``release --dry-run`` or ``--until`` kept beside a manifest, if they measured this head's bytes.
#
# They measured the head's layouts as the release writes them. If the release left its folder, that folder is used;
# else the layouts are written again for the preview. Only reports of the same bytes count.


KEPT = ".eagle3hub/reports"
"""Where a release keeps its measurements: beside the manifest, unless ``--work`` names another folder."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Reports and the folders they measured, main layout first; both empty if there are none."""

    reports: tuple[Path, ...] = ()
    heads: tuple[Path | str, ...] = ()


@contextmanager
def rehearsal(manifest_path: Path, work: Path) -> Iterator[Rehearsal]:
    """Yield the newest kept report of each layout and the reports that the manifest names.

    Args:
        work: folder to write the layouts into. They are removed when the block ends.

    Raises ManifestError for a manifest that cannot be read. If the layouts cannot be written, or the manifest has no
    kept reports, the rehearsal is empty.
    """
    manifest = load_manifest(manifest_path)
    kept = _kept(manifest)
    if not kept or manifest.head_source is None:
        yield Rehearsal()
        return
    for made in _made(manifest):
        found = _matching(manifest, kept, made)
        if found.reports:
            yield found
            return
    with tempfile.TemporaryDirectory(dir=work) as folder:
        written = _write(manifest, Path(folder))
        yield _matching(manifest, kept, written) if written else Rehearsal()


def _kept(manifest: Manifest) -> dict[Path, Report]:
    """Return the reports of the manifest's layouts and target, the newest first."""
    found = {}
    for path in sorted((manifest.path.parent / KEPT).glob("*.json")):
        try:
            report = load_report(path)
        except InputError:
            continue
        head, target = report.head, report.target.name
        if head.layout in manifest.layouts and target in (manifest.target.id, manifest.target.id.split("/")[-1]):
            found[path] = report
    return dict(sorted(found.items(), key=lambda item: item[1].measured_at, reverse=True))


def _made(manifest: Manifest) -> Iterator[dict[str, Path]]:
    """Yield the folders, by layout, that a release left in its default place, if made of the head's files."""
    name = manifest.name or manifest.release.repo.rpartition("/")[2]
    for root in (Path(name), manifest.path.parent / name, manifest.path.parent / ".eagle3hub" / "release" / name):
        folders = {layout: root / manifest.layouts.folder(layout) for layout in manifest.layouts}
        if all(_is_made_of(folder, Path(str(manifest.head_source))) for folder in folders.values()):
            yield folders


def _is_made_of(folder: Path, source: Path) -> bool:
    """Return whether a folder's eagle3hub.json names exactly these files of the source, byte for byte."""
    try:
        record = parse_json_object(read_small(folder / PROVENANCE) or b"{}", folder / PROVENANCE)
        listed = {str(file["path"]): str(file["sha256"]) for file in record["source"]["files"]}
        return bool(listed) and all(file_digest(source / name)["sha256"] == digest for name, digest in listed.items())
    except (Eagle3HubError, OSError, LookupError, TypeError):
        return False


def _write(manifest: Manifest, work: Path) -> dict[str, Path] | None:
    """Write the layouts below ``work`` as a release writes them; None if they cannot be written."""
    try:
        facts = read_target(manifest.measured_target, manifest.target.id)
        for layout in manifest.layouts:
            options = replace(manifest.conversion_to(layout, facts), verify=False)
            convert(str(manifest.head_source), work / layout, layout, options)
    except Eagle3HubError:
        return None
    return {layout: work / layout for layout in manifest.layouts}


def _matching(manifest: Manifest, kept: dict[Path, Report], folders: dict[str, Path]) -> Rehearsal:
    digests = {layout: folder_digest(folder)[0] for layout, folder in folders.items()}
    reports: dict[str, Path] = {}
    for path, report in kept.items():
        head = report.head
        if head.digest == digests[head.layout]:
            reports.setdefault(head.layout, path)
    if not reports:
        return Rehearsal()
    heads: tuple[Path | str, ...] = (*folders.values(), str(manifest.head_source))
    return Rehearsal((*reports.values(), *find_reports(manifest)), heads)


# A card as the Hub would show it: one local page, light and dark, that reloads when a file changes.
#
# Of the card's own HTML the tags of text and tables are kept without their attributes (but for the spans of cells),
# and links and pictures; the rest is shown as text, so a preview of anybody's card runs nothing. Addresses stay as
# they are. Nothing is fetched from another machine unless the card shows a picture from there.


_SHOWN = ("license", "license_name", "base_model", "library_name", "pipeline_tag", "language", "datasets", "tags")
_PICTURES = {".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp"}
_POLICY = (
    "default-src 'none'; img-src 'self' data: https:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'"
)


_TAGS = re.compile(
    r"&lt;(/?(?:details|summary|br|sub|sup|kbd|b|i|em|strong|code|pre|p|div|span|center|h[1-6]|hr|ul|ol|li|blockquote"
    r"|table|caption|thead|tbody|tfoot|tr|th|td))(\s(?:(?!&[lg]t;).)*)?/?&gt;",
    re.S,
)
_SPAN = re.compile(r"\b(colspan|rowspan)=(?:&quot;)?(\d{1,3})\b")


def page(text: str, title: str, *, version: str = "") -> str:
    """Render a card's Markdown as one HTML page; the page compares ``version`` with `server`'s to see a change."""
    front, body = _split(text)
    document = resources.data_path("templates/preview.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(title),
        "METADATA": _metadata(front),
        "BODY": _markdown(body),
        "VERSION": json.dumps(version).replace("<", "\\u003c"),
    }
    for name, value in parts.items():
        before, found, after = document.partition(f"<!--{name}-->")
        document = before + value.replace("<!--", "&lt;!--") + after if found else document
    return visible(document, keep_lines=True)


def _split(text: str) -> tuple[dict[str, object], str]:
    lines = text.split("\n")
    if lines[0].strip() != "---" or "---" not in [line.strip() for line in lines[1:]]:
        return {}, text
    end = [line.strip() for line in lines[1:]].index("---") + 1
    try:
        data = parse_yaml("\n".join(lines[1:end]), "metadata").data
    except ManifestError as error:
        data = {"metadata": error.message}
    return data if isinstance(data, dict) else {}, "\n".join(lines[end + 1 :])


def _metadata(front: dict[str, Any]) -> str:
    chips = []
    for key in (k for k in (*_SHOWN, "metadata") if front.get(k)):
        values = front[key] if isinstance(front[key], list) else [front[key]]
        chips += [f"<li><b>{html.escape(key)}</b> {html.escape(str(value))}</li>" for value in values]
    emissions = front.get("co2_eq_emissions")
    if isinstance(emissions, dict):
        chips.append(f"<li><b>CO2</b> {html.escape(str(emissions.get('emissions')))} g</li>")
    return "".join(chips) + _results(front.get("model-index"))


def _results(index: Any) -> str:
    count = 0
    for model in index if isinstance(index, list) else []:
        results = model.get("results") if isinstance(model, dict) else None
        count += len(results) if isinstance(results, list) else 0
    return f"<li><b>model-index</b> {count} results</li>" if count else ""


def _markdown(body: str) -> str:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for kind in ("html_block", "html_inline"):
        parser.add_render_rule(kind, lambda _self, tokens, index, *_rest: _tame(tokens[index].content))
    shown: str = parser.render(body)
    return shown.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")


_ADDRESS = r"(?:https://[\w.-]+/)?[\w.%-]+(?:/[\w.%-]+)*"
_PICTURE = re.compile(
    rf"&lt;img src=&quot;({_ADDRESS})&quot; alt=&quot;((?:(?!&quot;|&lt;|&gt;).)*)&quot; "
    r"width=&quot;(\d{1,4})&quot;\s*/?&gt;"
)
_LINK = re.compile(rf"&lt;a href=&quot;({_ADDRESS})&quot;&gt;")


def _tame(text: str) -> str:
    """Show HTML as text, except for tags of text and tables, and for links and pictures as our own cards have them."""
    shown = _TAGS.sub(_bare, html.escape(text))
    shown = _PICTURE.sub(lambda m: f'<img src="{m[1]}" alt="{m[2].replace("&amp;", "&")}" width="{m[3]}">', shown)
    return _LINK.sub(r'<a href="\1">', shown).replace("&lt;/a&gt;", "</a>")


def _bare(tag: re.Match[str]) -> str:
    return f"<{tag[1]}{''.join(f' {name}={count}' for name, count in _SPAN.findall(tag[2] or ''))}>"


def card_text(source: Path) -> tuple[str, Path]:
    """Return the text of the card at ``source``, and the folder its relative links start from.

    A manifest's card is rendered again, with its charts, into a folder ``.preview`` beside it. If a release was made
    and not published, its reports of the same bytes are used.
    """
    if is_manifest(source):
        from eagle3hub.card.assemble import render_card

        folder = source.absolute().parent / ".preview"
        folder.mkdir(exist_ok=True)
        with rehearsal(source, folder) as kept:
            made = render_card(source, reports=kept.reports, heads=kept.heads, output=folder / "README.md")
        return made.text, folder
    path = source / "README.md" if source.is_dir() else source
    try:
        return read_text(path), path.absolute().parent
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}", code="source-card") from error


def write_page(source: Path, output: Path) -> None:
    """Write the page of a card. Raises SourceError, OutputError, and whatever `render_card` raises."""
    text, _ = card_text(source)
    replace_file(output, page(text, source.name).encode("utf-8"))


@contextmanager
def server(source: Path, port: int) -> Iterator[ThreadingHTTPServer]:
    """Serve the page on this machine. Raises SourceError if the card or the port cannot be used."""
    card_text(source)

    class Handler(_Handler):
        card = source

    try:
        made = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise SourceError(f"cannot listen on port {port}: {error}", hint="name another with --port") from error
    try:
        yield made
    finally:
        made.server_close()


class _Handler(BaseHTTPRequestHandler):
    card: Path

    def do_GET(self) -> None:
        """Send the page, its version, or a picture beside the card."""
        path = unquote(urlsplit(self.path).path)
        if path == "/version":
            self._send(200, "text/plain", _version(self.card).encode())
        elif path == "/":
            try:
                text, _ = card_text(self.card)
                shown = page(text, self.card.name, version=_version(self.card))
            except Exception as error:  # the page shows the error until somebody fixes it
                shown = page(f"```text\n{error}\n```", self.card.name, version=_version(self.card))
            self._send(200, "text/html; charset=utf-8", shown.encode("utf-8"))
        else:
            self._picture(path.lstrip("/"))

    def _picture(self, name: str) -> None:
        folder = self.card.absolute().parent
        folder = (folder / ".preview" if is_manifest(self.card) else folder).resolve()
        path = (folder / name).resolve()
        if path.suffix.lower() not in _PICTURES or not path.is_relative_to(folder) or not path.is_file():
            self._send(404, "text/plain", b"not found")
            return
        self._send(200, mimetypes.guess_type(path.name)[0] or "application/octet-stream", read_bytes(path))

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the page shows everything."""


def _version(source: Path) -> str:
    """Return a text that changes when the card, or a file beside its manifest, changes."""
    files = [split_address(source)[0]]
    if is_manifest(source):
        beside = source.absolute().parent
        files += sorted(
            p for p in beside.rglob("*") if p.suffix in (".yaml", ".yml", ".json") and ".preview" not in p.parts
        )
    state = [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files if p.exists()]
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]
