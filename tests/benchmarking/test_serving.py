"""Serving measurements: plans, runs that are gone on with, results that follow from their requests, tables."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarking.recorded import AS_TRAINED, SMOKE, Recorded, prompts
from benchmarking.recorded import plan as bench_plan_of
from benchmarking.serving_samples import HEAD, NGRAM, NONE, Table, few, plan, sglang_pieces, vllm_pieces
from rich.console import Console
from support import heads, targets
from support.standin_server import StandIn, standing_in

from eagle3hub.benchmarking import BenchOptions, run_bench
from eagle3hub.benchmarking.serving import measure
from eagle3hub.benchmarking.serving.load import Exchange, Load, LoadFault
from eagle3hub.benchmarking.serving.measure import CellFault, RealServers, measured_rows, run_serving
from eagle3hub.benchmarking.serving.plan import ServingOptions, serving_plan
from eagle3hub.benchmarking.serving.results import ServingResults, Spread, load_any_results, record, summary
from eagle3hub.benchmarking.serving.table import charts, conditions, tables, write_all
from eagle3hub.benchmarking.terminal import render_tables
from eagle3hub.engines.base import EngineSettings, RunSpec
from eagle3hub.engines.endpoints import attach
from eagle3hub.errors import InputError, ManifestError, OutputError, UsageError
from eagle3hub.metrics import Counts

ONE = plan(concurrencies=(4,), runs=2)
OPTIONS = BenchOptions(engine="vllm", datasets="smoke", draft_tokens="2")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    head = heads.MAKERS["specforge"](folder / "head")
    return str(head), str(small_target(folder / "target"))


def small_target(folder: Path) -> Path:
    """A target that fits the small heads."""
    d = heads.DIMS
    sizes = {"hidden_size": d["hidden"], "vocab_size": d["vocab"], "num_hidden_layers": heads.TARGET_LAYERS}
    sizes |= {"num_attention_heads": d["heads"], "num_key_value_heads": d["kv"], "head_dim": d["head_dim"]}
    return targets.save(folder, tokenizer=True, **sizes)


def planned(pair: tuple[str, str], options: BenchOptions = OPTIONS, **asked: Any) -> Any:
    return serving_plan([pair[0]], pair[1], options, ServingOptions(**asked))


@pytest.mark.parametrize(
    ("changed", "asked", "says"),
    [
        ({}, {"concurrency": "0"}, "--concurrency 0 is not between 1 and 4096"),
        ({}, {"concurrency": "2,2"}, "--concurrency has 2 twice"),
        ({}, {"concurrency": "17"}, "--concurrency 17 is more than the 16 prompts of smoke"),
        ({}, {"runs": 0}, "--runs 0 is not between"),
        ({}, {"warmup": -1}, "--warmup -1 is not between"),
        ({"draft_tokens": "0"}, {}, "--draft-tokens 0 is not between"),
        ({"temperature": "0,1"}, {}, "--temperature 0,1 is not one number"),
        ({"dtype": "float64"}, {}, "--dtype float64"),
        ({"max_new_tokens": 1}, {}, "--max-new-tokens 1 cannot be served"),
        ({"topk": 4}, {}, "--topk does not go with --concurrency"),
        ({"min_acceptance_length": 2.0}, {}, "--min-acceptance-length does not go with"),
        ({"engine": "reference"}, {}, "--engine names nothing that can be measured"),
        ({"engine": "vlm"}, {}, "--engine 'vlm' has no server that can be measured; did you mean 'vllm'"),
        ({"engine": "llamacpp"}, {}, "--engine 'llamacpp' has no server"),
        ({"engine": "sglang", "endpoints": {"vllm": "http://h"}}, {}, "several engines are named"),
        ({"endpoints": {"vllm": "http://h"}, "draft_tokens": "2,3"}, {}, "a server of one K"),
        ({"endpoints": {"vllm": "http://h"}}, {"baseline": "mpt"}, "names no running server; did you mean 'mtp'"),
        ({"endpoints": {"vllm": "http://h"}}, {"baseline": "none"}, "--endpoint do not go together"),
        ({}, {"baseline": "none=http://h:1"}, "names a running server, and the head is not on one"),
        ({}, {"baseline": "ngarm"}, "--baseline 'ngarm' is not known; did you mean 'ngram'"),
        ({}, {"baseline": "none:2"}, "asks for 2 drafted tokens"),
        ({}, {"baseline": "ngram:17"}, "asks for 17 drafted tokens"),
        ({}, {"baseline": "none,none"}, "HEAD or --baseline has none twice"),
    ],
)
def test_a_plan_that_cannot_be(
    pair: tuple[str, str], changed: dict[str, Any], asked: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as error:
        planned(pair, replace(OPTIONS, **changed), **{"concurrency": "2", **asked})
    assert error.value.code == "usage-serving"
    assert says in error.value.message


def test_engine_settings_are_checked_before_anything_starts(pair: tuple[str, str]) -> None:
    wrong = EngineSettings(arguments={"vllm": {"max_modle_len": 1}})
    with pytest.raises(UsageError, match="has no keyword max_modle_len"):
        planned(pair, replace(OPTIONS, engine_settings=wrong))
    with pytest.raises(InputError, match="did you mean 'think'"):
        planned(pair, replace(OPTIONS, engine_settings=EngineSettings(chat_template={"thnik": True})))


def test_mtp_takes_a_target_that_has_it(pair: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no MTP layers to compare with") as error:
        planned(pair, baseline="mtp")
    assert (error.value.code, error.value.exit_code) == ("serving-no-mtp", 3)
    target = small_target(tmp_path / "target")
    config = json.loads((target / "config.json").read_text())
    for changed in ({"num_nextn_predict_layers": 1}, {"text_config": {**config, "mtp_num_hidden_layers": 1}}):
        (target / "config.json").write_text(json.dumps({**config, **changed}))
        found = planned((pair[0], str(target)), baseline="mtp:1")
        assert [(one.method, one.draft_tokens) for one in found.contenders] == [("eagle3", 2), ("mtp", 1)]


def test_what_is_measured_and_in_which_order(pair: tuple[str, str], tmp_path: Path) -> None:
    other = heads.MAKERS["specforge"](tmp_path / "other")
    found = planned(
        pair, replace(OPTIONS, draft_tokens="2,3"), concurrency="1,4", baseline=f"none,ngram:5,old={other}", runs=2
    )
    names = [(one.name, one.method, one.draft_tokens, one.is_baseline) for one in found.contenders]
    assert names == [
        ("head K=2", "eagle3", 2, False),
        ("head K=3", "eagle3", 3, False),
        ("none", "none", 0, True),
        ("ngram", "ngram", 5, True),
        ("old", "eagle3", 2, True),
    ]
    cells = [cell for _, _, group in found.groups() for cell in group]
    assert len(cells) == found.size == 5 * 2 * 2
    assert [str(cell) for cell in cells[:3]] == [
        "head K=2 on smoke, 1 at a time, run 1",
        "head K=2 on smoke, 1 at a time, run 2",
        "head K=2 on smoke, 4 at a time, run 1",
    ]
    assert [cell.settings.warmup for cell in cells[:3]] == [1, 1, 4], "warm-up has the batch of the run"
    assert {cell.settings.seats for cell in cells} == {4}


def test_the_key_is_of_all_that_speed_depends_on() -> None:
    def key(of: Any, version: str = "1") -> str:
        return next(of.groups())[2][0].key(version)

    assert key(plan()) == key(plan(contenders=(replace(HEAD, name="renamed"),)))
    other = replace(AS_TRAINED, digest="sha256:" + "9" * 64)
    for changed in (
        {"contenders": (replace(HEAD, head=other),)},
        {"contenders": (replace(HEAD, draft_tokens=5),)},
        {"contenders": (NGRAM,)},
        {"datasets": (few(8),)},
        {"concurrencies": (2, 4)},
        {"warmup": 0},
        {"temperature": 1.0},
        {"options": BenchOptions(dtype="bfloat16")},
        {"options": BenchOptions(engine_settings=EngineSettings(2))},
    ):
        assert key(plan(**changed)) != key(plan()), changed
    assert key(plan(), "2") != key(plan())


def test_each_server_is_brought_up_once_and_compared_prompt_by_prompt(tmp_path: Path) -> None:
    servers = Table()
    found = run_serving(plan(), servers, folder=tmp_path / "new")
    assert servers.up_for == ["as-trained", "none", "ngram"]
    assert len(servers.measured) == plan().size == len(found.cells) == 18
    assert found.verdict == "pass"
    assert [(one.concurrency, one.server, one.base) for one in found.comparisons] == [
        (1, "as-trained", "none"),
        (1, "as-trained", "ngram"),
        (4, "as-trained", "none"),
        (4, "as-trained", "ngram"),
    ]
    against_none = found.comparisons[0]
    assert (against_none.prompts, against_none.runs, against_none.identical) == (12, 3, 36)
    assert against_none.ci95 is not None
    low, high = against_none.ci95
    assert 1 < low < against_none.ratio < high < 1.5, "1.5 times as fast but for the time to the first token"
    cell = found.cells[0]
    assert cell.summary is not None
    assert cell.summary.acceptance is not None
    assert cell.summary.time_to_first_token.p50 == pytest.approx(0.1)
    saved = load_any_results(tmp_path / "new" / "results.json")
    assert replace(saved, measured_at=found.measured_at) == found


def test_a_server_that_stops_fails_its_cells_and_a_later_run_goes_on(tmp_path: Path) -> None:
    broken = Table(stops=lambda cell: cell.contender.name == "none" and cell.settings.concurrency == 4)
    found = run_serving(plan(), broken, folder=tmp_path)
    assert found.verdict == "fail"
    assert broken.up_for == ["as-trained", "none", "ngram"], "the next server is measured"
    failed = [cell for cell in found.cells if not cell.requests]
    assert [(c.server, c.settings.concurrency, c.run, c.code) for c in failed] == [
        ("none", 4, run, "serving-stopped") for run in (1, 2, 3)
    ]
    assert any("Not measured (3 of 18 cells, none): the server stopped" in line for line in conditions(found))
    again = Table()
    whole = run_serving(plan(), again, folder=tmp_path, resume=True)
    assert again.measured == [f"none on smoke, 4 at a time, run {run}" for run in (1, 2, 3)]
    assert whole.verdict == "pass"
    assert run_serving(plan(), Table(absent="none"), folder=tmp_path, resume=True).cells == whole.cells


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    found = run_serving(ONE, Table(absent="ngram"), folder=tmp_path)
    assert found.verdict == "unavailable"
    lost = [cell for cell in found.cells if cell.server == "ngram"]
    assert {(cell.verdict, cell.code, cell.reason) for cell in lost} == {
        ("unavailable", "engine-not-installed", "vllm is not installed")
    }


def test_earlier_results_are_not_lost(tmp_path: Path) -> None:
    run_serving(ONE, Table(), folder=tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    for asked, resume, code in (
        (ONE, False, "output-exists"),
        (replace(ONE, runs=1), True, "output-other-results"),
        (replace(ONE, contenders=(HEAD, NONE)), True, "output-other-results"),
    ):
        with pytest.raises(OutputError) as error:
            run_serving(asked, Table(), folder=tmp_path, resume=resume)
        assert error.value.code == code
    with pytest.raises(OutputError, match="would lose"):
        run_serving(ONE, Table(version_told="2.0"), folder=tmp_path, resume=True)
    assert (tmp_path / "results.json").read_bytes() == before
    grown = run_serving(replace(ONE, runs=3), (more := Table()), folder=tmp_path, resume=True)
    assert len(more.measured) == 3
    assert grown.runs == 3
    run_bench(bench_plan_of(), Recorded(), folder=tmp_path / "plain")
    with pytest.raises(OutputError, match="results without --concurrency"):
        run_serving(ONE, Table(), folder=tmp_path / "plain", resume=True)


DOCUMENT = run_serving(ONE, Table()).to_json()


def _set(*path: Any) -> Callable[[Any], None]:
    *way, last, value = path

    def change(document: Any) -> None:
        place = document
        for step in way:
            place = place[step]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (_set("runs", "three"), "serving-schema", "runs"),
        (_set("cells", 0, "surplus", 1), "serving-schema", "surplus"),
        (_set("cells", 0, "requests", 0, "counts", "rounds", 0), "serving-numbers", "contradict each other"),
        (_set("servers", 0, "head", "other"), "serving-numbers", "names no head of these results"),
        (_set("servers", 1, "head", "as-trained"), "serving-numbers", "names no head of these results, or one too"),
        (_set("cells", 0, "server", "other"), "serving-numbers", "of no server of these results"),
        (_set("cells", 0, "settings", "draft_tokens", 4), "serving-numbers", "another number of draft tokens"),
        (_set("cells", 0, "verdict", "fail"), "serving-numbers", "stated as fail, with 12 requests"),
        (_set("cells", 0, "prompts", "count", 15), "serving-numbers", "not one for each of 15 prompts"),
        (_set("cells", 0, "requests", 3, "first", 0.0), "serving-numbers", "answered before it was sent"),
        (
            _set("cells", 0, "requests", 3, "counts", "accepted_per_position", [9, 2]),
            "serving-numbers",
            "counters",
        ),
        (_set("cells", 0, "summary", "output_tokens_per_second", 99.0), "serving-numbers", "summary does not follow"),
        (_set("cells", 0, "requests", 3, "new_tokens", 999), "serving-numbers", "summary does not follow"),
        (_set("comparisons", 0, "ratio", 2.5), "serving-numbers", "comparisons do not follow"),
        (_set("comparisons", []), "serving-numbers", "comparisons do not follow"),
    ],
)
def test_results_that_were_edited_are_refused(change: Callable[[Any], None], code: str, says: str) -> None:
    edited = copy.deepcopy(DOCUMENT)
    change(edited)
    with pytest.raises(ManifestError) as error:
        ServingResults.from_json(edited, "results.json")
    assert error.value.code == code
    assert says in error.value.message
    assert error.value.message.startswith("results.json: ")


def test_counters_of_another_depth_are_refused() -> None:
    edited = copy.deepcopy(DOCUMENT)
    for row in edited["cells"][0]["requests"]:
        row["counts"]["accepted_per_position"] = row["counts"]["accepted_per_position"][:2]
        row["counts"]["accepted"] = sum(row["counts"]["accepted_per_position"])
        row["counts"]["drafted"] = 2 * row["counts"]["rounds"]
    with pytest.raises(ManifestError, match="counters of another number of draft tokens"):
        ServingResults.from_json(edited)


def test_quantiles_are_values_that_were_measured() -> None:
    found = Spread.of([float(n) for n in range(1, 11)])
    assert found == Spread(5.5, 5.0, 9.0, 10.0)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 2.0)
    assert Spread.of([]) is None
    assert summary([]) is None


def test_tables_say_what_was_measured(tmp_path: Path) -> None:
    found = run_serving(plan(), Table())
    speed, speedups, latency, acceptance = tables(found)
    assert speed.title == "Throughput, new tokens per second, vLLM 1.0"
    assert [column.heading for column in speed.columns[2:]] == [("as-trained",), ("none",), ("ngram",)]
    assert [row[:2] for row in speed.rows] == [("smoke", "1"), ("smoke", "4")]
    rates = [cell.summary.output_tokens_per_second for cell in found.cells[:3] if cell.summary]
    assert speed.rows[0][2] == f"{sum(rates) / 3:.2f} ({min(rates):.2f}–{max(rates):.2f})"
    one = found.comparisons[0]
    assert one.ci95 is not None
    assert speedups.rows[0][2] == f"{one.ratio:.2f}× ({one.ci95[0]:.2f}–{one.ci95[1]:.2f})"
    assert len(latency.rows) == 6
    assert acceptance.rows[0][2].startswith("1.4")
    told = " ".join(conditions(found))
    for words in ("a processor, 2 threads", "AIPerf", "none: the target alone", "n-grams of the text so far, K = 3"):
        assert words in told
    out = Console(width=100, record=True, file=io.StringIO())
    render_tables(tables(found), conditions(found), out)
    assert max(map(len, out.export_text().splitlines())) <= 100
    files = write_all(found, tmp_path)
    assert [file.name for file in files] == [
        "tables.md",
        "throughput-by-concurrency-vllm.svg",
        "throughput-by-concurrency-vllm.png",
    ]
    assert "## Speed-up, vLLM 1.0" in (tmp_path / "tables.md").read_text()
    assert charts(run_serving(ONE, Table())) == {}, "one concurrency is no line"


def test_settings_and_a_single_run_are_told_in_words() -> None:
    given = EngineSettings(
        arguments={"vllm": {"max_num_batched_tokens": 640}},
        environment={"vllm": {"VLLM_LOGGING_LEVEL": "WARNING"}},
        chat_template={"enable_thinking": False},
    )
    found = run_serving(replace(ONE, runs=1, options=BenchOptions(engine_settings=given)), Table())
    told = " ".join(conditions(found))
    assert "Started as: vLLM with max_num_batched_tokens=640; vLLM with VLLM_LOGGING_LEVEL=WARNING." in told
    assert "chat template: the target's own with enable_thinking=false" in told
    assert "answered all prompts once at each concurrency" in told
    assert "mean of the runs" not in told
    (made,) = charts(run_serving(plan(runs=1), Table())).values()
    assert b"vLLM \xc2\xb7 one run" in made.svg


def test_answers_that_speculation_changes_are_counted() -> None:
    found = run_serving(plan(), Table())
    same = (
        "Answers with the same tokens as none: as-trained 36 of 36 (smoke, 1 at a time), 36 of 36 (smoke, 4 at a time)"
    )
    (line,) = (line for line in conditions(found) if line.startswith("Answers with the same tokens"))
    assert line == f"{same}; ngram 36 of 36 (smoke, 1 at a time), 36 of 36 (smoke, 4 at a time)."
    first, *others = found.cells
    changed = replace(first, requests=(replace(first.requests[0], tokens_sha256="f" * 64), *first.requests[1:]))
    (line,) = (
        line for line in conditions(replace(found, cells=(changed, *others))) if "Answers with the same tokens" in line
    )
    assert "as-trained 35 of 36 (smoke, 1 at a time)" in line
    assert line.endswith("`eagle3hub validate` judges a first difference by the target's own margin.")
    sampled = [replace(cell, settings=replace(cell.settings, temperature=0.7)) for cell in found.cells]
    assert not [one for one in conditions(replace(found, cells=tuple(sampled))) if "same tokens" in one]
    lonely = replace(found, servers=tuple(one for one in found.servers if one.method != "none"))
    assert not [one for one in conditions(lonely) if "same tokens" in one]


def test_an_interval_that_says_nothing_is_not_printed() -> None:
    found = run_serving(ONE, Table())
    (one, *_) = found.comparisons
    wide = replace(found, comparisons=(replace(one, ci95=(0.01, 20.0)),))
    assert tables(wide)[1].rows[0][2] == f"{one.ratio:.2f}×°"
    (made,) = charts(run_serving(plan(), Table())).values()
    assert made.alt.endswith("Lowest and highest run in parentheses.")


def test_few_prompts_give_no_interval_and_say_so() -> None:
    found = run_serving(replace(ONE, datasets=(few(5),)), Table())
    assert found.comparisons[0].ci95 is None
    speedups = tables(found)[1]
    assert speedups.rows[0][2].endswith("×°")
    assert speedups.notes


# Read what a server sends


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Any:
    with standing_in(getattr(request, "param", StandIn())) as url:
        yield url


def _job(**changed: Any) -> RunSpec:
    return replace(RunSpec("org/target", Path("/nowhere"), few(8), max_new_tokens=9), **changed)


def _cell(contender: Any = HEAD) -> Any:
    return next(plan(contenders=(contender,), datasets=(few(8),), concurrencies=(2,)).groups())[2][0]


def _sent(pieces: Any) -> Callable[[Load], list[Exchange]]:
    return lambda load: [Exchange(0.5, tuple(pieces)) for _ in load.requests]


def test_rows_of_vllm(server: str) -> None:
    endpoint, asked = attach("vllm", server), []

    def send(load: Load) -> list[Exchange]:
        asked.append(load)
        return _sent(vllm_pieces([[5], [6, 7], [8]], [1, 1, 0, 0]))(load)

    found = measured_rows(_cell(), endpoint, _job(), 30, send)
    assert [row.question_id for row in found] == [prompt.question_id for prompt in few(8).prompts]
    first = found[0]
    assert (first.prompt_tokens, first.new_tokens, first.counts) == (3, 4, Counts(2, 6, 1, (1, 0, 0)))
    assert (first.sent, first.first, first.last) == (0.0, 0.5, 1.5)
    assert first.time_to_first_token == 0.5
    assert first.time_per_output_token == pytest.approx(1 / 3)
    assert len({row.tokens_sha256 for row in found}) == 1
    (load,) = asked
    assert (load.concurrency, load.warmup, len(load.requests)) == (2, 2, 8)
    body = load.requests[0]
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("served", 0.0, 9)
    none = measured_rows(_cell(NONE), endpoint, _job(head=None), 30, _sent(vllm_pieces([[5], [6]], None)))
    assert none[0].counts is None


SGLANG = {"version": "1", "model_path": "org/target", "speculative_algorithm": "EAGLE3", "dtype": "float32"}


@pytest.mark.parametrize("server", [StandIn(info=SGLANG)], indirect=True)
def test_rows_of_sglang(server: str) -> None:
    endpoint = attach("sglang", server)
    found = measured_rows(_cell(), endpoint, _job(), 30, _sent(sglang_pieces([5, 6, 7, 8], [1, 0, 1])))
    assert found[0].counts == Counts(2, 6, 2, (1, 1, 0))
    assert (found[0].prompt_tokens, found[0].new_tokens) == (2, 4)
    assert (found[0].first, found[0].last) == (1.0, 3.0), "text, not the pieces around it"
    body = endpoint.streamed_request(_job(), few(1).prompts[0])
    assert "return_token_ids" not in body, "SGLang refuses it in a stream"
    assert body["return_spec_tokens_details"]
    assert body["return_output_ids_in_sglext"]
    none = measured_rows(_cell(NONE), endpoint, _job(head=None), 30, _sent(sglang_pieces([5], None)))
    assert none[0].counts is None


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        (vllm_pieces([[5], [6]], None)[:-2], "its answer broke off before the end"),
        (vllm_pieces([[5], [6]], None)[:-1], "its answer broke off before the end"),
        ([], "its chat completion has no prompt_token_ids"),
        ([*vllm_pieces([[5], [6]], None)[:2], *vllm_pieces([[5], [6]], None)[3:]], "broke off"),
        (
            vllm_pieces([[5], [6]], [1, 5, 0, 0])[:1] + vllm_pieces([[5], [6, 7]], None)[2:],
            "2 tokens, and it counts 3",
        ),
        (vllm_pieces([[5], [6]], [1, -5, 0, 0]), "histogram of accepted drafts is not a count"),
    ],
)
def test_answers_of_vllm_that_cannot_be_used(server: str, pieces: Any, says: str) -> None:
    with pytest.raises(CellFault) as error:
        measured_rows(_cell(), attach("vllm", server), _job(), 30, _sent(pieces))
    assert error.value.code == "serving-answer"
    assert error.value.says.startswith("the answer to prompt 1 cannot be used: ")
    assert says in error.value.says


@pytest.mark.parametrize("server", [StandIn(info=SGLANG)], indirect=True)
@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ([piece for piece in sglang_pieces([5], None) if "sglext" not in piece[1]], "no output_ids"),
        (sglang_pieces([5], None)[:1] + sglang_pieces([5], None)[4:], "its answer has no text"),
        (sglang_pieces([5, 6], None)[:-1], "broke off before the end"),
        (
            [
                *sglang_pieces([5, 6], [1, 1]),
                (4.0, {"choices": [], "sglext": {"spec_tokens_details": {"spec_verify_ct": 7}}}),
            ],
            "SGLang counts 7 rounds",
        ),
    ],
)
def test_answers_of_sglang_that_cannot_be_used(server: str, pieces: Any, says: str) -> None:
    with pytest.raises(CellFault) as error:
        measured_rows(_cell(), attach("sglang", server), _job(), 30, _sent(pieces))
    assert says in error.value.says


def test_traffic_that_stops(server: str) -> None:
    def send(load: Load) -> list[Exchange]:
        raise LoadFault("3 of 8 requests failed, request 2 first: Server disconnected")

    with pytest.raises(CellFault) as error:
        measured_rows(_cell(), attach("vllm", server), _job(), 30, send)
    assert error.value.code == "serving-stopped"
    assert error.value.says == (
        "the server stopped answering: 3 of 8 requests failed, request 2 first: Server disconnected"
    )

    class Gone:
        def fault(self) -> str:
            return "vLLM's server ended with exit status 1: out of memory"

    with pytest.raises(CellFault, match="ended with exit status 1: out of memory"):
        measured_rows(_cell(), attach("vllm", server), _job(), 30, send, Gone())  # type: ignore[arg-type]


def test_a_record_without_requests_has_no_summary() -> None:
    found = record(_cell(), "1", verdict="fail", reason="it stopped", code="serving-stopped")
    assert found.summary is None
    assert found.to_json()["summary"] is None


# Servers that run already


@pytest.fixture
def no_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class There:
        python = tmp_path / "python"

    monkeypatch.setattr(measure, "load_generator", lambda _progress: There())


@pytest.mark.usefixtures("no_install")
def test_running_servers_are_compared_with_what_is_asked(
    pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = vllm_pieces([[5], [6, 7]], [1, 1, 0, 0])
    monkeypatch.setattr(measure, "send", lambda load, _python: _sent(pieces)(load))
    with standing_in(StandIn()) as ours, standing_in(StandIn(speculative=False)) as theirs:
        options = replace(
            OPTIONS, engine="reference", endpoints={"vllm": ours}, draft_tokens="3", target_name="org/target"
        )
        found = planned(pair, options, concurrency="4", baseline=f"none={theirs}", runs=2)
        assert [one.url for one in found.contenders] == [ours, theirs]
        assert {cell.settings.device for _, _, cells in found.groups() for cell in cells} == {"server"}
        results = run_serving(found, RealServers(found))
    assert results.verdict == "pass"
    assert "whether it serves this head" in results.cells[0].unchecked
    assert results.cells[-1].unchecked == ("whether it serves this target", "its dtype", "its device")
    assert any("hardware is not known" in line for line in conditions(results))
    assert ours not in json.dumps(results.document)
    with standing_in(StandIn()) as other:
        options = replace(options, endpoints={"vllm": other}, draft_tokens="2")
        wrong = planned(pair, options, concurrency="4", baseline=f"none={other}")
        with pytest.raises(InputError) as error:
            run_serving(wrong, RealServers(wrong))
    assert error.value.code == "endpoint-draft-tokens"


@pytest.mark.usefixtures("no_install")
def test_servers_of_two_versions_are_not_compared(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = sglang_pieces([5, 6, 7], [1, 1])
    monkeypatch.setattr(measure, "send", lambda load, _python: _sent(pieces)(load))
    info = {**SGLANG, "speculative_num_steps": 2, "speculative_eagle_topk": 1, "speculative_num_draft_tokens": 3}
    with (
        standing_in(StandIn(info=info)) as ours,
        standing_in(StandIn(info={"version": "2", "dtype": "float32"})) as theirs,
    ):
        options = replace(OPTIONS, engine="sglang", endpoints={"sglang": ours}, target_name="org/target")
        found = planned(pair, options, concurrency="4", baseline=f"none={theirs}", runs=1)
        results = run_serving(found, RealServers(found))
    assert [(cell.verdict, cell.code) for cell in results.cells] == [("pass", None), ("fail", "serving-version")]
    assert "the baseline's server is SGLang 2, and the head's is 1" in results.cells[1].reason


@pytest.mark.usefixtures("no_install")
def test_a_baseline_that_speculates_is_no_baseline_without(pair: tuple[str, str]) -> None:
    info = {**SGLANG, "speculative_num_steps": 3, "speculative_eagle_topk": 1, "speculative_num_draft_tokens": 4}
    with standing_in(StandIn(info=info)) as url:
        job = _job(head=None)
        with pytest.raises(InputError) as error:
            attach("sglang", url, drafts=False).compare_settings(job)
        assert (error.value.code, error.value.message) == (
            "endpoint-method",
            "the server speculates with eagle3, and should run without speculation",
        )
        mtp = replace(job, baseline="mtp")
        with pytest.raises(InputError, match="should run with mtp"):
            attach("sglang", url).compare_settings(mtp)
    with standing_in(StandIn(info={**info, "speculative_algorithm": "EAGLE"})) as url:
        assert attach("sglang", url).compare_settings(mtp) == ("its device",)
    with standing_in(StandIn(info={**SGLANG, "speculative_algorithm": None})) as url:
        found = attach("sglang", url, drafts=False)
        assert found.compare_settings(job) == ("its device",)
        with pytest.raises(InputError, match="does not speculate, and should run with EAGLE-3"):
            found.compare_settings(_job())


@pytest.mark.usefixtures("no_install")
def test_what_an_engine_cannot_do_is_said_before_it_starts(pair: tuple[str, str]) -> None:
    found = planned(pair, replace(OPTIONS, engine="sglang", device="tpu", run_anyway=True), concurrency="1", runs=1)
    results = run_serving(found, RealServers(found))
    assert {(cell.verdict, cell.code) for cell in results.cells} == {("fail", "engine-unable")}
    assert "does not run on TPU" in results.cells[0].reason


@pytest.mark.usefixtures("no_install")
def test_a_head_that_the_engine_would_serve_wrong_is_not_served(pair: tuple[str, str], tmp_path: Path) -> None:
    wrong = heads.MAKERS["specforge"](tmp_path / "head")
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    found = planned((str(wrong), pair[1]), replace(OPTIONS, engine="sglang"), concurrency="1", runs=1)
    results = run_serving(replace(found, contenders=found.contenders[:1]), RealServers(found))
    assert [cell.code for cell in results.cells] == ["serving-preflight"]
    assert "SGLang" in results.cells[0].reason or "sglang" in results.cells[0].reason


def test_the_prompts_of_a_cell_are_those_of_its_set() -> None:
    assert len(SMOKE.prompts) == 16
    assert [prompt.text for prompt in few(3).prompts] == [prompt.text for prompt in prompts("smoke").prompts[:3]]


# The command

Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("option", ["--baseline", "--runs", "--warmup"])
def test_options_of_servers_need_a_concurrency(cli: Cli, pair: tuple[str, str], option: str) -> None:
    code, out, err = cli("bench", pair[0], "--target", pair[1], option, "2")
    assert (code, out) == (2, "")
    assert f"{option} is of servers, which --concurrency measures" in err


@pytest.mark.usefixtures("no_install")
def test_the_command_measures_prints_and_writes(
    cli: Cli, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pieces = vllm_pieces([[5], [6, 7]], [1, 1, 0, 0])
    monkeypatch.setattr(measure, "send", lambda load, _python: _sent(pieces)(load))
    with standing_in(StandIn()) as ours, standing_in(StandIn(speculative=False)) as theirs:
        command = ["bench", pair[0], "--target", pair[1], "--target-name", "org/target", "--endpoint", f"vllm={ours}"]
        command += ["--datasets", "smoke", "--concurrency", "2,4", "--baseline", f"none={theirs}", "--runs", "1"]
        command += ["--output", str(tmp_path / "out")]
        code, out, err = cli(*command)
        assert code == 0, err
        assert "Throughput, new tokens per second" in out
        code, out, err = cli(*command, "--resume", "--json", "--quiet")
        assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["schema"] == "eagle3hub/serving/1"
    assert document["cells"] == json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    assert (tmp_path / "out" / "tables.md").is_file()


@pytest.mark.parametrize("text", [None, "{", "[" * 5000])
def test_what_is_no_file_of_results_is_told(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "results.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError) as wrong:
        load_any_results(file)
    assert wrong.value.code == ("bench-json" if text else "source-bench")
    assert "results.json" in wrong.value.message
