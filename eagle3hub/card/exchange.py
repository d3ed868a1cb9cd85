"""Files of other tools: ModelOpt's speculation profile, what Dynamo's simulator takes, and results to import.

Each format is stated once, beside the function that reads it, with the source that it was read from. What a file does
not say is not said here either.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.card.imported import check_imported
from eagle3hub.errors import ManifestError, UsageError
from eagle3hub.metrics import PromptRow
from eagle3hub.system.documents import nearly_equal, parse_yaml, read_document
from eagle3hub.system.reading import read_bytes
from eagle3hub.validation.derive import check_derived, head_name
from eagle3hub.validation.report import Entry, Report

MAX_BYTES = 64 << 20
Document = Mapping[str, Any]

# ModelOpt's speculation_profile.json, schema_version 1.0, as specdec_bench/speculation_profile.py writes it
# (`examples/specdec_bench` of NVIDIA/Model-Optimizer at 095124e9; pull requests 2247, 2313, 2315 and 2316, open in
# November 2026).
#
# Position i (from 0) of a vector concerns the draft token i + 1. `conditional_accept_rates` are what Dynamo wants,
# `marginal_accept_rates` what vLLM's synthetic sampler wants. The histogram counts the tokens of a round, the target's
# own included, so position i belongs to length i + 2. `mean_accept_length` is over rounds, and is 1 + the sum of the
# marginal rates; `mean_accept_length_per_request` is the mean of the requests' own. Rates have six digits.

PROFILE = "speculation_profile.json"
PROFILE_VERSION = "1.0"
_DIGITS = 6
_TOLERANCE = 0.02
"""How far the mean may lie from the one that the rates imply: the producer's own."""
_ROUNDING = 5e-6


