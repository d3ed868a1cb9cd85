"""A measurement: what one engine counted on each prompt, under which conditions; and files of measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from eagle3hub.errors import InputError, UsageError
from eagle3hub.metrics import Counts, acceptance, too_few, total
from eagle3hub.system.documents import Document, Location, hold_to_schema, read_yaml
from eagle3hub.system.resources import schema

# One engine's counters over a set of prompts, with the conditions that they hold under.


@dataclass(frozen=True, slots=True)
class Conditions:
    """What moves the acceptance length of a head, besides the prompts.

    Attributes:
        target: name of the target. target_digest: of its weights, where known.
        draft_tokens: K of a chain.
        drafting: how a draft token is chosen: ``greedy`` (arg-max) or ``probabilistic`` (sampled, with rejection).
        dtype: precision of target and head.
        tree: shape of the draft trees, as words; None for chains.
        engine_arguments: further arguments of the engine, as words; None for none.
    """

    target: str
    target_digest: str | None
    draft_tokens: int
    temperature: float
    max_new_tokens: int
    dtype: str
    drafting: str
    chat_template: str
    system_prompt: str | None
    tree: str | None = None
    engine_arguments: str | None = None

    def differences(self, other: Conditions) -> list[str]:
        """What differs, each as ``dtype is bfloat16, not float32``; targets by digest where both have one."""
        out = []
        known = self.target_digest is not None and other.target_digest is not None
        for field in fields(self):
            if field.name == ("target" if known else "target_digest"):
                continue
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if ours != theirs:
                out.append(f"{field.name} is {ours}, not {theirs}")
        return out


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one engine counted.

    Attributes:
        engine, version: what measured. measured_at: when, UTC.
        head, head_digest: the head's public name and the identity of its files (another layout has another).
        prompts, prompts_sha256: name of the set, SHA-256 of exactly the prompts used.
        question_ids, counts: one of each per prompt, in the set's order.
    """

    engine: str
    version: str
    measured_at: str
    head: str
    head_digest: str
    conditions: Conditions
    prompts: str
    prompts_sha256: str
    question_ids: tuple[int | str, ...]
    counts: tuple[Counts, ...]

    def to_json(self) -> dict[str, Any]:
        """The measurement as plain data."""
        rows = zip(self.question_ids, self.counts, strict=True)
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "question_ids"}
        return plain | {
            "conditions": {
                key: value
                for key, value in asdict(self.conditions).items()
                if key != "engine_arguments" or value is not None
            },
            "counts": [_row(question, counts) for question, counts in rows],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """What `to_json` gave. Raises InputError (``metrics-counters``) for counters that no run can produce."""
        return cls(
            **{
                **data,
                "conditions": Conditions(**data["conditions"]),
                "question_ids": tuple(row["question_id"] for row in data["counts"]),
                "counts": tuple(Counts.from_json(row) for row in data["counts"]),
            }
        )

    def same_prompts(self, other: Measurement) -> bool:
        """Whether both measured exactly the same prompts in the same order."""
        return (self.prompts_sha256, self.question_ids) == (other.prompts_sha256, other.question_ids)


def _row(question_id: int | str, counts: Counts) -> dict[str, object]:
    return {"question_id": question_id, **counts.to_json()}


# acceptance.reference.yaml: a measurement that later runs are held against.
#
# The file is checked against ``schemas/acceptance-reference.schema.json``; every error names file, line and field.


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
    "engine_arguments",
)
_LEFT_OUT = ("tree", "engine_arguments")
"""Settings that a file does not state where they are None."""


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
                "rounds": found.rounds,
                "accepted_per_position": found.accepted_per_position,
            },
        ),
        "per_prompt:",
    ]
    for question_id, counts in zip(measurement.question_ids, measurement.counts, strict=True):
        row = _row(question_id, counts)
        lines.append(f"  - {{{', '.join(f'{key}: {_scalar(value)}' for key, value in row.items())}}}")
    return "\n".join(lines) + "\n"


def _settings(conditions: Conditions) -> dict[str, object]:
    return {key: value for key in _SETTINGS if (value := getattr(conditions, key)) is not None or key not in _LEFT_OUT}


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
    """The counters of each prompt. Raises ManifestError where the rest of the file does not follow from them."""
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
            out.append(Counts.from_json(row))
        except InputError as error:
            raise _wrong(document, at, error.message) from error
    pooled = total(out)
    measured = data["measured"]
    for field, found in (("rounds", pooled.rounds), ("accepted_per_position", list(pooled.accepted_per_position))):
        if measured[field] != found:
            message = f"measured.{field} is {measured[field]}, but the prompts add up to {found}"
            raise _wrong(document, ("measured", field), message)
    tau = pooled.emitted / pooled.rounds
    if abs(measured["tau"] - tau) > _ROUNDING:
        raise _wrong(
            document, ("measured", "tau"), f"measured.tau is {measured['tau']}, but the counters give {tau:.4f}"
        )
    if data["prompts"]["count"] != len(out):
        message = f"prompts.count is {data['prompts']['count']}, but {len(out)} are listed"
        raise _wrong(document, ("prompts", "count"), message)
    return tuple(out)


def _wrong(document: Document, at: Location, message: str) -> InputError:
    return document.error(at, message, "write the reference again, from a report", "reference-counters")


def _section(name: str, entries: dict[str, object]) -> list[str]:
    return [f"{name}:", *(f"  {key}: {_scalar(value)}" for key, value in entries.items()), ""]


def _scalar(value: Any) -> str:
    """A value that YAML and JSON both read; text in double quotes, with invisible characters escaped."""
    if isinstance(value, str):
        quoted = json.dumps(value, ensure_ascii=False)
        return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_scalar, value))}]"
    return json.dumps(value)
