"""Cards of imported results: what is accepted, what is computed, and that nothing claims to have been measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from card_samples import MINIMAL
from huggingface_hub import ModelCard
from support.versions import SGLANG, VLLM

from eagle3hub.card import load_manifest, render_text
from eagle3hub.card.imported import Value, difference, read_imported, table
from eagle3hub.errors import ManifestError
from eagle3hub.lint import lint_text
from eagle3hub.releasing.release import ReleaseOptions, release_head

Write = Callable[[str], Path]

NAMED = MINIMAL.replace("  license: mit\n", "  license: mit\n  evaluated_on: {A: owner/a, B: owner/b, C: owner/c}\n")
HEADLESS = (
    NAMED.replace("head:\n  source: head\n", "").replace("layouts:\n  main: specforge\n", "")
    + "imported: ['results/*.yaml']\n"
)
RESULTS = f"""\
schema: eagle3hub/imported/1
source: {{title: a card, url: "https://example.org/card", accessed: 2026-11-22}}
measured_by: the makers
measurements:
  - title: Lengths
    metric: acceptance_length
    rows_are: dataset
    base: Other
    engine: vLLM
    engine_version: {VLLM}
    draft_tokens: 3
    rows:
      - {{name: A, value: 2.50, others: {{Other: 2.00}}, temperature: 0, prompts: 80, interval: [2.40, 2.60]}}
      - {{name: B, value: 1.90, others: {{Other: 2.00}}, temperature: 1, prompts: 80}}
      - {{name: C, value: 3, temperature: 1, prompts: 80}}
