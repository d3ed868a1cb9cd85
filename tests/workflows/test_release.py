"""The release workflow, every step of it run here, from the head to a Hub on loopback."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from workflows.conftest import JOBS_TOKEN, REPO, ROOT, TARGET, TOKEN, Hub
from workflows.runner import ADDRESS, COMMIT, OURS, Job, Runner, called_with, load

from eagle3hub.card import load_manifest
from eagle3hub.checkpoint.digest import release_digest
from eagle3hub.publishing.files import read_folder, whole_digest
from eagle3hub.system.resources import cache_dir
from eagle3hub.validation.report import load_report

pytestmark = pytest.mark.slow  # each runs a whole workflow, command by command

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


def test_jobs_with_an_identity_install_what_is_held_to_its_digest():
    """Nothing, or the packages of the list, and then this workflow's own commit without anything it asks for."""
    asked = {
        name: [line for step in job["steps"] for line in step.get("run", "").splitlines() if "pip install" in line]
        for name, job in JOBS.items()
        if "id-token" in job["permissions"]
    }
    assert asked == {
        "attest": [],
        "publish": [
            "python -m pip install --require-hashes --only-binary=:all: "
            "--requirement=eagle3hub-tool/.github/locked/publish.txt",
            'python -m pip install --no-deps --no-build-isolation "eagle3hub$EXTRA @ $TOOL"',
        ],
    }


def test_the_list_has_every_package_that_is_needed_with_its_digests():
    tomllib = pytest.importorskip("tomllib")
    text = (ROOT / ".github/locked/publish.txt").read_text()
    one = r"^([a-z0-9][\w.-]*)==(\S+)(?: ;[^\n\\]*)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
    locked = dict(re.findall(one, text, re.M))
    assert len(locked) == len(re.findall(r"^[^\s#]", text, re.M)), "each line of a package has digests"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["sign"],
    ]
    for requirement in map(Requirement, needed):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


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
    assert set(runner.artifacts) == {"heads", "reports.head.reference", "release"}
    assert runner.installed == [
        *(("convert", f"eagle3hub @ {ADDRESS}"), ("validate", f"eagle3hub[validate] @ {ADDRESS}")),
        *(("card", f"eagle3hub[charts,publish] @ {ADDRESS}"), ("publish", f"eagle3hub @ {ADDRESS}")),
    ]
    assert runner.environments == ["hub-release"]
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
    calling = called_with(here, {"hf-jobs-flavor": "cpu-upgrade", "staging-repo": STAGING})
    assert runner.run(calling) == "success", log(runner)
    assert ran(runner) == steps_of("on jobs")
    made = runner.artifacts["reports.head.reference"]
    assert hub.repos[STAGING].private
    assert hub.files(STAGING) == {
        **files_of(runner.artifacts["heads"]),
        **{f"original/head/{name}": data for name, data in trained.items()},
    }
    assert hub.installed == 2 * [f"eagle3hub[validate] @ https://github.com/{OURS}/archive/{COMMIT}.zip"]
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


@pytest.mark.slow
@pytest.mark.engine
def test_an_engine_is_installed_and_measures(repository: Repository, machine: Machine, smollm2_target: Path):
    example = ROOT / "examples/smollm2-135m/head"
    runner = machine(repository(head=example, target=smollm2_target, engine="vllm"))
    runner.env, runner.last = {**runner.env, "EAGLE3HUB_CACHE": str(cache_dir())}, "validate"
    assert runner.run(RELEASE) == "success", log(runner)
    assert ran(runner) == steps_of("with an engine")
    report = load_report(runner.artifacts["reports.head.vllm"] / "release-vllm-cpu.json")
    (engine,) = report.document["engines"]
    assert (engine["engine"], engine["verdict"], len(engine["per_prompt"])) == ("vllm", "pass", 8)


def test_a_head_that_does_not_pass_is_not_published(hub: Hub, repository: Repository, machine: Machine):
    runner = machine(repository(min_acceptance_length=3.9))
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
    assert "`publish-unmeasured`" in (runner.artifacts["release"] / "README.md").read_text()


