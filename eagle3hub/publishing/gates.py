"""The gates of publishing: everything that must hold before a release is uploaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from eagle3hub.card.manifest import License, Manifest, Target
from eagle3hub.card.served import open_folders
from eagle3hub.card.starter import unfilled
from eagle3hub.card.vocabulary import terms
from eagle3hub.errors import InputError, Problem, SourceError, UsageError
from eagle3hub.lint import lint_card
from eagle3hub.lint.model import Card
from eagle3hub.lint.parse import parse_card
from eagle3hub.lint.served import doubtful_uses, refused_uses
from eagle3hub.publishing import remote
from eagle3hub.publishing.derived import (
    card_problems,
    gate_problem,
    manifest_problems,
    measured_well,
    own_manifest,
    report_problems,
)
from eagle3hub.publishing.files import CARD, LocalFile, files_in, head_folders
from eagle3hub.publishing.kinds import file_kind, is_executed, mismatch
from eagle3hub.publishing.secrets import require_scanner
from eagle3hub.publishing.sensitive import safe_path, secret_problems, withhold_secrets
from eagle3hub.publishing.signing import SIGNATURE, UNSIGNED, signed_digests

# The terms of the target's license, as the manifest states it
#
# This gate reads license names and ids, not the licenses themselves. A person must look at what it finds, and what it
# does not find may still be forbidden.


_UNJUDGED = {"other", "unknown"}


def unmet_terms(
    repo_id: str, target: Target, stated: Sequence[str], texts: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield (what, what to do) for each demand of the target's license that the release does not meet.

    Args:
        stated: the license ids of the head's card.
        texts: the texts of the card and of every notice.
    """
    asked, name = terms(target.license.id), _print(target.license)
    if target.license.id == "unknown":
        yield (
            f"the license of {target.id} is not stated, so its terms cannot be checked",
            "state it: target.license in the manifest",
        )
    if asked.prefix and not repo_id.rpartition("/")[2].lower().replace("-", " ").startswith(asked.prefix.lower()):
        yield (
            f"{target.id} is under {name}, which asks for names that begin with {asked.prefix!r}",
            f"call the repository {asked.prefix.replace(' ', '-')}-…",
        )
    everything = [_plain(text) for text in texts]
    for phrase in asked.phrases:
        if not any(_plain(phrase) in text for text in everything):
            yield (
                f"{target.id} is under {name}, which asks for the words “{phrase}”",
                "eagle3hub card writes them under License; your own templates must do so too",
            )
    if "no derivatives" in asked.limits:
        yield (
            f"{target.id} is under {name}, which does not let adaptations be shared",
            "ask its owner whether the head is an adaptation, then waive this gate",
        )
    for id_ in stated:
        lost = sorted(asked.limits - terms(id_).limits - {"no derivatives"})
        if lost and id_ not in _UNJUDGED and id_ != target.license.id:
            yield (
                f"{target.id} is under {name} ({', '.join(lost)}), but the head is under {id_}, "
                "which does not have these limits",
                "give the head a license that has them, or get permission and waive this gate",
            )


def _print(license_: License) -> str:
    return license_.name or license_.id


def _plain(text: str) -> str:
    return re.sub(r"[\s*_`\\]+", " ", text).replace("(c)", "©").casefold()


# The other gates. Each has a code; to waive a gate, name its code, and the waiver is recorded.


GATES: dict[str, str] = {
    "publish-manifest": "the manifest that the folder was made from, and no file changed since",
    "publish-blanks": "a manifest in which everything that `card init` left open is filled in",
    "publish-visibility": "a repository as private and as gated as the release asks for",
    "publish-head": "the folder holds a head",
    "publish-report": "reports of these bytes that passed, fit the manifest, and have numbers that follow",
    "publish-unmeasured": "a report for every head's bytes, from every engine the manifest asks for",
    "publish-card": "a model card without errors; card and charts are what manifest, reports and heads give",
    "publish-recipe": "no command on the card for an engine that gets these files wrong, or right only if something "
    "is true of the training that no report here shows",
    "publish-license": "a license",
    "publish-terms": "what the target's license, as the manifest states it, asks of models made from the target",
    "publish-pickle": "no pickles",
    "publish-training-state": "no optimizer or trainer states",
    "publish-link": "no symbolic links",
    "publish-outside": "no file that does not belong to a release",
    "publish-kind": "every file is what its name says, by its bytes",
    "publish-secret": "no secrets, and no file that cannot be searched for secrets",
    "publish-name": "names that the Hub accepts",
    "publish-size": "sizes that the Hub accepts",
    "publish-signature": "if there is a signature, it covers exactly these files",
    "publish-layouts": "the layouts of the manifest, each in its place",
}
"""What each gate asks for, by its code."""


