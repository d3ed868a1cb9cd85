"""Arguments and options that several commands share. Each command sets its own defaults."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from eagle3hub.cli.output import progress, tell
from eagle3hub.errors import UsageError

if TYPE_CHECKING:
    from eagle3hub.engines.base import EngineSettings
    from eagle3hub.layouts.base import ReadOptions

# What a shell completes. Names are found when they are asked for, since finding some of them takes time.


def completing(names: Callable[[], Iterable[str]], *, several: bool = False) -> Callable[[str], list[str]]:
    """Return the completion of an option that takes one of ``names``; ``several``: names with commas between."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        taken = before.split(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(last) and name not in taken]

    return complete


def _engines() -> Iterable[str]:
    from eagle3hub.engines import ENGINES

    return ENGINES


def _reference_and_engines() -> Iterable[str]:
    return ("reference", *_engines())


def _layouts() -> Iterable[str]:
    from eagle3hub.layouts import LAYOUTS

    return LAYOUTS


def _read_layouts() -> Iterable[str]:
    from eagle3hub.layouts import READERS

    return READERS


def _prompt_sets() -> Iterable[str]:
    from eagle3hub.prompts import PACKAGED, datasets

    return (*PACKAGED, *datasets())


def _dtypes() -> Iterable[str]:
    from eagle3hub.engines.base import DTYPES

    return DTYPES


engine_completed, engines_completed = completing(_engines), completing(_reference_and_engines, several=True)
layout_completed, layouts_completed = completing(_layouts), completing(_layouts, several=True)
prompts_completed, sets_completed = completing(_prompt_sets), completing(_prompt_sets, several=True)
dtype_completed = completing(_dtypes)
drafting_completed = completing(lambda: ("greedy", "probabilistic"))
device_completed = completing(lambda: ("cpu", "cuda", "tpu"))

HEAD = "a folder, owner/name@revision, or hf://owner/name@revision/folder"
"""Forms of a head's address, as `eagle3hub.address` reads it."""
TARGET = "a folder, or owner/name@revision on the Hub"

TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        "--verifier",
        metavar="TARGET",
        help=f"Target model: {TARGET}.",
        show_default="the one that the head names",
    ),
]
AnyTargetOption = Annotated[
    str | None, typer.Option("--target", "--verifier", metavar="TARGET", help=f"Target model: {TARGET}.")
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="LAYOUT",
        help="The source's layout; detected if not given.",
        autocompletion=completing(_read_layouts),
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="cpu or cuda.",
        show_default="cuda where there is one, else cpu",
        autocompletion=device_completed,
    ),
]
NumPromptsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Use this many prompts of each set, from its start; fewer than 8 settle nothing.",
        show_default="all",
    ),
]
SecondTurnsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The target's responses to the first turns (--save-responses): measure the second turns, after these.",
        show_default="the first turns",
    ),
]
SystemPromptOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Put this before every prompt.", show_default="none")
]
MaxNewTokensOption = Annotated[int, typer.Option(metavar="N", help="New tokens per prompt.")]
TopKOption = Annotated[int, typer.Option(metavar="N", help="Branches per token, for SGLang's trees; 1 is a chain.")]
NumDraftTokensOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Tokens of a tree that are verified, root included.", show_default="K + 1"),
]
BarOption = Annotated[
    float | None, typer.Option(metavar="X", help="Lowest acceptance length that passes.", show_default="none")
]
DeviceMapOption = Annotated[
    str | None, typer.Option(help="Placement of the reference's target: auto.", show_default="one device")
]
BatchTokensOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Tokens in one pass of the reference's target.", show_default="by device"),
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
TensorParallelOption = Annotated[
    int, typer.Option(metavar="N", help="Devices (on cpu: processes) that each engine is split over.")
]
EngineArgOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[ENGINE.]KEY=VALUE",
        help="Further argument of the engine, as in kv_cache_dtype=fp8.",
        show_default="none",
    ),
]
EngineEnvOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[ENGINE.]NAME=VALUE",
        help="Environment variable of the engine; no secrets: reports hold it.",
        show_default="none",
    ),
]
ChatTemplateArgOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Argument of the target's chat template, as in enable_thinking=false.",
        show_default="none",
    ),
]
TimeoutOption = Annotated[float, typer.Option(metavar="X", help="Seconds for each run of an engine.")]
RunAnywayFlag = Annotated[
    bool, typer.Option("--run-anyway", help="Also start an engine that will refuse these files or read them wrong.")
]
ReportOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the report to this file.", show_default="none")
]
HtmlOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write it as a page for a browser.", show_default="none")
]


def target_of(head: str, given: str | None, *, quiet: bool) -> str:
    """Return the target that was given, else the one that the head names, and say which that is.

    Raises UsageError where the head names none.
    """
    if given:
        return given
    from eagle3hub.validation.target import named_target

    with progress(quiet=quiet) as say:
        named = named_target(head, say)
    if not quiet:
        tell(f"target {named.address}, which {named.file} of the head names\n")
    return named.address


def device_for(
    given: str | None,
    engines: Sequence[str],
    pythons: Mapping[str, str | Path],
    endpoints: Collection[str],
    *,
    quiet: bool,
) -> str:
    """Return the device that was given, else the one that all engines can use, and say so where there is a choice."""
    if given is not None:
        return given
    from eagle3hub.validation.engine_runner import default_device

    device, why = default_device(engines, pythons, endpoints)
    if why is not None and not quiet:
        tell(f"{why}\n")
    return device


