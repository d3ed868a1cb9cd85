"""Options that mean the same in several commands. Defaults stand with the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TargetOption = Annotated[
    str, typer.Option("--target", "--verifier", help="Target model: a folder or a Hub id.", show_default=False)
]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
NumPromptsOption = Annotated[
    int | None,
    typer.Option(help="Use the first so many prompts of each set; fewer than 8 settle nothing.", show_default="all"),
]
MaxNewTokensOption = Annotated[int, typer.Option(help="New tokens per prompt.")]
TopKOption = Annotated[int, typer.Option(help="Branches per token, for SGLang's trees; 1 is a chain.")]
NumDraftTokensOption = Annotated[
    int | None, typer.Option(help="Tokens of a tree that are verified, root included.", show_default="K + 1")
]
BarOption = Annotated[float | None, typer.Option(help="Bar for the acceptance length.", show_default="none")]
DeviceMapOption = Annotated[
    str | None, typer.Option(help="Placement of the reference's target: auto.", show_default="one device")
]
BatchTokensOption = Annotated[
    int | None, typer.Option(help="Tokens in one pass of the reference's target.", show_default="by device")
]
TargetNameOption = Annotated[
    str | None, typer.Option(help="What the results call the target.", show_default="its name")
]
EnginePythonOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ENGINE=PATH", help="Interpreter that has the engine.", show_default="installed"),
]
EndpointOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ENGINE=URL", help="Attach to this running server of vllm or sglang.", show_default="none"),
]
TimeoutOption = Annotated[float, typer.Option(help="Seconds for each run of an engine.")]
RunAnywayFlag = Annotated[
    bool, typer.Option("--run-anyway", help="Start also an engine that will not get these files right.")
]
ReportOption = Annotated[Path | None, typer.Option(help="Write the report to this file.", show_default="none")]
HtmlOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write it as a page for a browser.", show_default="none")
]
