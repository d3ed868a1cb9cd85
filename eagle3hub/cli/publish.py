"""``eagle3hub publish`` and ``eagle3hub verify``: publish to the Hub, and check what is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli.output import EXIT_OF, JsonFlag, ProgressOption, QuietFlag, emit, progress
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
    str | None,
    typer.Option(metavar="auto|manual", help="Readers must ask for access, granted this way.", show_default=False),
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
    _progress: ProgressOption = "text",
) -> None:
    """Publish a release folder to the Hub in one commit, and check that the Hub has it.

    The folder's own release.yaml says where it goes, how private and how gated it is; options may only add to that and
    be stricter. Nothing is sent unless every gate holds: passing reports for exactly these bytes whose numbers follow
    from their counters, a card and charts that are the same when made again, a license, no pickles, links, foreign
    files or secrets. Files that the Hub already has are not sent again. The access token is that of `hf auth login`,
    HF_TOKEN, or in GitHub Actions HF_OIDC_RESOURCE.

    With --dry-run the gates are shown even if the Hub cannot be reached; then nothing is compared with the Hub.

    Exit status: 0 published and verified, or planned; 1 a gate does not hold; 3 the folder cannot be read; 5 the Hub
    failed, and the branch holds either what it held before or everything new.

    Example: eagle3hub publish ./my-head --repo owner/my-head --dry-run
    """
    from eagle3hub.publishing import PublishOptions, PublishPlan
    from eagle3hub.publishing import publish as run

    options = PublishOptions(
        create_pr=create_pr,
        stage=stage,
        private=private,
        branch_per_layout=branch_per_layout,
        tag=tag,
        message=message,
        allow=tuple(allow or ()),
        gated=gated,
        collection=collection,
        sign=sign,
    )
    with progress(quiet=quiet) as report:
        done = run(folder, repo, options, manifest=manifest, dry_run=dry_run, progress=report)
    document = done.to_json()
    emit("publish", document, lambda console: show(document, console), as_json=as_json)
    if isinstance(done, PublishPlan) and done.problems:
        raise typer.Exit(FoundWanting.exit_code)


def verify(
    source: Annotated[
        str, typer.Argument(metavar="REPO", help="owner/name@revision on the Hub, or a release's folder.")
    ],
    digest: Annotated[
        str | None,
        typer.Option(metavar="sha256:…", help="Digest that the heads must have, as `release` printed it."),
    ] = None,
    whole_digest: Annotated[
        str | None,
        typer.Option(metavar="sha256:…", help="Digest that all files of a folder must have.", show_default=False),
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
        str | None, typer.Option(metavar="URL", help="Issuer of that identity.", show_default=False)
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    _progress: ProgressOption = "text",
) -> None:
    """Check a published repository: digests, signature, heads, and everything that follows from its files.

    Reports' numbers and verdicts, the card and its charts are made again and compared.

    With --digest its heads must be those that were converted. A folder has no list of digests yet: --digest checks its
    heads, and --whole-digest every file of it (weights, card, reports, charts), against the digest that another
    machine printed with --print-whole-digest.

    Exit status: 0 everything is as published and can be made again; 1 something differs, or cannot be made again here;
    3 it was not published by this tool; 5 the Hub failed.

    Example: eagle3hub verify hf://owner/my-head@v1
    """
    from eagle3hub.address import HubAddress, parse_address
    from eagle3hub.publishing import Identity, VerifyOptions
    from eagle3hub.publishing import whole_digest as digest_of
    from eagle3hub.publishing.verify import verify as run

    if (identity is None) != (issuer is None):
        raise UsageError(
            "--identity and --issuer go together",
            hint="for GitHub Actions the issuer is https://token.actions.githubusercontent.com",
        )
    if identity is not None and key is not None:
        raise UsageError("a signature is by a key or by an identity", hint="name one")
    by = Identity(identity, issuer) if identity is not None and issuer is not None else key
    at = parse_address(source)
    if print_whole_digest and not isinstance(at, HubAddress):
        if digest or whole_digest:
            raise UsageError("--print-whole-digest checks nothing", hint="leave --digest and --whole-digest out")
        with progress(quiet=quiet) as report:
            found = digest_of(at.path, report)
        emit(
            "whole-digest",
            {"source": source, "whole_digest": found},
            lambda console: console.print(found),
            as_json=as_json,
        )
        return
    options = VerifyOptions(digest, "" if print_whole_digest else whole_digest, by)
    with progress(quiet=quiet) as report:
        document = run(source, options, progress=report).to_json()
    emit("verify", document, lambda console: _show_verified(document, console), as_json=as_json)
    raise typer.Exit(EXIT_OF[document["verdict"]])


def show(doc: dict[str, Any], console: Console) -> None:
    """Print a plan of publishing, or the publication."""
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
            "[yellow]the Hub cannot be reached: the gates were checked, and the folder was compared with nothing[/]"
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
