"""``eagle3hub publish`` and ``eagle3hub verify``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli.output import EXIT_OF, JsonFlag, QuietFlag, emit, progress
from eagle3hub.errors import FoundWanting, UsageError

if TYPE_CHECKING:
    from rich.console import Console

_STYLE = {
    "new": "green",
    "changed": "yellow",
    "unchanged": "dim",
    "removed": "red",
    "kept": "dim",
    "unknown": "yellow",
}

TagOption = Annotated[str | None, typer.Option(metavar="TAG", help="Tag the commit.")]
StageFlag = Annotated[bool, typer.Option("--stage", help="Private until everything is verified, then public.")]
PrFlag = Annotated[bool, typer.Option("--create-pr", help="Propose the commit as a pull request.")]
BranchFlag = Annotated[bool, typer.Option("--branch-per-layout", help="Layouts in folders go to branches instead.")]
GatedOption = Annotated[
    str | None, typer.Option(metavar="auto|manual", help="Readers must ask for access, given so.", show_default=False)
]
CollectionOption = Annotated[
    str | None,
    typer.Option(metavar="OWNER/SLUG", help="Add the repository to this collection.", show_default=False),
]
SignOption = Annotated[
    Path | None,
    typer.Option(
        metavar="KEY",
        help="Sign every file with this private key (PEM, elliptic curve); sigstore: with a workflow's identity.",
        show_default=False,
    ),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(metavar="CODE", help="Waive a gate; recorded in the commit message. May be repeated."),
]


def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that eagle3hub release made.")],
    repo: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Repository; default: the one it was made for.", show_default=False),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="release.yaml that the folder must have been made from.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, send nothing.")] = False,
    create_pr: PrFlag = False,
    stage: StageFlag = False,
    private: Annotated[bool, typer.Option("--private", help="A new repository stays private.")] = False,
    branch_per_layout: BranchFlag = False,
    tag: TagOption = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", metavar="TEXT", help="First line of the commit message.")
    ] = None,
    gated: GatedOption = None,
    collection: CollectionOption = None,
    sign: SignOption = None,
    allow: AllowOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Publish a release folder to the Hub in one commit, and check that the Hub has it.

    The folder's own release.yaml says where it goes, how private and how gated: options may add to that and be
    stricter. Nothing is sent unless every gate holds: passing reports for exactly these bytes whose numbers follow
    from their counters, a card and charts that are made again and are the same, a license, no pickles, links, foreign
    files or secrets. What the Hub has already is not sent again. The access
    token is that of `hf auth login`, HF_TOKEN, or in GitHub Actions HF_OIDC_RESOURCE.

    With --dry-run the gates are shown even where the Hub cannot be reached; then nothing is compared with it.

    Exit status: 0 published and verified, or planned; 1 a gate does not hold; 3 the folder cannot be read; 5 the Hub
    failed, and the branch holds either what it held before or everything new.

    Example: eagle3hub publish ./my-head --repo owner/my-head --dry-run
    """
    from eagle3hub.card.folder import MANIFEST
    from eagle3hub.card.manifest import load_manifest
    from eagle3hub.publishing import PublishOptions, made_for, plan_publication, sign_if_asked, upload

    options = PublishOptions(
        create_pr, stage, private, branch_per_layout, tag, message, tuple(allow or ()), gated, collection, sign
    )
    described = load_manifest(manifest) if manifest is not None else None
    name = repo or made_for(folder) or (described.release.repo if described is not None else None)
    if name is None:
        raise UsageError(
            f"there is no {MANIFEST} in {folder} that says where to publish", hint="give --repo OWNER/NAME"
        )
    with progress(quiet=quiet) as report:
        sign_if_asked(folder, options, progress=report)
        plan = plan_publication(folder, name, options, manifest=described, hub_needed=not dry_run, progress=report)
        done = None if dry_run or plan.problems else upload(plan, report)
    document = plan.to_json() if done is None else done.to_json()
    emit(document, lambda console: show(document, console), as_json=as_json)
    if plan.problems:
        raise typer.Exit(FoundWanting.exit_code)


