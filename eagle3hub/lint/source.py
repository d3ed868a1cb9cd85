"""Lint a card, a folder or a repository, and write the findings as SARIF."""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from eagle3hub._version import __version__
from eagle3hub.address import HubAddress, parse_address
from eagle3hub.card.manifest import is_manifest
from eagle3hub.errors import HubError, Severity, SourceError
from eagle3hub.lint import lint_text
from eagle3hub.lint.model import RULES, Finding, Rule
from eagle3hub.system.reading import read_bytes

if TYPE_CHECKING:
    from eagle3hub.card.served import Served

# The sources of a card: a Markdown file, a folder, a repository on the Hub, or the manifest of a release


MAX_BYTES = 1 << 20
_MAX_FILES = 20_000
_MAX_HEADS = 32
_CONFIG = re.compile(r"(?:[^/]+/)?config\.json")
_SKIPPED = {".git", ".venv", "node_modules", "__pycache__", ".cache"}


@dataclass(frozen=True, slots=True)
class LintResult:
    """The findings in one card.

    ``uri`` is its address, or its path relative to the working folder if it is a file; ``text`` is what was checked.
    """

    source: str
    uri: str
    findings: tuple[Finding, ...]
    text: str = field(repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """The number of findings by severity. All three severities are present."""
        counted = Counter(f.severity for f in self.findings)
        return {severity: counted[severity] for severity in ("error", "warning", "info")}

    def failed(self, *, strict: bool = False) -> bool:
        """Return whether there is an error; with ``strict``, also whether there is a warning."""
        return self.counts["error"] > 0 or (strict and self.counts["warning"] > 0)

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``card --check --json`` prints."""
        return {
            "source": self.source,
            "card": self.uri,
            "counts": self.counts,
            "findings": [f.to_json() for f in self.findings],
        }


def lint_card(
    source: str,
    *,
    reports: Sequence[str | Path] = (),
    heads: Sequence[str | Path] = (),
    templates: str | Path | None = None,
) -> LintResult:
    """Find, read and lint the card at ``source``.

    Args:
        source: a Markdown file, a folder with a README.md, a repository on the Hub, or a manifest (``.yaml``). The
            card of a manifest is rendered and linted, and not written.
        reports: the reports for a manifest, as in `render_card`; likewise ``heads`` and ``templates``.

    Raises SourceError if something cannot be read, HubError if something cannot be fetched, and the errors of
    `render_card`.
    """
    at = parse_address(source)
    if isinstance(at, HubAddress):
        return _on_hub(source, at)
    if is_manifest(source):
        from eagle3hub.card.assemble import render_card

        card = render_card(source, reports=reports, heads=heads, templates=templates)
        return LintResult(source, "README.md", tuple(lint_text(card.text)), card.text)
    path = at.path / "README.md" if at.path.is_dir() else at.path
    text = _text(path, str(path))
    folder = path.absolute().parent
    files = _files(folder) if at.path.is_dir() or _is_repository(folder) else None
    found = lint_text(text, path.name, files, folders=_heads(folder, files))
    return LintResult(source, path.as_posix(), tuple(found), text)


def _heads(folder: Path, files: set[str] | None) -> tuple[Served, ...]:
    """Open the draft heads in the folder of the card and directly below it. Folders without a head are left out."""
    from eagle3hub.card.served import open_folders

    inside = sorted(path.removesuffix("config.json").rstrip("/") for path in files or () if _CONFIG.fullmatch(path))
    return open_folders(folder, inside[:_MAX_HEADS])


def _on_hub(source: str, address: HubAddress) -> LintResult:
    from eagle3hub.checkpoint import hub

    try:
        listing = hub.list_files(address.repo_id, address.revision)
    except HubError as error:
        if not (address.bare and hub.no_repository(error)):
            raise
        message = f"{source} is neither a file nor a folder here, nor a model on the Hub that can be read"
        raise SourceError(message, hint=error.hint, code="source-card") from error
    name = address.file("README.md")
    if name not in listing.sizes:
        raise SourceError(f"{address} has no model card (README.md)", code="source-card")
    if (listing.sizes[name] or 0) > MAX_BYTES:
        raise SourceError(f"README.md of {address} is larger than {MAX_BYTES:,} bytes", code="source-card")
    card = hub.download_file(address.repo_id, name, listing.commit, stated=listing.stated.get(name))
    text = _text(card, f"README.md of {address}")
    inside = f"{address.folder}/" if address.folder else ""
    files = {path.removeprefix(inside) for path in listing.sizes if path.startswith(inside)}
    uri = f"{hub.endpoint()}/{address.repo_id}/blob/{listing.commit}/{quote(name)}"
    return LintResult(source, uri, tuple(lint_text(text, "README.md", files)), text)


def _text(path: Path, shown: str) -> str:
    try:
        raw = read_bytes(path, MAX_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            what = f"{shown} is larger than {MAX_BYTES:,} bytes, too large for a card"
            raise SourceError(what, code="source-card") from error
        raise SourceError(f"cannot read {shown}: {error.strerror or error}", code="source-card") from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{shown}:{line}: not UTF-8 text", code="source-card") from error


def _is_repository(folder: Path) -> bool:
    """Return whether the files beside a card are those of its repository; a single file may have been copied there."""
    names = {path.name for path in folder.iterdir()}
    return bool(names & {"config.json", ".git", ".gitattributes"}) or any(
        name.endswith(".safetensors") for name in names
    )


def _files(folder: Path) -> set[str] | None:
    """Return the paths of the files below a folder, or None if they are too many for a card's repository."""
    found: set[str] = set()
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        found |= {(Path(at) / name).relative_to(folder).as_posix() for name in names}
        if len(found) > _MAX_FILES:
            return None
    return found


# SARIF 2.1.0, the format that code-scanning services and editors read


SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVEL: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}


