"""``validate --on hf-jobs`` against a Hub on loopback that speaks the Jobs API, through the real client."""

from __future__ import annotations

import json
import re
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from support import hostile
from support.hub_server import Takeover
from support.jobs_server import BROKE, NO_JOBS, JobsHub, Running
from support.versions import VLLM
from validation.samples import report

from eagle3hub.cli import jobs as cli_jobs
from eagle3hub.jobs import collect as collecting
from eagle3hub.jobs.collect import seal
from eagle3hub.validation.report import load_report

Cli = Callable[..., tuple[int, str, str]]
PACKAGE = "eagle3hub[validate] @ https://example.org/eagle3hub/archive/c0ffee.zip"
HERE = ("validate", "hf://alice/head", "--target", "alice/target", "--on", "hf-jobs", "--job-package", PACKAGE)
SHORT = ("--num-prompts", 2, "--max-new-tokens", 8)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "_SECONDS_BETWEEN_LOOKS", 0.01)


def says(*lines: str, stage: str = "COMPLETED", message: str | None = None) -> Callable[[Running], None]:
    """A job that prints this and ends like that."""

    def act(job: Running) -> None:
        job.log(*lines)
        job.end(stage, message)

    return act


def prints(document: Any, *, lose: int | None = None) -> Callable[[Running], None]:
    """A job that prints a document as the container would, line ``lose`` excepted."""

    def act(job: Running) -> None:
        lines = seal(json.dumps(document).encode(), job.nonce)
        job.log("noise", *(line for i, line in enumerate(lines) if i != lose), "more noise")
        job.end("COMPLETED")

    return act


@pytest.mark.slow
def test_the_job_really_runs_and_its_report_comes_home(hub: JobsHub, cli: Cli, tmp_path: Path) -> None:
    hub.cuts = [3]
    files = ("--report", tmp_path / "report.json", "--html", tmp_path / "report.html")
    status, out, err = cli(*HERE, *SHORT, "--device", "cpu", "--yes", *files)
    made = load_report(tmp_path / "report.json").document
    (entry,) = made["engines"]
    commit = hub.repos["alice/head"].refs["main"]
    assert (status, made["verdict"]) == (1, "inconclusive"), err
    assert "2 prompts with rounds are too few for an interval" in out.replace("\n", " ")
    assert made["head"]["source"] == f"hf://alice/head@{commit}"
    assert made["target"]["name"] == "alice/target"
    assert (entry["engine"], len(entry["per_prompt"])) == ("reference", 2)
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert "eagle3hub-report" not in err, "the report's own lines are not shown"

    (job,) = hub.jobs
    assert hub.installed == [PACKAGE]
    assert job.spec["flavor"] == "cpu-upgrade"
    assert job.spec["timeoutSeconds"] == 3600
    assert job.spec["environment"] == {}
    assert "secrets" not in job.spec
    assert "hf_good" not in json.dumps(job.spec) + out + err
    assert "$0.03 per hour" in err
    assert "60 minutes, so at most $0.03" in err

    status, out, _ = cli("jobs", "collect", f"alice/{job.id}", "--json")
    assert status == 1
    assert json.loads(out) == made


def test_nothing_starts_unasked(hub: JobsHub, cli: Cli) -> None:
    status, _, err = cli(*HERE)
    assert status == 2
    assert "no terminal to ask" in err
    assert not hub.jobs


def test_how_the_engine_is_started_goes_along(hub: JobsHub, cli: Cli) -> None:
    started = ("--engine-arg", "max_model_len=4096", "--engine-env", "VLLM_LOGGING_LEVEL=INFO")
    status, _, err = cli(
        *HERE, "--engine", "vllm", *started, "--chat-template-arg", "think=true", "--run-anyway", "--detach", "--yes"
    )
    assert status == 0, err
    words = hub.jobs[0].spec["command"]
    assert words[(at := words.index("--engine-arg")) : at + 2] == ["--engine-arg", "vllm.max_model_len=4096"]
    assert words[(at := words.index("--engine-env")) : at + 2] == ["--engine-env", "vllm.VLLM_LOGGING_LEVEL=INFO"]
    assert words[(at := words.index("--chat-template-arg")) : at + 2] == ["--chat-template-arg", "think=true"]
    assert "--tensor-parallel" not in words


