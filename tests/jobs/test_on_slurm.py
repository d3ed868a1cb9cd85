"""``--on slurm`` on a real Slurm of one node: what tasks give is what a run here gives, whatever happens to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support import slurm

from eagle3hub.benchmarking import load_results
from eagle3hub.jobs import slurm as ours
from eagle3hub.validation.report import load_report

pytestmark = pytest.mark.engine
Cli = Callable[..., tuple[int, str, str]]
EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2-135m"
SHORT = ("--num-prompts", 8, "--max-new-tokens", 8)
TOKEN = "hf_" + "x" * 34


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Slurm on this machine; gives the folder of its files."""
    if why := slurm.missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("slurm")
    with slurm.running(folder) as conf, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(conf))
        yield folder


@pytest.fixture
def here(files: Path, cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a profile, on a cluster, with a token in the environment that nobody may see."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(ours, "_SECONDS_BETWEEN_LOOKS", 0.3)
    root = str(Path(__file__).parents[2])
    profile = {
        "partition": "cpu",
        "time": 20,
        "mem": "1G",
        "environment": {"OMP_NUM_THREADS": "1", "PYTHONPATH": root},
    }
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(profile))
    return tmp_path


def bench(files: Path, *more: object) -> tuple[object, ...]:
    words = ("bench", files / "head", f"second={files / 'head'}", "--target", files / "target", "--datasets", "smoke")
    return (*words, *SHORT, "--draft-tokens", "2,3", *more)


def nowhere(secret: str, *folders: Path) -> bool:
    """Whether no file below these folders holds a text."""
    return not any(
        secret.encode() in path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()
    )


@pytest.mark.slow
def test_a_benchmark_gives_what_it_gives_here_though_tasks_are_killed(
    here: Path, files: Path, cluster: Path, cli: Cli
) -> None:
    """One task is preempted as Slurm does it (requeued), two are cancelled and run again; one is left in peace."""
    on = ("--on", "slurm", "--slurm-profile", "slurm.yaml", "--run-folder", "run")
    status, out, err = cli(*bench(files, *on, "--detach", "--json"))
    assert status == 0, err
    job = json.loads(out)["run"]["job"]
    run = ours.open_run("run")
    _until(lambda: any(one.state == "running" for one in ours.states(run)))
    subprocess.run(["scontrol", "requeue", f"{job}_0"], check=True)
    subprocess.run(["scancel", f"{job}_1", f"{job}_3"], check=True)
    status, _, err = cli("jobs", "collect", "run")
    assert (status, "2 of 4 tasks (1,3) gave no result" in err, "was cancelled" in err) == (4, True, True), err
    before = {n: ours.digests(run)[n] for n in (0, 2)}
    at = {n: (run.task_folder(n) / "done.json").stat().st_mtime_ns for n in (0, 2)}
    status, out, _ = cli("jobs", "resume", "run", "--json")
    assert json.loads(out)["run"]["tasks"] == [1, 3]
    status, _, err = cli("jobs", "collect", "run", "--output", "there")
    assert "[3] done in" in err, "the logs of all tasks are followed"
    assert {n: ours.digests(run)[n] for n in (0, 2)} == before, "what was done is not done again"
    assert {n: (run.task_folder(n) / "done.json").stat().st_mtime_ns for n in (0, 2)} == at
    _, out, _ = cli("jobs", "status", "run", "--json")
    assert [one["sha256"] for one in json.loads(out)["tasks"]] == ours.digests(run)
    assert cli("jobs", "resume", "run")[0] == 2
    again, _, _ = cli(*bench(files, "--output", "local"))
    there, local = load_results(here / "there" / "results.json"), load_results(here / "local" / "results.json")
    assert status == again
    assert [cell.key for cell in there.cells] == [cell.key for cell in local.cells]
    assert [cell.per_prompt for cell in there.cells] == [cell.per_prompt for cell in local.cells]
    assert there.comparisons == local.comparisons
    assert (here / "there" / "tables.md").is_file()
    assert nowhere(TOKEN, here / "run", cluster)


@pytest.mark.slow
def test_a_validation_comes_home_and_ctrl_c_leaves_it_running(here: Path, files: Path, cli: Cli) -> None:
    words = ["validate", files / "head", "--target", files / "target", *SHORT]
    on = ["--on", "slurm", "--slurm-profile", "slurm.yaml", "--run-folder", "run", "--report", "report.json"]
    profile = yaml.safe_load((here / "slurm.yaml").read_text())
    (here / "slurm.yaml").write_text(yaml.safe_dump({**profile, "setup": ["sleep 15"]}))  # it runs when Ctrl-C comes
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-m", "eagle3hub", *map(str, words + on)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        said = ""
        while "running" not in said:
            said += process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said += process.stderr.read()
    assert process.returncode == 130
    assert "the tasks go on; follow them again: eagle3hub jobs collect" in said
    assert not (here / "report.json").exists()
    status, _, err = cli("jobs", "collect", "run", "--report", "report.json")
    there = load_report(here / "report.json")
    again, _, _ = cli(*words, "--report", "local.json")
    local = load_report(here / "local.json")
    assert status == again, err
    assert (there.head, there.target, there.prompts, there.settings) == (
        local.head, local.target, local.prompts, local.settings
    )  # fmt: skip
    counted = [report.engines[0].counted for report in (there, local)]
    assert counted[0].per_prompt == counted[1].per_prompt