"""


def results(tmp_path: Path, text: str = RESULTS) -> Path:
    (tmp_path / "results").mkdir(exist_ok=True)
    path = tmp_path / "results" / "one.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def card(write: Write, tmp_path: Path, text: str = RESULTS, manifest: str = HEADLESS) -> str:
    results(tmp_path, text)
    return render_text(load_manifest(write(manifest)), [], None)


def test_one_source_is_named_once_and_several_at_each_table(write: Write, tmp_path: Path) -> None:
    once = card(write, tmp_path)
    second = RESULTS.replace("title: a card", "title: another card")
    (tmp_path / "results" / "two.yaml").write_text(second, encoding="utf-8")
    twice = card(write, tmp_path)
    assert (once.count("Reported by the makers"), once.count(", reported by the makers")) == (1, 0)
    assert (twice.count("Reported by the makers"), twice.count(", reported by the makers")) == (0, 2)


def test_digits_are_printed_as_typed_and_differences_computed(write: Write, tmp_path: Path) -> None:
    text = card(write, tmp_path)
    assert "| Data set | T | This head, τ | 95% interval | Other, τ | Difference |" in text
    assert "| A | 0 | 2.50 | 2.40 – 2.60 | 2.00 | +25.0% |" in text
    assert "| B | 1 | 1.90 | – | 2.00 | −5.0% |" in text
    assert "| C | 1 | 3 | – | – | – |" in text
    assert "to Other, in percent of the latter" in text
    assert (
        "Reported by the makers; imported from [a card](https://example.org/card), read on 2026-11-22, as printed"
        in text
    )
    assert f"As reported: measured with vLLM {VLLM}, K = 3, 80 prompts." in text
    assert "Not reported: estimator, intervals." in text


def test_a_difference_names_its_sign_and_has_a_base() -> None:
    two, three = Value(2.0, "2.0"), Value(3.0, "3.0")
    assert difference(three, two) == "+50.0%" and difference(two, three) == "−33.3%"
    assert difference(two, None) == difference(two, Value(0.0, "0")) == "–"


def test_nothing_claims_to_have_been_measured_or_validated(write: Write, tmp_path: Path) -> None:
    text = card(write, tmp_path)
    body = text.split("\n---\n", 1)[1]
    assert "Not measured with eagle3hub" in body and "nothing here has been validated" in body
    assert "## Files" not in body and "## Architecture" not in body and "SHA-256" not in body
    for first, second, third in [ModelCard(text).data.eval_results]:
        assert [r.metric_value for r in (first, second, third)] == [2.5, 1.9, 3.0]
        assert first.verified is None and first.source_url == "https://example.org/card"
        assert first.metric_args == {
            "engine": f"vLLM {VLLM}", "K": 3, "temperature": 0, "n": 80, "ci95": [2.4, 2.6],
            "measured_by": "the makers", "imported": True,
        }  # fmt: skip


def test_a_card_of_both_says_which_is_which(write: Write, tmp_path: Path) -> None:
    import card_samples as samples

    results(tmp_path)
    manifest = load_manifest(write(NAMED.replace("owner/target", samples.TARGET) + "imported: ['results/*.yaml']\n"))
    text = render_text(manifest, samples.typed(samples.make_report()), samples.make_head())
    assert "**1.45**" in text and "### As reported by others" in text and "was written without" not in text
    args = [r.metric_args for r in ModelCard(text).data.eval_results]
    assert [a.get("imported", False) for a in args] == [True, True, True], "the packaged prompts have no Hub id"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("value: 2.50", "value: 0.95", 13, "0.95 is no acceptance length"),
        ("value: 2.50", "value: 4.10", 13, "4.10 is no acceptance length for K = 3"),
        ("Other: 2.00}, temperature: 1", "Other: 5}, temperature: 1", 14, "5 is no acceptance length for K = 3"),
        ("interval: [2.40", "interval: [2.55", 13, "does not hold the value"),
        ("base: Other", "base: Othr", 8, "no row has a value of 'Othr'"),
        ("base: Other", "base: Other\n    this: Other", 9, "one of the others too"),
        ("metric: acceptance_length", "metric: acceptance_rate", 6, 'metric is "acceptance_rate"'),
        ("metric: acceptance_length", "metric: marginal_acceptance_rate\n    unit: x\n    note: y", 6, ""),
        ("measured_by: the makers\n", "", 1, "'measured_by' is missing"),
        ("prompts: 80}", "promts: 80}", 14, "did you mean 'prompts'"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in RESULTS
    path = results(tmp_path, RESULTS.replace(old, new, 1) if message else RESULTS)
    if not message:
        assert read_imported(path)
        return
    with pytest.raises(ManifestError) as caught:
        read_imported(path)
    assert caught.value.message.startswith(f"one.yaml:{line}: "), caught.value.message
    assert message in caught.value.message


UNDER_LOAD = """\
schema: eagle3hub/imported/1
source: {title: a card, url: "https://example.org/card"}
measured_by: the makers
measurements:
  - title: Under load
    metric: throughput
    unit: tokens/s
    rows_are: conditions
    dataset: GSM8K
    base: Without a head
    draft_tokens: 3
    columns:
      - {name: Speed-up, metric: speedup}
      - {name: Median TPOT, metric: latency, unit: ms}
      - {name: Acceptance length, metric: acceptance_length}
    rows:
      - concurrency: 1
        tensor_parallel: 8
        hardware: 8 B200
        mode: reasoning on
        context: 1k
        value: 300
        others: {Without a head: 150}
        columns: {Speed-up: 2.00, Median TPOT: 3.1, Acceptance length: 2.90}
      - concurrency: 64
        tensor_parallel: 4
        mode: reasoning off
        context: 8192
        value: 9000
        columns: {Acceptance length: 2.5}