def check_gate_codes(codes: Sequence[str]) -> tuple[str, ...]:
    """Return the codes of gates to waive. Raises UsageError for an unknown code."""
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


def failed_gates(
    folder: Path, repo_id: str, files: Sequence[LocalFile], links: Sequence[str], given: Manifest | None
) -> list[Problem]:
    """Return every reason why a folder cannot be published, in the order of `GATES`.

    Args:
        files: the files in the folder.
        links: the links and special files in it.
        given: the manifest on the command line, or None.

    Raises UnavailableError as `require_scanner` does.
    """
    require_scanner()
    own: Manifest | None = None
    found: list[Problem] = []
    try:
        own = own_manifest(folder)
        found += manifest_problems(folder, files, own, given, repo_id)
    except InputError as e:
        found.append(gate_problem("publish-manifest", e.message, e.hint))
    manifest = own if own is not None else given
    card = _parsed(files)
    found += [
        *_blanks(manifest),
        *_heads(files, manifest),
        *report_problems(folder, files, manifest),
        *_card(card),
        *(card_problems(folder, files) if own is not None and card is not None else ()),
        *_recipes(repo_id, files),
        *_terms(repo_id, files, manifest, card),
        *_contents(files),
        *_names(repo_id, files),
        *_signature(files),
    ]
    found += [gate_problem("publish-link", f"{link} is a link or a special file") for link in links]
    order = list(GATES)
    named = {file.path for file in files}.union(links)
    return sorted((withhold_secrets(p, named) for p in dict.fromkeys(found)), key=lambda p: order.index(p.code))


def _blanks(manifest: Manifest | None) -> Iterator[Problem]:
    for field in unfilled(manifest) if manifest is not None else ():
        yield gate_problem("publish-blanks", f"{field} is still what card init wrote", "fill it in, and release again")


def _heads(files: Sequence[LocalFile], manifest: Manifest | None) -> Iterator[Problem]:
    folders = head_folders(files)
    if "" not in folders:
        yield gate_problem(
            "publish-head", "there is no config.json in the folder's root", "name the folder of a release"
        )
    for folder in folders:
        if not any(f.path.endswith(".safetensors") for f in files_in(files, folder)):
            yield gate_problem("publish-head", f"there are no safetensors weights in {folder or 'the root'}")
    if manifest is not None:
        wanted = {manifest.layouts.folder(layout) for layout in manifest.layouts}
        for folder in sorted(wanted - set(folders)):
            yield gate_problem(
                "publish-layouts", f"the manifest asks for {folder or 'the main layout'}, which is missing"
            )
        for folder in sorted(set(folders) - wanted):
            yield gate_problem("publish-layouts", f"{folder} holds a head that the manifest does not name")


def _parsed(files: Sequence[LocalFile]) -> Card | None:
    file = next((f for f in files if f.path == CARD), None)
    if file is None:
        return None
    text = file.head(file.size).decode("utf-8", errors="replace")
    return parse_card(text, CARD, {f.path for f in files})


def _card(card: Card | None) -> Iterator[Problem]:
    if card is None:
        yield gate_problem("publish-card", f"there is no {CARD}", "write it with eagle3hub card")
        yield gate_problem("publish-license", "there is no card to state a license")
        return
    for finding in lint_card(card):
        if finding.severity == "error":
            yield gate_problem("publish-card", f"{CARD}:{finding.line}: {finding.code} {finding.message}", finding.fix)
    stated = card.listed("license")
    if not stated or "unknown" in stated:
        yield gate_problem("publish-license", "the card's metadata states no license", "add license: to the manifest")
    for link in card.listed("license_link"):
        if "://" not in link and link not in (card.files or ()):
            yield gate_problem("publish-license", f"the card's license_link names {link}, which is not in the folder")


