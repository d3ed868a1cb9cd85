"""Take an EAGLE-3 draft head from the trainer's folder to a public release.

The functions here are what the command line calls, with the same options and the same errors. They are imported on
first use, so that ``import eagle3hub`` is cheap and never needs torch. docs/api.md describes them.

``eagle3hub.open`` is not in ``__all__``: ``from eagle3hub import *`` leaves the builtin ``open`` alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eagle3hub._version import __version__

if TYPE_CHECKING:
    from eagle3hub.benchmarking.compare import ReportComparison, compare_reports
    from eagle3hub.benchmarking.plan import BenchOptions
    from eagle3hub.benchmarking.results import Results
    from eagle3hub.benchmarking.session import bench
    from eagle3hub.card.assemble import RenderedCard, render_card
    from eagle3hub.comparison import CompareOptions, Comparison, compare
    from eagle3hub.conversion.edits import Transforms
    from eagle3hub.conversion.plan import ConvertOptions
    from eagle3hub.conversion.run import Conversion, convert
    from eagle3hub.engines.base import EngineSettings
    from eagle3hub.errors import (
        CheckpointError,
        ConfigError,
        Eagle3HubError,
        FoundWanting,
        HubError,
        InputError,
        InternalError,
        LayoutError,
        ManifestError,
        OutputError,
        Problem,
        Refusal,
        SourceError,
        TensorError,
        UnavailableError,
        UsageError,
        VocabMapError,
    )
    from eagle3hub.head import Head
    from eagle3hub.inspection import Inspection, InspectOptions, inspect
    from eagle3hub.layouts import open_head
    from eagle3hub.layouts.base import ReadOptions
    from eagle3hub.lint.source import LintResult, lint_card
    from eagle3hub.publishing.plan import PublishOptions, PublishPlan
    from eagle3hub.publishing.signing import Identity
    from eagle3hub.publishing.upload import Published, publish
    from eagle3hub.publishing.verify import Verified, VerifyOptions, verify
    from eagle3hub.releasing.heads import release
    from eagle3hub.releasing.release import Release, ReleaseOptions
    from eagle3hub.system.progress import ShownProgress
    from eagle3hub.validation import ValidateOptions, validate
    from eagle3hub.validation.replay import Replay, ReplayOptions, replay
    from eagle3hub.validation.report import Report

    open = open_head

_ERRORS = """
    CheckpointError ConfigError Eagle3HubError FoundWanting HubError InputError InternalError LayoutError ManifestError
    OutputError Problem Refusal SourceError TensorError UnavailableError UsageError VocabMapError
"""
_PLACES = {
    "benchmarking.compare": "ReportComparison compare_reports",
    "benchmarking.plan": "BenchOptions",
    "benchmarking.results": "Results",
    "benchmarking.session": "bench",
    "card.assemble": "RenderedCard render_card",
    "comparison": "CompareOptions Comparison compare",
    "conversion.edits": "Transforms",
    "conversion.plan": "ConvertOptions",
    "conversion.run": "Conversion convert",
    "engines.base": "EngineSettings",
    "errors": _ERRORS,
    "head": "Head",
    "inspection": "InspectOptions Inspection inspect",
    "layouts.base": "ReadOptions",
    "lint.source": "LintResult lint_card",
    "publishing.plan": "PublishOptions PublishPlan",
    "publishing.signing": "Identity",
    "publishing.upload": "Published publish",
    "publishing.verify": "Verified VerifyOptions verify",
    "releasing.heads": "release",
    "releasing.release": "Release ReleaseOptions",
    "system.progress": "ShownProgress",
    "validation": "ValidateOptions validate",
    "validation.replay": "Replay ReplayOptions replay",
    "validation.report": "Report",
}
_WHERE = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = [
    "BenchOptions",
    "CheckpointError",
    "CompareOptions",
    "Comparison",
    "ConfigError",
    "Conversion",
    "ConvertOptions",
    "Eagle3HubError",
    "EngineSettings",
    "FoundWanting",
    "Head",
    "HubError",
    "Identity",
    "InputError",
    "InspectOptions",
    "Inspection",
    "InternalError",
    "LayoutError",
    "LintResult",
    "ManifestError",
    "OutputError",
    "Problem",
    "PublishOptions",
    "PublishPlan",
    "Published",
    "ReadOptions",
    "Refusal",
    "Release",
    "ReleaseOptions",
    "RenderedCard",
    "Replay",
    "ReplayOptions",
    "Report",
    "ReportComparison",
    "Results",
    "ShownProgress",
    "SourceError",
    "TensorError",
    "Transforms",
    "UnavailableError",
    "UsageError",
    "ValidateOptions",
    "Verified",
    "VerifyOptions",
    "VocabMapError",
    "__version__",
    "bench",
    "compare",
    "compare_reports",
    "convert",
    "inspect",
    "lint_card",
    "publish",
    "release",
    "render_card",
    "replay",
    "validate",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "open":
        return import_module("eagle3hub.layouts").open_head
    if name not in _WHERE:
        raise AttributeError(f"module 'eagle3hub' has no attribute {name!r}")
    return getattr(import_module(f"eagle3hub.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "open"])