@dataclass(frozen=True, slots=True)
class SpeculationProfile:
    """What a speculation profile says of a draft.

    Attributes:
        method: ``eagle3`` for all that we measure; None where the file does not say.
        draft, target: names of the checkpoints, or empty. draft_tokens: K.
        conditional, marginal: rates by draft position, each in [0, 1].
        mean, mean_per_request: acceptance lengths over rounds, and of requests averaged; the second may be None.
        histogram: rounds by the tokens that they gave, 1 to K + 1; empty where the file does not say.
        per_category: acceptance length by category. conditions: how it was measured.
    """

    method: str | None
    draft: str
    target: str
    draft_tokens: int
    conditional: tuple[float, ...]
    marginal: tuple[float, ...]
    mean: float
    mean_per_request: float | None = None
    histogram: Mapping[int, int] = field(default_factory=dict)
    per_category: Mapping[str, float] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document, with every field of schema 1.0 in its order."""
        marginal = [round(rate, _DIGITS) for rate in self.marginal]
        mean, implied = round(self.mean, _DIGITS), 1 + math.fsum(marginal)
        delta = abs(implied - mean)
        chain = self.conditions.get("topk", 1) == 1
        return {
            "schema_version": PROFILE_VERSION,
            "measured": True,
            "method": self.method,
            "draft_checkpoint": {"path": self.draft} if self.draft else None,
            "target_model": {"path": self.target} if self.target else None,
            "num_speculative_tokens": self.draft_tokens,
            "block_size": None,
            "max_supported_k": self.draft_tokens,
            "verification_method": "longest_prefix",
            "conditional_accept_rates": [round(rate, _DIGITS) for rate in self.conditional],
            "marginal_accept_rates": marginal,
            "mean_accept_length": mean,
            "mean_accept_length_per_request": _rounded(self.mean_per_request),
            # a chain of K tokens begins with the chain of K - 1: the rates hold for every smaller K
            "accept_length_model": "chain_analytic" if self.method == "eagle3" and chain else "measured_per_k",
            "accept_length_by_k": {str(self.draft_tokens): mean},
            "acceptance_length_histogram": {str(n): count for n, count in self.histogram.items()} or None,
            "per_category": {name: _rounded(mean) for name, mean in self.per_category.items()} or None,
            "measurement_conditions": dict(self.conditions) or None,
            "validation": {
                "mean_consistency": {
                    "implied_mean_accept_length": round(implied, _DIGITS),
                    "reported_mean_accept_length": mean,
                    "abs_delta": round(delta, _DIGITS),
                    "tolerance": _TOLERANCE,
                    "passed": delta <= _TOLERANCE,
                },
                "marginal_monotonicity": {"passed": True, "violations": []},
            },
        }

    def for_dynamo(self) -> dict[str, Any]:
        """Return the arguments of Dynamo's mocker, a file for its ``--extra-engine-args``.

        ``aic_nextn`` is 1 to 5, ``aic_nextn_accept_rates`` are that many conditional rates as text with commas
        (``MockEngineArgs`` of ai-dynamo/dynamo 1.5.0; `components/src/dynamo/mocker`, `_internal/aic.py`). Of a longer
        chain these are the first five. ``dynamo.replay`` ignores the flags of the same names (issue 13517) and obeys
        this file.
        """
        rates = [round(rate, _DIGITS) for rate in self.conditional[:5]]
        return {"aic_nextn": len(rates), "aic_nextn_accept_rates": ",".join(f"{rate:g}" for rate in rates)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def profile_of(report: Report, engine: str | None = None, *, sha256: str = "") -> SpeculationProfile:
    """Return the profile of what an engine counted in a report.

    Args:
        engine: its name; None: the first engine that counted, rather than the reference.
        sha256: of the report's file, for the conditions.

    Raises UsageError (``profile-engine``) where that engine counted nothing.
    """
    counted = {entry.engine: entry for entry in report.engines if entry.counted and entry.acceptance}
    chosen = engine or next((name for name in counted if name != "reference"), next(iter(counted), None))
    entry = counted.get(chosen or "")
    if entry is None:
        raise UsageError(
            f"the report has no rounds of {engine}" if engine else "no engine of the report counted a round",
            hint=f"engines with rounds: {', '.join(counted)}" if counted else None,
            code="profile-engine",
        )
    return _profile_of(report, entry, sha256)


def _profile_of(report: Report, entry: Entry, sha256: str) -> SpeculationProfile:
    assert entry.counted is not None
    rows = [row for row in entry.counted.per_prompt if row.counts.rounds]
    settings = report.settings
    rounds = sum(row.counts.rounds for row in rows)
    reached = [
        rounds,
        *(sum(row.counts.accepted_per_position[i] for row in rows) for i in range(settings.draft_tokens)),
    ]
    conditions = {
        "dataset": report.prompts.name,
        "prompts_sha256": report.prompts.sha256,
        "num_samples": len(rows),
        "osl": settings.max_new_tokens,
        "temperature": settings.temperature,
        "concurrency": settings.concurrency,
        "engine": entry.engine,
        "engine_version": entry.version,
        "device": entry.device,
        "dtype": entry.dtype,
        "head_digest": report.head.digest,
        "tool": {"name": "eagle3hub", "version": __version__},
        **({"report_sha256": sha256} if sha256 else {}),
    }
    topk = getattr(settings, "topk", None)
    return SpeculationProfile(
        method="eagle3",
        draft=head_name(report.head.source),
        target=report.target.name,
        draft_tokens=settings.draft_tokens,
        conditional=tuple(b / a if a else 0.0 for a, b in pairwise(reached)),
        marginal=tuple(count / rounds for count in reached[1:]),
        mean=1 + sum(reached[1:]) / rounds,
        mean_per_request=_mean([_length(row) for row in rows]),
        histogram={n: a - b for n, (a, b) in enumerate(zip(reached, [*reached[1:], 0], strict=True), start=1)},
        per_category={
            name: _mean([_length(row) for row in rows if row.category == name])
            for name in sorted({row.category for row in rows})
        },
        conditions=conditions | ({"topk": topk} if topk not in (None, 1) else {}),
    )


def _length(row: PromptRow) -> float:
    return 1 + sum(row.counts.accepted_per_position) / row.counts.rounds


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def read_profile(document: Document, name: str) -> SpeculationProfile:
    """Read a speculation profile and hold its numbers against each other.

    Raises ManifestError: another version (``profile-version``), a stub without a measurement (``profile-unmeasured``),
    a missing or wrong field (``profile-field``), numbers that cannot be (``profile-numbers``).
    """
    if document.get("schema_version") != PROFILE_VERSION:
        raise ManifestError(
            f"{name}: schema_version is {document.get('schema_version')!r}, and {PROFILE_VERSION} is known here",
            hint="write it with a ModelOpt that this version knows, or import another file of the same run",
            code="profile-version",
        )
    if document.get("measured") is not True:
        raise ManifestError(f"{name}: it is a stub, measured is not true", code="profile-unmeasured")
    take = _Taker(document, name)
    k = take.number("num_speculative_tokens", 1, 64)
    conditional, marginal = take.rates("conditional_accept_rates"), take.rates("marginal_accept_rates")
    mean = take.number("mean_accept_length", 1, k + 1)
    per_request = document.get("mean_accept_length_per_request")
    if k != int(k) or len(conditional) != k or len(marginal) != k:
        raise take.numbers(f"K is {k:g}, and there are rates of {len(conditional)} and {len(marginal)} positions")
    before = 1.0
    for i, (c, m) in enumerate(zip(conditional, marginal, strict=True)):
        if m > before + _ROUNDING:
            raise take.numbers(f"more rounds accept position {i} than the one before it: {m:g} after {before:g}")
        if abs(m - c * before) > _ROUNDING:
            raise take.numbers(
                f"at position {i} the marginal rate {m:g} is not {c:g} of the one before it, {before:g}"
            )
        before = m
    if abs(1 + sum(marginal) - mean) > _TOLERANCE:
        raise take.numbers(
            f"mean_accept_length is {mean:g}, and the rates imply {1 + sum(marginal):.4f}: K may be larger than stated"
        )
    histogram = document.get("acceptance_length_histogram") or {}
    categories = document.get("per_category") or {}
    return SpeculationProfile(
        method=document.get("method"),
        draft=_path(document.get("draft_checkpoint")),
        target=_path(document.get("target_model")),
        draft_tokens=int(k),
        conditional=tuple(conditional),
        marginal=tuple(marginal),
        mean=mean,
        mean_per_request=None if per_request is None else take.number("mean_accept_length_per_request", 1, k + 1),
        histogram={int(n): int(count) for n, count in histogram.items()} if _plain(histogram) else {},
        per_category=dict(categories) if _plain(categories) else {},
        conditions=document.get("measurement_conditions") or {},
    )


def _plain(values: object) -> bool:
    return isinstance(values, dict) and all(isinstance(value, int | float) for value in values.values())


def _path(checkpoint: object) -> str:
    return str(checkpoint.get("path") or "") if isinstance(checkpoint, dict) else ""


class _Taker:
    """Takes numbers from a document of another tool; every error names the file and the field."""

    def __init__(self, document: Document, name: str) -> None:
        self._document, self._name = document, name

    def number(self, key: str, low: float, high: float) -> float:
        """Return a number in a range. Raises ManifestError (``profile-field``, ``profile-numbers``)."""
        value = self._document.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.lacks(key)
        if not low <= value <= high:
            raise self.numbers(f"{key} is {value:g}, which is not between {low:g} and {high:g}")
        return float(value)

    def rates(self, key: str) -> list[float]:
        """Return a list of rates in [0, 1]. Raises ManifestError (``profile-field``, ``profile-numbers``)."""
        values = self._document.get(key)
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            raise self.lacks(key)
        for value in values:
            if not 0 <= value <= 1:
                raise self.numbers(f"{key} holds {value:g}, which is no rate between 0 and 1")
        return [float(value) for value in values]

    def lacks(self, key: str) -> ManifestError:
        """An error for a field that is missing or of another type."""
        return ManifestError(
            f"{self._name}: the field {key!r} is missing, or not what it should be",
            hint="give the file as the tool wrote it",
            code="profile-field",
        )

    def numbers(self, what: str) -> ManifestError:
        """An error for numbers that no measurement gives."""
        return ManifestError(
            f"{self._name}: {what}", hint="measure again, or ask who wrote it", code="profile-numbers"
        )


# Results of other tools, as measurements for a card: `schemas/imported.schema.json`.


@dataclass(frozen=True, slots=True)
class Imported:
    """A result that another tool wrote.

    Attributes:
        tool, tool_version: what wrote it; the version is empty where the file does not say.
        file, sha256: the file.
        measurements: items of ``measurements``.
    """

    tool: str
    tool_version: str
    file: str
    sha256: str
    measurements: Sequence[Document]

    def to_json(self, measured_by: str) -> dict[str, Any]:
        """The document of schema ``imported``."""
        version = {"tool_version": self.tool_version} if self.tool_version else {}
        source = {"title": f"{self.file} of {self.tool}", "file": self.file, "sha256": self.sha256, "tool": self.tool}
        return {
            "schema": "eagle3hub/imported/1",
            "source": {**source, **version},
            "measured_by": measured_by,
            "measurements": list(self.measurements),
        }

    def to_yaml(self, measured_by: str) -> str:
        """The document as YAML, held to its schema. Raises ManifestError for numbers that cannot be."""
        import yaml

        text = yaml.safe_dump(self.to_json(measured_by), sort_keys=False, allow_unicode=True, width=110)
        check_imported(parse_yaml(text, self.file))
        return text


def import_result(path: Path) -> Imported:
    """Read a result of another tool; its kind is seen in its fields.

    Raises SourceError if the file cannot be read, ManifestError: no tool known here wrote it (``import-unknown``), it
    has no acceptance and no speed (``import-empty``), and what `read_profile` raises.
    """
    document = read_document(path, "import", MAX_BYTES)
    sha256 = hashlib.sha256(read_bytes(path, MAX_BYTES)).hexdigest()
    for tool, known_by, read in _TOOLS:
        if isinstance(document, dict) and known_by(document):
            version, measurements = read(document, path.name)
            if not measurements:
                raise ManifestError(
                    f"{path.name}: this result of {tool} says nothing of speculation, and no throughput",
                    hint="run the tool against a server that speculates",
                    code="import-empty",
                )
            return Imported(tool, version, path.name, sha256, measurements)
    raise ManifestError(
        f"{path.name} is of no tool that is known here",
        hint=f"known: {', '.join(tool for tool, *_ in _TOOLS)}",
        code="import-unknown",
    )


_ROUNDED = "Rounded here; the file has more digits."


def _measurement(
    title: str, metric: str, rows: Sequence[Document], *, rows_are: str = "setting", **conditions: Any
) -> dict[str, Any]:
    stated = {key: value for key, value in conditions.items() if value not in (None, "")}
    return {"title": title, "metric": metric, "rows_are": rows_are, **stated, "note": _ROUNDED, "rows": list(rows)}


def _positions(rates: Sequence[float]) -> list[Document]:
    return [{"name": str(i), "value": round(100 * rate, 2)} for i, rate in enumerate(rates, start=1)]


def _from_profile(document: Document, name: str) -> tuple[str, list[Document]]:
    """ModelOpt's speculation profile."""
    found = read_profile(document, name)
    said = found.conditions

    def stated(key: str, kind: type | tuple[type, ...]) -> Any:
        value = said.get(key)
        return value if isinstance(value, kind) and not isinstance(value, bool) else None

    shared: dict[str, Any] = {
        "dataset": stated("dataset", str),
        "engine": stated("engine", str),
        "engine_version": stated("engine_version", str),
        "draft_tokens": found.draft_tokens,
        "temperature": stated("temperature", (int, float)),
        "prompts": stated("num_samples", int),
        "concurrency": stated("concurrency", int),
        "max_new_tokens": stated("osl", int),
        "dtype": stated("dtype", str),
    }
    rows: list[Document] = [{"name": "all rounds", "value": round(found.mean, 3)}]
    tables: list[Document] = [
        _measurement("Acceptance length", "acceptance_length", rows, estimator="tokens per round, pooled", **shared)
    ]
    tables.append(
        _measurement(
            "Marginal acceptance by position",
            "marginal_acceptance_rate",
            _positions(found.marginal),
            rows_are="position",
            **shared,
        )
    )
    tables.append(
        _measurement(
            "Conditional acceptance by position",
            "conditional_acceptance_rate",
            _positions(found.conditional),
            rows_are="position",
            **shared,
        )
    )
    if found.per_category:
        by_category = [{"name": key, "value": round(mean, 3)} for key, mean in found.per_category.items()]
        tables.append(
            _measurement(
                "Acceptance length by category",
                "acceptance_length",
                by_category,
                rows_are="category",
                estimator="mean of the requests' own",
                **shared,
            )
        )
    tool = said.get("tool")
    version = str(tool.get("version") or "") if isinstance(tool, dict) else ""
    return version or str(said.get("modelopt_version") or ""), tables


