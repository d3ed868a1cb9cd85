"""``eagle3hub demo``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eagle3hub.cli.options import EnginePythonOption
from eagle3hub.cli.output import EXIT_OF, JsonFlag, QuietFlag, emit, progress
from eagle3hub.cli.release import show


def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")] = Path("eagle3hub-demo"),
    engine_python: EnginePythonOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder of an earlier demo.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Release the example head of SmolLM2-135M-Instruct, for real, on this machine's CPU.

    The first run downloads the target model (97 MB) and installs vLLM (2.5 GB on disk) into the cache; after that
    it takes a few minutes.

    Exit status: 0 the release passes; 1 it does not; 4 vLLM or torch is not available; 5 a download failed.

    Example: eagle3hub demo --output ./eagle3hub-demo
    """
    from eagle3hub.releasing.demo import demo as run

    with progress(quiet=quiet) as report:
        made = run(output, engine_python=engine_python, force=force, progress=report)
    document = made.to_json()
    emit(document, lambda console: show(document, console), as_json=as_json)
    raise typer.Exit(EXIT_OF[made.verdict])
