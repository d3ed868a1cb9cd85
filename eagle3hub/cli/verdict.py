"""The end of a validation, wherever it ran: files, what is printed, and the exit status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from eagle3hub.cli.output import EXIT_OF, emit

if TYPE_CHECKING:
    from eagle3hub.validation.matrix import Matrix
    from eagle3hub.validation.report import Report


def finish(
    result: Report | Matrix, *, report: Path | None, html: Path | None, keep: Path | None = None, as_json: bool
) -> NoReturn:
    """Save and print a result, then leave with the status of its verdict. ``keep`` takes it as a reference file."""
    from eagle3hub.validation.render import render, render_matrix, save_html
    from eagle3hub.validation.report import Report, keep_reference

    if report is not None:
        result.save(report)
    if html is not None:
        save_html(result, html)
    if isinstance(result, Report):
        if keep is not None:
            keep_reference(result, keep)
        found = result
        emit(found.document, lambda out: render(found, out, saved=report), as_json=as_json)
    else:
        matrix = result
        emit(matrix.document, lambda out: render_matrix(matrix, out, saved=report), as_json=as_json)
    raise typer.Exit(EXIT_OF[result.verdict])
