"""`benchmarks/cuda.py`: what it plans, how it runs steps, and what it writes. It was rehearsed on a CPU by hand."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from benchmarking import serving_samples
from benchmarking.recorded import measured
from benchmarking.recorded import plan as recorded_plan
from support.scripts import load_script
from typer.main import get_command

from eagle3hub.benchmarking.serving.load import AIPERF
from eagle3hub.benchmarking.serving.measure import run_serving
from eagle3hub.cli.app import build
from eagle3hub.engines.environments import environment_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def cuda() -> ModuleType:
    return load_script(ROOT / "benchmarks" / "cuda.py")


PYTHONS = {"vllm": "/v/python", "sglang": "/s/python"}


@pytest.mark.slow
def test_the_plan_has_every_combination_and_runs_what_our_commands_take(cuda: ModuleType, tmp_path: Path) -> None:
    steps = cuda.plan(cuda.Options(work=tmp_path, pythons=PYTHONS))
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    ran = {step.shown for step in steps if step.shown and step.what == "rounds"}
    runs = [("vllm", "V2"), ("vllm", "V1"), ("sglang", "")]
    assert ran == {("reference", "", "float32", "0")} | {
        (*run, dtype, temperature) for run in runs for dtype in ("float32", "bfloat16") for temperature in "01"
    }
    for step in steps:
        assert set(step.needs) <= set(names[: names.index(step.name)])
        for command in step.command:
            if command[:3] == (sys.executable, "-m", "eagle3hub"):
                parsed(list(command[3:]))
    assert {step.name for step in steps if step.shown and step.what != "rounds"} == {
        *("serving-vllm", "serving-sglang", "states-vllm", "busy-vllm", "lossless-vllm-bfloat16"),
        *("context-vllm", "by-k-vllm", "quantized-vllm"),
    }
    (written,) = (step.command[0][5] for step in steps if step.name == "universal")
    heads = {command[4] for step in steps for command in step.command if command[3:4] == ("bench",)}
    assert heads == {f"head={written}"}, "the example's own layout is one that SGLang does not load"
    in_every_layout = [step.shown for step in steps if step.shown and "all" in step.command[0]]
    assert set(in_every_layout) == ran - {("reference", "", "float32", "0")}
    first = [step for step in steps if step.shown and step.shown[0] != "reference"][:3]
    assert [step.env for step in first] == [
        {"VLLM_USE_V2_MODEL_RUNNER": "1"},
        {"VLLM_USE_V2_MODEL_RUNNER": "0"},
        {},
    ]


def parsed(words: list[str]) -> None:
    """Let our command line parse a command, without running it."""
    command: Any = get_command(build())
    context = command.make_context("eagle3hub", words)
    while hasattr(context.command, "commands"):
        name, inner, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = inner.make_context(name, rest, parent=context)


def test_what_is_not_there_is_installed_beside(
    cuda: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    steps = {step.name: step for step in cuda.plan(cuda.Options(work=tmp_path))}
    assert steps["install-load-generator"].network
    for engine in ("vllm", "sglang"):
        assert steps[f"install-{engine}"].network
        assert f"install-{engine}" in steps[f"probe-{engine}"].needs
        assert {f"install-{engine}", "install-load-generator"} <= set(steps[f"serving-{engine}"].needs)
    loads = {name for name, step in steps.items() if "--concurrency" in " ".join(map(" ".join, step.command))}
    assert loads == {name for name, step in steps.items() if "install-load-generator" in step.needs}
    there = environment_of(AIPERF).path
    (there / "bin").mkdir(parents=True)
    (there / "bin" / "python").touch()
    (there / "eagle3hub-environment.json").write_text(
        json.dumps({"requirements_sha256": hashlib.sha256(AIPERF.requirements.read_bytes()).hexdigest()})
    )
    again = {step.name: step for step in cuda.plan(cuda.Options(work=tmp_path))}
    assert "install-load-generator" not in again
    assert again["serving-vllm"].needs == ("target", "install-vllm", "universal")
    assert "trtllm-float32-t0-layouts" not in steps
    more = cuda.plan(cuda.Options(work=tmp_path, pythons={**PYTHONS, "trtllm": "/t/python"}))
    assert {"probe-trtllm", "trtllm-float32-t0-layouts"} <= {step.name for step in more}


def test_a_rehearsal_is_small_and_asks_for_nothing_that_a_cpu_lacks(
    cuda: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rehearsal = cuda.plan(cuda.Options(work=tmp_path, pythons=PYTHONS, device="cpu"))
    assert not [step for step in rehearsal if "V2" in (step.shown or ()) or step.env]
    assert {step.shown[3] for step in rehearsal if step.shown} == {"0"}
    assert "quantized-vllm" not in [step.name for step in rehearsal]
    once = cuda.plan(cuda.Options(work=tmp_path, pythons=PYTHONS, device="cpu", layouts="universal"))
    assert len({step.name for step in once}) == len(once)
    words = ["cuda.py", "--device", "cpu", "--work", str(tmp_path), "--target", str(tmp_path), "--list"]
    monkeypatch.setattr(sys, "argv", words)
    cuda.main()
    listed = capsys.readouterr().out
    assert str(tmp_path / "sglang-on-cpu") in listed
    runs = [line for line in listed.splitlines() if "eagle3hub validate" in line]
    assert runs
    for line in runs:
        assert "--num-prompts 2 --max-new-tokens 16" in line
        assert "--layouts universal" in line
    serving = next(line for line in listed.splitlines() if line.startswith("serving-sglang "))
    assert "--concurrency 1,2 --runs 1 --baseline none --output" in serving, "the stand-in finds no n-grams"
    assert "--num-prompts 2" in serving


def step(cuda: ModuleType, name: str, code: str, seconds: int = 30, **more: Any) -> Any:
    return cuda.Step(name, ((sys.executable, "-c", code),), seconds, **more)


@pytest.mark.slow
def test_steps_end_in_every_way_and_what_is_done_is_kept(
    cuda: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    cell = {"layout": "universal", "engine": "vllm", "verdict": "pass", "how": "run", "mean_acceptance_length": 1.4}
    document = json.dumps(
        {"engines": ["vllm"], "cells": [{**cell, "preflight": "right", "reason": ""}], "layouts": []}
    )
    write = f"open({str(tmp_path / 'r.json')!r}, 'w').write({document!r}); raise SystemExit(1)"
    partly = write.replace("r.json", "partly.json").replace("Exit(1)", "Exit(4)")
    steps = [
        step(cuda, "beside", "import time; time.sleep(1)", network=True),
        step(cuda, "good", count),
        step(cuda, "bad", "import sys; sys.exit('error: no such thing')"),
        step(cuda, "slow", "import time; time.sleep(60)", 1),
        step(cuda, "needy", count, needs=("bad",)),
        step(cuda, "waiting", count, needs=("beside",)),
        step(cuda, "measured", write, measures=(0, 1), report="r.json"),
        step(cuda, "partly", partly, measures=(0, 1), report="partly.json"),
        step(cuda, "silent", "", report="none.json"),
        step(cuda, "strange", f"open({str(tmp_path / 's.json')!r}, 'w').write('[]')", report="s.json"),
        cuda.Step("absent", (("/no/such/python",),), 5),
        step(cuda, "large", count, 10**6),
    ]
    runner = cuda.Runner(steps, tmp_path, minutes=1)
    runner.run()
    ended = {name: (one.status, one.why) for name, one in runner.ended.items()}
    assert ended["good"] == ended["beside"] == ended["waiting"] == ("done", "done")
    assert ended["bad"] == ("failed", "status 1: error: no such thing")
    assert ended["slow"] == ("late", "it did not end within 1 s")
    assert ended["needy"] == ("skipped", "bad is not done")
    assert ended["measured"] == ("done", "pass, τ 1.400: universal")
    assert ended["partly"] == ("failed", "status 4: pass, τ 1.400: universal"), "what was measured is told"
    assert ended["silent"] == ("failed", "it wrote no report")
    assert ended["strange"][0] == ended["absent"][0] == "failed"
    assert ended["large"][0] == "skipped"
    assert "up to 30 s" in capsys.readouterr().out
    before = (tmp_path / "count").read_text()
    again = cuda.Runner(
        [steps[1], step(cuda, "waiting", count + "  # changed", needs=()), steps[6]], tmp_path, minutes=1
    )
    assert set(again.ended) == {"good", "measured"}, "a changed command is run again"
    again.run()
    assert (tmp_path / "count").read_text() == before + "x"


@pytest.mark.slow
def test_a_step_leaves_no_process_behind(cuda: ModuleType, tmp_path: Path) -> None:
    late = f"import time; time.sleep(3); open({str(tmp_path / 'late')!r}, 'w')"
    start = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {late!r}]); time.sleep(60)"
    runner = cuda.Runner([step(cuda, "slow", start, 2)], tmp_path, minutes=1)
    runner.run()
    time.sleep(4)
    assert not (tmp_path / "late").exists()


def test_the_table_is_made_of_reports_and_put_into_the_page(cuda: ModuleType, tmp_path: Path) -> None:
    def cell(
        layout: str, engine: str | None, verdict: str, tau: float | None, preflight: str, reason: str = ""
    ) -> dict:
        return {
            "layout": layout,
            "engine": engine,
            "verdict": verdict,
            "mean_acceptance_length": tau,
            "preflight": preflight,
            "reason": reason,
        }

    document = {
        "engines": ["reference", "vllm"],
        "cells": [
            cell("specjax", "reference", "pass", 1.5, "right"),
            cell("specjax", "vllm", "pass", 1.398, "right"),
            cell("universal", "vllm", "pass", 1.398, "right"),
            cell("modelopt", "vllm", "pass", 1.398, "silently_wrong"),
            cell("safeailab", "vllm", "fail", None, "right", "it could not load the model"),
            cell("odd", None, "refused", None, "refuses", "the layout has no place for a | b"),
        ],
        "layouts": [
            {"report": {"engines": [{"engine": "vllm", "version": "9.9"}, {"engine": "reference", "version": "1"}]}}
        ],
    }
    (tmp_path / "v.json").write_text(json.dumps(document))
    steps = [
        cuda.Step("v", (), 9, report="v.json", shown=("vllm", "V2", "float32", "0")),
        cuda.Step("i", (), 9),
        cuda.Step("p", (), 9, report="p.json"),
        cuda.Step("w", (), 9, report="w.json", shown=("sglang", "", "float32", "0")),
        cuda.Step("x", (), 9, report="x.json", shown=("sglang", "", "float32", "1")),
    ]
    answers = {"a": {"outcome": "right"}, "b": {"outcome": "silently_wrong"}, "c": {"outcome": "right"}}
    ended = {
        "v": cuda.Ended("done", 61.2, cuda.results(document), ""),
        "p": cuda.Ended("done", 5.0, cuda.outcomes({"answers": answers}), ""),
        "i": cuda.Ended("done", 9.0, "done", ""),
        "w": cuda.Ended("failed", 7.0, "status 4: error: no kernels", ""),
        "x": cuda.Ended("skipped", 0.0, "no time was left: run it again", ""),
    }
    text = cuda.table(steps, ended, tmp_path, "one H9000 (9 GiB, driver 1)")
    assert "on one H9000 (9 GiB, driver 1)." in text
    row = next(line for line in text.splitlines() if line.startswith("| rounds | vLLM V2 "))
    assert row == (
        "| rounds | vLLM V2 | 9.9 | float32 | 0 | pass, τ 1.398: specjax, universal; "
        "pass, τ 1.398; the preflight said silently wrong: modelopt; "
        "fail (it could not load the model); the preflight said right: safeailab; "
        "refused (the layout has no place for a \\| b): odd | 61 |"
    )
    assert "| rounds | SGLang |  | float32 | 0 | failed: status 4: error: no kernels | 7 |" in text
    assert "Besides: `p`: done, 2 right, 1 silently wrong." in text
    assert "Not begun: x." in text
    page = f"# Page\n\n{cuda.BEGIN}\n\nold\n\n{cuda.END}\n\nrest\n"
    assert cuda.saved(page, "new\n") == f"# Page\n\n{cuda.BEGIN}\n\nnew\n\n{cuda.END}\n\nrest\n"
    assert cuda.saved(cuda.saved(page, "new\n"), "new\n") == cuda.saved(page, "new\n")
    with pytest.raises(SystemExit, match="no lines"):
        cuda.saved("# Page\n", "new\n")
    own = (ROOT / "docs" / "validated.md").read_text(encoding="utf-8")
    assert cuda.saved(own, "new\n").count("new\n") == 1


def test_benchmarks_and_a_busy_server_are_told_in_a_line(cuda: ModuleType, tmp_path: Path) -> None:
    served = run_serving(serving_samples.plan(), serving_samples.Table())
    served.save(tmp_path / "served.json")
    said = cuda._finding(tmp_path / "served.json")
    first = served.comparisons[0]
    assert said.startswith(f"pass: 1 at a time: {first.tokens_per_second:.0f} tokens/s a request, {first.ratio:.2f}× ")
    assert f"{first.identical} of {first.prompts * first.runs} texts equal" in said
    assert cuda._version(tmp_path / "served.json", "vllm") == "1.0"
    found = measured(recorded_plan())
    found.save(tmp_path / "bench.json")
    said = cuda._finding(tmp_path / "bench.json")
    assert said.startswith(f"{found.verdict}: ")
    tau = next(cell.acceptance.mean_acceptance_length for cell in found.cells if cell.acceptance)
    assert f"K = 3: τ {tau:.3f}" in said
    counted = {"engine_version": "9.9", "prompts": 64, "at_a_time": 16, "others": 21, "rounds": 452}
    (tmp_path / "b.json").write_text(json.dumps({**counted, "equal_counters": 64, "equal_tokens": 63}))
    told = "64 of 64 counters and 63 token sequences are those of a run alone"
    assert cuda._finding(tmp_path / "b.json") == f"{told} (16 at a time, 452 rounds, 21 foreign answers)"
    assert cuda._version(tmp_path / "b.json", "vllm") == "9.9"
    states = {"engine": "reference", "version": "1", "flags": {"states": {"producer_version": "0.5"}}}
    (tmp_path / "s.json").write_text(json.dumps({"layouts": [{"report": {"engines": [states]}}], "cells": []}))
    assert cuda._version(tmp_path / "s.json", "vllm") == "0.5"


@pytest.mark.slow
def test_several_gpus_share_the_steps_and_what_needs_several_comes_last(cuda: ModuleType, tmp_path: Path) -> None:
    alone = {one.name for one in cuda.plan(cuda.Options(work=tmp_path, pythons=PYTHONS))}
    three = cuda.plan(cuda.Options(work=tmp_path, pythons=PYTHONS, gpus=3))
    split = [one for one in three if one.devices == 3]
    assert {one.name for one in three} - alone == {one.name for one in split}
    assert [one.name for one in split] == ["states-vllm-tensor-parallel-3"]
    for command in (command for one in split for command in one.command):
        if command[:3] == (sys.executable, "-m", "eagle3hub"):
            parsed(list(command[3:]))
    said = tmp_path / "said"
    tell = f"import os; open({str(said)!r}, 'a').write(os.environ.get('CUDA_VISIBLE_DEVICES', 'all') + ' ')"
    slow = tell + "; import time; time.sleep(1.5)"
    steps = [
        step(cuda, "both", tell, devices=2),
        *(step(cuda, f"one-{n}", slow + f"  # {n}") for n in range(2)),
        step(cuda, "after", tell, needs=("one-0",)),
    ]
    cuda.Runner(steps, tmp_path / "work", 1, gpus=2).run()
    order = said.read_text().split()
    assert sorted(order[:2]) == ["0", "1"], "two steps at once, each on a GPU of its own"
    assert order[-1] == "all"
    assert len(order) == 4


def test_only_some_steps_and_what_they_need(cuda: ModuleType, tmp_path: Path) -> None:
    steps = cuda.plan(cuda.Options(work=tmp_path, pythons=PYTHONS))
    chosen = [step.name for step in cuda._with_needs(steps, ["quantized-vllm"])]
    assert chosen == ["target", "universal", "by-k-vllm", "quantized-vllm"]
    with pytest.raises(SystemExit, match="no step nonsense"):
        cuda._with_needs(steps, ["nonsense"])


def test_long_prompts_have_text_for_the_longest(cuda: ModuleType, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in cuda.long_prompts(tmp_path / "long.jsonl").read_text().splitlines()]
    assert sum(len(row["turns"][0]) for row in rows) > 8 * 8000 * 5, "characters, for eight prompts of 8,000 tokens"


def test_without_a_gpu_it_says_so(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit, match="--device cpu"):
        cuda.machine("cuda")
    assert "rehearsal" in cuda.machine("cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cuda._gpus("cuda") == 1, "so that --list shows the steps there too"
