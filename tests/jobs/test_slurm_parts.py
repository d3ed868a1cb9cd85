"""``--on slurm`` without a Slurm: what is refused beforehand, and the answers that a healthy Slurm does not give."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarking.recorded import SECOND, SMOKE, measured, plan
from support.slurm import Commands
from validation.samples import report

from eagle3hub.benchmarking.results import Results
from eagle3hub.errors import Eagle3HubError
from eagle3hub.jobs import slurm

Cli = Callable[..., tuple[int, str, str]]
TWO = plan(heads=(plan().heads[0], SECOND))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.chdir(tmp_path)
    made = Commands(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(made.folder))
    for name, seconds in (("_SECONDS_BETWEEN_LOOKS", 0.01), ("_SECONDS_TO_SETTLE", 0.05)):
        monkeypatch.setattr(slurm, name, seconds)
    return made


def started(commands: Commands, profile: slurm.Profile | None = None) -> slurm.Run:
    tasks, whole = slurm.bench_tasks(TWO, "smoke", None, lambda _: ["--seed", "0"])
    return slurm.start("bench", tasks, Path("run"), profile or slurm.Profile(), whole=whole)


def give(run: slurm.Run, number: int, document: Any, *, sha256: str | None = None) -> None:
    """Leave the result that a task would leave."""
    raw = json.dumps(document).encode()
    folder = run.task_folder(number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_bytes(raw)
    (folder / "done.json").write_text(json.dumps({"sha256": sha256 or hashlib.sha256(raw).hexdigest()}))


def results_of(number: int) -> dict[str, Any]:
    found: Results = measured(plan(heads=(TWO.heads[number],), base=TWO.heads[number].name))
    return found.to_json()


def fails(code: str, call: Callable[[], object]) -> Eagle3HubError:
    with pytest.raises(Eagle3HubError) as raised:
        call()
    assert raised.value.code == code
    return raised.value


def test_an_array_is_submitted_without_anything_of_this_shell(commands: Commands) -> None:
    profile = slurm.Profile(
        ("--partition=gpu", "--mem=2G"), 3, "/opt/python", ("srun",), ("module load x",), {"A": "'"}
    )
    run = started(commands, profile)
    (words,) = commands.called("sbatch")
    assert words.startswith("--parsable --export=NONE --requeue --open-mode=append --job-name=eagle3hub-bench")
    assert "--array=0-1%3 --partition=gpu --mem=2G" in words
    script = (run.path / "job.sh").read_text().splitlines()
    assert script[2:] == [
        "set -e", "export A=''\"'\"''", "module load x",
        f"exec srun /opt/python -m eagle3hub.jobs.slurm {run.path}",
    ]  # fmt: skip
    assert slurm.open_run("run") == run
    assert run.submissions == (slurm.Submission("7", (0, 1)),)


def test_the_cells_of_all_tasks_are_one_benchmark(commands: Commands) -> None:
    run = started(commands)
    assert [task.words[1] for task in run.tasks] == ["as-trained=/nowhere/a", "second=/nowhere/b"]
    for number in (0, 1):
        give(run, number, results_of(number))
    found = slurm.benchmark_of(slurm.open_run("run"))
    assert found.cells == measured(TWO).cells
    assert [(one.base, one.other) for one in found.comparisons] == [("as-trained", "second")]
    assert found.cells_planned == 2


def test_a_result_of_something_else_is_refused(commands: Commands) -> None:
    run = started(commands)
    give(run, 0, results_of(0))
    fails("slurm-not-done", lambda: slurm.benchmark_of(run))
    give(run, 1, results_of(0))
    said = fails("job-report-foreign", lambda: slurm.benchmark_of(run))
    assert "of another head" in said.message
    swapped = replace(SECOND, digest="sha256:" + "d" * 64)
    give(run, 1, measured(plan(heads=(swapped,), base="second")).to_json())
    fails("job-report-foreign", lambda: slurm.benchmark_of(run))
    other = results_of(1)
    other["target"]["config_sha256"] = "1" * 64
    give(run, 1, other)
    assert "its target is" in fails("job-report-foreign", lambda: slurm.benchmark_of(run)).message
    give(run, 1, results_of(1), sha256="0" * 64)
    assert "task 1" in fails("slurm-report-damaged", lambda: slurm.benchmark_of(run)).message
    (run.task_folder(1) / "done.json").write_text("no JSON")
    fails("slurm-report-damaged", lambda: slurm.benchmark_of(run))
    assert slurm.digests(run)[1] == ""


def test_a_report_is_held_to_its_head_and_target(commands: Commands) -> None:
    document = report()
    expected = {"head": document["head"]["source"], "digest": document["head"]["digest"], "target": document["target"]}
    task = slurm.Task("my-head", ("validate", "/h"), expected)
    run = slurm.start("validate", [task], Path("run"), slurm.Profile(), whole={"layouts": None})
    give(run, 0, document)
    assert slurm.validation_of(run).document == document
    document["head"]["digest"] = "sha256:" + "f" * 64
    give(run, 0, document)
    fails("job-report-foreign", lambda: slurm.validation_of(run))


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        ("TIMEOUT", "slurm-timeout", "ran out of time"),
        ("OUT_OF_MEMORY", "slurm-memory", "ran out of memory"),
        ("PREEMPTED", "slurm-preempted", "was preempted"),
        ("CANCELLED", "slurm-cancelled", "was cancelled"),
        ("NODE_FAIL", "slurm-node", "lost its node"),
        ("FAILED", "slurm-failed", "the last line of its log: it fell over"),
        ("COMPLETED", "slurm-failed", "failed (COMPLETED)"),
        ("", "slurm-gone", "Slurm no longer knows why"),
    ],
)
def test_a_task_that_ends_without_a_result_says_why(
    commands: Commands, cli: Cli, state: str, code: str, said: str
) -> None:
    run = started(commands)
    give(run, 0, results_of(0))
    run.log(1).write_text("noise\nit fell over\n\n")
    commands.says("squeue", f"7_1|{state}|None\n" if state else "")
    status, out, _ = cli("jobs", "collect", "run", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (4, code)
    assert said in error["message"]
    assert error["message"].startswith("task 1 (reference: second on smoke, K = 3, T = 0) ")
    assert f"eagle3hub jobs resume {run.folder}" in error["hint"]
    assert run.is_done(0), "nothing is lost"


def test_accounting_knows_what_the_controller_forgot(commands: Commands) -> None:
    run = started(commands)
    give(run, 0, results_of(0))
    commands.says("squeue", err="slurm_load_jobs error: Invalid job id specified", status=1)
    commands.says("sacct", "7_1|CANCELLED by 1000\n7_0|COMPLETED\n")
    assert [(one.state, one.slurm) for one in slurm.states(run)] == [("done", "COMPLETED"), ("failed", "CANCELLED")]
    commands.says("sacct", err="Slurm accounting storage is disabled", status=1)
    assert slurm.states(run)[1].slurm == "GONE"


def test_the_error_of_a_task_is_the_commands_own(commands: Commands, cli: Cli) -> None:
    run = started(commands)
    give(run, 0, results_of(0))
    run.task_folder(1).mkdir()
    error = {"code": "vocab-range", "message": "bad map", "hint": "mend it", "exit_code": 3}
    (run.task_folder(1) / "error.json").write_text(json.dumps({"error": error}))
    commands.says("squeue", "7_1|FAILED|NonZeroExitCode\n")
    status, out, _ = cli("jobs", "collect", "run", "--json")
    found = json.loads(out)["error"]
    assert (status, found["code"], found["exit_code"]) == (3, "vocab-range", 3)
    assert found["message"] == "in task 1 (reference: second on smoke, K = 3, T = 0): bad map"


def test_only_what_is_left_is_submitted_again(commands: Commands, cli: Cli, tmp_path: Path) -> None:
    run = started(commands)
    give(run, 0, results_of(0))
    commands.says("squeue", "7_1|TIMEOUT|None\n")
    commands.says("sbatch", "8;cluster")
    (tmp_path / "more.yaml").write_text("time: 60\n")
    status, out, _ = cli("jobs", "resume", "run", "--slurm-profile", "more.yaml", "--json")
    assert (status, json.loads(out)["run"]["tasks"], json.loads(out)["run"]["job"]) == (0, [1], "8")
    assert "--array=1 --time=60" in commands.called("sbatch")[-1]
    commands.says("squeue", "8_1|PENDING|Resources\n")
    _, out, _ = cli("jobs", "status", "run")
    assert "1 done, 1 waiting (Resources)" in out
    status, out, _ = cli("jobs", "resume", "run", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (2, "slurm-nothing-left")
    status, _, err = cli("jobs", "cancel", "run")
    assert (status, commands.called("scancel")) == (0, ["8_1"]), err
    commands.says("scancel", err="scancel: error: Access denied", status=1)
    assert "Access denied" in fails("slurm-refused", lambda: slurm.cancel(slurm.open_run("run"))).message
    give(run, 1, results_of(1))
    slurm.cancel(slurm.open_run("run"))
    assert len(commands.called("scancel")) == 1 + 1, "nothing is left to cancel"


@pytest.mark.parametrize(
    ("err", "code", "said"),
    [
        (
            "sbatch: error: invalid partition specified: gpv",
            "slurm-partition",
            "no partition gpv for you; did you mean",
        ),
        ("sbatch: error: Batch job submission failed: Invalid account", "slurm-refused", "Invalid account"),
        ("sbatch: error: Unable to contact slurm controller (connect failure)", "slurm-down", "does not answer"),
        ("sbatch: fatal: Could not establish a configuration source", "slurm-down", "Could not establish"),
    ],
)
def test_an_array_that_is_refused_leaves_nothing(commands: Commands, err: str, code: str, said: str) -> None:
    commands.says("sbatch", err=err, status=1)
    error = fails(code, lambda: started(commands, slurm.Profile(("--partition=gpv",))))
    assert said in error.message
    assert not Path("run").exists()


def test_no_slurm_and_a_silent_one(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    run = started(commands)
    monkeypatch.setattr(slurm, "_SECONDS_FOR_SLURM", 0.2)
    monkeypatch.setattr(slurm, "_SECONDS_OF_SILENCE", 0.1)
    commands.hangs("squeue")
    told: list[str] = []
    assert "no answer within" in fails("slurm-down", lambda: slurm.follow(run, lambda _: None, told.append)).message
    assert told == ["Slurm does not answer; asking again"]
    commands.lacks("squeue")
    fails("slurm-absent", lambda: slurm.states(run))
    commands.lacks("sbatch")
    assert "no sbatch on this machine" in fails("slurm-absent", lambda: started(commands)).message


def test_following_ends_when_slow_results_arrive(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    run = started(commands)
    monkeypatch.setattr(slurm, "_SECONDS_TO_SETTLE", 60)
    commands.says("squeue", "7_0|COMPLETED|None\n7_1|RUNNING|None\n")
    run.log(1).write_text("first\nhalf")
    said: list[str] = []

    def tell(words: str) -> None:
        said.append(words)
        if words == "1 running, 1 failed":
            commands.says("squeue", "7_0|COMPLETED|None\n7_1|COMPLETED|None\n")
            for number in (0, 1):
                give(run, number, results_of(number))

    slurm.follow(run, said.append, tell)
    assert said == ["[1] first", "1 running, 1 failed", "[1] half", "2 done"]


def test_a_folder_that_exists_or_cannot_be_made(commands: Commands, tmp_path: Path) -> None:
    started(commands)
    fails("slurm-folder", lambda: started(commands))
    (tmp_path / "file").write_text("")
    task = slurm.Task("t", ("validate",), {})
    fails("slurm-folder", lambda: slurm.new_run("validate", [task], tmp_path / "file" / "run", slurm.Profile()))


def test_no_secret_comes_into_the_folder(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "correct-horse-battery")
    for word in ("correct-horse-battery", "HF_TOKEN=x", "hf_" + "a" * 34):
        task = slurm.Task("t", ("validate", "/h", "--engine-env", word), {})
        fails("slurm-secret", lambda task=task: slurm.start("validate", [task], Path("run"), slurm.Profile()))
    assert not Path("run").exists()
    started(commands)
    assert "correct-horse" in (commands.folder / "sbatch.env").read_text(), "sbatch is told to take nothing from here"
    assert "--export=NONE" in commands.called("sbatch")[0]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("partitoin: gpu", "slurm-profile", "unknown field 'partitoin'; did you mean 'partition'?"),
        ("time: soon", "slurm-profile", 'time is "soon"'),
        ("setup: module load", "slurm-profile", "setup is"),
        ('gres: "gpu:1\\nrm"', "slurm-profile", "gres is"),
        ("sbatch: [--array=0-9]", "slurm-profile", "sbatch"),
        ("environment: {HF_TOKEN: x}", "slurm-secret", "sets HF_TOKEN"),
    ],
)
def test_a_profile_that_is_wrong(tmp_path: Path, text: str, code: str, said: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    assert said in fails(code, lambda: slurm.read_profile(tmp_path / "p.yaml")).message


def test_a_profile_is_what_sbatch_is_told(tmp_path: Path) -> None:
    stated = {"partition": "a,b", "time": 90, "gpus_per_node": "8", "sbatch": ["--exclusive"], "at_once": 4}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({**stated, "launch": ["apptainer", "exec"], "python": "python3"}))
    found = slurm.read_profile(tmp_path / "p.yaml")
    assert found.options == ("--partition=a,b", "--time=90", "--gpus-per-node=8", "--exclusive")
    assert (slurm.Profile().device, found.device) == ("cpu", "cuda")
    assert (found.at_once, found.launch, found.python) == (4, ("apptainer", "exec"), "python3")


@pytest.mark.parametrize("document", [{}, [], {"schema": "eagle3hub/slurm-run/1", "kind": "dance"}])
def test_a_folder_of_something_else(commands: Commands, cli: Cli, document: object) -> None:
    Path("run").mkdir()
    Path("run", "run.json").write_text(json.dumps(document))
    status, out, _ = cli("jobs", "status", "run", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (3, "slurm-run")


@pytest.mark.slow
def test_a_task_runs_its_command_once_and_keeps_what_it_said(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The commands here are quick ones; those that measure run on the real Slurm."""
    tasks = [
        slurm.Task("a list", ("bench", "--list-datasets"), {}),
        slurm.Task("no head", ("validate", "/nowhere/head", "--target", "/nowhere/target"), {}),
        slurm.Task("no JSON", ("--version",), {}),
    ]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    run = slurm.start("release", tasks, Path("run"), slurm.Profile())
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setattr("sys.argv", ["slurm", run.folder])
    assert slurm.main() == 0
    assert "datasets" in slurm.documents(replace(run, tasks=run.tasks[:1]))[0]
    at = (run.task_folder(0) / "result.json").stat().st_mtime_ns
    assert slurm.run_task(run.folder, 0) == 0
    assert (run.task_folder(0) / "result.json").stat().st_mtime_ns == at
    assert slurm.run_task(run.folder, 1) == 3
    assert json.loads((run.task_folder(1) / "error.json").read_text())["error"]["exit_code"] == 3
    assert slurm.run_task(run.folder, 2) != 0
    assert not (run.task_folder(2) / "result.json").exists()
    fails("slurm-no-task", lambda: slurm.run_task(run.folder, 3))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "9")
    assert slurm.main() == 3
    assert "the run has no task 9" in capfd.readouterr().err


