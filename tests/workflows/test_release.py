"""The release workflow, every step of it run here, from the head to a Hub on loopback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support.hub_writes import WritableHub
from workflows.conftest import REPO, ROOT, TOKEN
from workflows.runner import Runner, load

RELEASE = ROOT / ".github/workflows/release.yml"
Repository = Callable[..., Path]
Machine = Callable[[Path], Runner]


def test_another_repositorys_workflow_releases_its_head(hub: WritableHub, repository: Repository, machine: Machine):
    runner = machine(repository(("specforge", "modelopt")))
    result = runner.run(ROOT / "examples/actions/release-my-head.yml", {"tag": "v1"})
    assert result == "success", "".join(job.log for jobs in runner.jobs.values() for job in jobs)
    steps = load(RELEASE)["jobs"]
    for name, legs in runner.jobs.items():
        for leg in legs if name != "release" else ():
            left_out = {"Stage the heads where jobs can read them", "Install the engine"}
            every = {s.get("name") or s["uses"] for s in steps[name]["steps"]} - left_out
            assert set(leg.ran) == every, "a step was not run"
    files = hub.files(REPO)
    assert {"README.md", "model.safetensors", "modelopt/config.json", "reports/release-reference-cpu.json"} <= set(
        files
    )
    assert hub.repos[REPO].tags.keys() == {"v1"}
    assert sorted(f"release/{path}" for path in files if path not in ("SHA256SUMS", ".gitattributes")) == sorted(
        runner.attested
    )
    assert set(runner.artifacts) == {"heads", "reports-reference", "release"}
    assert runner.jobs["convert"][0].outputs["digest"] in runner.jobs["convert"][0].summary
    for name, words in {"validate": "τ", "card": "SHA-256", "publish": "published and verified"}.items():
        assert words in runner.jobs[name][0].summary
    for name, legs in runner.jobs.items():
        for leg in legs:
            assert TOKEN not in leg.log + leg.summary
            assert name == "publish" or TOKEN not in str(leg.env), "the token is for publishing alone"


def test_a_head_that_does_not_pass_is_not_published(hub: WritableHub, repository: Repository, machine: Machine):
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


def test_what_was_not_measured_is_refused_or_marked(hub: WritableHub, repository: Repository, machine: Machine):
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


def test_heads_that_changed_on_the_way_stop_it(hub: WritableHub, repository: Repository, machine: Machine):
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
