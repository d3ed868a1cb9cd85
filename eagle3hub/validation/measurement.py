"""One engine's counters over a set of prompts, and the conditions without which they say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from eagle3hub.metrics import Counts


@dataclass(frozen=True, slots=True)
class Conditions:
    """What moves the acceptance length of a head, besides the prompts.

    Attributes:
        target: name of the target. target_digest: of its weights, where known.
        draft_tokens: K of a chain.
        drafting: how a draft token is chosen: ``greedy`` (arg-max) or ``probabilistic`` (sampled, with rejection).
        dtype: precision of target and head.
        tree: shape of the draft trees, as words; None for chains.
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

    def differences(self, other: Conditions) -> list[str]:
        """What differs, each as ``dtype is bfloat16, not float32``; targets are held by digest where both have one."""
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
            "conditions": asdict(self.conditions),
            "counts": [{"question_id": question, **counts.to_json()} for question, counts in rows],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """What `to_json` gave. Raises InputError (``metrics-counters``) for counters that no run can produce."""
        return cls(
            **{
                **data,
                "conditions": Conditions(**data["conditions"]),
                "question_ids": tuple(row["question_id"] for row in data["counts"]),
                "counts": tuple(counters(row) for row in data["counts"]),
            }
        )

    def same_prompts(self, other: Measurement) -> bool:
        """Whether both measured exactly the same prompts in the same order."""
        return (self.prompts_sha256, self.question_ids) == (other.prompts_sha256, other.question_ids)


def measurement_of(report: Mapping[str, Any], entry: Mapping[str, Any]) -> Measurement:
    """The measurement in one entry of a report's ``engines``, one that has ``per_prompt``.

    A report that does not name its ``drafting`` measured an engine's default, greedy.
    """
    head, target, prompts, settings = (report[key] for key in ("head", "target", "prompts", "settings"))
    rows = entry["per_prompt"]
    return Measurement(
        engine=entry["engine"],
        version=entry["version"],
        measured_at=report["measured_at"],
        head=head["source"],
        head_digest=head["digest"],
        conditions=Conditions(
            target=target["name"],
            target_digest=target["weights_digest"],
            dtype=entry["dtype"],
            drafting=settings.get("drafting", "greedy"),
            tree=_tree(settings),
            **{
                key: settings[key]
                for key in ("draft_tokens", "temperature", "max_new_tokens", "chat_template", "system_prompt")
            },
        ),
        prompts=prompts["name"],
        prompts_sha256=prompts["sha256"],
        question_ids=tuple(row["question_id"] for row in rows),
        counts=tuple(counters(row) for row in rows),
    )


def counters(row: Mapping[str, Any]) -> Counts:
    """The counters in one row of a report. Raises InputError (``metrics-counters``) for what no run can produce."""
    positions = tuple(row["accepted_per_position"])
    return Counts(row["rounds"], row["drafted"], row.get("accepted", sum(positions)), positions)


def _tree(settings: Mapping[str, Any]) -> str | None:
    if settings.get("topk", 1) == 1:
        return None
    return f"top-k {settings['topk']}, {settings.get('num_draft_tokens')} tokens verified"