VALIDATE = ("validate", "HEAD", "--target", "TARGET")
BENCH = ("bench", "HEAD", "--target", "TARGET", "--datasets", "smoke", "--num-prompts", 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*VALIDATE, "--on", "slurm", "--flavor", "h200"), "options of --on hf-jobs are given with --on slurm"),
        ((*VALIDATE, "--slurm-profile", "p.yaml"), "nothing says to run one"),
        ((*VALIDATE, "--detach"), "--detach is about a run elsewhere"),
        ((*VALIDATE, "--on", "slurm", "--endpoint", "vllm=http://127.0.0.1:9"), "--endpoint is a server that runs"),
        ((*BENCH, "--on", "hf-jobs"), "--on 'hf-jobs' is not a place to run this"),
        ((*BENCH, "--run-folder", "x"), "--run-folder is given, but nothing says to run elsewhere"),
        ((*BENCH, "--on", "slurm", "--concurrency", "1,4"), "--concurrency measures servers one after the other"),
        (("jobs", "status", "what"), "'what' is not the name of a job"),
        (("release", "r.yaml", "--on", "slurm", "--until", "convert"), "--on slurm measures every layout"),
        (("release", "r.yaml", "--layout", "universal"), "--layout measures one layout"),
    ],
)
def test_options_that_do_not_go_together(
    commands: Commands, files: Path, cli: Cli, words: tuple[object, ...], message: str
) -> None:
    named = {"HEAD": files / "head", "TARGET": files / "target"}
    status, _, err = cli(*(named.get(str(word), word) for word in words))
    assert (status, message in err) == (2, True), err
    assert commands.called("sbatch") == []


