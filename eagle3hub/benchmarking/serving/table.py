"""Make the tables of a serving measurement, as plain text in cells; every number is computed from the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eagle3hub.benchmarking import chart
from eagle3hub.benchmarking.results import Results
from eagle3hub.benchmarking.serving.results import (
    MeasuredServer,
    ServingComparison,
    ServingRecord,
    ServingResults,
    Spread,
)
from eagle3hub.benchmarking.table import NOISE, Column, Table, with_images
from eagle3hub.charts import Chart, Panel, Series, throughput_by_concurrency
from eagle3hub.engines.options import settings_in_words
from eagle3hub.engines.specs import engine_title
from eagle3hub.metrics import MIN_PROMPTS
from eagle3hub.system.text import visible

_NOTHING = "–"
_WIDEST = 100
"""An interval whose upper end is more than this many times the lower says nothing, and is not printed."""
_DATASET = Column(("data set",), "left")
_AT_A_TIME = Column(("at a", "time"))
Place = tuple[str, str, int]


def tables(results: ServingResults) -> list[Table]:
    """Return every table that has numbers, engine by engine."""
    out = []
    for engine, version in dict.fromkeys((c.engine, c.engine_version) for c in results.cells if c.requests):
        title = f"{engine_title(engine)} {version}"
        places = [place for place in results.places if place[0] == engine]
        for make in (_speed, _speedups, _latency, _acceptance):
            table = make(results, places, title)
            if table is not None:
                out.append(table)
    return out


def conditions(results: ServingResults) -> list[str]:
    """Return the conditions of the tables: target, servers, prompts, hardware, settings, and what was not measured."""
    out = [f"Target: {results.target.in_words}"]
    out += [f"Head {head.name}: {head.layout} layout, {head.digest[:19]}…" for head in results.heads]
    out += [f"Server {server.name}: {describe(server)}" for server in results.servers]
    for prompts in {c.prompts.name: c.prompts for c in results.cells}.values():
        out.append(
            f"Prompts {prompts.name}: {prompts.count}, {prompts.turns} turn of each{with_images(prompts)}, "
            f"SHA-256 {prompts.sha256[:12]}…"
        )
    out += list(dict.fromkeys(line for cell in results.cells if cell.requests for line in _conditions(cell)))
    if any(cell.requests for cell in results.cells):
        several = ", mean of the runs, lowest and highest in parentheses" if results.runs > 1 else ""
        times = "once" if results.runs == 1 else f"{results.runs} times"
        out.append(
            f"Runs: each server was started once and answered all prompts {times} at each concurrency; warm-up "
            "requests are not counted. Speed: new tokens over the seconds from the first request sent to the last "
            f"token{several}."
        )
        out.append(
            "Speed-up: ratio of new tokens per second of request, paired by prompt and run; in parentheses its 95 % "
            f"interval, where {MIN_PROMPTS} or more prompts were answered. TTFT: from sending a request to its first "
            "token; TPOT: per token after the first; latency: to the last token."
        )
    out += _texts(results)
    missing = results.cells_planned - len(results.cells)
    if missing:
        out.append(f"Not finished: {missing} of {results.cells_planned} cells have not been measured.")
    failed = [cell for cell in results.cells if cell.verdict != "pass"]
    for server, reason in dict.fromkeys((cell.server, cell.reason) for cell in failed):
        count = sum((cell.server, cell.reason) == (server, reason) for cell in failed)
        out.append(f"Not measured ({count} of {len(results.cells)} cells, {server}): {reason}")
    return out


def _texts(results: ServingResults) -> list[str]:
    """Say how many greedy answers of each server that drafts have the tokens of the target alone."""
    alone = next((one for one in results.servers if one.method == "none"), None)
    if alone is None or any(cell.settings.temperature for cell in results.cells):
        return []
    said, differ = [], False
    for server in results.servers:
        if server is alone:
            continue
        counts = []
        for place in results.places:
            runs = {run.run: run for run in results.runs_of(alone.name, place)}
            pairs = [
                (ours.tokens_sha256, theirs.tokens_sha256)
                for run in results.runs_of(server.name, place)
                if run.run in runs
                for ours, theirs in zip(run.requests, runs[run.run].requests, strict=True)
            ]
            if pairs:
                same = sum(ours == theirs for ours, theirs in pairs)
                differ = differ or same < len(pairs)
                counts.append(f"{same} of {len(pairs)} ({place[1]}, {place[2]} at a time)")
        if counts:
            said.append(f"{server.name} {', '.join(counts)}")
    if not said:
        return []
    open_point = (
        " Whether the others differ by more than the rounding of larger batches was not checked: `eagle3hub validate` "
        "judges a first difference by the target's own margin."
    )
    return [f"Answers with the same tokens as {alone.name}: {'; '.join(said)}." + (open_point if differ else "")]


def describe(server: MeasuredServer) -> str:
    """Say in a few words how a server drafts."""
    words = {
        "none": "the target alone",
        "eagle3": f"EAGLE-3 with the head {server.head}",
        "mtp": "the target's own MTP layers",
        "ngram": "n-grams of the text so far",
    }[server.method]
    return words if server.method == "none" else f"{words}, K = {server.draft_tokens}"


def _conditions(cell: ServingRecord) -> list[str]:
    settings, ran = cell.settings, cell.environment
    devices = settings.engine_settings.tensor_parallel
    system = "no system prompt" if settings.system_prompt is None else f"system prompt {settings.system_prompt!r}"
    where = ran.get("processor") or "a running server, whose hardware is not known"
    out = [
        f"Hardware: {where}"
        + (f", {ran['threads']} threads" if ran.get("threads") else "")
        + f"; {settings.dtype} on "
        f"{settings.device}; tensor parallel size {devices if settings.device != 'server' else 'not known'}",
        f"Settings: up to {settings.max_new_tokens} new tokens, temperature {settings.temperature:g}, seed "
        f"{settings.seed}, chat template: {settings.chat_template}, {system}; sent by "
        f"{settings.load_generator}, which keeps as many requests under way as a row says.",
    ]
    if started := settings_in_words(replace(settings.engine_settings, tensor_parallel=1)):
        out.append(f"Started as: {started}.")
    if cell.unchecked:
        out.append(f"Not checked of {cell.server}: {', '.join(cell.unchecked)}.")
    return out


def _key(place: Place) -> tuple[str, str]:
    return place[1], str(place[2])


def _speed(results: ServingResults, places: Sequence[Place], title: str) -> Table | None:
    rows = [
        (*_key(place), *(_rate(results.runs_of(server.name, place)) for server in results.servers)) for place in places
    ]
    columns = (_DATASET, _AT_A_TIME, *(Column((server.name,)) for server in results.servers))
    return Table(f"Throughput, new tokens per second, {title}", columns, tuple(rows), 2)


def _rates(runs: Sequence[ServingRecord]) -> list[float]:
    return [found.output_tokens_per_second for run in runs if (found := run.summary) is not None]


def _rate(runs: Sequence[ServingRecord]) -> str:
    rates = _rates(runs)
    if not rates:
        return _NOTHING
    mean = f"{math.fsum(rates) / len(rates):.2f}"
    return mean if len(rates) == 1 else f"{mean} ({min(rates):.2f}–{max(rates):.2f})"


def _speedups(results: ServingResults, places: Sequence[Place], title: str) -> Table | None:
    servers = [server for server in results.servers if not server.is_baseline]
    bases = [server for server in results.servers if server.is_baseline]
    found = {((c.engine, c.dataset, c.concurrency), c.server, c.base): c for c in results.comparisons}
    pairs = [(s, b) for s in servers for b in bases if any(key[1:] == (s.name, b.name) for key in found)]
    if not pairs:
        return None
    rows = [
        (*_key(place), *(_ratio(found.get((place, server.name, base.name))) for server, base in pairs))
        for place in places
    ]
    columns = (_DATASET, _AT_A_TIME, *(Column((s.name, "against", b.name)) for s, b in pairs))
    marked = any(text.endswith(NOISE) for row in rows for text in row)
    told = (
        f"{NOISE} not shown to be faster or slower: the 95 % interval includes 1, or is wider than a factor of "
        f"{_WIDEST}, or there is none"
    )
    return Table(f"Speed-up, {title}", columns, tuple(rows), 2, (told,) if marked else ())


def _ratio(one: ServingComparison | None) -> str:
    if one is None:
        return _NOTHING
    if one.ci95 is None or one.ci95[1] > _WIDEST * one.ci95[0]:
        return f"{one.ratio:.2f}×{NOISE}"
    low, high = one.ci95
    return f"{one.ratio:.2f}× ({low:.2f}–{high:.2f})" + (NOISE if low <= 1 <= high else "")


def _latency(results: ServingResults, places: Sequence[Place], title: str) -> Table | None:
    rows = []
    for place in places:
        for server in results.servers:
            requests = [row for run in results.runs_of(server.name, place) for row in run.requests]
            if requests:
                per_token = [t for row in requests if (t := row.time_per_output_token) is not None]
                spreads = (
                    Spread.of([row.time_to_first_token for row in requests]),
                    Spread.of(per_token),
                    Spread.of([row.latency for row in requests]),
                )
                rows.append((*_key(place), server.name, *(text for one in spreads for text in _milliseconds(one))))
    measures = [("TTFT", "p50"), ("TTFT", "p99"), ("TPOT", "p50"), ("TPOT", "p99"), ("latency", "p50")]
    columns = tuple(Column(names, joined=names[1] == "p99") for names in (*measures, ("latency", "p99")))
    keys = (_DATASET, _AT_A_TIME, Column(("server",), "left"))
    return Table(f"Latency of requests, milliseconds, {title}", (*keys, *columns), tuple(rows), 3)


def _milliseconds(spread: Spread | None) -> tuple[str, str]:
    if spread is None:
        return _NOTHING, _NOTHING
    return _ms(spread.p50), _ms(spread.p99)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}" if seconds < 1 else f"{1000 * seconds:,.0f}"


def _acceptance(results: ServingResults, places: Sequence[Place], title: str) -> Table | None:
    drafting = [server for server in results.servers if server.method != "none"]
    rows = [(*_key(place), *(_tau(results.runs_of(server.name, place)) for server in drafting)) for place in places]
    if not any(text != _NOTHING for row in rows for text in row[2:]):
        return None
    columns = (_DATASET, _AT_A_TIME, *(Column((server.name,)) for server in drafting))
    notes = ["from each answer's own counters, so other requests on the server do not matter; first run"]
    if any(server.method == "ngram" for server in drafting):
        notes.append("n-grams: only over the rounds in which something was drafted")
    return Table(f"Acceptance length τ, {title}", columns, tuple(rows), 2, tuple(notes))


def _tau(runs: Sequence[ServingRecord]) -> str:
    """Write tau of the first run; where decoding is greedy, the other runs repeat it."""
    first = runs[0].summary if runs else None
    found = None if first is None else first.acceptance
    if found is None:
        return _NOTHING
    if found.ci95 is None:
        return f"{found.mean_acceptance_length:.2f}"
    low, high = found.ci95
    return f"{found.mean_acceptance_length:.2f} ({low:.2f}–{high:.2f})"


# The chart, and the files


def any_charts(results: Results | ServingResults) -> dict[str, Chart]:
    """Draw the charts of results of either kind; keys are file names without ending."""
    return charts(results) if isinstance(results, ServingResults) else chart.charts(results)


def charts(results: ServingResults) -> dict[str, Chart]:
    """Draw new tokens per second by concurrency, a panel for each data set, for each engine that has several."""
    out = {}
    for engine in dict.fromkeys(place[0] for place in results.places):
        places = [place for place in results.places if place[0] == engine]
        numbers = sorted({at_a_time for _, _, at_a_time in places})
        if len(numbers) > 1:
            panels = [
                Panel(
                    name,
                    tuple(map(str, numbers)),
                    tuple(_series(results, one.name, engine, name, numbers) for one in results.servers),
                )
                for name in dict.fromkeys(place[1] for place in places)
            ]
            several = f"mean of {results.runs} runs; bars: lowest and highest run"
            told = [results.target.name, engine_title(engine), *_devices(results, engine)]
            note = " · ".join([*told, several if results.runs > 1 else "one run"])
            title = "Throughput by concurrency"
            out[f"throughput-by-concurrency-{engine}"] = throughput_by_concurrency(panels, title=title, note=note)
    return out


def _devices(results: ServingResults, engine: str) -> list[str]:
    """Say over how many devices the servers of an engine were split, where it was more than one."""
    sizes = {cell.settings.engine_settings.tensor_parallel for cell in results.cells if cell.engine == engine}
    return [f"tensor parallel size {size}" for size in sorted(sizes - {1})]


def _series(results: ServingResults, server: str, engine: str, dataset: str, numbers: Sequence[int]) -> Series:
    values: list[float | None] = []
    ends: list[tuple[float, float] | None] = []
    for at_a_time in numbers:
        rates = _rates(results.runs_of(server, (engine, dataset, at_a_time)))
        values.append(math.fsum(rates) / len(rates) if rates else None)
        ends.append((min(rates), max(rates)) if len(rates) > 1 else None)
    return Series(server, tuple(values), tuple(ends))


def write_all(results: ServingResults, folder: Path) -> list[Path]:
    """Write ``tables.md`` and ``charts/``; returns the files. Raises OutputError."""
    pictures = charts(results)
    page = chart.markdown_page("Speed under load", tables(results), pictures, conditions(results))
    files = {"tables.md": visible(page, keep_lines=True).encode()}
    for name, made in pictures.items():
        files |= {f"charts/{name}.svg": made.svg, f"charts/{name}.png": made.png}
    return chart.written(files, folder)