@pytest.mark.parametrize(("answer", "jobs"), [(False, 0), (True, 1)])
def test_a_terminal_is_asked(hub: JobsHub, cli: Cli, monkeypatch: pytest.MonkeyPatch, answer: bool, jobs: int) -> None:
    hub.script = says("boom", stage="ERROR")
    asked: list[str] = []
    monkeypatch.setattr(cli_jobs.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(cli_jobs.typer, "confirm", lambda text, **_: asked.append(text) or answer)
    status, _, err = cli(*HERE, "--flavor", "h200", "--time-limit", 90)
    assert asked == ["start the job?"]
    assert re.search(r"h200: 23 vCPU, 256 GB, 1 x H200 \(141 GB\)", err)
    assert "$5.00 per hour, as the Hub states it now; alice pays" in err
    assert "90 minutes, so at most $7.50" in err
    assert (status, len(hub.jobs)) == (5 if answer else 130, jobs)


def test_a_detached_job_is_collected_later(hub: JobsHub, cli: Cli) -> None:
    release = threading.Event()

    def act(job: Running) -> None:
        release.wait(20)
        says("it fell over", stage="ERROR", message="Job failed with exit code: 1")(job)

    hub.script = act
    status, out, _ = cli(*HERE, "--yes", "--detach")
    (job,) = hub.jobs
    name = f"alice/{job.id}"
    assert status == 0
    (printed,) = re.findall(r"^collect +(eagle3hub .*)$", out, re.MULTILINE)
    assert f"hf jobs cancel {name}" in out
    release.set()
    status, out, err = cli(*shlex.split(printed)[1:])
    assert (status, out, name in printed) == (5, "", True)
    assert (
        "ended (ERROR) without a report: Job failed with exit code: 1; the last line of its log: it fell over" in err
    )
    status, out, _ = cli(*HERE, "--yes", "--detach", "--json")
    started = json.loads(out)["job"]
    assert started["collect"] == ["eagle3hub", "jobs", "collect", started["name"]]
    assert started["most_usd"] == 0.03


def test_a_job_is_looked_at_while_it_runs_and_when_it_has_ended(hub: JobsHub, cli: Cli) -> None:
    hub.script = lambda job: None
    assert cli(*HERE, "--yes", "--detach")[0] == 0
    (job,) = hub.jobs
    name = f"alice/{job.id}"
    status, out, err = cli("jobs", "status", name, "--json")
    url = f"{hub.url}/jobs/{name}"
    shown = {"name": name, "url": url, "stage": "RUNNING", "message": None}
    assert (status, json.loads(out)) == (0, {"schema": "eagle3hub/job/1", "job": shown}), err
    job.end("ERROR", "Job failed with exit code: 1")
    ended = json.loads(cli("jobs", "status", name, "--json")[1])["job"]
    assert ended == shown | {"stage": "ERROR", "message": "Job failed with exit code: 1"}
    assert cli("jobs", "status", name)[:2] == (0, f"{name}: ERROR\n")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("validate", "no/folder", *HERE[2:]), 2, "a head to validate there is on the Hub"),
        ((*HERE[:3], ".", *HERE[4:]), 2, "cannot read the target '.'"),
        ((*HERE[:5], "cloud", *HERE[6:]), 2, "not a place to run"),
        ((*HERE[:4], "--flavor", "h200"), 2, "nothing says to run one"),
        ((*HERE, "--flavor", "abacus"), 2, "no hardware of jobs is called 'abacus'"),
        ((*HERE, "--engine", "vllm,sglang"), 2, "the image of one engine, not of vllm and sglang"),
        ((*HERE, "--engine", "vllm", "--flavor", "cpu-basic"), 2, "the image of vllm computes on cuda, not on cpu"),
        ((*HERE, "--device", "cuda"), 2, "cpu-upgrade has no GPU"),
        ((*HERE, "--engine", "vllm", "--tensor-parallel", 8), 2, "--tensor-parallel 8 needs 8 GPUs, and l4x1 has 1"),
        ((*HERE, "--engine", "vllm", "--engine-arg", "dtype=x"), 2, "the run decides the dtype"),
        ((*HERE, "--chat-template-arg", "thnik=true"), 3, "has no argument thnik; did you mean 'think'?"),
        ((*HERE, "--engine", "sglang_jax"), 4, "no image of sglang_jax"),
        ((*HERE, "--prompts", "./mine.jsonl"), 2, "the job has no prompts './mine.jsonl'"),
        ((*HERE, "--responses", "r.jsonl"), 2, "--responses names a file of this machine"),
        ((*HERE, "--reference-head", "./original"), 2, "--reference-head names a file of this machine"),
        ((*HERE, "--draft-tokens", 0), 2, "--draft-tokens must be 1 or more"),
        ((*HERE, "--layouts", "pdf"), 2, "no layout called pdf"),
        ((*HERE, "--time-limit", 0), 2, "--time-limit is 1 to 1440 minutes"),
        ((*HERE, "--job-package", "./dist/x.whl"), 2, "pip cannot install --job-package"),
        ((*HERE, "--job-package", "eagle3hub"), 2, "whoever takes that name would run in the job"),
        ((*HERE, "--num-prompts", 1000), 2, "asks for 1000 prompts"),
        ((*HERE, "--engine", "vllm", "--reference-head", "hf://alice/head"), 2, "is not among the engines"),
        (("validate", "hf://alice/nothing", *HERE[2:]), 5, "no model alice/nothing"),
        ((*HERE[:3], "alice/nothing", *HERE[4:]), 5, "alice/nothing"),
        (("jobs", "collect", "what"), 2, "not the name of a job"),
        (("jobs", "collect", "alice/" + 24 * "0"), 5, "cannot look at the job"),
    ],
)
def test_what_is_found_before_it_costs_anything(
    hub: JobsHub, cli: Cli, words: tuple[object, ...], status: int, message: str
) -> None:
    given, _, err = cli(*words, *(["--yes"] if "--on" in words else []))
    assert (given, hub.jobs) == (status, []), err
    assert message in err
    assert "Traceback" not in err