MOST_RESULTS = 5_000
"""GitHub shows no more results of one run; the worst are kept."""
MOST_SAID = 500
"""Characters of a message. Results in any alphabet then stay below the 10 MB that GitHub takes, compressed by gzip."""


def to_sarif(checked: LintResult) -> dict[str, object]:
    """Return a SARIF document: one run with every rule and the findings.

    The address of a file is relative to the working folder and percent-encoded, that of a card on the Hub is its page.
    A result marks its whole line; one about the whole card marks the first. Columns count UTF-16 code units.
    """
    order = {code: i for i, code in enumerate(RULES)}
    worst = sorted(checked.findings, key=lambda f: list(_LEVEL).index(f.severity))[:MOST_RESULTS]
    artifact, lines = {"uri": _uri(checked.uri)}, checked.text.split("\n")
    results = [
        {
            "ruleId": f.code,
            "ruleIndex": order[f.code],
            "level": _LEVEL[f.severity],
            "message": {"text": f"{_short(f.message)}. {f.fix}"},
            "locations": [{"physicalLocation": {"artifactLocation": artifact, "region": _region(f.line, lines)}}],
        }
        for f in sorted(worst, key=lambda f: (f.line, f.code, f.message))
    ]
    driver = {"name": "eagle3hub", "version": __version__, "rules": [_rule(rule) for rule in RULES.values()]}
    only = {"tool": {"driver": driver}, "columnKind": "utf16CodeUnits", "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [only]}


def _short(message: str) -> str:
    return message if len(message) <= MOST_SAID else f"{message[: MOST_SAID - 2]} …"


def _region(line: int, lines: Sequence[str]) -> dict[str, int]:
    at = min(max(line, 1), len(lines))
    units = len(lines[at - 1].removesuffix("\r").encode("utf-16-le")) // 2
    return {"startLine": at, "startColumn": 1, "endLine": at, "endColumn": units + 1}


def _uri(address: str) -> str:
    if re.match(r"https?://", address):
        return address
    return quote(os.fsencode(Path(os.path.relpath(address)).as_posix()))


def _rule(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.code,
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": _LEVEL[rule.severity]},
        "properties": {"tags": [rule.family]},
    }
