"""The pipeline from a manifest to a folder that can be uploaded, on the real engine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from benchmarking.recorded import AS_TRAINED, SECOND, TARGET, measured, plan
from safetensors.torch import load_file, save_file
from support import heads

from eagle3hub.benchmarking.results import load_results
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.layouts import open_head
from eagle3hub.lint.source import lint_card
from eagle3hub.publishing import gates
from eagle3hub.publishing.files import read_folder
from eagle3hub.releasing.release import original_files
from eagle3hub.validation.target import identify_target

Cli = Callable[..., tuple[int, str, str]]
EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2-135m"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The example's manifest and head, made quick: eight prompts, twelve tokens, two layouts."""
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "project"))
    edit(folder, validate={"num_prompts": 8, "max_new_tokens": 12}, layouts={"also": ["speculators"]})
    return folder


def edit(folder: Path, **sections: dict[str, object]) -> None:
    path = folder / "release.yaml"
    document = yaml.safe_load(path.read_text())
    for name, changes in sections.items():
        document[name] = {**document[name], **changes}
    path.write_text(yaml.safe_dump(document, sort_keys=False))


@pytest.mark.parametrize(
    ("name", "handed_on"), [("draft.bin", True), ("eagle3.pt", False), ("training_state.pt", False)]
)
def test_a_file_that_may_be_a_training_state_is_not_handed_on(tmp_path: Path, name: str, handed_on: bool) -> None:
    head = heads.specforge(tmp_path / "head")
    torch.save(load_file(head / "model.safetensors"), head / name)
    (head / "model.safetensors").unlink()
    assert original_files(str(head)) == (["config.json", name] if handed_on else None)


@pytest.fixture
def paper_target(tmp_path: Path) -> Path:
    """The config of a target that fits the example head, without weights."""
    return heads.target(tmp_path / "target", heads.dims(hidden=576, vocab=49152), num_attention_heads=9)


def test_an_engine_that_is_not_installed(
    project: Path, tmp_path: Path, cli: Cli, paper_target: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "empty-cache"))
    manifest = project / "release.yaml"
    status, _, err = cli("release", manifest, "--dry-run", "--target", paper_target, "--output", tmp_path / "out")
    assert status == 4
    assert "engines install vllm" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["project", "target"]


def test_a_bad_head_stops_it_before_anything_runs(project: Path, tmp_path: Path, cli: Cli, paper_target: Path):
    (project / "head/config.json").write_text((project / "head/config.json").read_text().replace("1024", "1025"))
    manifest = project / "release.yaml"
    status, _, err = cli("release", manifest, "--dry-run", "--target", paper_target, "--output", tmp_path / "out")
    assert status == 3
    assert "but the config asks for" in err
    assert not (tmp_path / "out").exists()