@pytest.mark.slow
def test_a_release_goes_on_with_its_card_though_a_task_was_killed(
    here: Path, cluster: Path, cli: Cli, smollm2_target: Path
) -> None:
    """Every layout is a task; one is killed while it runs, and run again; the other is not measured again."""
    project = Path(shutil.copytree(EXAMPLE, here / "project"))
    document = yaml.safe_load((project / "release.yaml").read_text())
    document["validate"] |= {"engine": "reference", "num_prompts": 8, "max_new_tokens": 8}
    document["layouts"] = {"main": "specforge", "also": ["speculators"]}
    (project / "release.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    profile = yaml.safe_load((here / "slurm.yaml").read_text()) | {"mem": "3G", "at_once": 1}
    (here / "slurm.yaml").write_text(yaml.safe_dump(profile))
    words = ["release", project / "release.yaml", "--target", smollm2_target, "--output", here / "out", "--dry-run"]
    on = ["--on", "slurm", "--slurm-profile", "slurm.yaml", "--run-folder", "run", "--detach"]
    status, out, err = cli(*words, *on, "--json")
    assert status == 0, err
    started = json.loads(out)["run"]
    assert started["tasks"] == [0, 1]
    run = ours.open_run("run")
    _until(lambda: ours.states(run)[0].state == "running")
    subprocess.run(["scancel", f"{started['job']}_0"], check=True)
    status, _, err = cli("jobs", "collect", "run")
    assert (status, "task 0 (" in err, "was cancelled" in err) == (4, True, True), err
    assert not (here / "out").exists()
    other = ours.digests(run)[1]
    status, out, err = cli("jobs", "resume", "run", "--json")
    assert json.loads(out)["run"]["tasks"] == [0], err
    status, out, err = cli("jobs", "collect", "run", "--json")
    assert status == 0, err
    assert ours.digests(run)[1] == other, "what was done is not done again"
    then = json.loads(out)["then"]
    assert then[:2] == ["eagle3hub", "release"]
    status, out, err = cli(*then[1:], "--json")
    assert status == 0, err
    released = json.loads(out)
    assert (released["verdict"], [one["layout"] for one in released["layouts"]]) == (
        "pass",
        ["specforge", "speculators"],
    )
    card = (here / "out" / "README.md").read_text()
    tau = released["layouts"][0]["engines"][0]["acceptance"]["mean_acceptance_length"]
    assert f"{tau:.2f}" in card
    assert nowhere(TOKEN, here / "run", here / "out", cluster)


def test_the_answers_of_a_real_slurm_are_understood(here: Path, files: Path, cli: Cli, cluster: Path) -> None:
    on = ("--on", "slurm", "--run-folder", "run", "--detach")
    for profile, code, said in (
        ({"partition": "cpv"}, "slurm-partition", "did you mean 'cpu'?"),
        ({"gres": "gpu:8"}, "slurm-refused", "Slurm refused the array of 4 tasks"),
        ({"sbatch": ["--no-such-thing"]}, "slurm-refused", "no-such-thing"),
    ):
        (here / "p.yaml").write_text(yaml.safe_dump(profile))
        status, out, _ = cli(*bench(files, *on, "--slurm-profile", "p.yaml", "--json"))
        error = json.loads(out)["error"]
        assert (status, error["code"]) == (2, code)
        assert said in error["message"]
        assert not (here / "run").exists(), "nothing was submitted, so nothing is left"


def test_a_setup_line_that_fails_is_told(here: Path, files: Path, cli: Cli) -> None:
    (here / "p.yaml").write_text(yaml.safe_dump({"setup": ["echo no such module >&2", "false"]}))
    words = ("validate", files / "head", "--target", files / "target", "--on", "slurm", "--slurm-profile", "p.yaml")
    status, out, _ = cli(*words, "--run-folder", "run", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (4, "slurm-failed")
    assert error["message"] == "task 0 (head) failed (FAILED); the last line of its log: no such module"
    assert "eagle3hub jobs resume" in error["hint"]


def test_a_run_is_cancelled(here: Path, files: Path, cli: Cli) -> None:
    (here / "p.yaml").write_text(yaml.safe_dump({"setup": ["sleep 60"]}))
    words = ("validate", files / "head", "--target", files / "target", "--on", "slurm", "--slurm-profile", "p.yaml")
    assert cli(*words, "--run-folder", "run", "--detach")[0] == 0
    stopper = threading.Timer(2, lambda: ours.cancel(ours.open_run(here / "run")))
    stopper.start()
    status, out, _ = cli("jobs", "collect", "run", "--json")
    stopper.join()
    assert (status, json.loads(out)["error"]["code"]) == (4, "slurm-cancelled")


def _until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")
