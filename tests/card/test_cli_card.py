"""``eagle3hub card`` on the example head's own files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import card_samples as samples
import pytest
import typer
from typer.testing import CliRunner

from eagle3hub.charts import draw
from eagle3hub.cli.card import card
from eagle3hub.errors import InputError, ManifestError, OutputError, SourceError, UnavailableError


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder with the example's manifest, its head as main layout, and a report of these very bytes."""
    text = samples.EXAMPLE.read_text(encoding="utf-8")
    text = text.replace("main: specforge", "main: specjax").replace("  also: [modelopt, speculators, specjax]\n", "")
    (tmp_path / "release.yaml").write_text(text, encoding="utf-8")
    shutil.copytree(samples.EXAMPLE.parent / "head", tmp_path / "head")
    report = samples.make_report()
    report["head"]["layout"] = "specjax"
    samples.of_folder(report, tmp_path / "head")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "specjax.json").write_text(json.dumps(report))
    return tmp_path


def run(*arguments: str | Path) -> str:
    app = typer.Typer()
    app.command()(card)
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_standard_output_is_the_card_and_nothing_else(release: Path) -> None:
    text = run(release / "release.yaml")
    assert text.startswith("---\n") and "**1.45**" in text and "8,923,392" in text


def test_file_and_json(release: Path) -> None:
    out = release / "README.md"
    out.write_text("old")
    document = json.loads(run(release / "release.yaml", "--output", out, "--json"))
    assert document["output"] == str(out) and document["card"] is None and document["warnings"] == []
    text = out.read_text(encoding="utf-8")
    assert "[reports/specjax.json](reports/specjax.json)" in text
    assert sorted(p.name for p in release.iterdir()) == ["README.md", "charts", "head", "release.yaml", "reports"]
    assert sorted(p.suffix for p in (release / "charts").iterdir()) == [".png", ".svg"]
    assert re.search(r'src="charts/acceptance-by-position\.png" alt="Acceptance by draft position[^"]+33\.1%', text)
    assert json.loads(run(release / "release.yaml", "--json"))["card"].startswith("---")


def test_without_matplotlib_the_card_is_not_written(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "find_spec", lambda name: None)
    monkeypatch.setattr(draw, "_DRAWN", {})
    with pytest.raises(UnavailableError, match="charts are drawn with matplotlib") as refused:
        run(release / "release.yaml", "--output", release / "README.md")
    assert refused.value.code == "unavailable-charts-extra"
    assert sorted(p.name for p in release.iterdir()) == ["head", "release.yaml", "reports"]


def test_one_changed_byte_is_refused(release: Path) -> None:
    with (release / "head" / "config.json").open("a") as f:
        f.write(" ")
    with pytest.raises(ManifestError, match="measured other bytes"):
        run(release / "release.yaml")


def test_a_second_folder_may_belong_to_the_release(release: Path) -> None:
    shutil.copytree(release / "head", release / "other")
    with (release / "head" / "config.json").open("a") as f:
        f.write(" ")
    text = run(release / "release.yaml", "--head", release / "head", "--head", release / "other")
    assert "**1.45**" in text


def test_warnings_are_in_the_json(release: Path) -> None:
    (release / "reports" / "specjax.json").unlink()
    document = json.loads(run(release / "release.yaml", "--json"))
    assert document["reports"] == [] and document["warnings"][0]["what"] == "Not validated"


def test_what_cannot_be_read_or_written(release: Path) -> None:
    with pytest.raises(SourceError):
        run(release / "release.yaml", "--report", release / "absent.json")
    with pytest.raises(InputError):
        run(release / "release.yaml", "--head", release / "reports")
    with pytest.raises(OutputError):
        run(release / "release.yaml", "--output", release / "no" / "such" / "README.md")
    for text, code in (("{", "report-json"), ("[]", "report-schema"), ("[" * 100000, "report-json")):
        (release / "bad.json").write_text(text)
        with pytest.raises(ManifestError) as caught:
            run(release / "release.yaml", "--report", release / "bad.json")
        assert caught.value.code == code


def test_a_failed_write_keeps_the_old_card(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = release / "README.md"
    out.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        run(release / "release.yaml", "--output", out)
    assert out.read_text() == "old"
    assert sorted(p.name for p in release.iterdir()) == ["README.md", "head", "release.yaml", "reports"]


def test_reports_are_found_beside_a_manifest_in_an_oddly_named_folder(
    release: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    odd = tmp_path_factory.mktemp("x") / "a [1] * b"
    shutil.copytree(release, odd)
    assert len(json.loads(run(odd / "release.yaml", "--json"))["reports"]) == 1
