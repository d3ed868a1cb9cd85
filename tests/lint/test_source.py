"""``eagle3hub card --check``: the sources of cards, the output, the exit status."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from card import card_samples as samples
from lint_cases import FRONT
from support.hub_server import HubServer, client_of

from eagle3hub.card import render_text
from eagle3hub.card.manifest import Manifest
from eagle3hub.cli.app import run
from eagle3hub.errors import HubError, SourceError
from eagle3hub.lint import RULES, lint_text
from eagle3hub.lint.source import LintResult, lint_card
from eagle3hub.system import resources

BAD = FRONT + "An acceptance rate of 65%, \x1b[31mred [bold]x[/bold].\n\n![chart](missing.png)\n"


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(BAD, encoding="utf-8")
    (tmp_path / ".gitattributes").touch()  # so that this is the card's repository
    return path


def codes(checked: LintResult) -> list[str]:
    return [f.code for f in checked.findings]


def test_a_file_a_folder_and_links_beside_it(card: Path):
    assert "C701" in codes(lint_card(str(card)))
    (card.parent / "missing.png").touch()
    found = lint_card(str(card.parent))
    assert "C701" not in codes(found) and "C303" in codes(found)
    assert found.uri == card.as_posix()


def test_links_of_a_card_among_other_files_are_not_checked(card: Path):
    (card.parent / ".gitattributes").unlink()
    assert "C701" not in codes(lint_card(str(card)))
    assert "C701" in codes(lint_card(str(card.parent)))
    (card.parent / "model.safetensors").touch()
    assert "C701" in codes(lint_card(str(card)))


def test_a_manifest_is_rendered_and_checked(capsys: pytest.CaptureFixture[str]):
    assert run(["card", str(samples.EXAMPLE), "--check"]) == 0
    assert "C417 no acceptance length" in capsys.readouterr().out


@pytest.mark.parametrize("reports", [0, 1, 2])
def test_our_own_card_has_nothing_above_info(example: Manifest, reports: int):
    documents = [samples.make_report("specforge"), samples.make_report("modelopt")][:reports]
    found = lint_text(render_text(example, samples.typed(*documents), samples.make_head()), files=())
    assert [f for f in found if f.severity != "info"] == []
    assert len(found) <= 2


def test_hostile_words_in_our_own_card_stay_inert(example: Manifest):
    hostile = "<script>x</script> \u202eevil ![](no.png) [a](javascript:x) ```\n# h\n---\nlicense: mit\n---\n"
    release = replace(example.release, summary=hostile, title=hostile, authors=(hostile,))
    manifest = replace(example, release=release, limitations=(hostile,))
    found = lint_text(render_text(manifest, samples.typed(samples.make_report()), samples.make_head()), files=())
    assert [f for f in found if f.severity != "info"] == []


def test_text_output_is_plain_and_inert(card: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["card", "--check", str(card)]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert f"{card}:{BAD[: BAD.index('![')].count(chr(10)) + 1}: error C701 the image missing.png" in out
    assert "fix: Add the file" in out and out.count(RULES["C701"].why) == 1
    assert out.rstrip().endswith(" info") and "2 errors" in out.splitlines()[-1]


def test_strict_makes_warnings_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "card.md"
    path.write_text(FRONT + "An acceptance rate of 65% of target, trained on UltraChat.\n")
    assert run(["card", "--check", str(path)]) == 0
    assert run(["card", "--check", "--strict", str(path)]) == 1
    capsys.readouterr()


def test_json(card: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["card", "--check", str(card), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {s: sum(f["severity"] == s for f in document["findings"]) for s in document["counts"]}
    (finding,) = [f for f in document["findings"] if f["code"] == "C701"]
    assert set(finding) == {"code", "severity", "line", "message", "why", "fix"}


@pytest.mark.parametrize(
    "arguments",
    [["--strict"], ["--sarif"], ["--check", "--output", "x.md"], ["--check", "--sarif", "--json"]],
)
def test_options_that_do_not_go_together(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert run(["card", str(samples.EXAMPLE), *arguments]) == 2
    capsys.readouterr()


def test_what_cannot_be_read(tmp_path: Path):
    for text in (b"\xff\xfe", b"x" * (5 << 20)):
        (tmp_path / "card.md").write_bytes(text)
        with pytest.raises(SourceError):
            lint_card(str(tmp_path / "card.md"))
    with pytest.raises(SourceError, match="No such file"):
        lint_card(str(tmp_path / "absent.md"))
    with pytest.raises(SourceError, match="not the address"):
        lint_card("hf://nothing")


def test_a_repository_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with HubServer() as server, client_of(server, tmp_path, monkeypatch):
        commit = server.commit("owner/head", {"README.md": BAD.encode(), "config.json": b"{}", "head.pt": b"x"})
        found = lint_card("hf://owner/head")
        assert found.uri.endswith(f"/owner/head/blob/{commit}/README.md")
        assert {"C701", "C704"} <= set(codes(found))
        server.commit("owner/head", {"missing.png": b"x", "sub/README.md": b"# x"})
        assert "C701" not in codes(lint_card("hf://owner/head"))
        assert "C610" in codes(lint_card("hf://owner/head/sub")) and "C704" not in codes(
            lint_card("hf://owner/head/sub")
        )
        assert "C701" in codes(lint_card(f"hf://owner/head@{commit}"))
        server.commit("owner/empty", {"config.json": b"{}"})
        with pytest.raises(SourceError, match="no model card"):
            lint_card("hf://owner/empty")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError):
        lint_card("hf://owner/name")


def test_the_linter_needs_no_heavy_package():
    source = "\n".join(p.read_text() for p in (resources.data_path("").parent / "eagle3hub/lint").glob("*.py"))
    for package in ("torch", "transformers", "numpy", "huggingface_hub"):
        assert f"import {package}" not in source
