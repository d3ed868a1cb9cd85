"""What the card prints about imported measurements: their numbers as reported, differences computed here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eagle3hub.card.imported import LENGTH, RATES, Measurement, Row, Value

CHARTS = "charts"
"""Folder of charts, beside the card."""
METRICS = {
    "acceptance_length": "Acceptance length τ",
    "throughput": "Throughput",
    "marginal_acceptance_rate": "Marginal rate",
    "conditional_acceptance_rate": "Conditional rate",
    "training_agreement": "Agreement in training",
}
_ROWS_ARE = {"dataset": "Data set", "category": "Category", "position": "Position", "setting": "Setting"}
_WORDS = {
    "engine": "engine",
    "engine_version": "engine version",
    "hardware": "hardware",
    "dtype": "number format",
    "draft_tokens": "K (drafted tokens per round)",
    "temperature": "temperature",
    "prompts": "number of prompts",
    "concurrency": "batch size",
    "max_new_tokens": "output length",
    "estimator": "estimator",
    "baseline": "baseline",
}
_NEEDED = {
    LENGTH: ("engine", "engine_version", "draft_tokens", "temperature", "prompts", "estimator"),
    "throughput": (
        "engine", "engine_version", "hardware", "draft_tokens", "temperature", "prompts", "concurrency",
        "max_new_tokens",
    ),
    "marginal_acceptance_rate": ("engine", "engine_version", "temperature", "prompts"),
    "conditional_acceptance_rate": ("engine", "engine_version", "temperature", "prompts"),
    "training_agreement": ("prompts",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """One imported table, ready to print.

    ``given`` and ``missing`` are the conditions that its source reports and those that it leaves out; ``base`` is
    what the differences of its last columns are taken of, or empty.
    """

    title: str
    metric: str
    meaning: str
    dataset: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    base: str
    given: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    note: str
    source: str
    url: str
    accessed: str
    measured_by: str
    picture: str


_MEANINGS = {
    "training_agreement": "Share of training positions at which the most likely token of the head is the target's, "
    "step by step of training-time test. It is not an acceptance rate of an engine and does not convert to τ.",
    "marginal_acceptance_rate": "Marginal: share of all rounds in which the token at this position was accepted.",
    "conditional_acceptance_rate": "Conditional: share of the rounds whose earlier tokens were all accepted.",
}


_COLUMN = {
    LENGTH: "τ",
    "marginal_acceptance_rate": "marginal rate",
    "conditional_acceptance_rate": "conditional rate",
    "training_agreement": "agreement",
}


def tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Every measurement as a table, in order."""
    return [table(m, f"{CHARTS}/{chart_name(i, m)}") for i, m in enumerate(measurements, 1)]


def chart_name(number: int, m: Measurement) -> str:
    """File name, without ending, of the chart of the measurement at ``number``, counted from 1."""
    return re.sub(r"[^a-z0-9]+", "-", f"reported-{number}-{m.title}".lower()).strip("-")[:60].strip("-")


def table(m: Measurement, picture: str = "") -> Table:
    """One measurement as a table; ``picture`` is the path, without ending, of its chart."""
    columns = [key for key in ("draft_tokens", "temperature", "prompts") if _varies(m, key)]
    label = {"draft_tokens": "K", "temperature": "T", "prompts": "Prompts"}
    what = _COLUMN.get(m.metric) or f"throughput ({m.unit or 'unit not reported'})"
    with_interval = any(row.interval for row in m.rows)
    header = [_ROWS_ARE[m.rows_are], *(label[key] for key in columns), f"{m.this}, {what}"]
    header += ["95% interval"] if with_interval else []
    header += [f"{name}, {what}" for name in m.others]
    header += ["Difference"] if m.base else []
    return Table(
        title=m.title,
        metric=METRICS[m.metric],
        meaning=_MEANINGS.get(m.metric, ""),
        dataset=m.dataset,
        header=tuple(header),
        rows=tuple(_cells(m, row, columns, with_interval) for row in m.rows),
        base=m.base,
        given=tuple(_given(m, columns)),
        missing=tuple(missing(m)),
        note=m.note,
        source=m.source.title,
        url=m.source.url,
        accessed=m.source.accessed,
        measured_by=m.source.measured_by,
        picture=picture,
    )


def _varies(m: Measurement, key: str) -> bool:
    return len({row.conditions.get(key) for row in m.rows}) > 1


def _cells(m: Measurement, row: Row, columns: Sequence[str], with_interval: bool) -> tuple[str, ...]:
    percent = "%" if m.metric in RATES else ""
    cells = [row.name, *(row.conditions.get(key, "–") for key in columns), row.value.text + percent]
    if with_interval:
        cells.append(f"{row.interval[0].text} – {row.interval[1].text}" if row.interval else "–")
    cells += [row.others[name].text + percent if name in row.others else "–" for name in m.others]
    if m.base:
        cells.append(difference(row.value, row.others.get(m.base)))
    return tuple(cells)


def difference(value: Value, base: Value | None) -> str:
    """``value`` relative to ``base``, in percent of ``base``, with its sign; a dash without a base."""
    if base is None or base.number == 0:
        return "–"
    return f"{value.number / base.number - 1:+.1%}".replace("-", "−")


def _given(m: Measurement, columns: Sequence[str]) -> list[tuple[str, str]]:
    shown: list[tuple[str, str]] = []
    conditions: Mapping[str, str] = m.rows[0].conditions
    engine = " ".join(filter(None, (conditions.get("engine"), conditions.get("engine_version"))))
    shown += [("measured with", engine)] if engine else []
    shown += [("K =", conditions["draft_tokens"])] if _shared(conditions, "draft_tokens", columns) else []
    shown += [("temperature", conditions["temperature"])] if _shared(conditions, "temperature", columns) else []
    shown += [("number of prompts:", conditions["prompts"])] if _shared(conditions, "prompts", columns) else []
    words = {
        "hardware": "hardware:", "dtype": "number format:", "concurrency": "batch size",
        "max_new_tokens": "output length, at most", "runs": "runs averaged:", "estimator": "estimator:",
        "baseline": "baseline:",
    }  # fmt: skip
    return shown + [(word, conditions[key]) for key, word in words.items() if key in conditions]


def _shared(conditions: Mapping[str, str], key: str, columns: Sequence[str]) -> bool:
    return key in conditions and key not in columns


def missing(m: Measurement) -> list[str]:
    """What a reader needs to compare the numbers and their source leaves out."""
    absent = [_WORDS[key] for key in _NEEDED[m.metric] if any(key not in row.conditions for row in m.rows)]
    if m.metric == "throughput":
        absent = ([] if m.unit else ["unit of throughput"]) + absent
        if not m.others and "baseline" not in m.rows[0].conditions:
            absent.append("baseline")
    if m.metric == LENGTH and m.rows_are == "category":
        absent.append("overall τ")
    if not all(row.interval for row in m.rows):
        absent.append("intervals")
    return absent
