"""``eagle3hub card``: write a release's model card, or check any card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from eagle3hub.cli.output import JsonFlag, console, emit, json_text, write
from eagle3hub.cli.parameters import HEAD
from eagle3hub.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from eagle3hub.lint.source import LintResult


class _WriteByDefault(TyperGroup):
    """Reads ``eagle3hub card SOURCE`` as ``eagle3hub card write SOURCE``, unless SOURCE is a command's name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``write`` in front of arguments that name no command."""
        named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["write", *args])


app = typer.Typer(
    cls=_WriteByDefault,
    help="Write, check, start and preview model cards. Without a command's name: write.\n\n"
    "Example: eagle3hub card release.yaml --output README.md\n\nExample: eagle3hub card --check hf://owner/name",
)
_STYLE = {"error": "red", "warning": "yellow", "info": "cyan"}


@app.command("write")
def card(
    manifest: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="The release's manifest; with --check also Markdown, a folder, or owner/name on the Hub.",
            show_default=False,
        ),
    ],
    report: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A report to print; may be repeated.", show_default="those the manifest names"
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="A folder of the release; may be repeated, the first is described.",
            show_default="the manifest's",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Complete a folder that holds heads and reports: write its card, charts and record.",
            show_default="none",
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="File to write, or - for standard output.")
    ] = "-",
    templates: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of templates that replace the shipped ones.", show_default="none"),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the card instead of writing it.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="With --check: warnings fail too.")] = False,
    sarif: Annotated[bool, typer.Option("--sarif", help="With --check: print SARIF 2.1.0 and nothing else.")] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="A gate that publishing will waive; the card says so. May be repeated."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the model card of a release from its manifest, its reports and the head's files, or check any card.

    The release.yaml inside a release folder gives that folder's card again, byte for byte.

    With --check nothing is written: any card is checked against the rules of docs/lint.md on citations, numbers,
    words, conditions, recipes, license, metadata, links and claims.

    Exit status: 0 written, or checked without an error; 1 checked, with errors; 3 manifest, card, report, head or
    template cannot be used, or the file cannot be written; 5 the Hub failed.

    Example: eagle3hub card release.yaml --report report.json --head ./head --output README.md

    Example: eagle3hub card --check hf://owner/name
    """
    if not check:
        if strict or sarif:
            raise UsageError(f"--{'strict' if strict else 'sarif'} needs --check", hint="add --check")
        if folder is not None:
            if report or head or output != "-":
                hint = "leave them out: the folder holds its heads and reports, and its card is its README.md"
                raise UsageError("--folder cannot be used with --report, --head or --output", hint=hint)
            _complete(manifest, folder, templates, allow, as_json)
            return
        _write(manifest, report, head, output, templates, allow, as_json)
        return
    if folder is not None:
        raise UsageError("--folder cannot be used with --check", hint="name the folder itself: card --check DIR")
    if allow:
        raise UsageError("--allow cannot be used with --check", hint="leave it out")
    if output != "-":
        raise UsageError("--output cannot be used with --check", hint="redirect standard output")
    if sarif and as_json:
        raise UsageError("--sarif and --json are two formats", hint="name one")
    from eagle3hub.lint.source import lint_card

    found = lint_card(manifest, reports=report or (), heads=head or (), templates=templates)
    if sarif:
        from eagle3hub.lint.source import to_sarif

        write(json_text(to_sarif(found)) + "\n")
    else:
        emit("lint", found.to_json(), lambda out: _print(found, out), as_json=as_json)
    if found.failed(strict=strict):
        raise typer.Exit(1)


@app.command()
def init(
    head: Annotated[str, typer.Argument(help=f"The draft head: {HEAD}.", show_default=False)],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "--verifier",
            metavar="TARGET",
            help="Hub id of the target, with its revision if it is not the default.",
            show_default=False,
        ),
    ],
    repo: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Hub id to publish to.", show_default="made of the target's"),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Manifest to write; an existing file is refused.")
    ] = Path("release.yaml"),
) -> None:
    """Write a commented release.yaml to start from, filled with what the head's files say.

    Exit status: 0 written; 2 not a Hub id, or the file exists; 3 head cannot be read, or the file cannot be written.

    Example: eagle3hub card init ./head --target Qwen/Qwen3-8B
    """
    from eagle3hub.card.starter import write_starter

    write_starter(head, target, repo, output)
    console().print(f"wrote {output}", markup=False)


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A result of vllm bench serve, AIPerf, specdec_bench, SpecForge, or a speculation_profile.json.",
            show_default=False,
        ),
    ],
    measured_by: Annotated[
        str,
        typer.Option(metavar="WHO", help="Who measured, for example: the authors of the head.", show_default=False),
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it to this file.", show_default="standard output")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Turn a result of another tool into measurements for a card, with its file, digest, tool and conditions.

    What the file does not say stays out, and the card says that it was not reported; add by hand what you know. Name
    the result under `imported` in release.yaml.

    Exit status: 0; 3 the file is of no known tool, or its numbers cannot be.

    Example: eagle3hub card import bench.json --measured-by "the authors of the head" --output imported/bench.yaml
    """
    from eagle3hub.card.exchange import import_result
    from eagle3hub.checkpoint.destination import check_place
    from eagle3hub.checkpoint.staging import replace_file

    if output is not None:
        check_place(output)
    found = import_result(file)
    text = found.to_yaml(measured_by)
    if output is not None:
        replace_file(output, text.encode())

    def human(out: Console) -> None:
        if output is None:
            write(text)
            return
        out.print(f"{len(found.measurements)} tables of {found.tool}: {output}", markup=False, soft_wrap=True)

    emit("imported", found.to_json(measured_by), human, as_json=as_json)