def engine_settings(
    ctx: typer.Context,
    names: Sequence[str],
    *,
    tensor_parallel: int,
    engine_arg: list[str] | None,
    engine_env: list[str] | None,
    chat_template_arg: list[str] | None,
    pythons: Mapping[str, str | Path] | None = None,
    attached: Iterable[str] = (),
) -> EngineSettings:
    """Read the four options for a run of the engines ``names``, of which ``attached`` are servers that run already.

    What a manifest says of engines that this run does not start is left out. Raises UsageError as
    `eagle3hub.engines.options.read_engine_settings` does.
    """
    from eagle3hub.engines import ENGINES
    from eagle3hub.engines.environments import version_in
    from eagle3hub.engines.options import read_engine_settings

    started = [name for name in names if name in ENGINES and name not in attached]

    def of_manifest(option: str) -> bool:
        source = ctx.get_parameter_source(option)
        return source is not None and source.name == "DEFAULT_MAP"

    def told(option: str, pairs: list[str] | None) -> list[str]:
        of_others = of_manifest(option)
        return [pair for pair in pairs or [] if not of_others or pair.partition(".")[0] in started]

    return read_engine_settings(
        started,
        tensor_parallel=1 if of_manifest("tensor_parallel") and not started else tensor_parallel,
        engine_arg=told("engine_arg", engine_arg),
        engine_env=told("engine_env", engine_env),
        chat_template_arg=chat_template_arg or [],
        versions={name: found for name in started if (found := version_in(name, pythons))},
    )


# Facts about a source that a user can state.

READ = "What the source does not say, or says wrongly"
_AFTER, _PRE, _TRUE = "after|boundary", "pre|post", "true|false"

AuxLayersOption = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Target layers that feed the head, as in 1,14,26.", rich_help_panel=READ),
]
AuxConventionOption = Annotated[
    str | None,
    typer.Option(
        metavar=_AFTER,
        help="after (default): 0-based layer whose output is taken; boundary: number of layers that have run.",
        rich_help_panel=READ,
    ),
]
NumTargetLayersOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="The target's layers; default aux layers follow.", rich_help_panel=READ),
]
NormOutputOption = Annotated[
    str | None,
    typer.Option(
        metavar=_PRE, help="Feed back the hidden state before or after the final norm.", rich_help_panel=READ
    ),
]
NormBeforeResidualOption = Annotated[
    str | None,
    typer.Option(
        metavar=_TRUE, help="Whether the residual is the hidden state after hidden_norm.", rich_help_panel=READ
    ),
]
RopeThetaOption = Annotated[
    float | None, typer.Option(metavar="X", help="RoPE base the head was trained with.", rich_help_panel=READ)
]
MaskTokenOption = Annotated[
    int | None,
    typer.Option(min=0, metavar="ID", help="P-EAGLE's token for positions not drafted yet.", rich_help_panel=READ),
]
DropOption = Annotated[
    list[str] | None,
    typer.Option(metavar="TENSOR", help="Leave out a tensor that is no part of the head.", rich_help_panel=READ),
]
SuspiciousFlag = Annotated[
    bool,
    typer.Option("--allow-suspicious", help="Read weights even if they look random.", rich_help_panel=READ),
]


def read_options(
    *,
    aux_layers: str | None,
    aux_convention: str | None,
    num_target_layers: int | None,
    norm_output: str | None,
    norm_before_residual: str | None,
    rope_theta: float | None,
    mask_token_id: int | None,
    drop: list[str] | None,
    allow_suspicious: bool,
) -> ReadOptions:
    """Combine the options into one value. Raises UsageError."""
    from eagle3hub.layouts.base import ReadOptions

    if aux_convention is not None and aux_layers is None:
        raise UsageError("--aux-convention says how --aux-layers counts, and there is none", hint="give --aux-layers")
    convention = _choice("--aux-convention", aux_convention, _AFTER) or "after"
    output = _choice("--norm-output", norm_output, _PRE)
    residual = _choice("--norm-before-residual", norm_before_residual, _TRUE)
    return ReadOptions(
        aux_layers=None if aux_layers is None else _numbers("--aux-layers", aux_layers),
        aux_convention=cast("Literal['after', 'boundary']", convention),
        num_target_layers=num_target_layers,
        norm_output=cast("Literal['pre', 'post'] | None", output),
        norm_before_residual=None if residual is None else residual == "true",
        mask_token_id=mask_token_id,
        rope_theta=rope_theta,
        drop=tuple(drop or ()),
        allow_suspicious=allow_suspicious,
    )


def layer_numbers(option: str, text: str | None, convention: str, counted: str | None) -> tuple[int, ...] | None:
    """Layers of the target, given in either numbering, as after-layer ids. Raises UsageError."""
    if text is None:
        if counted is not None:
            raise UsageError(f"{convention} says how {option} counts, and there is none", hint=f"give {option}")
        return None
    given = _choice(convention, counted, _AFTER) or "after"
    return tuple(number - (given == "boundary") for number in _numbers(option, text))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Read ``1,14,26`` as integers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: it must be a list of numbers", hint=f"{option} 1,14,26") from None


def _choice(option: str, text: str | None, allowed: str) -> str | None:
    """Return ``text`` if it is one of the words in ``allowed``; None stays None. Raises UsageError for other words."""
    if text is not None and text not in allowed.split("|"):
        raise UsageError(f"{option} {text}: it must be {allowed.replace('|', ' or ')}")
    return text
