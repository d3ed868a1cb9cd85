"""Recipes on a card, held against the preflight of exactly the files that the release has."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import card_samples as samples
import pytest
import served_folders as folders
from support import outlines, versions

from eagle3hub.card import Manifest, Shown, recipes, render_text
from eagle3hub.card.manifest import Layouts
from eagle3hub.card.reports import runs
from eagle3hub.card.served import Served, choose, layout_that_works, open_folders, prospect, served
from eagle3hub.cli.app import run
from eagle3hub.engines.preflight import contracts, preflight
from eagle3hub.head.target import read_target
from eagle3hub.layouts import open_head
from eagle3hub.lint import lint_text
from eagle3hub.lint.source import lint_card

STYLES = ("standard", "short", "model-card-plus-plus")
SGLANG, TRTLLM, JAX, VLLM = ({"engine": e} for e in ("sglang", "trtllm", "sglang_jax", "vllm"))


def serve(text: str) -> str:
    return re.split(r"^## ", text.split("## Serve\n")[1], maxsplit=1, flags=re.M)[0]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.make_all(tmp_path_factory.mktemp("served"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "release"


def card(manifest: Manifest, root: Path, *also: str, reports: tuple[dict, ...] = ()) -> str:
    heads = folders.heads_of(root, *also)
    return render_text(manifest, samples.typed(*reports), heads[""], shown=Shown(heads=heads))


@pytest.mark.parametrize("style", STYLES)
def test_a_refused_layout_alone_gets_no_command(made: Path, root: Path, tmp_path: Path, style: str) -> None:
    folders.release_of(made, root, "specjax")
    manifest = folders.manifest_of(tmp_path, "specjax", engines=[SGLANG], style=style)
    text = card(manifest, root)
    assert "launch_server" not in text and "sgl.Engine" not in text
    assert (
        f"No command is printed: SGLang {versions.SGLANG} refuses the files in the repository's root (SpecJAX layout)"
        in text
    )
    assert "It takes this head in the universal layout" in text
    assert not re.search(r"^- sglang$", text, re.M), "an engine that refuses the files is no tag"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("other", ["universal", "specforge"])
def test_another_layout_of_the_release_is_served(
    made: Path, root: Path, tmp_path: Path, style: str, other: str
) -> None:
    folders.release_of(made, root, "specjax", "angelslim", other)
    manifest = folders.manifest_of(tmp_path, "specjax", "angelslim", other, engines=[SGLANG, VLLM], style=style)
    text = card(manifest, root, "angelslim", other)
    copy = samples.REPO.split("/")[1]
    assert (
        f"hf download {samples.REPO} --include '{other}/*' --local-dir {copy}\npython -m sglang.launch_server" in text
    )
    assert f"--speculative-draft-model-path ./{copy}/{other} " in text
    assert f"speculative_draft_model_path='./{copy}/{other}'" in text
    assert f"SGLang {versions.SGLANG} refuses the files in the repository's root" in text
    assert "layout of this repository instead" in text
    assert f'"model": "{samples.REPO}"' in text, "vLLM takes the root"
    assert re.search(r"^- sglang$", text, re.M)
    opened = open_folders(root, ["", "angelslim", other])
    assert [f for f in lint_text(text, folders=opened, repo=samples.REPO) if f.code == "C511"] == []


def test_a_branch_of_its_own(made: Path, root: Path, tmp_path: Path) -> None:
    folders.release_of(made, root, "specjax", "universal")
    publish = {"branch_per_layout": True}
    manifest = folders.manifest_of(tmp_path, "specjax", "universal", engines=[SGLANG], publish=publish)
    text = card(manifest, root, "universal")
    copy = samples.REPO.split("/")[1]
    assert f"hf download {samples.REPO} --revision universal --local-dir {copy}-universal\n" in text
    assert f"--speculative-draft-model-path ./{copy}-universal " in text
    assert "--include" not in text and "| Branch |" in text


def test_files_that_engines_refuse_get_no_command(made: Path, root: Path, tmp_path: Path) -> None:
    folders.release_of(made, root, "modelopt")
    text = card(folders.manifest_of(tmp_path, "modelopt", engines=[TRTLLM, JAX]), root)
    assert "trtllm-serve" not in text and "sgl_jax" not in text and "eagle3_layers" not in text
    assert f"TensorRT-LLM {versions.TRTLLM} refuses the files" in text
    assert f"sglang-jax {versions.SGLANG_JAX} refuses the files" in text


@pytest.mark.parametrize("told", [None, [-1]])
def test_a_head_without_aux_layers(made: Path, root: Path, tmp_path: Path, told: list[int] | None) -> None:
    folders.release_of(made, root, "no-aux")
    note = {**TRTLLM, **({"aux_layers": told} if told else {})}
    text = card(folders.manifest_of(tmp_path, "modelopt", engines=[note, VLLM]), root)
    assert "trtllm-serve" not in text and "Eagle3DecodingConfig" not in text and "No command is printed" in text


def test_the_layers_that_a_recipe_names_count(made: Path, root: Path, tmp_path: Path) -> None:
    folders.release_of(made, root, "universal")
    (one,) = open_folders(root, [""])
    assert prospect(one, "trtllm", versions.TRTLLM).kind == "right"
    assert prospect(one, "trtllm", versions.TRTLLM, capture=[1, 14, 26]).kind == "right"
    for wrong in ([-1], [2, 15, 27], [1, 14]):
        assert not prospect(one, "trtllm", versions.TRTLLM, capture=wrong).works, wrong
        note = {**TRTLLM, "aux_layers": wrong}
        text = card(folders.manifest_of(tmp_path, "universal", engines=[note]), root)
        assert "trtllm-serve" not in text


def test_what_the_files_leave_open_is_said_with_the_command(made: Path, root: Path, tmp_path: Path) -> None:
    folders.release_of(made, root, "universal")
    (root / "eagle3hub.json").unlink()
    text = card(folders.manifest_of(tmp_path, "universal", engines=[SGLANG]), root)
    assert (
        f"cannot tell whether SGLang {versions.SGLANG} gets these files right: "
        "it refuses a target whose context exceeds" in text
    )
    assert "sglang.launch_server" in text


def test_a_tested_recipe_of_files_that_the_engine_refuses_is_not_printed(
    made: Path, root: Path, tmp_path: Path
) -> None:
    folders.release_of(made, root, "specjax")
    manifest = folders.manifest_of(tmp_path, "specjax")
    report = folders.report_of(root, "specjax", "sglang", versions.SGLANG)
    text = card(manifest, root, reports=(report,))
    assert "launch_server" not in text
    assert f"No command is printed, although a report says that it passed: SGLang {versions.SGLANG} refuses" in serve(
        text
    )
    newer = folders.report_of(root, "specjax", "sglang", "9.0")
    newer["tool"]["version"] = "0.0.1"  # of which no recipe is derived again
    newer["engines"][0]["recipe"]["version"] = "9.0"
    text = card(manifest, root, reports=(newer,))
    assert "With SGLang 9.0, the version these files were tested with" in text
    assert (
        "SGLang 9.0 is newer than every version that eagle3hub knows: it is judged as "
        f"{versions.SGLANG}, which refuses them: it "
    ) in serve(text)
    assert ", but here it passed." in serve(text)
    told = [f for f in lint_text(text, folders=open_folders(root, [""])) if f.code == "C511"]
    assert {f.severity for f in told} == {"warning"}
    assert all(f"SGLang 9.0 (judged as {versions.SGLANG}) refuses" in f.message for f in told)


def test_a_tested_recipe_of_another_layout_stands_in(made: Path, root: Path, tmp_path: Path) -> None:
    folders.release_of(made, root, "specjax", "universal")
    manifest = folders.manifest_of(tmp_path, "specjax", "universal", engines=[SGLANG])
    reports = (
        folders.report_of(root, "specjax", "vllm", versions.VLLM),
        folders.report_of(root / "universal", "universal", "sglang", versions.SGLANG),
    )
    text = card(manifest, root, "universal", reports=reports)
    assert "The command below fetches and serves the universal layout instead, which was tested." in text
    copy = samples.REPO.split("/")[1]
    assert f"  --speculative-draft-model-path ./{copy}/universal" in text
    assert text.count("launch_server") == 1, "the note need not repeat a tested recipe"
    assert "### SGLang, passed here with another layout" in text


def test_other_runners_of_the_same_version_are_said() -> None:
    one = Served("", "modelopt", outlines.modelopt_two_layers(), outlines.target(), samples.make_head())
    cpu, gpu, either = (prospect(one, "vllm", versions.VLLM, device) for device in ("cpu", "cuda", None))
    assert (cpu.kind, gpu.kind) == ("silently_wrong", "right")
    assert either.kind == "right" and either.but.startswith(
        f"vLLM {versions.VLLM} V1 (CPU) serves them silently wrong: it "
    )
    chosen = choose([one], "vllm", versions.VLLM)
    assert chosen and chosen.folder is one and chosen.remarks[-1] == f"But {either.but}."
    assert prospect(one, "vllm", versions.VLLM, "server") == either, "a server does not show where it runs"


def test_a_tested_recipe_tells_readers_with_other_devices(tmp_path: Path) -> None:
    """What runs on a CPU here is read otherwise on a GPU there."""
    one = Served("", "modelopt", outlines.modelopt_two_layers(), outlines.target(), samples.make_head())
    manifest = folders.manifest_of(tmp_path, "modelopt")
    for device, printed in (("cuda", 1), ("cpu", 0)):
        report = samples.make_report("modelopt", device=device)
        found = recipes.tested(runs(samples.typed(report), ["modelopt"]), manifest, [one])
        assert len(found.recipes) == printed and len(found.withheld) == 1 - printed
        if printed:
            assert (
                found.recipes[0]
                .remarks[0]
                .startswith(f"But vLLM {versions.VLLM} V1 (CPU) serves them silently wrong: it ")
            )
    both = [samples.make_report("modelopt", device=device) for device in ("cpu", "cuda")]
    found = recipes.tested(runs(samples.typed(*both), ["modelopt"]), manifest, [one])
    assert len(found.recipes) == 1 and not found.withheld, "the one that works"


def test_the_way_out_is_worked_out_and_not_promised(made: Path, root: Path) -> None:
    folders.release_of(made, root, "specjax")
    (one,) = open_folders(root, [""])
    assert layout_that_works(one, "sglang", versions.SGLANG) == "universal"
    other = replace(one, subject=replace(one.subject, truth=replace(one.subject.truth, hidden_act="gelu")))
    assert layout_that_works(other, "sglang", versions.SGLANG) is None
    chosen = choose([other], "sglang", versions.SGLANG)
    assert chosen and chosen.remarks[-1] == "It takes this head in no layout that eagle3hub writes."
    trained = open_folders(samples.EXAMPLE.parent, ["head"])
    chosen = choose(trained, "sglang", versions.SGLANG)
    assert chosen and chosen.remarks[-1].startswith("The universal layout is written for it:"), "no target is known"


def test_a_draft_that_cannot_be_split_gets_no_command_for_so_many_devices(
    made: Path, root: Path, tmp_path: Path
) -> None:
    folders.release_of(made, root, "universal")
    printed, opened = {}, open_folders(root, [""])
    for devices in (1, 8):
        manifest = folders.manifest_of(tmp_path, "universal", engines=[{**SGLANG, "tensor_parallel": devices}])
        printed[devices] = card(manifest, root)
        assert [f for f in lint_text(printed[devices], folders=opened, repo=samples.REPO) if f.code == "C511"] == []
    assert "launch_server" in printed[1] and "launch_server" not in printed[8]
    assert "it cannot split the draft over 8 devices" in printed[8]
    assert "Split the draft over fewer than 8 devices" in printed[8]


def test_the_card_follows_from_the_folders_alone(
    made: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the target was at hand, and what lies in the folder a command runs in, changes nothing."""
    folders.release_of(made, root, "specjax", "universal")
    manifest = folders.manifest_of(tmp_path, "specjax", "universal", engines=[SGLANG, TRTLLM, VLLM, JAX])
    expected = card(manifest, root, "universal")
    facts = read_target(str(made / "target"), samples.TARGET)
    heads = {name: open_head(root / name, target=facts) for name in ("", "universal")}
    for name in (samples.REPO, samples.TARGET, f"{samples.REPO.split('/')[1]}/universal"):
        os.makedirs(tmp_path / "here" / name)
    monkeypatch.chdir(tmp_path / "here")
    assert render_text(manifest, [], heads[""], shown=Shown(heads=heads)) == expected


