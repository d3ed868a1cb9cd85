"""``eagle3hub publish`` and ``eagle3hub verify``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli.output import JsonFlag, QuietFlag, emit, progress
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
        str | None, typer.Option(metavar="OWNER/NAME", help="Repository; default: the manifest's.", show_default=False)
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="release.yaml: which engines and layouts are demanded.")
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

    Nothing is sent unless every gate holds: a passing report for exactly these bytes, a card without errors, a
    license, no pickles, links, foreign files or secrets. What the Hub has already is not sent again. The access
    token is that of `hf auth login`, HF_TOKEN, or in GitHub Actions HF_OIDC_RESOURCE.

    With --dry-run the gates are shown even where the Hub cannot be reached; then nothing is compared with it.

    Exit status: 0 published and verified, or planned; 1 a gate does not hold; 3 the folder cannot be read; 5 the Hub
    failed, and the branch holds either what it held before or everything new.

    Example: eagle3hub publish ./my-head --repo owner/my-head --dry-run
    """
    from eagle3hub.card.manifest import load_manifest
    from eagle3hub.publishing import Settings, make_plan, upload
    from eagle3hub.publishing import sign as sign_it

    settings = Settings(
        create_pr, stage, private, branch_per_layout, tag, message, tuple(allow or ()), gated, collection, sign
    )
    described = load_manifest(manifest) if manifest is not None else None
    name = repo or (described.release.repo if described is not None else None)
    if name is None:
        raise UsageError("nobody said where to publish", hint="give --repo OWNER/NAME or --manifest release.yaml")
    with progress(quiet=quiet) as report:
        sign_it(folder, settings, progress=report)
        plan = make_plan(folder, name, settings, manifest=described, hub_needed=not dry_run, progress=report)
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
    """Check a published repository: every byte against its list of digests, its signature, the card, the heads.

    With --digest its heads must be those that were converted; a folder, which has no list of digests yet, is held to
    nothing else.

    Exit status: 0 everything is as published; 1 something is not; 3 it was not published by this tool; 5 the Hub
    failed.

    Example: eagle3hub verify hf://owner/my-head@v1
    """
    from eagle3hub.checkpoint.source import HUB
    from eagle3hub.publishing import Identity, verify_folder, verify_repository

    if (identity is None) != (issuer is None):
        raise UsageError(
            "--identity and --issuer go together",
            hint="for GitHub Actions the issuer is https://token.actions.githubusercontent.com",
        )
    if identity is not None and key is not None:
        raise UsageError("a signature is by a key or by an identity", hint="name one")
    by = Identity(identity, issuer) if identity is not None and issuer is not None else key

    local = not source.startswith(HUB)
    if local and digest is None:
        raise UsageError(
            f"nothing says what {source} should hold", hint="give --digest, or hf://owner/name for what was published"
        )
    with progress(quiet=quiet) as report:
        if local and digest is not None:
            document = verify_folder(source, digest, report).to_json()
        else:
            document = verify_repository(source, digest, report, by=by).to_json()
    emit(document, lambda console: _show_verified(document, console), as_json=as_json)
    if document["faults"]:
        raise typer.Exit(FoundWanting.exit_code)


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
    verdict = "[red]fail[/]" if doc["faults"] else "[green]pass[/]"
    if doc["commit"] is None:
        console.print(f"{verdict}  {escape(doc['source'])}: {len(doc['heads'])} heads")
        return
    console.print(f"{verdict}  {escape(doc['source'])} at {doc['commit']}: {len(doc['files'])} files as published")