def verify(
    source: Annotated[
        str, typer.Argument(metavar="REPO", help="hf://owner/name@revision, or with --digest a release's folder.")
    ],
    digest: Annotated[
        str | None,
        typer.Option(metavar="sha256:…", help="What the heads must amount to: the digest that `release` told."),
    ] = None,
    whole_digest: Annotated[
        str | None,
        typer.Option(metavar="sha256:…", help="What all files of a folder must amount to.", show_default=False),
    ] = None,
    print_whole_digest: Annotated[
        bool, typer.Option("--print-whole-digest", help="Print the digest of all files of a folder, check nothing.")
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Public key (PEM) that it must be signed with.", show_default=False),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Workflow that must have signed it, with --issuer.", show_default=False),
    ] = None,
    issuer: Annotated[
        str | None, typer.Option(metavar="URL", help="Who vouched for that identity.", show_default=False)
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Check a published repository: digests, signature, heads, and all that follows from its files.

    Reports' numbers and verdicts, the card and its charts are made again and compared.

    With --digest its heads must be those that were converted. A folder has no list of digests yet: it is held to
    --digest, and with --whole-digest every file of it (weights, card, reports, charts) to what one place printed with
    --print-whole-digest and another is to find.

    Exit status: 0 everything is as published and follows; 1 something is not, or cannot be made again here; 3 it was
    not published by this tool; 5 the Hub failed.

    Example: eagle3hub verify hf://owner/my-head@v1
    """
    from eagle3hub.checkpoint.source import HUB
    from eagle3hub.publishing import Identity, made_for, verify_folder, verify_repository
    from eagle3hub.publishing import whole_digest as digest_of

    if (identity is None) != (issuer is None):
        raise UsageError(
            "--identity and --issuer go together",
            hint="for GitHub Actions the issuer is https://token.actions.githubusercontent.com",
        )
    if identity is not None and key is not None:
        raise UsageError("a signature is by a key or by an identity", hint="name one")
    by = Identity(identity, issuer) if identity is not None and issuer is not None else key

    local = not source.startswith(HUB)
    if not local and (whole_digest is not None or print_whole_digest):
        raise UsageError(
            "a digest of all files is of a folder, not of a repository", hint="what was published has its SHA256SUMS"
        )
    if print_whole_digest:
        if digest or whole_digest:
            raise UsageError("--print-whole-digest checks nothing", hint="leave --digest and --whole-digest out")
        with progress(quiet=quiet) as report:
            found = digest_of(Path(source), report)
        emit({"source": source, "whole_digest": found}, lambda console: console.print(found), as_json=as_json)
        return
    if local and digest is None and whole_digest is None and made_for(source) is None:
        raise UsageError(
            f"nothing says what {source} should hold",
            hint="give --digest or --whole-digest, a release folder, or hf://owner/name for what was published",
        )
    with progress(quiet=quiet) as report:
        if local:
            document = verify_folder(source, digest, report, whole=whole_digest).to_json()
        else:
            document = verify_repository(source, digest, report, by=by).to_json()
    emit(document, lambda console: _show_verified(document, console), as_json=as_json)
    raise typer.Exit(EXIT_OF[document["verdict"]])


def show(doc: dict[str, Any], console: Console) -> None:
    """Print a plan, or what became of it."""
    from rich.markup import escape
    from rich.table import Table

    kind = "pull request" if doc["create_pr"] else "commit"
    there = {None: "not compared", True: "exists", False: "new"}[doc["exists"]]
    gated = f", access by asking ({doc['gated']})" if doc["gated"] else ""
    console.print(f"[bold]{escape(doc['repo'])}[/]  {there}, {doc['visibility']}{gated}")
    console.print(f"  {kind}: {escape(doc['message'])}" + (f", tag {escape(doc['tag'])}" if doc["tag"] else ""))
    if doc["collection"]:
        console.print(f"  collection: {escape(doc['collection'])}" + (", in it already" if doc["collected"] else ""))
    for commit in doc["commits"]:
        table = Table("file", "bytes", "SHA-256", "")
        for f in commit["files"]:
            state = f"[{_STYLE[f['state']]}]{f['state']}[/]"
            table.add_row(escape(f["path"]), f"{f['size']:,}", f["sha256"][:16], state)
        for state in ("removed", "kept"):
            for path in commit[state]:
                table.add_row(escape(path), "", "", f"[{_STYLE[state]}]{state}[/]")
        console.print(f"{escape(commit['branch'])}" + ("" if commit["needed"] else ": nothing to upload"))
        console.print(table)
    if not doc["compared"]:
        console.print(
            "[yellow]the Hub cannot be reached: the folder was held to the gates, and compared with nothing[/]"
        )
    for problem in doc["waived"]:
        console.print(f"[yellow]waived[/] {problem['code']} {escape(problem['message'])}")
    for problem in doc["problems"]:
        console.print(f"[red]refused[/] {problem['code']} {escape(problem['message'])}")
        if problem["hint"]:
            console.print(f"    fix: {escape(problem['hint'])}")
    for made in doc.get("published", ()):
        sent = sum(len(paths) for paths in doc["uploaded"].values())
        console.print(
            f"[green]published and verified[/] {escape(made['ref'])} at {made['commit']} ({sent} files sent)"
        )
    if doc["problems"]:
        console.print("nothing was sent")


def _show_verified(doc: dict[str, Any], console: Console) -> None:
    from rich.markup import escape

    for fault in doc["faults"]:
        console.print(f"[red]differs[/] {escape(fault)}")
    for head in doc["heads"]:
        console.print(f"head in {escape(head['folder'] or 'the root')}: {head['layout']}")
    if doc["signature"]:
        console.print(f"signature: {doc['signature']}")
    for path in doc["unlisted"]:
        console.print(f"not listed: {escape(path)}")
    for what in doc["waived"]:
        console.print(f"[yellow]waived[/] {escape(what)}")
    for what in doc["unchecked"]:
        console.print(f"[yellow]not checked[/] {escape(what)}")
    colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[doc["verdict"]]
    verdict = f"[{colour}]{doc['verdict']}[/]"
    if doc["commit"] is None:
        console.print(f"{verdict}  {escape(doc['source'])}: {len(doc['heads'])} head{'s' * (len(doc['heads']) != 1)}")
        return
    console.print(f"{verdict}  {escape(doc['source'])} at {doc['commit']}: {len(doc['files'])} files as published")