def test_a_layout_that_was_not_written_yet_is_looked_at_as_it_would_be(made: Path, tmp_path: Path) -> None:
    """`card` describes the trainer's folder, which may be in another layout than the release."""
    for source in ("specjax", "universal"):
        head = open_head(made / source)
        for main, works in (("specjax", False), ("specforge", True)):
            manifest = folders.manifest_of(tmp_path, main, engines=[SGLANG])
            assert ("launch_server" in render_text(manifest, [], head)) is works, (source, main)
        manifest = folders.manifest_of(tmp_path, "specjax", "modelopt", engines=[SGLANG, TRTLLM])
        text = render_text(manifest, [], head)
        assert "modelopt --include" in text or "--include 'modelopt/*'" in text


@pytest.mark.slow
def test_written_and_spelled_out_are_one(made: Path) -> None:
    for source in folders.LAYOUTS:
        for layout in folders.LAYOUTS:
            (real,) = served(Layouts(layout), {"": open_head(made / layout)})
            (spelled,) = served(Layouts(layout), {"": open_head(made / source)})
            assert dict(real.subject.files.tensors) == dict(spelled.subject.files.tensors)
            for version in contracts():
                at = (version.engine, version.version)
                kinds = [preflight(one.subject, *at, one.target).kind for one in (real, spelled)]
                assert kinds[0] == kinds[1], (source, layout, at)