def _from_specdec_bench(document: Document, name: str) -> tuple[str, list[Document]]:
    """``acceptance_rate.json``, ``mtbench.json``, ``specbench_results.json`` of ModelOpt's specdec_bench.

    Source: `examples/specdec_bench/specdec_bench/metrics/acceptance_rate.py` at 037a9f69 and ``specbench.py``. The
    maps are keyed by the tokens of a round, the target's own included.
    """
    take = _Taker(document, name)
    mean = take.number("Average_AL", 1, 65)
    rows: list[Document] = [{"name": "all requests", "value": round(mean, 3)}]
    tables: list[Document] = [
        _measurement("Acceptance length", "acceptance_length", rows, estimator="mean of the requests' own")
    ]
    joint = document.get("Joint_Acceptance_Rate") or {}
    if _plain(joint):
        marginal = [float(rate) for _, rate in sorted((int(n), rate) for n, rate in joint.items() if int(n) >= 2)]
        if any(not 0 <= rate <= 1 for rate in marginal):
            raise take.numbers("Joint_Acceptance_Rate holds what is no rate between 0 and 1")
        if marginal:
            tables.append(
                _measurement(
                    "Marginal acceptance by position",
                    "marginal_acceptance_rate",
                    _positions(marginal),
                    rows_are="position",
                )
            )
    categories = document.get("Category_AL") or {}
    if _plain(categories) and categories:
        by_category = [{"name": key, "value": round(value, 3)} for key, value in categories.items()]
        tables.append(
            _measurement(
                "Acceptance length by category",
                "acceptance_length",
                by_category,
                rows_are="category",
                estimator="mean of the requests' own",
            )
        )
    return "", tables


