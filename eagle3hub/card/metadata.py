"""The card's YAML block, written with huggingface_hub's own `ModelCardData`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from eagle3hub.card import vocabulary
from eagle3hub.card.imported import LENGTH, ImportedTable, Row, Value, label
from eagle3hub.card.manifest import Emissions, Manifest, Release
from eagle3hub.card.reports import Run
from eagle3hub.card.results import Benchmark, mode
from eagle3hub.metrics import Acceptance
from eagle3hub.system.text import visible
from eagle3hub.validation.report import MeasuredPrompts, Settings

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

    from eagle3hub.benchmarking.plan import CellSettings
    from eagle3hub.benchmarking.results import CellPrompts

TAGS = ("eagle3", "speculative-decoding", "draft-model")
TASK = "text-generation"
"""The task of evaluation results, which the Hub asks for; `Release.pipeline_tag` is the repository's."""


def model_card_data(
    manifest: Manifest,
    runs: Sequence[Run],
    benchmarks: Sequence[Benchmark] = (),
    digests: Collection[str] = (),
    serves: Collection[str] = (),
) -> ModelCardData:
    """Return the card's metadata; each field holds what the Hub expects there.

    Engines are tags and not the ``library_name``: that field selects the Hub's snippets and download counts, and the
    Hub knows none of the engines as a library (`lint.libraries`). Tags are the engines that passed, those that a
    benchmark ran on, and those of ``serves``, which the card prints a command for.

    Evaluation results are our own runs of the main layout that passed, the benchmark cells of heads with one of the
    release's ``digests``, and imported acceptance lengths with who measured them. Results of a data set without a Hub
    id are left out (`Release.evaluated_on`). Nothing is marked as verified.
    """
    from huggingface_hub import ModelCardData

    release, shown = (
        manifest.release,
        [r for r in runs if r.passed and r.layout == manifest.layouts.main and r.acceptance],
    )
    cells = [(cell, b.file) for b in benchmarks for cell in b.cells_of(digests)]
    ran = [*(run.entry.engine for run in shown), *(cell.engine for cell, _ in cells)]
    engines = [
        name for name in dict.fromkeys([*ran, *serves]) if name in vocabulary.ENGINES and name != vocabulary.REFERENCE
    ]
    repo = release.repo
    found = [
        _result(
            release,
            replace(run.report.settings, device=run.entry.device, dtype=run.entry.dtype),
            run.report.prompts,
            run.acceptance,
            f"{vocabulary.engine(run.entry.engine)} {run.entry.version}",
            _source(repo, run.file),
        )
        for run in shown
        if run.acceptance is not None
    ]
    found += [
        _result(
            release,
            cell.settings,
            cell.prompts,
            cell.acceptance,
            f"{vocabulary.engine(cell.engine)} {cell.engine_version}",
            _source(repo, file),
        )
        for cell, file in cells
        if cell.acceptance is not None
    ]
    found += [_imported(release, m, row, value) for m in manifest.imported for row, value in m.of(LENGTH)]
    results = [result for result in found if result is not None]
    emissions = manifest.training.emissions
    more: dict[str, Any] = {"co2_eq_emissions": _grams(emissions)} if emissions and emissions.grams is not None else {}
    return ModelCardData(
        base_model=[manifest.target.id, *manifest.target.also] if manifest.target.also else manifest.target.id,
        language=list(release.language) or None,
        license=release.license.id,
        license_name=release.license.name,
        license_link=release.license.link,
        library_name=release.library_name,
        pipeline_tag=release.pipeline_tag,
        tags=list(dict.fromkeys([*TAGS, *map(vocabulary.tag, engines), *release.tags])),
        datasets=list(dict.fromkeys([*release.datasets, *(d.id for d in manifest.training.data_sets if d.id)]))
        or None,
        model_name=visible(release.title) if results else None,
        eval_results=results or None,
        **more,
    )