def test_a_head_without_its_files_is_not_checked(tmp_path: Path) -> None:
    manifest = folders.manifest_of(tmp_path, "specforge", engines=[SGLANG])
    head = samples.make_head()
    assert served(manifest.layouts, {"": head}) == ()
    text = render_text(manifest, [], head)
    assert "Not checked: the head's files were not read." in text and "launch_server" in text


HAND = """# A head

```bash
python -m sglang.launch_server --model-path owner/target --speculative-draft-model-path anybody/head
```
"""


def test_anybodys_card_is_held_against_the_files_beside_it(
    made: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders.release_of(made, root, "specjax", "universal")
    (root / "README.md").write_text("---\nlicense: mit\nbase_model: owner/target\n---\n" + HAND)
    assert run(["card", "--check", str(root / "README.md")]) == 1
    out = capsys.readouterr().out
    assert (
        f"README.md:8: error C511 SGLang {versions.SGLANG} refuses the files in the repository's root (SpecJAX layout)"
        in out
    )
    assert "fix: Serve the folder universal/, whose files SGLang takes, or leave the command out." in out
    found = [f.code for f in lint_card(str(root)).findings]
    assert "C511" in found
    (root / "config.json").write_text("{")
    assert "C511" not in [f.code for f in lint_card(str(root)).findings], "what is no head is no concern of the rule"