def test_a_report_that_is_not_there_is_said_before_anything_runs(project: Path, tmp_path: Path, cli: Cli):
    with (project / "release.yaml").open("a") as manifest:
        manifest.write("\nreports: [thinking-off.json]\n")
    status, out, _ = cli("release", project / "release.yaml", "--dry-run", "--output", tmp_path / "out", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (3, "report-missing")
    assert error["message"] == "release.yaml: reports: there is no file thinking-off.json"


@pytest.mark.slow
def test_benchmarks_and_charts_are_released(project: Path, tmp_path: Path, cli: Cli, smollm2_target: Path):
    edit(project, validate={"engine": "reference", "max_new_tokens": 12})
    document = yaml.safe_load((project / "release.yaml").read_text())
    document |= {"benchmarks": ["results/*.json"], "layouts": {"main": "specforge"}}
    (project / "release.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    made = tmp_path / "out"
    argv = ["release", project / "release.yaml", "--dry-run", "--target", smollm2_target, "--output", made, "--json"]
    status, out, _ = cli(*argv)
    assert status == 3
    assert "there is no file results/*.json" in out
    as_trained = replace(AS_TRAINED, digest=folder_digest(project / "head")[0])
    target = replace(TARGET, weights_digest=identify_target(str(smollm2_target)).weights_digest)
    results = measured(plan(heads=(as_trained, SECOND), target=target))
    results.save(project / "results" / "bench.json")
    status, _, err = cli(*argv)
    assert status == 0, err
    assert load_results(made / "benchmarks" / "1.json").document == results.document
    card = (made / "README.md").read_text()
    pictures = re.findall(r'src="(charts/[^"]+)\.png"', card)
    assert {f"{name}{end}" for name in pictures for end in (".png", ".svg")} == {
        p.relative_to(made).as_posix() for p in (made / "charts").iterdir()
    }
    assert len(pictures) == 3, "two of the benchmark, one of the report"
    assert "### Benchmark" in card
    assert [f for f in lint_card(str(made)).findings if f.severity != "info"] == []
    files, links = read_folder(made)
    assert gates.failed_gates(made, document["release"]["repo"], files, links, None) == []
    first, *others = results.heads
    other = replace(results, heads=(replace(first, digest="sha256:" + "c" * 64), *others))
    other.save(project / "results" / "bench.json")
    status, out, _ = cli(*argv, "--force")
    assert status == 3
    assert "is a folder of this release" in out


def test_a_universal_folder_is_made_for_the_engines_of_the_manifest(
    project: Path, tmp_path: Path, cli: Cli, paper_target: Path
):
    edit(project, layouts={"main": "universal", "also": ["specforge"], "engines": ["vllm", "sglang"]})
    argv = ["release", project / "release.yaml", "--until", "convert", "--target", paper_target]
    status, _, err = cli(*argv, "--output", tmp_path / "out")
    assert status == 0, err
    assert json.loads((tmp_path / "out/eagle3hub.json").read_text())["made_for"] == ["vllm", "sglang"]
    assert "made_for" not in json.loads((tmp_path / "out/specforge/eagle3hub.json").read_text())


def test_a_head_is_converted_as_the_manifest_says(project: Path, tmp_path: Path, cli: Cli, paper_target: Path):
    """A head whose files name no layers, with a map that was stored wrong: what it is stands in the manifest."""
    weights = load_file(project / "head/model.safetensors")
    weights["d2t"] = weights["d2t"] + torch.arange(len(weights["d2t"]))  # the target ids themselves
    save_file(weights, project / "head/model.safetensors", {"format": "pt"})
    stated = {"aux_layers": [3, 15, 27], "aux_convention": "boundary", "repair": ["absolute"], "set": {"note": "ours"}}
    argv = ["release", project / "release.yaml", "--until", "convert", "--target", paper_target, "--force"]
    status, _, err = cli(*argv, "--output", tmp_path / "out")
    assert (status, "in the manifest: head.repair" in err) == (3, True)
    edit(project, head=stated)
    status, _, err = cli(*argv, "--output", tmp_path / "out")
    assert status == 0, err
    head = open_head(tmp_path / "out")
    assert head.aux is not None and head.vocab_map is not None
    assert (head.aux.after_layer, list(head.vocab_map.target_id[:3])) == ([2, 14, 26], weights["d2t"][:3].tolist())
    assert json.loads((tmp_path / "out/config.json").read_text())["note"] == "ours"
    words = json.loads((tmp_path / "out/eagle3hub.json").read_text())["command"]
    assert "--aux-layers 3,15,27 --aux-convention boundary" in " ".join(words)


@pytest.mark.slow
@pytest.mark.engine
def test_a_release_end_to_end_and_again(project: Path, tmp_path: Path, cli: Cli, smollm2_target: Path):
    argv = ["release", project / "release.yaml", "--dry-run", "--target", smollm2_target, "--output", tmp_path / "out"]
    status, out, err = cli(*argv, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert document["verdict"] == "pass"
    first, second = document["layouts"]
    assert (first["layout"], second["layout"]) == ("specforge", "speculators")
    assert first["engines"][0]["acceptance"] == second["engines"][0]["acceptance"]
    reference, vllm = first["engines"]
    assert (reference["engine"], vllm["engine"]) == ("reference", "vllm")
    assert reference["acceptance"] == vllm["acceptance"], "replay and engine count the same rounds"
    assert vllm["lossless"] == {"verdict": "identical", "identical": 8, "prompts": 8, "divergences": []}
    made = tmp_path / "out"
    assert {p.name for p in made.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "eagle3hub.json", "charts", "reports", "speculators"),
        *("release.yaml", "release.json"),
    }
    assert open_head(made).layout == "specforge"
    assert open_head(made / "speculators").layout == "speculators"
    assert folder_digest(made)[0] == first["digest"]
    assert json.loads((made / "eagle3hub.json").read_text())["files"] == folder_digest(made)[1]
    card = (made / "README.md").read_text()
    assert f"{first['engines'][0]['acceptance']['mean_acceptance_length']:.2f}" in card
    assert all(f"charts/{chart.name}" in card for chart in made.glob("charts/*.png"))
    everything = b"".join(p.read_bytes() for p in made.rglob("*") if p.is_file() and p.suffix != ".safetensors")
    assert str(tmp_path).encode() not in everything, "no path of this machine is published"
    assert str(smollm2_target).encode() not in everything
    assert "Layer 0, attention" in card
    assert "| Other |" not in card
    before = {p: p.read_bytes() for p in made.rglob("*") if p.is_file()}
    status, out, _ = cli(*argv, "--json", "--force")
    again = json.loads(out)
    assert status == 0
    assert [row["reused"] for row in again["layouts"]] == [True, True]
    assert {p: p.read_bytes() for p in made.rglob("*") if p.is_file()} == before
    edit(project, validate={"min_acceptance_length": 3.9})
    status, out, _ = cli(*argv, "--json", "--force")
    assert (status, json.loads(out)["verdict"]) == (1, "fail"), "eight prompts tell 3.9 from 1.4"
    assert json.loads(out)["output"] is None
    assert {p: p.read_bytes() for p in made.rglob("*") if p.is_file()} == before, "replaced without a pass"