def test_a_command_line_becomes_the_tasks(commands: Commands, files: Path, cli: Cli) -> None:
    words = ("bench", f"a={files / 'head'}", "--target", files / "target", "--datasets", "smoke", "--num-prompts", 8)
    more = ("--draft-tokens", "2,3", "--temperature", "0,0.5", "--run-anyway", "--base", "a")
    status, _, err = cli(*words, *more, "--on", "slurm", "--run-folder", "run", "--detach")
    assert status == 0, err
    tasks = slurm.open_run("run").tasks
    assert [task.words for task in tasks][1] == (
        "bench", f"a={files / 'head'}", "--datasets", "smoke", "--draft-tokens", "3", "--temperature", "0",
        "--engine", "reference", "--target", str(files / "target"), "--device", "cpu", "--num-prompts", "8",
        "--run-anyway",
    )  # fmt: skip
    assert len(tasks) == 4
    assert tasks[0].expected["prompts"] != SMOKE.sha256, "eight of its prompts"


def test_each_length_of_context_is_a_task(commands: Commands, files: Path, cli: Cli) -> None:
    words = ("bench", files / "head", "--target", files / "target", "--datasets", "smoke", "--num-prompts", 2)
    status, _, err = cli(*words, "--context", "128,256", "--on", "slurm", "--run-folder", "run", "--detach")
    assert status == 0, err
    tasks = slurm.open_run("run").tasks
    assert [task.words[2:6] for task in tasks] == [
        ("--datasets", "smoke", "--context", "128"), ("--datasets", "smoke", "--context", "256")
    ]  # fmt: skip
    assert tasks[0].expected["prompts"] != tasks[1].expected["prompts"]