def _recipes(repo_id: str, files: Sequence[LocalFile]) -> Iterator[Problem]:
    """Check the card's commands that start these files with the preflight of each folder."""
    card = next((f for f in files if f.path == CARD), None)
    if card is None or not isinstance(card.source, Path):
        return
    folders = open_folders(card.source.parent, list(head_folders(files)))
    text = card.head(card.size).decode("utf-8", errors="replace")
    for line, what, fix in refused_uses(text, folders, {repo_id}):
        yield gate_problem("publish-recipe", f"{CARD}:{line}: {what}", fix)
    if not measured_well(files):
        for line, what in doubtful_uses(text, folders, {repo_id}):
            yield gate_problem("publish-recipe", f"{CARD}:{line}: {what}", _SETTLE)


_SETTLE = (
    "measure it with eagle3hub validate: a report that passes settles it; or settle it when the head is converted "
    "(eagle3hub inspect says how)"
)


def _terms(
    repo_id: str, files: Sequence[LocalFile], manifest: Manifest | None, card: Card | None
) -> Iterator[Problem]:
    if manifest is None or card is None:
        return
    read = [f for f in files if f.path == CARD or f.path.upper().startswith("NOTICE")]
    texts = [f.head(f.size).decode("utf-8", errors="replace") for f in read]
    stated = card.listed("license")
    for what, fix in unmet_terms(repo_id, manifest.target, stated, texts):
        yield gate_problem("publish-terms", what, fix)


_CLEAN: set[tuple[str, str]] = set()
"""Paths and digests of files in which nothing was found: a release is checked by several steps of one run."""
_MOST_CLEAN = 4096


def _contents(files: Sequence[LocalFile]) -> Iterator[Problem]:
    for file in files:
        found = [] if (file.path, file.sha256) in _CLEAN else list(_content(file))
        if not found and file.sha256:
            if len(_CLEAN) == _MOST_CLEAN:
                _CLEAN.clear()
            _CLEAN.add((file.path, file.sha256))
        yield from found


def _content(file: LocalFile) -> Iterator[Problem]:
    name, kind = safe_path(file.path), file_kind(file.path)
    if _STATES.fullmatch(file.name):
        yield gate_problem("publish-training-state", f"{name} is a trainer's state", "remove it")
    elif _PICKLES.fullmatch(file.name):
        yield gate_problem("publish-pickle", f"{name} is, or may hold, a pickle", "publish safetensors only")
    elif kind is None:
        code = "publish-pickle" if is_executed(file) else "publish-outside"
        yield gate_problem(code, f"{name} does not belong to a release", "move it out of the folder")
    elif why := mismatch(file, kind):
        yield gate_problem(
            "publish-pickle" if is_executed(file) else "publish-kind",
            f"{name} {why}",
            "make it again, or remove it",
        )
    yield from secret_problems(file)


def _signature(files: Sequence[LocalFile]) -> Iterator[Problem]:
    signature = next((f for f in files if f.path == SIGNATURE), None)
    if signature is None:
        return
    try:
        signed = signed_digests(signature.head(signature.size))
    except SourceError as e:
        yield gate_problem("publish-signature", e.message, "remove it, or sign again with --sign KEY")
        return
    here = {f.path: f.sha256 for f in files if f.path not in UNSIGNED}
    for path in sorted(path for path in {*here, *signed} if here.get(path) != signed.get(path)):
        yield gate_problem(
            "publish-signature", f"{path} is not what {SIGNATURE} was made for", "sign again with --sign KEY"
        )


def _names(repo_id: str, files: Sequence[LocalFile]) -> Iterator[Problem]:
    if why := remote.name_fault(repo_id):
        yield gate_problem("publish-name", f"the Hub does not accept {repo_id} as the name of a repository", why)
    seen: dict[str, str] = {}
    for file in files:
        if not file.path.isprintable() or "\\" in file.path or len(file.path) > 255:
            yield gate_problem("publish-name", f"{file.path!r} cannot be the name of a file on the Hub")
        other = seen.setdefault(file.path.lower(), file.path)
        if other != file.path:
            yield gate_problem("publish-name", f"{other} and {file.path} are the same name on some systems")
        if file.size > MAX_FILE:
            yield gate_problem(
                "publish-size", f"{file.path} is larger than 50 GB", "convert with --max-shard-size 5GB"
            )
    if len(files) > MAX_FILES:
        yield gate_problem("publish-size", f"{len(files)} files are more than {MAX_FILES}")
