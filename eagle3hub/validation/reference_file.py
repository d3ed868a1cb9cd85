"""acceptance.reference.yaml: a measurement kept for later runs to be held against.

The file is checked against ``schemas/acceptance-reference.schema.json``; every error names file, line and field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.errors import InputError, UsageError
from eagle3hub.metrics import Counts, acceptance, too_few, total
from eagle3hub.report import Report
from eagle3hub.resources import schema
from eagle3hub.schema_faults import Location
from eagle3hub.staging import replace_file
from eagle3hub.validation.measurement import Conditions, Measurement, measurement_of
from eagle3hub.yaml_lines import Document, hold_to_schema, read_yaml

SCHEMA_NAME = "eagle3hub/acceptance-reference/1"
DEFAULT_TOLERANCE = 0.05
MAX_BYTES = 16 << 20
_ROUNDING = 0.001
_SETTINGS = (
    "draft_tokens",
    "temperature",
    "max_new_tokens",
    "dtype",
    "drafting",
    "chat_template",
    "system_prompt",
    "tree",
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A measurement, and the share of its acceptance length by which a run may fall short: from 0 to below 1.

    Raises UsageError for another tolerance.
    """

    measurement: Measurement
    tolerance: float = DEFAULT_TOLERANCE

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise UsageError(f"the tolerance is a share from 0 to below 1, not {self.tolerance:g}")

    def to_json(self) -> dict[str, Any]:
        """The ``earlier`` object of a report."""
        return {"tolerance": self.tolerance, "measurement": self.measurement.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reference:
        """What `to_json` gave. Raises InputError (``metrics-counters``), UsageError."""
        return cls(Measurement.from_json(data["measurement"]), data["tolerance"])


def write_reference(reference: Reference) -> str:
    """The file's text: the same reference gives the same text. InputError if no round was run."""
    measurement = reference.measurement
    found = acceptance(measurement.counts)
    conditions = measurement.conditions
    spread = too_few(found.prompts) if found.ci95 is None else "95 % interval {:.3f} to {:.3f}".format(*found.ci95)
    lines = [
        "# What a draft head accepted once: later runs are held against it.",
        f"schema: {SCHEMA_NAME}",
        "",
        "# A run fails where its acceptance length is shown to fall short by more than this share.",
        f"tolerance: {_scalar(reference.tolerance)}",
        "",
        *_section("head", {"name": measurement.head, "digest": measurement.head_digest}),
        *_section("target", {"name": conditions.target, "weights_digest": conditions.target_digest}),
        *_section(
            "measured_by",
            {"engine": measurement.engine, "version": measurement.version, "at": measurement.measured_at},
        ),
        "# A run under any other setting, or with another target, is not comparable: its verdict is inconclusive.",
        *_section("settings", _settings(conditions)),
        "# Over exactly these prompts a run is compared prompt by prompt, over others by its own interval.",
        *_section(
            "prompts",
            {
                "name": measurement.prompts,
                "sha256": measurement.prompts_sha256,
                "count": len(measurement.question_ids),
            },
        ),
        "# tau counts the target's own token of each round.",
        f"# {spread[0].upper()}{spread[1:]}.",
        *_section(
            "measured",
            {
                "tau": round(found.mean_acceptance_length, 4),
                "rounds": found.counts.rounds,
                "accepted_per_position": found.counts.accepted_per_position,
            },
        ),
        "per_prompt:",
    ]
    for question_id, counts in zip(measurement.question_ids, measurement.counts, strict=True):
        row = {
            "question_id": question_id,
            "rounds": counts.rounds,
            "drafted": counts.drafted,
            "accepted_per_position": counts.accepted_per_position,
        }
        lines.append(f"  - {{{', '.join(f'{key}: {_scalar(value)}' for key, value in row.items())}}}")
    return "\n".join(lines) + "\n"


def _settings(conditions: Conditions) -> dict[str, Any]:
    return {key: value for key in _SETTINGS if (value := getattr(conditions, key)) is not None or key != "tree"}


def keep_reference(report: Report, path: str | Path, tolerance: float = DEFAULT_TOLERANCE) -> None:
    """Write the first measurement of a report that passed as a reference file.

    Raises OutputError where it cannot be written, InputError (``reference-nothing``) where nothing passed.
    """
    passed = [e for e in report.document["engines"] if e["verdict"] == "pass" and e.get("per_prompt")]
    if not passed:
        raise InputError(
            f"there is no measurement to keep: the verdict is {report.verdict}",
            hint="a reference for later runs is one that passed",
            code="reference-nothing",
        )
    replace_file(
        Path(path), write_reference(Reference(measurement_of(report.document, passed[0]), tolerance)).encode()
    )


def load_reference(path: str | Path) -> Reference:
    """Read a reference file.

    Raises SourceError if it cannot be read, ManifestError naming file, line and field if it departs from the schema
    (``reference-schema``) or its numbers contradict each other (``reference-counters``).
    """
    document = read_yaml(Path(path), MAX_BYTES)
    hold_to_schema(document, schema("acceptance-reference"), "reference-schema")
    data = document.data
    counts = _counts(document)
    settings = {key: data["settings"].get(key) for key in _SETTINGS}
    return Reference(
        Measurement(
            engine=data["measured_by"]["engine"],
            version=data["measured_by"]["version"],
            measured_at=data["measured_by"]["at"],
            head=data["head"]["name"],
            head_digest=data["head"]["digest"],
            conditions=Conditions(
                target=data["target"]["name"], target_digest=data["target"]["weights_digest"], **settings
            ),
            prompts=data["prompts"]["name"],
            prompts_sha256=data["prompts"]["sha256"],
            question_ids=tuple(row["question_id"] for row in data["per_prompt"]),
            counts=counts,
        ),
        data["tolerance"],
    )


def _counts(document: Document) -> tuple[Counts, ...]:
    """The prompts' counters, where they agree with each other and with everything else the file says of them."""
    data = document.data
    positions = data["settings"]["draft_tokens"]
    out = []
    seen: dict[int | str, int] = {}
    for index, row in enumerate(data["per_prompt"]):
        at: Location = ("per_prompt", index)
        question, accepted = row["question_id"], row["accepted_per_position"]
        if question in seen:
            line = document.line(("per_prompt", seen[question]))
            raise _wrong(document, at, f"question_id {question!r} was used on line {line} already")
        seen[question] = index
        if len(accepted) != positions:
            raise _wrong(document, at, f"{len(accepted)} draft positions, where settings.draft_tokens is {positions}")
        try:
            out.append(Counts(row["rounds"], row["drafted"], sum(accepted), tuple(accepted)))
        except InputError as error:
            raise _wrong(document, at, error.message) from error
    pooled = total(out)
    measured = data["measured"]
    for field, found in (("rounds", pooled.rounds), ("accepted_per_position", list(pooled.accepted_per_position))):
        if measured[field] != found:
            said = f"measured.{field} is {measured[field]}, but the prompts add up to {found}"
            raise _wrong(document, ("measured", field), said)
    tau = pooled.emitted / pooled.rounds
    if abs(measured["tau"] - tau) > _ROUNDING:
        raise _wrong(
            document, ("measured", "tau"), f"measured.tau is {measured['tau']}, but the counters give {tau:.4f}"
        )
    if data["prompts"]["count"] != len(out):
        said = f"prompts.count is {data['prompts']['count']}, but {len(out)} are listed"
        raise _wrong(document, ("prompts", "count"), said)
    return tuple(out)


def _wrong(document: Document, at: Location, message: str) -> InputError:
    return document.error(at, message, "write the reference anew from a report", "reference-counters")


def _section(name: str, entries: dict[str, Any]) -> list[str]:
    return [f"{name}:", *(f"  {key}: {_scalar(value)}" for key, value in entries.items()), ""]


def _scalar(value: Any) -> str:
    """A value as YAML and JSON both read it; text in double quotes, whatever has no picture of its own escaped."""
    if isinstance(value, str):
        quoted = json.dumps(value, ensure_ascii=False)
        return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_scalar, value))}]"
    return json.dumps(value)
