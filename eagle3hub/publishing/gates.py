"""What must hold before a byte leaves: every gate has a code, by which one may be waived, on the record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from eagle3hub.card.lint import lint_card
from eagle3hub.card.lint.parse import parse_card
from eagle3hub.card.manifest import Manifest
from eagle3hub.errors import InputError, Problem, SourceError, UsageError
from eagle3hub.publishing import remote
from eagle3hub.publishing.files import CARD, LocalFile, directly_in, head_folders
from eagle3hub.publishing.kinds import is_executed, kind_of, mismatch
from eagle3hub.publishing.sensitive import secrets, shown, withhold
from eagle3hub.publishing.signing import SIGNATURE, UNSIGNED, covered
from eagle3hub.publishing.terms import departures
from eagle3hub.report import Report, load_report
from eagle3hub.validation.options import engine_names

GATES: dict[str, str] = {
    "publish-head": "the folder holds a head",
    "publish-report": "no report that did not pass, and none of other bytes",
    "publish-unmeasured": "a report for every head's bytes, from every engine the manifest asks for",
    "publish-card": "a model card without errors",
    "publish-license": "a license",
    "publish-terms": "what the target's license, as the manifest states it, asks of a model made from it",
    "publish-pickle": "no pickles",
    "publish-training-state": "no optimizer or trainer states",
    "publish-link": "no symbolic links",
    "publish-outside": "no file that is no part of a release",
    "publish-kind": "every file is what its name says, by its bytes",
    "publish-secret": "no secrets, and no file that cannot be searched for them",
    "publish-name": "names that the Hub takes",
    "publish-size": "sizes that the Hub takes",
    "publish-signature": "a signature, where there is one, over exactly these files",
    "publish-layouts": "the layouts of the manifest, each in its place",
}
"""Every gate by code: what it asks for."""


def check_codes(codes: Sequence[str]) -> tuple[str, ...]:
    """The codes of gates to waive; UsageError for one that is none."""
    for code in codes:
        if code not in GATES:
            raise UsageError(f"no gate is called {code}", hint=f"gates: {', '.join(GATES)}", code="usage-gate")
    return tuple(codes)


MAX_FILE = 50 * 10**9
MAX_FILES = 10_000
_PICKLES = re.compile(r".+\.(bin|pt|pth|pkl|pickle|ckpt|joblib|npy|npz|h5|msgpack)", re.I)
_STATES = re.compile(
    r"(optimizer|scheduler|rng_state|training_state|trainer_state|training_args|scaler|global_step|latest\b).*", re.I
)


def check(repo_id: str, files: Sequence[LocalFile], links: Sequence[str], manifest: Manifest | None) -> list[Problem]:
    """Everything that keeps ``files`` from being published, in the order of `GATES`."""
    found = [
        *_heads(files, manifest),
        *_reports(files, manifest),
        *_card(files),
        *_terms(repo_id, files, manifest),
        *_contents(files),
        *_names(repo_id, files),
        *_signature(files),
    ]
    found += [_problem("publish-link", f"{link} is a link or a special file") for link in links]
    order = list(GATES)
    named = {file.path for file in files}.union(links)
    return sorted((withhold(p, named) for p in found), key=lambda p: order.index(p.code))


def _problem(code: str, message: str, hint: str | None = None) -> Problem:
    return Problem("error", code, message, hint)


def _heads(files: Sequence[LocalFile], manifest: Manifest | None) -> Iterator[Problem]:
    folders = head_folders(files)
    if "" not in folders:
        yield _problem("publish-head", "there is no config.json in the folder's root", "name the folder of a release")
    for folder in folders:
        if not any(f.path.endswith(".safetensors") for f in directly_in(files, folder)):
            yield _problem("publish-head", f"there are no safetensors weights in {folder or 'the root'}")
    if manifest is not None:
        wanted = {manifest.layouts.folder(layout) for layout in manifest.layouts}
        for folder in sorted(wanted - set(folders)):
            yield _problem(
                "publish-layouts", f"the manifest asks for {folder or 'the main layout'}, which is not there"
            )
        for folder in sorted(set(folders) - wanted):
            yield _problem("publish-layouts", f"{folder} holds a head that the manifest does not name")


def _reports(files: Sequence[LocalFile], manifest: Manifest | None) -> Iterator[Problem]:
    hint = "validate it again (eagle3hub release makes folder and reports together)"
    reports: list[tuple[str, Report]] = []
    for file in files:
        if file.path.startswith("reports/") and isinstance(file.source, Path):
            try:
                reports.append((file.path, load_report(file.source)))
            except InputError as e:
                yield _problem("publish-report", f"{file.path} is no report: {e.message}", e.hint)
    folders = head_folders(files)
    for path, report in reports:
        if report.document["head"]["digest"] not in folders.values():
            yield _problem("publish-report", f"{path} measured other bytes than those of this folder", hint)
        elif report.verdict != "pass":
            yield _problem("publish-report", f"{path} says {report.verdict}: {report.reason}", hint)
    wanted = set(engine_names(manifest.validate.engine)) if manifest is not None else set()
    for folder, digest in folders.items():
        where = folder or "the root"
        mine = [r for _, r in reports if r.document["head"]["digest"] == digest]
        measured = {e["engine"] for r in mine for e in r.document["engines"] if e["verdict"] != "unavailable"}
        if not measured:
            yield _problem("publish-unmeasured", f"no report covers the head in {where}", hint)
        elif missing := sorted(wanted - measured):
            yield _problem("publish-unmeasured", f"the head in {where} was not measured by {', '.join(missing)}", hint)


def _card(files: Sequence[LocalFile]) -> Iterator[Problem]:
    file = next((f for f in files if f.path == CARD), None)
    if file is None:
        yield _problem("publish-card", f"there is no {CARD}", "write it with eagle3hub card")
        yield _problem("publish-license", "without a card no license is stated")
        return
    text = file.head(file.size).decode("utf-8", errors="replace")
    for finding in lint_card(text, CARD, files={f.path for f in files}):
        if finding.severity == "error":
            yield _problem("publish-card", f"{CARD}:{finding.line}: {finding.code} {finding.message}", finding.fix)
    card = parse_card(text, CARD, {f.path for f in files})
    stated = card.listed("license")
    if not stated or "unknown" in stated:
        yield _problem("publish-license", "the card's metadata states no license", "add license: to the manifest")
    for link in card.listed("license_link"):
        if "://" not in link and link not in {f.path for f in files}:
            yield _problem("publish-license", f"the card's license_link names {link}, which is not in the folder")


def _terms(repo_id: str, files: Sequence[LocalFile], manifest: Manifest | None) -> Iterator[Problem]:
    card = next((f for f in files if f.path == CARD), None)
    if manifest is None or card is None:
        return
    read = [f for f in files if f is card or f.path.upper().startswith("NOTICE")]
    texts = [f.head(f.size).decode("utf-8", errors="replace") for f in read]
    stated = parse_card(card.head(card.size).decode("utf-8", errors="replace"), CARD, None).listed("license")
    for what, fix in departures(repo_id, manifest.target, stated, texts):
        yield _problem("publish-terms", what, fix)


def _contents(files: Sequence[LocalFile]) -> Iterator[Problem]:
    for file in files:
        name, kind = shown(file.path), kind_of(file.path)
        if _STATES.fullmatch(file.name):
            yield _problem("publish-training-state", f"{name} is a trainer's state", "remove it")
        elif _PICKLES.fullmatch(file.name):
            yield _problem("publish-pickle", f"{name} is, or may hold, a pickle", "publish safetensors only")
        elif kind is None:
            code = "publish-pickle" if is_executed(file) else "publish-outside"
            yield _problem(code, f"{name} is no part of a release", "move it elsewhere")
        elif why := mismatch(file, kind):
            yield _problem(
                "publish-pickle" if is_executed(file) else "publish-kind",
                f"{name} {why}",
                "make it anew, or remove it",
            )
        yield from secrets(file)


def _signature(files: Sequence[LocalFile]) -> Iterator[Problem]:
    signature = next((f for f in files if f.path == SIGNATURE), None)
    if signature is None:
        return
    try:
        signed = covered(signature.head(signature.size))
    except SourceError as e:
        yield _problem("publish-signature", e.message, "remove it, or sign anew with --sign KEY")
        return
    here = {f.path: f.sha256 for f in files if f.path not in UNSIGNED}
    for path in sorted(path for path in {*here, *signed} if here.get(path) != signed.get(path)):
        yield _problem("publish-signature", f"{path} is not what {SIGNATURE} was made over", "sign anew: --sign KEY")


def _names(repo_id: str, files: Sequence[LocalFile]) -> Iterator[Problem]:
    if why := remote.check_name(repo_id):
        yield _problem("publish-name", f"the Hub takes no repository called {repo_id}", why)
    seen: dict[str, str] = {}
    for file in files:
        if not file.path.isprintable() or "\\" in file.path or len(file.path) > 255:
            yield _problem("publish-name", f"{file.path!r} is no name for a file on the Hub")
        other = seen.setdefault(file.path.lower(), file.path)
        if other != file.path:
            yield _problem("publish-name", f"{other} and {file.path} are one name on some systems")
        if file.size > MAX_FILE:
            yield _problem("publish-size", f"{file.path} is larger than 50 GB", "convert with --max-shard-size 5GB")
    if len(files) > MAX_FILES:
        yield _problem("publish-size", f"{len(files)} files are more than {MAX_FILES}")
