"""The jobs of a workflow pass on heads, their digest, and the settings of the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from card import card_samples
from publishing.folders import REPO, write_manifest
from support.hub_writes import WritableHub

from eagle3hub import validation
from eagle3hub.checkpoint.digest import file_digest
from eagle3hub.validation.options import ValidateOptions

Cli = Callable[..., tuple[int, str, str]]


def test_a_release_until_convert_leaves_the_heads_and_tells_their_digest(made: Path, tmp_path: Path, cli: Cli):
    manifest = write_manifest(tmp_path / "release.yaml")
    argv = ("release", manifest, "--target", made / "target", "--until", "convert", "--output", tmp_path / "out")
    status, out, err = cli(*argv, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("config.json", "model.safetensors", "eagle3hub.json", "modelopt"),
    }
    for folder in (tmp_path / "out", tmp_path / "out" / "modelopt"):
        record = json.loads((folder / "eagle3hub.json").read_text())
        assert record["files"] == [file_digest(folder / name) for name in ("config.json", "model.safetensors")]
        assert all(len(f["sha256"]) == 64 for f in record["source"]["files"])
    assert document["runs"] == [{"name": "vllm", "engine": "vllm", "device": "cpu"}]
    assert cli("verify", tmp_path / "out", "--digest", document["digest"])[0] == 0
    status, out, _ = cli(*argv, "--force")
    assert (status, document["digest"] in out) == (0, True), "converted again, the same digest"
    (tmp_path / "out" / "notes.txt").touch()
    status, _, err = cli(*argv, "--force")
    assert (status, "did not write (notes.txt)" in err) == (3, True)
    (tmp_path / "out" / "notes.txt").unlink()
    (tmp_path / "out" / "README.md").write_text("# a card does not count\n")
    assert cli("verify", tmp_path / "out", "--digest", document["digest"])[0] == 0
    config = tmp_path / "out" / "modelopt" / "config.json"
    config.write_text(config.read_text() + " ")
    status, out, _ = cli("verify", tmp_path / "out", "--digest", document["digest"])
    assert status == 1
    assert f"not {document['digest']}" in out


def test_a_card_completes_the_folder_of_a_release_and_says_what_it_made(made: Path, release: Path, cli: Cli):
    before = (release / "README.md").read_bytes()
    (release / "README.md").unlink()
    shutil.rmtree(release / "charts", ignore_errors=True)
    status, out, err = cli("card", made / "release.yaml", "--folder", release, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert (document["folder"], document["repo"]) == (str(release), REPO)
    assert (release / "README.md").read_bytes() == before
    drawn = [p.relative_to(release).as_posix() for p in (release / "charts").rglob("*") if p.is_file()]
    assert sorted(drawn) == document["charts"] != []


def test_reports_that_a_manifest_names_go_into_the_folder(made: Path, release: Path, tmp_path: Path, cli: Cli):
    manifest, more = tmp_path / "own.yaml", tmp_path / "more"
    manifest.write_text((made / "release.yaml").read_text() + "\nreports: [more/*.json]\n")
    status, out, _ = cli("card", manifest, "--folder", release, "--json")
    assert (status, json.loads(out)["error"]["code"]) == (3, "report-missing")
    more.mkdir()
    report = json.loads((release / "reports" / "specforge-cpu.json").read_text())
    report["tool"]["version"] = "0.0.1"  # of which no recipe is derived again
    report["settings"] |= {
        "chat_template": "the target's own with enable_thinking=false",
        "engine_settings": {"chat_template": {"enable_thinking": False}},
    }
    (more / "thinking-off.json").write_text(json.dumps(report))
    assert cli("card", manifest, "--folder", release)[0] == 0
    card = (release / "README.md").read_text()
    assert "| enable\\_thinking=false |" in card and "[reports/thinking-off.json](reports/thinking-off.json)" in card
    assert "reports/thinking-off.json" in (release / "release.json").read_text()
    assert cli("card", manifest, "--folder", release)[0] == 0, "it is there already"
    (more / "thinking-off.json").rename(more / "specforge-cpu.json")
    status, out, _ = cli("card", manifest, "--folder", release, "--json")
    assert (status, json.loads(out)["error"]["code"]) == (3, "report-name"), "the release's own is kept"


def _refused(cli: Cli, folder: Path) -> list[str]:
    problems = json.loads(cli("publish", folder, "--repo", REPO, "--dry-run", "--json")[1])["problems"]
    return [one["message"] for one in problems if one["code"] in ("publish-report", "publish-manifest")]


def test_a_report_of_other_settings_is_published_beside_the_one_that_was_asked_for(
    made: Path, release: Path, cli: Cli
):
    own = release / "reports" / "specforge-cpu.json"
    report = json.loads(own.read_text())
    report["settings"]["max_new_tokens"] = 128
    for row in report["engines"][0]["per_prompt"]:
        row["rounds"] += 2
        row["drafted"] += 6
    (release / "reports" / "longer.json").write_text(json.dumps(card_samples.settled(report)))
    assert cli("card", made / "release.yaml", "--folder", release)[0] == 0
    assert _refused(cli, release) == []
    other = {**report, "target": {**report["target"], "revision": "0" * 40}}
    (release / "reports" / "other.json").write_text(json.dumps(card_samples.settled(other)))
    cli("card", made / "release.yaml", "--folder", release)
    assert any("other.json: the target's revision is 000" in said for said in _refused(cli, release))
    (release / "reports" / "other.json").unlink()
    own.unlink()
    assert cli("card", made / "release.yaml", "--folder", release)[0] == 0
    assert any("limit of new tokens is 128, and the manifest asks for 64" in said for said in _refused(cli, release))


def test_what_a_manifest_names_is_found_in_a_folder_by_a_short_name(
    made: Path, release: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    imported = Path(card_samples.__file__).parent / "fixtures" / "six" / "reasoning-mode" / "imported.yaml"
    shutil.copyfile(imported, tmp_path / "imported.yaml")
    manifest = tmp_path / "own.yaml"
    manifest.write_text((made / "release.yaml").read_text() + "\nimported: [imported.yaml]\n")
    assert cli("card", manifest, "--folder", release)[0] == 0
    monkeypatch.chdir(release.parent)
    assert _refused(cli, Path(release.name)) == []


@pytest.mark.slow
def test_the_hub_is_held_to_the_digest(hub: WritableHub, release: Path, cli: Cli):
    digest = (
        json.loads(cli("verify", release, "--digest", "sha256:0", "--json")[1])["faults"][0].split()[6].rstrip(",")
    )
    assert cli("publish", release, "--repo", REPO)[0] == 0
    assert cli("verify", f"hf://{REPO}", "--digest", digest)[0] == 0
    status, out, _ = cli("verify", f"hf://{REPO}", "--digest", "sha256:0")
    assert status == 1
    assert "differs the digest of the heads is" in out


def test_what_cannot_be_asked(made: Path, cli: Cli):
    status, _, err = cli("verify", made / "head")
    assert status == 2
    assert "--digest" in err
    status, _, err = cli("card", made / "release.yaml", "--head", made / "release", "--allow", "publish-cards")
    assert status == 2
    assert "no gate is called publish-cards" in err


def test_validate_takes_from_the_manifest_what_no_option_says(
    made: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[str, ValidateOptions]] = []

    def validate(head: str, target: str, options: ValidateOptions, **_: object) -> None:
        seen.append((target, options))
        raise KeyboardInterrupt

    monkeypatch.setattr(validation, "validate", validate)
    cli(
        "validate", made / "release", "--manifest", made / "release.yaml", "--engine", "reference", "--draft-tokens", 5
    )
    ((target, options),) = seen
    assert (options.engine, options.draft_tokens) == ("reference", 5), "what was typed holds"
    assert (target, options.target_name) == ("HuggingFaceTB/SmolLM2-135M-Instruct",) * 2
    assert (options.num_prompts, options.max_new_tokens, options.dtype) == (16, 64, "float32")
    unnamed = tmp_path / "names-no-target"
    shutil.copytree(made / "release", unnamed, ignore=shutil.ignore_patterns("eagle3hub.json", "README.md"))
    assert cli("validate", unnamed)[0] == 2, "without a manifest the head must name its target"
