"""Files of other tools: profiles go out and come back with the same numbers, results come in with their source.

``fixtures/imported``: AIPerf's file and vLLM's are of runs on a CPU, with fields left out and no path of the machine.
Those of specdec_bench and SpecForge restate the formats from their sources; the rounds of specdec_bench's are the ones
that its own tests hold, of a real run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from card.card_samples import make_report
from support.versions import VLLM

from eagle3hub.card import exchange
from eagle3hub.card.imported import read_imported, table
from eagle3hub.errors import Eagle3HubError
from eagle3hub.validation.report import Report

Cli = Callable[..., tuple[int, str, str]]
FIXTURES = Path(__file__).parent / "fixtures" / "imported"
PROFILE: dict[str, Any] = json.loads((FIXTURES / "speculation_profile.json").read_text())


def written(folder: Path, document: object, name: str = "speculation_profile.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def refused(code: str, call: Callable[[], object]) -> Eagle3HubError:
    with pytest.raises(Eagle3HubError) as raised:
        call()
    assert raised.value.code == code, raised.value
    return raised.value


def test_a_profile_goes_out_of_a_report_and_comes_back_the_same(tmp_path: Path, cli: Cli) -> None:
    source = written(tmp_path, make_report(), "report.json")
    status, out, err = cli("profile", source, "--output", tmp_path / "p.json")
    assert status == 0, err
    made = json.loads((tmp_path / "p.json").read_text())
    found = exchange.load_profile(tmp_path / "p.json")
    assert found.to_json() == made, "read back, every number is the same"
    entry = Report.from_json(make_report()).engines[0]
    assert entry.acceptance is not None and entry.counted is not None
    assert made["mean_accept_length"] == round(entry.acceptance.mean_acceptance_length, 6)
    assert f"{entry.acceptance.mean_acceptance_length:.3f}" in out
    rounds = sum(row.counts.rounds for row in entry.counted.per_prompt)
    first = sum(row.counts.accepted_per_position[0] for row in entry.counted.per_prompt)
    assert made["marginal_accept_rates"][0] == round(first / rounds, 6)
    histogram = {int(n): count for n, count in made["acceptance_length_histogram"].items()}
    assert (sorted(histogram), sum(histogram.values())) == ([1, 2, 3, 4], rounds)
    tokens = sum(n * count for n, count in histogram.items())
    assert round(tokens / rounds, 6) == made["mean_accept_length"], "a round gives the target's own token too"
    assert made["validation"]["mean_consistency"]["passed"] is True
    assert made["accept_length_model"] == "chain_analytic"
    conditions = made["measurement_conditions"]
    assert conditions["report_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (conditions["engine"], conditions["engine_version"]) == ("vllm", VLLM)
    assert list(made)[:6] == [
        "schema_version", "measured", "method", "draft_checkpoint", "target_model", "num_speculative_tokens"
    ]  # fmt: skip


def test_dynamo_gets_conditional_rates_as_text(tmp_path: Path, cli: Cli) -> None:
    status, out, _ = cli("profile", written(tmp_path, PROFILE), "--to", "dynamo", "--json")
    assert (status, json.loads(out)) == (
        0,
        {
            "schema": "eagle3hub/profile-dynamo/1",
            "aic_nextn": 3,
            "aic_nextn_accept_rates": "0.719081,0.645495,0.624895",
        },
    )
    long = {**PROFILE, "num_speculative_tokens": 7, "conditional_accept_rates": [0.5] * 7}
    long |= {"marginal_accept_rates": [0.5**i for i in range(1, 8)], "mean_accept_length": 2 - 0.5**7}
    long["mean_accept_length_per_request"] = None
    status, out, err = cli("profile", written(tmp_path, long), "--to", "dynamo", "--json")
    assert json.loads(out)["aic_nextn_accept_rates"] == "0.5,0.5,0.5,0.5,0.5"
    assert "of 7 these are the first 5" in err


def test_the_vectors_are_those_of_modelopts_own_code() -> None:
    """The histogram and the expected rates are those of its tests (`test_speculation_profile.py`)."""
    found = exchange.read_profile(PROFILE, "p")
    assert found.mean == pytest.approx(2.4733, abs=1e-3)
    assert found.to_json()["conditional_accept_rates"] == PROFILE["conditional_accept_rates"]
    counts = [found.histogram[n] for n in (1, 2, 3, 4)]
    assert [round(sum(counts[i:]) / sum(counts), 6) for i in (1, 2, 3)] == PROFILE["marginal_accept_rates"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"schema_version": "2.0"}, "profile-version", "schema_version is '2.0', and 1.0 is known here"),
        ({"measured": False}, "profile-unmeasured", "it is a stub"),
        ({"mean_accept_length": None}, "profile-field", "'mean_accept_length' is missing"),
        ({"conditional_accept_rates": "0.7"}, "profile-field", "'conditional_accept_rates'"),
        ({"conditional_accept_rates": [1.2, 0.5, 0.5]}, "profile-numbers", "holds 1.2, which is no rate"),
        ({"marginal_accept_rates": [0.7, 0.4]}, "profile-numbers", "rates of 3 and 2 positions"),
        ({"mean_accept_length": 4.5}, "profile-numbers", "4.5, which is not between 1 and 4"),
        ({"mean_accept_length": 2.9}, "profile-numbers", "the rates imply 2.4733"),
        ({"marginal_accept_rates": [0.719081, 0.8, 0.29]}, "profile-numbers", "more rounds accept position 1"),
        ({"marginal_accept_rates": [0.719081, 0.5, 0.29]}, "profile-numbers", "is not 0.645495 of the one before it"),
    ],
)
def test_numbers_that_cannot_be(tmp_path: Path, cli: Cli, change: dict[str, Any], code: str, said: str) -> None:
    status, out, _ = cli("profile", written(tmp_path, {**PROFILE, **change}), "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (3, code)
    assert said in error["message"]
    assert error["message"].startswith("speculation_profile.json: ")


def test_what_is_asked_in_vain(tmp_path: Path, cli: Cli) -> None:
    source = written(tmp_path, make_report(), "report.json")
    edited = make_report()
    edited["engines"][0]["acceptance"]["mean_acceptance_length"] = 3.9
    for words, status, code in (
        (("profile", written(tmp_path, edited, "edited.json")), 3, "report-contradiction"),
        (("profile", source, "--engine", "sglang"), 2, "profile-engine"),
        (("profile", source, "--to", "excel"), 2, "profile-format"),
        (("profile", written(tmp_path, {"a": 1}, "a.json")), 3, "profile-unknown"),
        (("card", "import", written(tmp_path, {"a": 1}, "a.json"), "--measured-by", "us"), 3, "import-unknown"),
    ):
        given, out, _ = cli(*words, "--json")
        assert (given, json.loads(out)["error"]["code"]) == (status, code)
    empty = make_report(verdict="unavailable")
    assert refused("profile-engine", lambda: exchange.profile_of(Report.from_json(empty)))


def imported(path: Path, folder: Path, cli: Cli) -> list[Any]:
    out = folder / "one.yaml"
    status, _, err = cli("card", "import", path, "--measured-by", "the authors", "--output", out)
    assert status == 0, err
    tables = list(read_imported(out))
    source = tables[0].source
    assert (source.file, source.sha256) == (path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    assert f"SHA-256 {source.sha256}" in table(tables[0]).source, "the card prints where it comes from"
    assert source.measured_by == "the authors"
    return tables


def values(one: Any) -> list[float]:
    return [row.value.number for row in one.rows]


def test_aiperf(tmp_path: Path, cli: Cli) -> None:
    length, positions, speed = imported(FIXTURES / "profile_export_aiperf.json", tmp_path, cli)
    assert (length.source.tool, length.source.tool_version) == ("AIPerf", "0.13.0")
    assert values(length) == [1.431]
    assert values(positions) == [31.8, 8.56, 2.75], "104, 28 and 9 of 327 rounds"
    assert values(speed) == [44.1]
    assert (length.conditions["prompts"], length.conditions["concurrency"]) == ("8", "4")
    assert "engine" not in length.conditions, "the file does not say it"
    assert "engine" in table(length).missing


def test_vllm_bench_serve(tmp_path: Path, cli: Cli) -> None:
    length, positions, speed = imported(FIXTURES / "vllm-bench.json", tmp_path, cli)
    raw = json.loads((FIXTURES / "vllm-bench.json").read_text())
    assert values(length) == [round(raw["spec_decode_acceptance_length"], 3)]
    assert values(positions) == [round(100 * rate, 2) for rate in raw["spec_decode_per_position_acceptance_rates"]]
    assert values(speed) == [round(raw["output_throughput"], 2)]
    assert length.conditions["draft_tokens"] == "3"
    assert (length.conditions["engine"], length.conditions["prompts"]) == ("vLLM", str(raw["completed"]))


def test_specdec_bench(tmp_path: Path, cli: Cli) -> None:
    length, positions, categories = imported(FIXTURES / "specbench_results.json", tmp_path, cli)
    assert values(length) == [2.547]
    assert values(positions) == [71.91, 46.42, 29.01], "length 2 is the first drafted token"
    assert [(row.name, row.value.number) for row in categories.rows] == [("coding", 2.9), ("writing", 2.2)]


def test_specforge(tmp_path: Path, cli: Cli) -> None:
    baseline, length, speed = imported(FIXTURES / "specforge_results.jsonl", tmp_path, cli)
    assert (baseline.metric, values(baseline)) == ("throughput", [100.5]), "without a head there is no length"
    assert (values(length), length.conditions["draft_tokens"], length.conditions["runs"]) == ([2.6], "3", "2")
    assert values(speed) == [202.0]
    assert length.dataset == "mtbench"


def test_a_profile_of_somebody_else(tmp_path: Path, cli: Cli) -> None:
    length, marginal, conditional, categories = imported(written(tmp_path, PROFILE), tmp_path, cli)
    assert (values(length), length.conditions["max_new_tokens"]) == ([2.473], "4096")
    assert values(marginal) == [71.91, 46.42, 29.01]
    assert values(conditional) == [71.91, 64.55, 62.49]
    assert (length.source.tool_version, categories.rows[0].name) == ("0.44", "coding")


@pytest.mark.parametrize(
    ("name", "change", "code", "said"),
    [
        ("vllm-bench.json", {"spec_decode_acceptance_length": 4.5}, "profile-numbers", "not between 1 and 4"),
        ("vllm-bench.json", {"spec_decode_acceptance_length": 3.9}, "profile-numbers", "the rates imply"),
        ("vllm-bench.json", {"spec_decode_per_position_acceptance_rates": [1.5]}, "profile-numbers", "no rate"),
        (
            "vllm-bench.json",
            {"spec_decode_acceptance_length": None, "output_throughput": 0},
            "import-empty",
            "says nothing of speculation",
        ),
        ("specbench_results.json", {"Average_AL": 0.5}, "profile-numbers", "Average_AL is 0.5"),
        ("specbench_results.json", {"Average_AL": "2"}, "profile-field", "'Average_AL' is missing"),
        ("specbench_results.json", {"Joint_Acceptance_Rate": {"2": 1.5}}, "profile-numbers", "Joint_Acceptance_Rate"),
        (
            "profile_export_aiperf.json",
            {"pooled_spec_decode_acceptance_histogram": {"0": 1, "3": 1}},
            "profile-numbers",
            "the histogram gives",
        ),
        ("specforge_results.jsonl", {"gsm8k": [{"num_draft_tokens": 4}]}, "profile-field", "gsm8k.metrics"),
    ],
)
def test_results_that_cannot_be(
    tmp_path: Path, cli: Cli, name: str, change: dict[str, Any], code: str, said: str
) -> None:
    path = written(tmp_path, {**json.loads((FIXTURES / name).read_text()), **change}, name)
    out = tmp_path / "out.yaml"
    status, printed, _ = cli("card", "import", path, "--measured-by", "us", "--output", out, "--json")
    error = json.loads(printed)["error"]
    assert (status, error["code"]) == (3, code), error
    assert said in error["message"]
    assert not out.exists()


def test_yaml_is_printed_for_a_pipe(cli: Cli) -> None:
    status, out, _ = cli("card", "import", FIXTURES / "specbench_results.json", "--measured-by", "us")
    assert (status, yaml.safe_load(out)["schema"]) == (0, "eagle3hub/imported/1")
