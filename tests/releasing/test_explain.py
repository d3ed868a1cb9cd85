"""The plan of a release: what it would do, what is kept, and what is known of the time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support import heads

Cli = Callable[..., tuple[int, str, str]]
EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2-135m"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The example's manifest and head, in two layouts, measured by the reference over three prompts."""
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "project"))
    document = yaml.safe_load((folder / "release.yaml").read_text())
    document["validate"] |= {"engine": "reference", "num_prompts": 3, "max_new_tokens": 6}
    document["layouts"] = {"main": "specforge", "also": ["speculators"]}
    (folder / "release.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return folder


@pytest.fixture
def paper_target(tmp_path: Path) -> Path:
    return heads.target(tmp_path / "target", heads.dims(hidden=576, vocab=49152), num_attention_heads=9)


def test_the_plan_is_drawn_and_nothing_is_done(project: Path, paper_target: Path, cli: Cli, tmp_path: Path):
    argv = ("release", project / "release.yaml", "--explain", "--target", paper_target, "--output", tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    status, out, err = cli(*argv)
    assert (status, err) == (0, "")
    assert sorted(tmp_path.rglob("*")) == before
    lines = [line.strip("│├└─ ") for line in out.splitlines()]
    assert lines[1:] == [
        "convert",
        "specjax to specforge, in the root  18 MB",
        "specjax to speculators, in speculators/  18 MB",
        "validate",
        "specforge: on reference, cpu, 3 prompts",
        "speculators: on reference, cpu, 3 prompts",
        "card",
        "README.md, reports, charts and release.json",
        "publish",
        f"to {yaml.safe_load((project / 'release.yaml').read_text())['release']['repo']}, in one commit  35.9 MB",
        f"into {tmp_path / 'out'}",
        "how long it takes is not known: nothing like it was measured here",
    ]


def test_the_steps_are_those_that_were_asked_for(project: Path, paper_target: Path, cli: Cli, tmp_path: Path):
    def steps(*words: object) -> list[tuple[str, str, str]]:
        argv = ("release", project / "release.yaml", "--explain", "--target", paper_target, "--json", *words)
        status, out, _ = cli(*argv)
        assert status == 0, out
        return [(s["step"], s["layout"], s["state"]) for s in json.loads(out)["heads"][0]["steps"]]

    assert [step for step, _, _ in steps("--until", "convert")] == ["convert", "convert"]
    assert [step for step, _, _ in steps("--dry-run")] == ["convert", "convert", "validate", "validate", "card"]
    assert steps("--until", "validate", "--layout", "speculators") == [
        ("convert", "speculators", "to do"),
        ("validate", "speculators", "to do"),
    ]
    assert [(step, state) for step, _, state in steps("--from", "publish")] == [
        *((step, "made earlier") for step in ("convert", "validate", "card")),
        ("publish", "to do"),
    ]


def test_a_manifest_without_a_head_has_no_plan(project: Path, cli: Cli):
    document = yaml.safe_load((project / "release.yaml").read_text())
    for key in ("head", "layouts"):
        del document[key]
    (project / "release.yaml").write_text(yaml.safe_dump(document))
    status, out, _ = cli("release", project / "release.yaml", "--explain", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (3, "manifest-no-head")


@pytest.mark.slow
def test_what_was_measured_is_kept_and_tells_how_long_the_rest_takes(
    project: Path, smollm2_target: Path, cli: Cli, tmp_path: Path
):
    argv = ("release", project / "release.yaml", "--target", smollm2_target)
    assert cli(*argv, "--until", "validate", "--layout", "specforge")[0] in (0, 1)
    document = json.loads(cli(*argv, "--explain", "--json", "--dry-run")[1])
    (kept, to_do) = [step for step in document["heads"][0]["steps"] if step["step"] == "validate"]
    assert (kept["state"], kept["seconds"], kept["known_from"]) == ("kept", 0.0, "the earlier measurement")
    assert (to_do["state"], to_do["known_from"]) == ("to do", "an earlier measurement like it")
    (file,) = (project / ".eagle3hub" / "reports").glob("*.seconds")
    assert to_do["seconds"] == float(file.read_text()) > 0
    converted = [step for step in document["heads"][0]["steps"] if step["step"] == "convert"]
    assert all(step["known_from"] == "converting it now" for step in converted)
    said = cli(*argv, "--explain", "--dry-run")[1]
    assert "specforge: on reference, cpu, 3 prompts  kept from earlier" in said
    assert "in all " in said
    manifest = yaml.safe_load((project / "release.yaml").read_text())
    manifest["validate"]["num_prompts"] = 2
    (project / "release.yaml").write_text(yaml.safe_dump(manifest))
    document = json.loads(cli(*argv, "--explain", "--json", "--dry-run")[1])
    others = [step for step in document["heads"][0]["steps"] if step["step"] == "validate"]
    assert [(step["state"], step["seconds"]) for step in others] == [("to do", None)] * 2, "other prompts"