@pytest.mark.parametrize("sign", [True, False])
def test_a_signature_is_asked_for(hub: Hub, machine: Machine, models: Path, tmp_path: Path, sign: bool):
    """The last job alone. Without an identity a signature stops it; without the wish for one, it is a gate."""
    here = tmp_path / "repository"
    here.mkdir()
    shutil.copy(EXAMPLE / "release.yaml", here)
    runner = machine(here)
    made = Path(shutil.copytree(models / "head", tmp_path / "made"))
    done = alone(runner, "publish", made, whole_digest(made), {"sign": sign})
    assert done.result == "failure"
    assert ("there is no identity to sign with" in done.log) == sign, done.log
    assert ("nothing was sent" in done.log) != sign
    assert hub.uploads == []
    assert runner.installed == [("publish", f"eagle3hub{'[sign]' * sign} @ {ADDRESS}")]


def alone(runner: Runner, name: str, release: Path, digest: str, inputs: dict[str, Any] | None = None) -> Job:
    """One job after `card`, with this release as the artifact and the digest that was stated of it."""
    runner.artifacts["release"] = release
    head = {"name": "head", "folder": "release", "manifest": "release.yaml", "repo": REPO}
    head["digest"] = release_digest({f.path: f.sha256 for f in read_folder(release)[0]})
    contexts = {
        "inputs": inputs or {},
        "secrets": runner.secrets,
        "matrix": {"head": head},
        "needs": {"card": {"outputs": {"digest": digest}}, "convert": {"outputs": {"heads": json.dumps([head])}}},
        "github": {"server_url": "https://github.com"},
        "job": {"workflow_repository": OURS, "workflow_sha": COMMIT},
    }
    return runner._job(name, JOBS[name], load(RELEASE), contexts)


def append(path: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes() + b" ")


def plant(path: str) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("{}")

    return do


def swap(folder: Path) -> None:
    """Two files change places: every byte is there still."""
    one, other = folder / "README.md", folder / "LICENSE"
    one.rename(folder / "x")
    other.rename(one)
    (folder / "x").rename(other)


TAMPERED: dict[str, Callable[[Path], object]] = {
    "a report": append("reports/release-reference-cpu.json"),
    "another report": plant("reports/other.json"),
    "no report": lambda folder: (folder / "reports/release-reference-cpu.json").unlink(),
    "the card": append("README.md"),
    "a chart": append("charts/acceptance.png"),
    "another chart": plant("charts/speed.svg"),
    "a notice": append("NOTICE"),
    "the license": append("LICENSE"),
    "weights": append("model.safetensors"),
    "a config below": append("modelopt/config.json"),
    "a list of digests": plant("SHA256SUMS"),
    "a hidden file": plant(".note"),
    "a link": lambda folder: (folder / "more").symlink_to("README.md"),
    "an empty name for a card": lambda folder: (folder / "README.md").rename(folder / "readme.md"),
    "places": swap,
}