def test_a_client_without_jobs(hub: JobsHub, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HfApi, "list_jobs_hardware")
    status, out, _ = cli(*HERE, "--yes", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"], hub.jobs) == (4, "job-client-too-old", [])
    assert error["message"] == "this huggingface_hub is too old to run jobs"


def test_a_price_for_another_time(hub: JobsHub, cli: Cli) -> None:
    def by_the_moon(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "unitLabel": "moon"} for row in rows]

    hub.takeovers.append(Takeover("GET", "/api/jobs/hardware", hostile.edited(by_the_moon)))
    status, out, _ = cli(*HERE, "--yes", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"], hub.jobs) == (5, "hub-protocol", [])
    assert error["message"] == "the Hub states a price per moon, which is unknown"


def test_a_job_of_another_program_is_not_collected(hub: JobsHub, cli: Cli, tmp_path: Path) -> None:
    hub.jobs.append(Running(24 * "a", "alice", {"dockerImage": "python", "flavor": "l4x1", "command": ["train.py"]}))
    report = tmp_path / "report.json"
    status, out, _ = cli("jobs", "collect", f"alice/{24 * 'a'}", "--report", report, "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (3, "job-foreign")
    assert error["message"] == f"the job alice/{24 * 'a'} is not a validation that this tool started"
    assert not report.exists()


def test_a_foregone_conclusion_is_not_paid_for(hub: JobsHub, cli: Cli) -> None:
    status, _, err = cli(*HERE, "--engine", "vllm", "--yes")
    assert (status, hub.jobs) == (1, []), err
    assert "no job was started: preflight" in err
    hub.script = says(stage="ERROR")
    assert cli(*HERE, "--engine", "vllm", "--yes", "--run-anyway")[0] == 5
    assert "--run-anyway" in hub.jobs[0].spec["command"]
    assert (hub.jobs[0].spec["flavor"], hub.jobs[0].spec["dockerImage"]) == ("l4x1", f"vllm/vllm-openai:v{VLLM}")


def test_the_token_goes_along_only_if_asked_and_only_as_a_secret(hub: JobsHub, cli: Cli) -> None:
    hub.repos["alice/target"].private = True
    status, _, err = cli(*HERE, "--yes")
    assert (status, hub.jobs) == (2, [])
    assert "alice/target is private or gated" in err
    hub.script = says(stage="ERROR")
    status, out, err = cli(*HERE, "--yes", "--pass-token")
    (job,) = hub.jobs
    assert status == 5
    assert job.spec["secrets"] == {"HF_TOKEN": "hf_good"}
    assert "hf_good" not in json.dumps({**job.spec, "secrets": None}) + out + err


@pytest.mark.parametrize(
    ("token", "namespace", "message"),
    [
        (BROKE, "bob", "the account has no credit for this: cannot start the job"),
        (NO_JOBS, "carol", "the access token may not start the job for carol"),
        ("hf_good", "bob", "the access token may not start the job for bob"),
        ("hf_stale", "alice", "does not accept this access token"),
    ],
)
def test_the_hub_says_no(
    hub: JobsHub, cli: Cli, monkeypatch: pytest.MonkeyPatch, token: str, namespace: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    status, out, err = cli(*HERE, "--yes", "--namespace", namespace)
    assert (status, out, hub.jobs) == (5, "", []), err
    assert message in err
    assert token not in err


@pytest.mark.parametrize("status", [500, 503])
def test_a_start_is_never_sent_twice(hub: JobsHub, cli: Cli, status: int) -> None:
    hub.fail(r"/api/jobs/alice$", method="POST", status=status)
    given, _, err = cli(*HERE, "--yes")
    assert given == 5
    assert f"the Hub has a problem (status {status}): cannot start the job" in err
    assert len([r for r in hub.requests if r.method == "POST"]) == 1


@pytest.mark.parametrize(
    ("script", "status", "message"),
    [
        (says("No space", stage="ERROR", message="exit 1"), 5, "ended (ERROR) without a report: exit 1"),
        (says(stage="ERROR", message="Job timeout"), 5, "reached its time limit before it made a report"),
        (says(stage="CANCELED"), 5, "was cancelled before it made a report"),
        (says("all is well"), 5, "ended (COMPLETED) without a report"),
        (prints({"a": 1}, lose=1), 5, "breaks off inside the report"),
        (prints({"a": 1}), 3, "unknown field 'a'"),
        (prints([1]), 5, "made no report but something else"),
        (prints(report()), 3, "of another head or target: its head is my-head"),
        (
            prints({"error": {"code": "engine-x", "message": "no GPU", "hint": None, "exit_code": 4}}),
            4,
            "in the job: no GPU",
        ),
    ],
)
def test_a_job_that_goes_wrong(
    hub: JobsHub, cli: Cli, tmp_path: Path, script: Callable[[Running], None], status: int, message: str
) -> None:
    hub.script = script
    file = tmp_path / "report.json"
    given, out, err = cli(*HERE, "--yes", "--report", file)
    assert (given, out) == (status, ""), err
    assert message in err
    assert not file.exists()


def test_a_report_of_other_bytes_is_refused(hub: JobsHub, cli: Cli) -> None:
    def act(job: Running) -> None:
        document = report()
        document["head"]["source"] = job.spec["command"][8]
        prints(document)(job)

    hub.script = act
    status, _, err = cli(*HERE, "--yes")
    assert status == 3
    assert "of another head or target: its digest is sha256:0123" in err


def test_lines_of_another_nonce_are_not_the_report(hub: JobsHub, cli: Cli) -> None:
    forged = seal(b'{"error": {"message": "forged", "exit_code": 1}}', 16 * "0")
    hub.script = says(*forged)
    status, _, err = cli(*HERE, "--yes")
    assert status == 5
    assert "ended (COMPLETED) without a report" in err


def test_the_log_cannot_move_the_cursor(hub: JobsHub, cli: Cli) -> None:
    hub.script = says("\x1b[2Jgone\x07", stage="ERROR")
    _, _, err = cli(*HERE, "--yes")
    assert "\x1b" not in err
    assert "\x07" not in err


def test_a_hub_that_fails_leaves_the_job_running(hub: JobsHub, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eagle3hub.checkpoint.hub.time.sleep", lambda _: None)
    hub.script = lambda job: None
    hub.fail(r"/logs$", status=500, times=99)
    status, _, err = cli(*HERE, "--yes")
    (job,) = hub.jobs
    assert status == 5
    assert "the Hub has a problem (status 500): cannot read the log of the job" in err
    assert f"the job may go on: `eagle3hub jobs collect alice/{job.id}`" in err
    assert job.stage == "RUNNING"


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Ctrl-C, as this process gets it; a test run in the background may have been started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident
    yield lambda: signal.pthread_kill(main, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("terminal", "answer", "stage", "told"),
    [
        (False, None, "CANCELED", "is cancelled"),
        (True, True, "CANCELED", "is cancelled"),
        (True, False, "RUNNING", "the job goes on; take its report with: eagle3hub jobs collect"),
    ],
)
@pytest.mark.parametrize("during", ["start", "log"])
def test_an_interrupt_asks_once(
    hub: JobsHub,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[], None],
    during: str,
    terminal: bool,
    answer: bool | None,
    stage: str,
    told: str,
) -> None:
    hub.script = lambda job: None
    if during == "start":
        hub.fail("/api/jobs/alice$", method="POST", after=interrupt)
    else:
        hub.fail("/logs$", before=interrupt)
    monkeypatch.setattr(cli_jobs.sys.stdin, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(cli_jobs.typer, "confirm", lambda *_, **__: answer)
    status, _, err = cli(*HERE, "--yes")
    (job,) = hub.jobs
    assert (status, job.stage) == (130, stage), err
    assert told in err


def test_a_job_that_could_not_be_cancelled_is_said_to_go_on(
    hub: JobsHub, cli: Cli, interrupt: Callable[[], None]
) -> None:
    hub.script = lambda job: None
    hub.fail("/logs$", before=interrupt)
    hub.fail(r"/cancel$", method="POST", status=403)
    status, _, err = cli(*HERE, "--yes")
    assert status == 5
    assert "goes on, and costs: the access token may not cancel the job" in err
    assert "hf jobs cancel alice/" in err