"""


def test_rows_have_conditions_and_further_columns_of_their_own(write: Write, tmp_path: Path) -> None:
    text = card(write, tmp_path, UNDER_LOAD)
    header, _, first, second = next(
        text.splitlines()[i : i + 4] for i, line in enumerate(text.splitlines()) if line.startswith("| Hardware |")
    )
    assert header == (
        "| Hardware | TP | Mode | Concurrency | Prompt tokens | This head, tokens/s "
        "| Without a head, tokens/s | Difference | Speed-up | Median TPOT, latency (ms) "
        "| Acceptance length, τ |"
    )
    assert first == "| 8 B200 | 8 | reasoning on | 1 | 1k | 300 | 150 | +100.0% | 2.00× | 3.1 | 2.90 |"
    assert second == "| – | 4 | reasoning off | 64 | 8192 | 9000 | – | – | – | – | 2.5 |"
    assert "As reported: K = 3." in text


def test_results_of_one_set_differ_in_their_arguments(write: Write, tmp_path: Path) -> None:
    results = ModelCard(card(write, tmp_path, UNDER_LOAD)).data.eval_results
    assert [(r.dataset_type, r.metric_value) for r in results] == [("openai/gsm8k", 2.9), ("openai/gsm8k", 2.5)]
    assert results[0].dataset_config == "8 B200, TP 8, reasoning on, concurrency 1, prompts of 1k tokens"
    first, second = (r.metric_args for r in results)
    assert (first["mode"], second["mode"]) == ("reasoning on", "reasoning off")
    assert {key: value for key, value in first.items() if second.get(key) != value} == {
        "mode": "reasoning on", "concurrency": 1, "tensor_parallel": 8, "hardware": "8 B200", "context": "1k",
    }  # fmt: skip


def test_a_data_set_without_a_hub_id_is_on_the_card_alone(write: Write, tmp_path: Path) -> None:
    text = card(write, tmp_path, UNDER_LOAD.replace("GSM8K", "Ours"))
    assert "| 8 B200 |" in text and ModelCard(text).data.eval_results is None
    known = HEADLESS.replace("{A: owner/a", "{Ours: owner/ours, A: owner/a")
    named = card(write, tmp_path, UNDER_LOAD.replace("GSM8K", "Ours"), known)
    assert [r.dataset_type for r in ModelCard(named).data.eval_results] == ["owner/ours"] * 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tensor_parallel: 4\n        mode: reasoning off\n        context: 8192\n        ", "", ""),
        (
            "      - concurrency: 64",
            "      - name: x\n        concurrency: 64",
            "rows that are conditions have no names",
        ),
        ("rows_are: conditions", "rows_are: setting", "the field 'name' is missing"),
        ("columns: {Acceptance length: 2.5}", "columns: {Acceptance: 2.5}", "no column 'Acceptance'"),
        (
            "columns: {Acceptance length: 2.5}",
            "columns: {Acceptance length: 4.5}",
            "4.5 is no acceptance length for K",
        ),
        ("columns: {Speed-up: 2.00", "columns: {Speed-up: -2", "-2 is no speed-up"),
        ("Median TPOT: 3.1", "Median TPOT: 0", "0 is no latency"),
        ("{name: Median TPOT,", "{name: Speed-up,", "two columns are called 'Speed-up'"),
        ("mode: reasoning on\n", "mode: 1\n", "mode"),
    ],
)
def test_errors_of_rows_under_conditions(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in UNDER_LOAD
    path = results(tmp_path, UNDER_LOAD.replace(old, new, 1))
    if not message:
        assert read_imported(path)
        return
    with pytest.raises(ManifestError, match=r"^one\.yaml:\d+: ") as caught:
        read_imported(path)
    assert message in caught.value.message


@pytest.mark.parametrize(("kind", "called"), [("dataset", "two rows are called 'A'"), ("conditions", "two rows have")])
def test_two_rows_of_the_same_conditions_are_refused(tmp_path: Path, kind: str, called: str) -> None:
    named = "name: A, " if kind == "dataset" else ""
    rows = f"    rows_are: {kind}\n    rows:\n      - {{{named}value: 2, temperature: 0}}\n"
    text = RESULTS[: RESULTS.index("    rows_are")] + rows
    assert read_imported(results(tmp_path, text + f"      - {{{named}value: 2.2, temperature: 0, mode: thinking}}\n"))
    with pytest.raises(ManifestError, match=f"one.yaml:10: {called}.* the same conditions"):
        read_imported(results(tmp_path, text + f"      - {{{named}value: 2.2, temperature: 0}}\n"))


def test_percentages_are_of_a_hundred(tmp_path: Path) -> None:
    rates = RESULTS.replace("acceptance_length", "training_agreement").replace("value: 2.50", "value: 101")
    with pytest.raises(ManifestError, match="101 is no percentage"):
        read_imported(results(tmp_path, rates))


def test_throughput_names_what_is_missing(tmp_path: Path) -> None:
    text = RESULTS.replace("metric: acceptance_length", "metric: throughput")
    (m,) = read_imported(results(tmp_path, text))
    assert table(m).missing[0] == "unit of throughput" and "hardware" in table(m).missing
    assert "This head, throughput" in table(m).header
    text = text.replace("metric: throughput", "metric: throughput\n    unit: tokens/s\n    hardware: 8 B200")
    (m,) = read_imported(results(tmp_path, text))
    assert "This head, tokens/s" in table(m).header
    assert not {"unit of throughput", "hardware"} & set(table(m).missing)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (MINIMAL.replace("head:\n  source: head\n", ""), "'head' is missing"),
        (MINIMAL.replace("layouts:\n  main: specforge\n", ""), "'layouts' is missing"),
        (MINIMAL + "architecture: {Layers: 1}\n", "architecture is given for a head"),
        (MINIMAL + "training:\n  emissions: {co2: 3}\n", "co2 and co2_unit go together"),
        (MINIMAL + "training:\n  emissions: {co2: 3, co2_unit: tonnes}\n", "co2_unit"),
        (MINIMAL + "engines: [{engine: vlm}]\n", "did you mean 'vllm'"),
        (MINIMAL + "subcards: {biass: {a: b}}\n", "did you mean 'bias'"),
        (MINIMAL + "style: long\n", 'style is "long"'),
    ],
)
def test_what_does_not_fit_together(write: Write, manifest: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load_manifest(write(manifest))
    assert message in caught.value.message


def test_a_manifest_without_a_head_is_no_release(write: Write, tmp_path: Path) -> None:
    results(tmp_path)
    with pytest.raises(ManifestError) as caught:
        release_head(write(HEADLESS), ReleaseOptions(output=tmp_path / "out"))
    assert caught.value.code == "manifest-no-head"


@pytest.mark.parametrize(("amount", "unit"), [("0.8075", "t"), ("807.5", "kg"), ("807500", "g")])
def test_emissions_are_grams_in_the_metadata(write: Write, tmp_path: Path, amount: str, unit: str) -> None:
    more = f"training:\n  emissions: {{energy_kwh: 2500, co2: {amount}, co2_unit: {unit}, source: a meter}}\n"
    text = card(write, tmp_path, manifest=HEADLESS + more)
    assert ModelCard(text).data.co2_eq_emissions == {"emissions": 807500, "source": "a meter"}
    assert f"| Emissions | {amount} {unit} CO2e" in text and "0.323 kg per kWh, computed" in text
    assert "| Energy | 2500 kWh |" in text
    assert not [f for f in lint_text(text) if f.code in ("C620", "C621")]


def test_untested_engines_say_so_and_need_their_patch(write: Write, tmp_path: Path) -> None:
    more = (
        f"engines:\n  - {{engine: sglang, version: {SGLANG}, requires: a patch, requires_link: 'https://e.org/p'}}\n"
    )
    text = card(write, tmp_path, manifest=HEADLESS + more)
    assert "### SGLang, not tested here" in text and "Needs [a patch](https://e.org/p)." in text
    assert "--speculative-num-draft-tokens 4" in text and "sgl.Engine(" in text
    assert "never run with these files" in text


@pytest.mark.parametrize(
    ("style", "first", "last"),
    [
        ("standard", "Results", "Provenance"),
        ("short", "Results", "Citation"),
        ("model-card-plus-plus", "License", "Provenance"),
    ],
)  # fmt: skip
def test_styles(write: Write, tmp_path: Path, style: str, first: str, last: str) -> None:
    more = f"style: {style}\nsubcards:\n  bias: {{Measures: none}}\n  privacy: {{Data reviewed: 2026}}\n"
    text = card(write, tmp_path, manifest=HEADLESS + more)
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert (headings[0], headings[-1]) == (first, last)
    assert ("### Privacy" in text) == (style != "short")
    assert "| Data reviewed | 2026 |" in text or style == "short"