def test_nothing_changes_between_the_gates_and_the_hub(hub: Hub, machine: Machine, models: Path, tmp_path: Path):
    """Neither attested nor published: what the job `card` did not state."""
    here = tmp_path / "repository"
    here.mkdir()
    shutil.copy(EXAMPLE / "release.yaml", here)
    made = Path(shutil.copytree(models / "head", tmp_path / "made"))
    shutil.copytree(made, made / "modelopt")
    for name in ("README.md", "LICENSE", "NOTICE", "charts/acceptance.png"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(f"this is {name}")
    (made / "reports").mkdir()
    (made / "reports/release-reference-cpu.json").write_text("{}")
    digest = whole_digest(made)
    runner = machine(here)
    done = alone(runner, "attest", made, digest)
    assert done.result == "success", done.log
    assert len(runner.attested) == len(files_of(made))
    runner.attested.clear()
    for what, tamper in TAMPERED.items():
        release = Path(shutil.copytree(made, tmp_path / what, symlinks=True))
        tamper(release)
        for name in ("attest", "publish") if what in ("a report", "the card", "a chart") else ("attest",):
            done = alone(runner, name, release, digest)
            assert done.result == "failure", what
            assert done.ran[-1] == "Check that this is the release that the gates were held to", what
            assert "differs" in done.log, what
    assert alone(runner, "attest", made, "").result == "failure", "no digest is no pass"
    assert runner.attested == []
    assert hub.uploads == []


@pytest.mark.parametrize("what", ["heads", "reports.head.reference"])
def test_what_changed_on_the_way_stops_it(hub: Hub, repository: Repository, machine: Machine, what: str):
    runner = machine(repository())
    download = runner._download

    def tampered(here: Path, with_: Mapping[str, Any]) -> None:
        download(here, with_)
        if what == "heads" and with_.get("name") == "heads":
            (here / "release/NOTICE").write_text("not what was converted")
        elif what != "heads" and "pattern" in with_:
            (report,) = here.glob("measured/*/*.json")
            report.write_text(report.read_text().replace("pass", "fail", 1))

    runner._download = tampered  # type: ignore[method-assign]
    assert runner.run(RELEASE) == "failure"
    name = "validate" if what == "heads" else "card"
    leg = runner.jobs[name][0]
    assert leg.result == "failure"
    assert next(step for step in leg.ran[::-1] if "upload-artifact" not in step).startswith(
        "Check that these are the "
    )
    assert (
        "differs the digest of the files is" if what == "heads" else "title=The reports changed on the way"
    ) in leg.log
    assert hub.uploads == []


def test_more_measurements_than_there_are_outputs_for_are_refused(repository: Repository, machine: Machine):
    here = repository()
    document = yaml.safe_load((here / "release.yaml").read_text())
    own, slots = document.pop("head"), len(JOBS["validate"]["outputs"])
    document["heads"] = [{"name": f"h{i}", "head": own, "release": {"repo": f"alice/h{i}"}} for i in range(slots + 1)]
    (here / "release.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    runner = machine(here)
    assert runner.run(RELEASE) == "failure"
    assert f"asks for {slots + 1}, and a run of this workflow has room for {slots}" in runner.jobs["convert"][0].log


def test_who_starts_it_by_hand_chooses_neither_what_runs_nor_who_approves(hub: Hub, machine: Machine, tmp_path: Path):
    document = load(RELEASE)
    by_hand = set(document["on"]["workflow_dispatch"]["inputs"])
    assert by_hand == {"manifest", "unmeasured", "tag", "create-pr", "sign"}
    for name, job in document["jobs"].items():
        steering = {key: job.get(key) for key in ("runs-on", "environment", "container", "permissions")}
        steps = [step for step in job["steps"] if "uses" in step or "pip install" in step.get("run", "")]
        used = set(re.findall(r"inputs\.([\w-]+)", json.dumps([steering, steps])))
        assert not used & (by_hand - {"sign"}), name
        installs = [step for step in steps if "pip" in step.get("run", "")]
        ours = [step for step in installs if "$TOOL" in step["run"]]
        assert len(ours) == (name != "attest"), name
        assert all("job.workflow_sha" in step["env"]["TOOL"] for step in ours)
        assert all("--require-hashes" in step["run"] for step in installs if step not in ours), name
    (tmp_path / "repository").mkdir()
    runner = machine(tmp_path / "repository")
    for name in ("package", "environment", "runner", "staging-repo", "hf-jobs-flavor"):
        with pytest.raises(AssertionError, match="there are no inputs"):
            runner.run(RELEASE, {name: "elsewhere"})
    for given, expected in (({}, "hub-release"), ({"environment": "ours"}, "ours")):
        runner.environments.clear()
        made = tmp_path / f"made-{expected}"
        made.mkdir()
        alone(runner, "publish", made, "", dict(given))
        assert runner.environments == [expected], "a caller's file may say where, who starts it may not"