def _from_vllm(document: Document, name: str) -> tuple[str, list[Document]]:
    """The result file of ``vllm bench serve``, as ``vllm/benchmarks/serve.py`` of the pinned version writes it."""
    take = _Taker(document, name)
    shared: dict[str, Any] = {
        "engine": "vLLM" if document.get("backend") in ("vllm", "openai", "openai-chat") else None,
        "prompts": _count(document.get("completed")) or _count(document.get("num_prompts")),
        "concurrency": _count(document.get("max_concurrency")),
    }
    tables: list[Document] = []
    if document.get("spec_decode_acceptance_length") is not None:
        rates = take.rates("spec_decode_per_position_acceptance_rates")
        mean = take.number("spec_decode_acceptance_length", 1, max(2, len(rates) + 1))
        if rates and abs(1 + sum(rates) - mean) > _TOLERANCE:
            raise take.numbers(f"the acceptance length is {mean:g}, and the rates imply {1 + sum(rates):.4f}")
        k: dict[str, Any] = {"draft_tokens": len(rates)} if rates else {}
        rows = [{"name": "all requests", "value": round(mean, 3)}]
        tables.append(
            _measurement(
                "Acceptance length", "acceptance_length", rows, estimator="tokens per round, pooled", **k, **shared
            )
        )
        if rates:
            tables.append(
                _measurement(
                    "Marginal acceptance by position",
                    "marginal_acceptance_rate",
                    _positions(rates),
                    rows_are="position",
                    **k,
                    **shared,
                )
            )
    if document.get("output_throughput"):
        speed = take.number("output_throughput", 0, 1e12)
        tables.append(_throughput(speed, shared))
    return "", tables