def test_each_engine_of_a_benchmark_is_told_what_is_its_own(commands: Commands, files: Path, cli: Cli) -> None:
    words = ("bench", files / "head", "--target", files / "target", "--datasets", "smoke", "--num-prompts", 8)
    more = (
        "--engine",
        "reference,vllm,sglang",
        "--tensor-parallel",
        2,
        "--engine-arg",
        "vllm.gpu_memory_utilization=0.5",
    )
    status, _, err = cli(*words, *more, "--engine-env", "sglang.OMP_NUM_THREADS=1", "--on", "slurm", "--detach")
    assert status == 0, err
    (place,) = Path("eagle3hub-runs").iterdir()
    told = [task.words[task.words.index("--num-prompts") + 2 :] for task in slurm.open_run(place).tasks]
    assert told == [
        (),
        ("--tensor-parallel", "2", "--engine-arg", "vllm.gpu_memory_utilization=0.5"),
        ("--tensor-parallel", "2", "--engine-env", "sglang.OMP_NUM_THREADS=1"),
    ]


def test_every_layout_of_a_validation_is_a_task(commands: Commands, files: Path, cli: Cli) -> None:
    words = ("validate", files / "head", "--target", files / "target", "--layouts", "specforge,modelopt", "--seed", 3)
    status, out, err = cli(*words, "--on", "slurm", "--run-folder", "run", "--detach")
    assert status == 0, err
    assert "submitted 2 tasks as job 7" in out
    tasks = slurm.open_run("run").tasks
    assert [task.words[-4:] for task in tasks] == [
        ("--seed", "3", "--layouts", "specforge"), ("--seed", "3", "--layouts", "modelopt")
    ]  # fmt: skip