def front_matter(
    manifest: Manifest,
    runs: Sequence[Run],
    benchmarks: Sequence[Benchmark] = (),
    digests: Collection[str] = (),
    serves: Collection[str] = (),
) -> str:
    """Return the YAML block with its two lines of dashes and no final newline.

    The arguments are those of `model_card_data`.
    """
    return f"---\n{model_card_data(manifest, runs, benchmarks, digests, serves).to_yaml()}\n---"


def _source(repo: str, file: str) -> str | None:
    """Return the address where the numbers can be read once the release is published."""
    return f"https://huggingface.co/{repo}/blob/main/{quote(file)}" if file else None


def _data_set(release: Release, name: str) -> str | None:
    return release.evaluated_on.get(name) or vocabulary.data_set(name)


def _result(
    release: Release,
    settings: Settings | CellSettings,
    prompts: MeasuredPrompts | CellPrompts,
    acceptance: Acceptance,
    engine: str,
    source: str | None,
) -> EvalResult | None:
    from huggingface_hub import EvalResult

    data_set = _data_set(release, prompts.name)
    if data_set is None:
        return None
    given: dict[str, object] = {key: getattr(settings, key, None) for key in vocabulary.CONDITIONS}
    given |= {"prompts": prompts.count, "estimator": acceptance.estimator, "mode": mode(settings) or None}
    if settings.topk in (None, 1):
        given |= {"topk": None, "num_draft_tokens": None}
    args: dict[str, object] = {"engine": engine}
    args |= {one.arg: given[key] for key, one in vocabulary.CONDITIONS.items() if one.arg}
    args |= {
        "ci95": [round(x, 3) for x in acceptance.ci95] if acceptance.ci95 else None,
    }
    return EvalResult(
        task_type=TASK,
        dataset_type=data_set,
        dataset_name=visible(f"{prompts.name} ({prompts.count} prompts)"),
        metric_type="acceptance_length",
        metric_name="Acceptance length (tokens per verification step)",
        metric_value=round(acceptance.mean_acceptance_length, 3),
        metric_args={k: visible(v) if isinstance(v, str) else v for k, v in args.items() if v is not None},
        source_name="eagle3hub" if source else None,
        source_url=source,
    )


def _imported(release: Release, m: ImportedTable, row: Row, value: Value) -> EvalResult | None:
    from huggingface_hub import EvalResult

    name = row.name if m.rows_are == "dataset" else m.dataset
    data_set = _data_set(release, name)
    if data_set is None:
        return None
    config = "" if m.rows_are == "dataset" else label(m, row)
    given = row.conditions
    engine = " ".join(filter(None, (given.get("engine"), given.get("engine_version"))))
    args: dict[str, object] = {"engine": engine or None}
    args |= {
        one.arg: _number(given[key]) if one.number else given[key]
        for key, one in vocabulary.CONDITIONS.items()
        if one.arg and key in given
    }
    args |= {
        "ci95": [end.number for end in row.interval] if row.interval and m.metric == LENGTH else None,
        "measured_by": m.source.measured_by,
        "imported": True,
    }
    return EvalResult(
        task_type=TASK,
        dataset_type=data_set,
        dataset_name=visible(f"{name}, {config}" if config else name),
        dataset_config=visible(config) if config else None,
        metric_type=LENGTH,
        metric_name="Acceptance length (tokens per verification step), as reported",
        metric_value=value.number,
        metric_args={k: visible(v) if isinstance(v, str) else v for k, v in args.items() if v is not None},
        source_name=visible(m.source.title) if m.source.url else None,
        source_url=m.source.url or None,
    )


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


def _grams(emissions: Emissions) -> dict[str, object]:
    """Write ``co2_eq_emissions`` as the Hub reads it: in grams."""
    grams = round(emissions.grams or 0.0, 3)
    return {"emissions": int(grams) if grams.is_integer() else grams} | {k: visible(v) for k, v in emissions.about}