def _from_aiperf(document: Document, name: str) -> tuple[str, list[Document]]:
    """``profile_export_aiperf.json`` of AIPerf. Source: a run of 0.13.0 (schema_version 1.4) and its pages."""
    values = {key: one["avg"] for key, one in document.items() if isinstance(one, dict) and "avg" in one}
    take = _Taker(values, name)
    histogram = document.get("pooled_spec_decode_acceptance_histogram")
    config = document.get("input_config")
    phases = config.get("phases") if isinstance(config, dict) else None
    phase = phases[-1] if isinstance(phases, list) and phases and isinstance(phases[-1], dict) else {}
    shared: dict[str, Any] = {
        "prompts": _count(values.get("request_count")),
        "concurrency": _count(phase.get("concurrency")),
    }
    tables: list[Document] = []
    if "spec_decode_token_weighted_acceptance_length" in values:
        most = 65.0
        if _plain(histogram) and histogram:
            most = 1 + max(map(int, histogram))
        mean = take.number("spec_decode_token_weighted_acceptance_length", 1, most)
        rows: list[Document] = [{"name": "all requests", "value": round(mean, 3)}]
        tables.append(
            _measurement(
                "Acceptance length", "acceptance_length", rows, estimator="tokens per round, pooled", **shared
            )
        )
        if _plain(histogram) and histogram:
            counts = {int(n): int(count) for n, count in histogram.items()}
            rounds = sum(counts.values())
            marginal = [sum(c for n, c in counts.items() if n >= i) / rounds for i in range(1, max(counts) + 1)]
            if not nearly_equal(round(1 + sum(marginal), 3), round(mean, 3)):
                raise take.numbers(
                    f"the acceptance length is {mean:g}, and the histogram gives {1 + sum(marginal):.4f}"
                )
            tables.append(
                _measurement(
                    "Marginal acceptance by position",
                    "marginal_acceptance_rate",
                    _positions(marginal),
                    rows_are="position",
                    **shared,
                )
            )
    if "output_token_throughput" in values:
        tables.append(_throughput(take.number("output_token_throughput", 0, 1e12), shared))
    return str(document.get("aiperf_version") or ""), tables