def test_what_every_layout_of_a_release_measured_comes_home(commands: Commands, files: Path, cli: Cli) -> None:
    """The tasks' own command lines, run here, give the results: two layouts of one head count alike."""
    manifest = {
        "schema": "eagle3hub/manifest/1",
        "head": {"source": str(files / "head")},
        "target": {"id": "alice/target", "license": "mit"},
        "release": {"repo": "alice/head", "title": "T", "summary": "S", "license": "mit"},
        "layouts": {"main": "specforge", "also": ["modelopt"]},
        "speculative_tokens": 3,
        "validate": {"engine": "reference", "num_prompts": 2, "max_new_tokens": 8},
        "training": {"framework": "f", "data": "d", "hardware": "h"},
        "limitations": ["short"],
    }
    Path("release.yaml").write_text(yaml.safe_dump(manifest))
    words = ("release", "release.yaml", "--until", "validate", "--target", str(files / "target"))
    status, _, err = cli(*words, "--on", "slurm", "--run-folder", "run", "--detach")
    assert status == 0, err
    run = slurm.open_run("run")
    for number, task in enumerate(run.tasks):
        status, out, err = cli(*task.words, "--json")
        assert (status, json.loads(out)["verdict"]) == (1, "inconclusive"), err
        give(run, number, json.loads(out))
    status, out, err = cli("jobs", "collect", "run", "--json")
    assert status == 1, "the exit status of the worst layout"
    found = json.loads(out)
    assert found["then"] == ["eagle3hub", *words, "--from", "convert"]
    measured = [layout for one in found["layouts"] for layout in one["layouts"]]
    assert [one["layout"] for one in measured] == ["specforge", "modelopt"]
    first, second = (one["engines"][0]["acceptance"] for one in measured)
    assert (first["prompts"], first) == (2, second)
    assert commands.called("squeue") == [], "nothing is left to ask Slurm about"
    again = json.loads(cli(*found["then"][1:], "--json")[1])["layouts"]
    assert [(one["reused"], one["digest"]) for one in again] == [(True, one["digest"]) for one in measured]
