"""The release workflow, every step of it run here, from the head to a Hub on loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from workflows.conftest import JOBS_TOKEN, REPO, ROOT, TARGET, TOKEN, Hub
from workflows.runner import Runner, load

from eagle3hub._version import __version__
from eagle3hub.card import load_manifest
from eagle3hub.checkpoint.digest import release_digest
from eagle3hub.publishing.files import read_folder
from eagle3hub.report import load_report
from eagle3hub.resources import cache_dir

EXAMPLE = ROOT / "examples/actions"
RELEASE = ROOT / ".github/workflows/release.yml"
Repository = Callable[..., Path]
Machine = Callable[[Path], Runner]
STAGING = "alice/to-be-measured"
JOBS = load(RELEASE)["jobs"]
STAGING_STEPS = {
    "Gather what jobs read, the files of the heads and no others",
    "Stage the heads where jobs can read them",
}
# The last job that a kind of release is followed to, and the steps that it has no need of.
LEAVES_OUT = {
    "here": ("publish", {*STAGING_STEPS, "Install the engine"}),
    "on jobs": ("publish", {"Install the engine"}),
    "with an engine": ("validate", STAGING_STEPS),
}


def steps_of(kind: str) -> set[tuple[str, str]]:
    """The steps that such a release runs, each with its job."""
    last, left_out = LEAVES_OUT[kind]
    reached = list(JOBS)[: list(JOBS).index(last) + 1]
    return {(job, step) for job in reached for step in _steps(job)} - {(job, s) for job in reached for s in left_out}


def ran(runner: Runner) -> set[tuple[str, str]]:
    return {(name, step) for name, legs in runner.jobs.items() for leg in legs for step in leg.ran}


def log(runner: Runner) -> str:
    return "".join(job.log for jobs in runner.jobs.values() for job in jobs)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _steps(job: str) -> set[str]:
    return {step.get("name") or step["uses"] for step in JOBS[job]["steps"]}


def test_every_step_is_run_by_a_test_below():
    assert set.union(*map(steps_of, LEAVES_OUT)) == {(job, step) for job in JOBS for step in _steps(job)}


def test_another_repositorys_workflow_releases_its_head(hub: Hub, machine: Machine, models: Path, tmp_path: Path):
    """What somebody gets who copies the example's caller and manifest, word for word, to a head of their own."""
    here = tmp_path / "repository"
    shutil.copytree(models / "head", here / "head")
    shutil.copy(EXAMPLE / "release.yaml", here)
    manifest = load_manifest(here / "release.yaml")
    repo = manifest.release.repo
    hub.tokens[TOKEN] = repo.split("/")[0]
    hub.commit(manifest.target.id, models / "target")
    runner = machine(here)
    result = runner.run(EXAMPLE / "release-my-head.yml", {"tag": "v1"})
    assert result == "success", log(runner)
    assert ran(runner) == steps_of("here")
    files = hub.files(repo)
    assert {"README.md", "model.safetensors", "modelopt/config.json", "reports/release-reference-cpu.json"} <= set(
        files
    )
    assert hub.repos[repo].tags.keys() == {"v1"}
    assert sorted(f"release/{path}" for path in files if path not in ("SHA256SUMS", ".gitattributes")) == sorted(
        runner.attested
    )
    assert set(runner.artifacts) == {"heads", "reports.head.reference", "release.head"}
    (head,) = json.loads(runner.jobs["convert"][0].outputs["heads"])
    assert head["digest"] in runner.jobs["convert"][0].summary
    for name, words in {"validate": "τ", "card": "SHA-256", "publish": "published and verified"}.items():
        assert words in runner.jobs[name][0].summary
    for name, legs in runner.jobs.items():
        for leg in legs:
            assert TOKEN not in leg.log + leg.summary
            assert name == "publish" or TOKEN not in str(leg.env), "the token is for publishing alone"


def test_heads_are_measured_on_jobs(hub: Hub, repository: Repository, machine: Machine, models: Path):
    hub.commit(TARGET, models / "target")
    earlier = {"model.safetensors.index.json": b'{"weight_map": {}}', "specjax/config.json": b"{}"}
    hub.fail("/api/repos/create$", "POST", after=lambda: hub.commit(STAGING, earlier))
    here = repository(("specforge", "modelopt"), target=None)
    trained = files_of(here / "head")
    for name in ("optimizer.pt", "training_state.pt", "notes.txt", "checkpoints/rng.bin"):  # left by a trainer
        (here / "head" / name).parent.mkdir(exist_ok=True)
        (here / "head" / name).write_bytes(b"not to be sent")
    runner = machine(here)
    inputs = {"hf-jobs-flavor": "cpu-upgrade", "staging-repo": STAGING, "package": f"eagle3hub=={__version__}"}
    assert runner.run(RELEASE, inputs) == "success", log(runner)
    assert ran(runner) == steps_of("on jobs")
    made = runner.artifacts["reports.head.reference"]
    assert hub.repos[STAGING].private
    assert hub.files(STAGING) == {
        **files_of(runner.artifacts["heads"]),
        **{f"original/head/{name}": data for name, data in trained.items()},
    }
    assert hub.installed == 2 * [f"eagle3hub[validate]=={__version__}"]
    staged = f"hf://{STAGING}@{hub.repos[STAGING].refs['main']}"
    for job in hub.jobs:
        asked = " ".join(job.spec["command"])
        assert job.spec["flavor"] == "cpu-upgrade"
        assert f"--reference-head {staged}/original/head" in asked
    for layout, source in {"release": staged, "modelopt": f"{staged}/modelopt"}.items():
        name = f"{layout}-reference-cpu.json"
        assert load_report(made / name).document["head"]["source"] == source
        assert hub.files(REPO)[f"reports/{name}"] == (made / name).read_bytes()
    for name, legs in runner.jobs.items():
        for leg in legs:
            assert JOBS_TOKEN not in leg.log + leg.summary
            given = sum(JOBS_TOKEN in env.values() for env in leg.env)
            assert given == (name in ("convert", "validate")), "one step of each needs the token that starts jobs"