def _from_specforge(document: Document, name: str) -> tuple[str, list[Document]]:
    """``results_TIME.jsonl`` of SpecForge's ``bench_eagle3.py``, which is one JSON document in spite of its name.

    Source: `benchmarks/bench_eagle3.py` at 1d666725 and ``benchmarker/utils.py``: a list per data set, an item per
    configuration, with ``metrics`` (a run each) of ``accept_length`` and ``output_throughput``. K of a chain: steps.
    """
    tables: list[Document] = []
    for dataset, items in document.items():
        for item in items if isinstance(items, list) else []:
            runs = item.get("metrics") if isinstance(item, dict) else None
            if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
                raise _Taker(document, name).lacks(f"{dataset}.metrics")
            steps = _count(item.get("steps"))
            shared: dict[str, Any] = {
                "engine": "SGLang",
                "dataset": dataset,
                "draft_tokens": steps if item.get("topk") == 1 else None,
                "prompts": _count(runs[0].get("num_questions")) or _count(item.get("num_samples")),
                "concurrency": _count(item.get("batch_size")),
                "runs": len(runs) if len(runs) > 1 else None,
            }
            setting = (
                f"steps {item.get('steps')}, top-k {item.get('topk')}, draft tokens {item.get('num_draft_tokens')}"
            )
            most = max(2, (steps or 64) + 1)
            if item.get("steps") != 0:
                lengths = [_Taker(run, f"{name}, {dataset}").number("accept_length", 1, most) for run in runs]
                rows = [{"name": setting, "value": round(_mean(lengths), 3)}]
                tables.append(
                    _measurement(
                        f"Acceptance length on {dataset}",
                        "acceptance_length",
                        rows,
                        estimator="output tokens by verifications",
                        **shared,
                    )
                )
            speeds = [_Taker(run, f"{name}, {dataset}").number("output_throughput", 0, 1e12) for run in runs]
            if all(speeds):
                tables.append(_throughput(_mean(speeds), shared, f"Throughput on {dataset}", setting))
    return "", tables


def _throughput(
    speed: float, shared: Mapping[str, Any], title: str = "Throughput", setting: str = "all requests"
) -> dict[str, Any]:
    rows = [{"name": setting, "value": round(speed, 2)}]
    return _measurement(title, "throughput", rows, unit="output tokens/s", **shared)


def _count(value: object) -> int | None:
    return int(value) if type(value) in (int, float) and value >= 1 and value == int(value) else None  # type: ignore


Known = Callable[[dict[str, Any]], bool]
_TOOLS: tuple[tuple[str, Known, Callable[[Document, str], tuple[str, list[Document]]]], ...] = (
    ("ModelOpt speculation profile",
     lambda d: "conditional_accept_rates" in d or ("schema_version" in d and "measured" in d), _from_profile),
    ("ModelOpt specdec_bench", lambda d: "Average_AL" in d or "Acceptance_Length_Histogram" in d, _from_specdec_bench),
    ("AIPerf", lambda d: "aiperf_version" in d, _from_aiperf),
    ("vllm bench serve", lambda d: "endpoint_type" in d and "request_throughput" in d, _from_vllm),
    ("SpecForge bench_eagle3", lambda d: "model" in d and any(
        isinstance(v, list) and v and isinstance(v[0], dict) and "num_draft_tokens" in v[0] for v in d.values()
    ), _from_specforge),
)  # fmt: skip


def load_profile(path: Path, engine: str | None = None) -> SpeculationProfile:
    """Return the profile in a file: one that a tool wrote, or that of a report.

    Raises what `read_profile`, `load_report`, `check_derived` and `profile_of` raise, and ManifestError
    (``profile-unknown``) for a file that is neither.
    """
    document = read_document(path, "profile", MAX_BYTES)
    if isinstance(document, dict) and str(document.get("schema", "")).startswith("eagle3hub/report/"):
        sha256 = hashlib.sha256(read_bytes(path, MAX_BYTES)).hexdigest()
        report = Report.from_json(document, path.name)
        check_derived(report)
        return profile_of(report, engine, sha256=sha256)
    if not isinstance(document, dict) or "schema_version" not in document:
        raise ManifestError(
            f"{path.name} is neither a report nor a speculation profile",
            hint="give report.json as validate --report wrote it, or a speculation_profile.json",
            code="profile-unknown",
        )
    return read_profile(document, path.name)