@app.command()
def preview(
    source: Annotated[Path, typer.Argument(help="A card (README.md) or a manifest.", show_default=False)],
    port: Annotated[int, typer.Option(metavar="N", help="Port on this machine; 0 is any free one.")] = 8313,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the page to this file and stop.", show_default="serve"
        ),
    ] = None,
) -> None:
    """Show a card as the Hub would: metadata, tables and charts, light and dark, reloaded when a file changes.

    The page is served on this machine only (127.0.0.1), until interrupted.

    Exit status: 0 written; 3 card, manifest or port cannot be used; 130 interrupted.

    Example: eagle3hub card preview README.md
    """
    from eagle3hub.card import preview as previews

    if output is not None:
        previews.write_page(source, output)
        console().print(f"wrote {output}", markup=False)
        return
    with previews.server(source, port) as served:
        console().print(f"http://127.0.0.1:{served.server_port}/ (stop with Ctrl-C)", markup=False)
        served.serve_forever()


def _complete(manifest: str, folder: Path, templates: Path | None, allow: list[str] | None, as_json: bool) -> None:
    from eagle3hub.card.folder import complete
    from eagle3hub.publishing.gates import check_gate_codes

    made = complete(folder, manifest, waived=check_gate_codes(allow or ()), templates=templates)
    document = {
        "manifest": manifest,
        "repo": made.manifest.release.repo,
        "folder": str(folder),
        "charts": sorted(made.charts),
    }
    emit(
        "card-folder",
        document,
        lambda out: out.print(f"made the release folder {folder}", markup=False),
        as_json=as_json,
    )


def _write(
    manifest: str,
    report: list[Path] | None,
    head: list[str] | None,
    output: str,
    templates: Path | None,
    allow: list[str] | None,
    as_json: bool,
) -> None:
    from eagle3hub.card.assemble import render_card
    from eagle3hub.publishing.gates import check_gate_codes

    made = render_card(
        manifest,
        reports=report or (),
        heads=head or (),
        output=None if output == "-" else output,
        templates=templates,
        waived=check_gate_codes(allow or ()),
    )
    if not as_json and made.output is None:
        write(made.text)
        return

    def human(out: Console) -> None:
        out.print(f"wrote {made.output}", markup=False)

    emit("card", made.to_json(), human, as_json=as_json)
    for what, why in () if as_json else made.warnings:
        console(stderr=True).print(f"warning: {what}: {why}", markup=False)


def _print(found: LintResult, out: Console) -> None:
    from rich.markup import escape

    from eagle3hub.lint.model import RULES
    from eagle3hub.system.text import visible

    explained: set[str] = set()
    for f in found.findings:
        place = escape(f"{found.uri}:{f.line}:")
        out.print(f"{place} [{_STYLE[f.severity]}]{f.severity}[/] {f.code} {escape(visible(f.message))}")
        if f.code not in explained:
            explained.add(f.code)
            out.print(f"    [dim]{escape(RULES[f.code].title)}. {escape(f.why)}[/]")
        out.print(f"    fix: {escape(visible(f.fix))}")
    counts = found.counts
    shown = ", ".join(f"{n} {name}{'s' if n != 1 and name != 'info' else ''}" for name, n in counts.items() if n)
    out.print(escape(f"{found.uri}: {shown or 'nothing to report'}"))