@pytest.mark.engine
def test_an_engine_is_installed_and_measures(repository: Repository, machine: Machine, smollm2_target: Path):
    example = ROOT / "examples/smollm2-135m/head"
    runner = machine(repository(head=example, target=smollm2_target, engine="vllm"))
    runner.env, runner.last = {**runner.env, "EAGLE3HUB_CACHE": str(cache_dir())}, "validate"
    assert runner.run(RELEASE) == "success", log(runner)
    assert ran(runner) == steps_of("with an engine")
    report = load_report(runner.artifacts["reports.head.vllm"] / "release-vllm-cpu.json")
    (engine,) = report.document["engines"]
    assert (engine["engine"], engine["verdict"], len(engine["per_prompt"])) == ("vllm", "pass", 2)


def test_a_head_that_does_not_pass_is_not_published(hub: Hub, repository: Repository, machine: Machine):
    runner = machine(repository(min_acceptance_length=4.5))
    assert runner.run(RELEASE, {"unmeasured": "mark"}) == "failure"
    assert {name: runner.result(name) for name in runner.jobs} == {
        "convert": "success",
        "validate": "failure",
        "card": "skipped",
        "attest": "skipped",
        "publish": "skipped",
    }
    assert "::error title=release does not pass on reference::" in runner.jobs["validate"][0].log
    assert hub.uploads == []


def test_what_was_not_measured_is_refused_or_marked(hub: Hub, repository: Repository, machine: Machine):
    """Without a GPU a manifest that asks for one."""
    here = repository(device="cuda")
    runner = machine(here)
    assert runner.run(RELEASE) == "failure"
    assert runner.result("validate") == "failure"
    assert hub.uploads == []
    runner = machine(here)
    runner.work, runner.last = runner.work / "marked", "card"
    assert runner.run(RELEASE, {"unmeasured": "mark"}) == "success", runner.jobs["card"][0].log
    assert "::warning title=reference is not available::" in runner.jobs["validate"][0].log
    assert "waived publish-unmeasured" in runner.jobs["card"][0].summary
    assert "`publish-unmeasured`" in (runner.artifacts["release.head"] / "README.md").read_text()


@pytest.mark.parametrize("sign", [True, False])
def test_a_signature_is_asked_for(hub: Hub, machine: Machine, models: Path, tmp_path: Path, sign: bool):
    """The last job alone. Without an identity a signature stops it; without the wish for one, it is a gate."""
    here = tmp_path / "repository"
    here.mkdir()
    shutil.copy(EXAMPLE / "release.yaml", here)
    runner = machine(here)
    runner.artifacts["release.head"] = Path(shutil.copytree(models / "head", tmp_path / "made"))
    head = {"name": "head", "folder": "release", "manifest": "release.yaml", "repo": REPO}
    head["digest"] = release_digest({f.path: f.sha256 for f in read_folder(models / "head")[0]})
    inputs = {"package": "eagle3hub", "sign": sign}
    contexts = {"inputs": inputs, "secrets": runner.secrets, "matrix": {"head": head}}
    done = runner._job("publish", JOBS["publish"], load(RELEASE), contexts)
    assert done.result == "failure"
    assert ("there is no identity to sign with" in done.log) == sign, done.log
    assert ("nothing was sent" in done.log) != sign
    assert hub.uploads == []


def test_heads_that_changed_on_the_way_stop_it(hub: Hub, repository: Repository, machine: Machine):
    runner = machine(repository())
    download = runner._download

    def tampered(here: Path, with_: dict[str, str]) -> None:
        download(here, with_)
        config = here / "release" / "config.json"
        config.write_text(config.read_text() + "\n")

    runner._download = tampered  # type: ignore[method-assign]
    assert runner.run(RELEASE) == "failure"
    leg = runner.jobs["validate"][0]
    assert leg.result == "failure"
    assert "Check that these are the heads that were converted" in leg.ran
    assert "Validate every layout" not in leg.ran
    assert "differs the heads amount to" in leg.log
    assert hub.uploads == []
