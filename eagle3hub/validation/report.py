"""The report of one validation: typed in memory, one JSON document on disk.

Every class here is one object of ``schemas/report.schema.json``, with `to_json` and `from_json`. Everybody who writes
or reads a report (validation, matrix, card, publishing) uses these classes; the schema is checked where a document is
read and where one is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.digest import FileDigest
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines.base import EngineSettings, LoadReport, Recipe, Scalar, Verdict
from eagle3hub.engines.options import arguments_in_words
from eagle3hub.engines.preflight.contracts import PreflightVerdict as Preflight
from eagle3hub.errors import InputError, ManifestError, Problem
from eagle3hub.head import Assumption
from eagle3hub.metrics import Acceptance, CategoryAcceptance, Counts, PromptRow
from eagle3hub.metrics.counters import row_counts
from eagle3hub.prompts import Context, ImagesUsed
from eagle3hub.system.documents import read_document, schema_faults
from eagle3hub.system.html import Cell, panel, rows
from eagle3hub.system.resources import schema
from eagle3hub.system.text import escaped_json
from eagle3hub.validation.gates import Gate, Lossless
from eagle3hub.validation.measurement import (
    DEFAULT_TOLERANCE,
    Conditions,
    Measurement,
    Reference,
    write_reference,
)

SCHEMA_NAME = "eagle3hub/report/1"
MAX_BYTES = 64 << 20


# What was measured, and how.


@dataclass(frozen=True, slots=True)
class MeasuredHead:
    """The head's files: where they came from, their layout, their digests."""

    source: str
    layout: str
    digest: str
    files: tuple[FileDigest, ...]

    def to_json(self) -> dict[str, Any]:
        """The ``head`` object."""
        return {
            "source": self.source,
            "layout": self.layout,
            "digest": self.digest,
            "files": [dict(file) for file in self.files],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MeasuredHead:
        """What `to_json` gave."""
        return cls(data["source"], data["layout"], data["digest"], tuple(data["files"]))


@dataclass(frozen=True, slots=True)
class MeasuredTarget:
    """The target: its name, and what identifies its files where that is known.

    ``quantization``: form and method of its quantized weights, as its config says; None where it says nothing.
    """

    name: str
    revision: str | None
    config_sha256: str | None
    weights_digest: str | None
    quantization: str | None = None

    @property
    def in_words(self) -> str:
        """Its name, its revision, and how its weights are quantized, as far as that is known."""
        at = f" at {self.revision}" if self.revision else ""
        return f"{self.name}{at}" + (f", weights {self.quantization}" if self.quantization else "")

    def to_json(self) -> dict[str, Any]:
        """The ``target`` object; it has ``quantization`` only where the target's weights are quantized."""
        return {key: value for key, value in _fields(self).items() if key != "quantization" or value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MeasuredTarget:
        """What `to_json` gave."""
        return cls(
            data["name"],
            data["revision"],
            data["config_sha256"],
            data["weights_digest"],
            data.get("quantization"),
        )


@dataclass(frozen=True, slots=True)
class MeasuredPrompts:
    """The prompts: name of their set, SHA-256 of exactly those used, how many there are in each category.

    ``context`` says how they were made long; None for prompts as their set has them. ``images``: those that they hold.
    """

    name: str
    sha256: str
    count: int
    categories: Mapping[str, int]
    context: Context | None = None
    images: ImagesUsed | None = None

    def to_json(self) -> dict[str, Any]:
        """The ``prompts`` object."""
        context = {} if self.context is None else {"context": self.context.to_json()}
        images = {} if self.images is None else {"images": self.images.to_json()}
        plain = {"name": self.name, "sha256": self.sha256, "count": self.count, "categories": dict(self.categories)}
        return {**plain, **context, **images}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MeasuredPrompts:
        """What `to_json` gave."""
        context = Context(**data["context"]) if "context" in data else None
        images = ImagesUsed(**data["images"]) if "images" in data else None
        return cls(data["name"], data["sha256"], data["count"], data["categories"], context, images)


@dataclass(frozen=True, slots=True)
class Settings:
    """What moves the acceptance length besides head, target, prompts and engine.

    Attributes:
        draft_tokens: K of a chain, depth of a tree.
        topk, num_draft_tokens, drafting: None in a report of an earlier version, which did not state them.
        min_acceptance_length: the bar that was asked for, or None.
        engine_settings: how engines were started and prompts rendered beyond that.
    """

    draft_tokens: int
    topk: int | None
    num_draft_tokens: int | None
    temperature: float
    max_new_tokens: int
    seed: int
    drafting: str | None
    dtype: str
    device: str
    concurrency: int
    min_acceptance_length: float | None
    collapse_acceptance_length: float
    chat_template: str
    system_prompt: str | None
    engine_settings: EngineSettings = field(default_factory=EngineSettings)

    def to_json(self) -> dict[str, Any]:
        """The ``settings`` object, without what is not stated."""
        unstated = {key for key in _ADDED_SETTINGS if getattr(self, key) is None} | {"engine_settings"}
        stated = {key: value for key, value in _fields(self).items() if key not in unstated}
        return stated | ({"engine_settings": self.engine_settings.to_json()} if self.engine_settings else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """What `to_json` gave."""
        own = EngineSettings.from_json(data.get("engine_settings", {}))
        return cls(**{**dict.fromkeys(_ADDED_SETTINGS), **data, "engine_settings": own})

    @property
    def tree(self) -> str | None:
        """The shape of the draft trees in words; None for a chain."""
        return tree_in_words(self.topk, self.num_draft_tokens)


def tree_in_words(topk: int | None, num_draft_tokens: int | None) -> str | None:
    """Write the shape of SGLang's draft trees: ``top-k 4, 16 tokens verified``; None for a chain."""
    return None if topk in (None, 1) else f"top-k {topk}, {num_draft_tokens} tokens verified"


_ADDED_SETTINGS = ("topk", "num_draft_tokens", "drafting")


@dataclass(frozen=True, slots=True)
class StaticChecks:
    """What the head's files alone say: problems found in them, and what had to be assumed."""

    verdict: Verdict
    problems: tuple[Problem, ...]
    assumptions: tuple[Assumption, ...]

    def to_json(self) -> dict[str, Any]:
        """The ``static`` object."""
        return {
            "verdict": self.verdict,
            "problems": [problem.to_json() for problem in self.problems],
            "assumptions": [assumption.to_json() for assumption in self.assumptions],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StaticChecks:
        """What `to_json` gave."""
        return cls(
            data["verdict"],
            tuple(Problem(**problem) for problem in data["problems"]),
            tuple(Assumption(**assumption) for assumption in data["assumptions"]),
        )

    @property
    def errors(self) -> list[Problem]:
        """The problems because of which no engine is run."""
        return [problem for problem in self.problems if problem.severity == "error"]


# One engine's entry.


@dataclass(frozen=True, slots=True)
class RecipeText:
    """How to serve the head on the engine as it was measured: a `Recipe` whose command is one shell line."""

    engine: str
    version: str
    server_command: str
    env: Mapping[str, str]
    python: str
    yaml: str | None = None
    prepare: tuple[str, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> RecipeText:
        """An engine's recipe in the form that a report keeps."""
        return cls.from_json(recipe.to_json())

    def to_json(self) -> dict[str, Any]:
        """The ``recipe`` object."""
        return {
            "engine": self.engine,
            "version": self.version,
            "server_command": self.server_command,
            "env": dict(self.env),
            "python": self.python,
            **({} if self.yaml is None else {"yaml": self.yaml}),
            **({"prepare": list(self.prepare)} if self.prepare else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RecipeText:
        """What `to_json` gave."""
        return cls(**{**data, "prepare": tuple(data.get("prepare", ()))})


@dataclass(frozen=True, slots=True)
class Throughput:
    """New tokens per second without and with the head; None where it was not measured."""

    target_tokens_per_second: float | None
    speculative_tokens_per_second: float | None
    note: str

    def to_json(self) -> dict[str, Any]:
        """The ``throughput`` object."""
        return _fields(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Throughput:
        """What `to_json` gave."""
        return cls(**data)


@dataclass(frozen=True, slots=True)
class EngineRow(PromptRow):
    """One prompt on an engine.

    Attributes:
        identical: whether the response is the one that the target gives without the head; None: not compared.
        tokens_sha256: of the response's token ids.
    """

    identical: bool | None
    tokens_sha256: str

    def to_json(self) -> dict[str, Any]:
        """An entry of ``per_prompt``."""
        return {**PromptRow.to_json(self), "identical": self.identical, "tokens_sha256": self.tokens_sha256}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EngineRow:
        """What `to_json` gave. Raises InputError (``metrics-counters``), naming the prompt."""
        return cls(
            data["question_id"],
            data["category"],
            data["prompt_tokens"],
            data["new_tokens"],
            row_counts(data),
            data["identical"],
            data["tokens_sha256"],
        )


@dataclass(frozen=True, slots=True)
class Expected:
    """What the reference counts on the texts that the engine wrote, prompt by prompt; or why that is not known.

    ``unknown`` is empty where the counts are known.
    """

    counts: tuple[Counts, ...] = ()
    unknown: str = ""

    def to_json(self) -> dict[str, Any]:
        """The ``reference_counts`` object."""
        if self.unknown:
            return {"unknown": self.unknown}
        return {"per_prompt": [counts.to_json() for counts in self.counts]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Expected:
        """What `to_json` gave. Raises InputError (``metrics-counters``)."""
        return cls(tuple(Counts.from_json(row) for row in data.get("per_prompt", ())), data.get("unknown", ""))


@dataclass(frozen=True, slots=True)
class NotRun:
    """Why there are no counters: the last lines of the engine's log; the entry's reason says it in words."""

    log_tail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """What an engine's run came to.

    Attributes:
        gates, acceptance, categories, lossless: derived from the rest (`eagle3hub.validation.derive`).
        unchecked: of a running server, what could not be looked at, as phrases; empty for what we start.
        environment: what the engine ran on.
        expected: what the run is held against; None where the reference took no part.
        earlier: an earlier measurement that the run is held against, or None.
        start_seconds, generate_seconds: wall time of loading and of generating.
    """

    gates: tuple[Gate, ...]
    unchecked: tuple[str, ...]
    environment: Mapping[str, Scalar]
    acceptance: Acceptance | None
    categories: Mapping[str, CategoryAcceptance]
    lossless: Lossless | None
    load: LoadReport
    throughput: Throughput
    per_prompt: tuple[EngineRow, ...]
    expected: Expected | None
    earlier: Reference | None
    start_seconds: float
    generate_seconds: float

    @property
    def attached(self) -> bool:
        """Whether the engine was a running server, of which some things cannot be looked at."""
        return bool(self.unchecked)

    @property
    def counts(self) -> tuple[Counts, ...]:
        """The counters, prompt by prompt."""
        return tuple(row.counts for row in self.per_prompt)

    def to_json(self) -> dict[str, Any]:
        """The fields of an entry that counted something."""
        return {
            "gates": [gate.to_json() for gate in self.gates],
            **({"unchecked": list(self.unchecked)} if self.unchecked else {}),
            **({"environment": dict(self.environment)} if self.environment else {}),
            "acceptance": None if self.acceptance is None else self.acceptance.to_json(),
            "categories": {name: found.to_json() for name, found in self.categories.items()},
            "lossless": None if self.lossless is None else self.lossless.to_json(),
            "load": self.load.to_json(),
            "throughput": self.throughput.to_json(),
            "per_prompt": [row.to_json() for row in self.per_prompt],
            **({} if self.expected is None else {"reference_counts": self.expected.to_json()}),
            **({} if self.earlier is None else {"earlier": self.earlier.to_json()}),
            "seconds": {"start": self.start_seconds, "generate": self.generate_seconds},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counted:
        """What `to_json` gave. Raises InputError (``metrics-counters``) for counters that no run can produce."""
        acceptance, lossless = data["acceptance"], data["lossless"]
        expected, earlier = data.get("reference_counts"), data.get("earlier")
        unchecked = tuple(data.get("unchecked", ()))
        return cls(
            gates=tuple(Gate.from_json(gate) for gate in data.get("gates", ())),
            unchecked=unchecked,
            environment=data.get("environment", {}),
            acceptance=None if acceptance is None else Acceptance.from_json(acceptance),
            categories={name: CategoryAcceptance.from_json(one) for name, one in data["categories"].items()},
            lossless=None if lossless is None else Lossless.from_json(lossless, by_reference=bool(unchecked)),
            load=LoadReport.from_json(data["load"]),
            throughput=Throughput.from_json(data["throughput"]),
            per_prompt=tuple(EngineRow.from_json(row) for row in data["per_prompt"]),
            expected=None if expected is None else Expected.from_json(expected),
            earlier=None if earlier is None else Reference.from_json(earlier),
            start_seconds=data["seconds"]["start"],
            generate_seconds=data["seconds"]["generate"],
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One engine in a report.

    Attributes:
        device: ``cpu``, ``cuda``, or ``server`` for a running server that does not say.
        flags: the arguments that the run used, as the engine names them.
        recipe: how to serve the head on this engine; None where it serves nothing.
        preflight: what the head's files promised before the run; None where nothing was asked.
        outcome: what was counted, or why nothing was.
    """

    engine: str
    version: str
    device: str
    dtype: str
    verdict: Verdict
    reason: str
    flags: Mapping[str, object]
    recipe: RecipeText | None
    preflight: Preflight | None
    outcome: Counted | NotRun

    @property
    def name(self) -> str:
        """Engine and version."""
        return f"{self.engine} {self.version}"

    @property
    def counted(self) -> Counted | None:
        """What was counted, or None."""
        return self.outcome if isinstance(self.outcome, Counted) else None

    @property
    def acceptance(self) -> Acceptance | None:
        """The acceptance, or None where no round was run."""
        return self.outcome.acceptance if isinstance(self.outcome, Counted) else None

    def to_json(self) -> dict[str, Any]:
        """An item of ``engines``."""
        outcome = self.outcome
        rest = outcome.to_json() if isinstance(outcome, Counted) else {"log_tail": list(outcome.log_tail)}
        return {
            "engine": self.engine,
            "version": self.version,
            "device": self.device,
            "dtype": self.dtype,
            "verdict": self.verdict,
            "reason": self.reason,
            "flags": dict(self.flags),
            "recipe": None if self.recipe is None else self.recipe.to_json(),
            **({} if self.preflight is None else {"preflight": self.preflight.to_json()}),
            **rest,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """What `to_json` gave. Raises InputError (``metrics-counters``) for counters that no run can produce."""
        recipe, foreseen = data["recipe"], data.get("preflight")
        return cls(
            engine=data["engine"],
            version=data["version"],
            device=data["device"],
            dtype=data["dtype"],
            verdict=data["verdict"],
            reason=data["reason"],
            flags=data["flags"],
            recipe=None if recipe is None else RecipeText.from_json(recipe),
            preflight=None if foreseen is None else Preflight.from_json(foreseen),
            outcome=Counted.from_json(data) if "per_prompt" in data else NotRun(tuple(data["log_tail"])),
        )


# The whole report.


def in_words(found: Acceptance) -> str:
    """The acceptance length with its interval, for people."""
    interval = "" if found.ci95 is None else f" ({found.ci95[0]:.2f} to {found.ci95[1]:.2f})"
    return f"{found.mean_acceptance_length:.3f}{interval}"


@dataclass(frozen=True, slots=True)
class Report:
    """The report of one validation.

    Attributes:
        tool_version: version of eagle3hub that made it. measured_at: when, UTC.
        verdict: the worst verdict in it.
        engines: one entry for each engine, in the order they were asked for; none for files with errors.
    """

    tool_version: str
    measured_at: str
    verdict: Verdict
    head: MeasuredHead
    target: MeasuredTarget
    prompts: MeasuredPrompts
    settings: Settings
    static: StaticChecks
    engines: tuple[Entry, ...] = ()

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, in one sentence: that of the first engine, or of the static checks."""
        if self.static.verdict == "fail":
            return self.static.errors[0].message
        deciding = [entry for entry in self.engines if entry.verdict == self.verdict]
        return deciding[0].reason if deciding else "no engine was run"

    def to_json(self) -> dict[str, Any]:
        """The document of schema ``report``."""
        return {
            "schema": SCHEMA_NAME,
            "tool": {"name": "eagle3hub", "version": self.tool_version},
            "measured_at": self.measured_at,
            "verdict": self.verdict,
            "head": self.head.to_json(),
            "target": self.target.to_json(),
            "prompts": self.prompts.to_json(),
            "settings": self.settings.to_json(),
            "static": self.static.to_json(),
            "engines": [entry.to_json() for entry in self.engines],
        }

    def _repr_html_(self) -> str:
        facts = [("target", self.target.name), ("prompts", f"{self.prompts.name} ({self.prompts.count})")]
        facts += [("K", str(self.settings.draft_tokens)), ("temperature", f"{self.settings.temperature:g}")]
        wrong = [(Cell(p.severity, p.severity), p.message) for p in self.static.problems]
        engines = [
            (
                e.name,
                e.device,
                Cell(e.verdict, e.verdict),
                "–" if e.acceptance is None else in_words(e.acceptance),
                e.reason,
            )
            for e in self.engines
        ]
        return panel(
            Cell(f"{self.head.source}: {self.verdict}", self.verdict),
            rows(facts),
            rows(engines, ("engine", "device", "verdict", "τ", "why")),
            rows(wrong, ("problem", "")),
            subtitle=self.reason,
        )

    @classmethod
    def from_json(cls, document: Any, name: str = "the report") -> Report:
        """Hold a document to the schema and read it.

        Raises ManifestError naming ``name`` and the field for what does not fit (``report-schema``), and for counters
        that no run can produce (``report-counters``).
        """
        check_report(document, name)
        try:
            entries = tuple(Entry.from_json(entry) for entry in document["engines"])
        except InputError as error:
            raise ManifestError(f"{name}: {error.message}", hint=error.hint, code="report-counters") from error
        return cls(
            tool_version=document["tool"]["version"],
            measured_at=document["measured_at"],
            verdict=document["verdict"],
            head=MeasuredHead.from_json(document["head"]),
            target=MeasuredTarget.from_json(document["target"]),
            prompts=MeasuredPrompts.from_json(document["prompts"]),
            settings=Settings.from_json(document["settings"]),
            static=StaticChecks.from_json(document["static"]),
            engines=entries,
        )

    @property
    def document(self) -> dict[str, Any]:
        """`to_json`, for whoever prints the document."""
        return self.to_json()

    def measurement(self, entry: Entry) -> Measurement:
        """The measurement in one of the entries. Raises ValueError for an entry that counted nothing.

        A report that does not state its ``drafting`` measured an engine's default, greedy.
        """
        if not isinstance(entry.outcome, Counted):
            raise ValueError(f"{entry.name} counted nothing")
        settings, rows = self.settings, entry.outcome.per_prompt
        return Measurement(
            engine=entry.engine,
            version=entry.version,
            measured_at=self.measured_at,
            head=self.head.source,
            head_digest=self.head.digest,
            conditions=Conditions(
                target=self.target.name,
                target_digest=self.target.weights_digest,
                draft_tokens=settings.draft_tokens,
                temperature=settings.temperature,
                max_new_tokens=settings.max_new_tokens,
                dtype=entry.dtype,
                drafting=settings.drafting or "greedy",
                chat_template=settings.chat_template,
                system_prompt=settings.system_prompt,
                tree=settings.tree,
                engine_arguments=arguments_in_words(settings.engine_settings, entry.engine),
            ),
            prompts=self.prompts.name,
            prompts_sha256=self.prompts.sha256,
            question_ids=tuple(row.question_id for row in rows),
            counts=tuple(row.counts for row in rows),
        )

    def save(self, path: Path) -> None:
        """Write the report as JSON: completely, or not at all.

        Raises ManifestError (``report-schema``) for a report that does not fit its schema, OutputError.
        """
        document = self.to_json()
        check_report(document)
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        replace_file(path, escaped_json(text).encode())


def load_report(path: str | Path) -> Report:
    """Read a report.

    Raises SourceError if the file cannot be read, ManifestError naming the file and the field if it is no report.
    """
    path = Path(path)
    return Report.from_json(read_document(path, "report", MAX_BYTES), path.name)


def check_report(document: Any, name: str = "the report") -> None:
    """Raise ManifestError for the first departure of ``document`` from the report schema."""
    for fault in schema_faults(document, schema("report")):
        raise ManifestError(f"{name}: {fault.message}", hint=fault.hint, code="report-schema")


def keep_reference(report: Report, path: str | Path, tolerance: float = DEFAULT_TOLERANCE) -> None:
    """Write the first measurement of a report that passed as a reference file.

    Raises OutputError where it cannot be written, InputError (``reference-nothing``) where nothing passed.
    """
    passed = [entry for entry in report.engines if entry.verdict == "pass" and entry.counted]
    if not passed:
        raise InputError(
            f"there is no measurement to keep: the verdict is {report.verdict}",
            hint="a reference for later runs is one that passed",
            code="reference-nothing",
        )
    replace_file(Path(path), write_reference(Reference(report.measurement(passed[0]), tolerance)).encode())


def _fields(record: Any) -> dict[str, object]:
    """The fields of a dataclass whose fields are JSON values already, under their own names."""
    return {field.name: getattr(record, field.name) for field in fields(record)}
