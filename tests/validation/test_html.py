"""The page of a report or a matrix: complete in itself, and nothing in it but what was said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support import heads
from validation import samples
from validation.test_matrix import matrix_of

from eagle3hub.charts import TEXT
from eagle3hub.validation.matrix import Matrix
from eagle3hub.validation.render import _charts_of_engines as charts_of
from eagle3hub.validation.render import to_html
from eagle3hub.validation.report import Report

Cli = Callable[..., tuple[int, str, str]]
_VOID = {"meta", "br", "hr", "img", "input", "link"}
_HOSTILE = "<script>alert('x')</script>\"'&<img src=//h.example/x>"


class Page(HTMLParser):
    """Holds tags against each other and collects what a page could ask of others."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.targets.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


ROOT = Path(__file__).parents[2]


def page_of(document: dict[str, Any]) -> Page:
    found = Matrix.from_json(document) if "cells" in document else Report.from_json(document)
    html = to_html(found)
    assert html.startswith("<!DOCTYPE html>\n")
    assert "url(http" not in html
    assert "@import" not in html
    page = Page(html)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert page.tags.isdisjoint({"script", "img", "link", "iframe", "object", "form", "base"})
    for target in page.targets:
        assert target.startswith("#"), target
        assert target[1:] in page.ids
    return page


@pytest.mark.parametrize("make", [samples.report, samples.failed, matrix_of])
def test_a_page_is_whole_and_asks_for_nothing(make: Callable[[], dict[str, Any]]) -> None:
    page = page_of(make())
    assert {"svg"} <= page.tags or make is samples.failed
    assert "my-head" in "".join(page.text)


def test_the_report_is_on_it() -> None:
    document = samples.report()
    document["engines"][0]["environment"]["kernels"] = "sgl_kernel 0+stand-in"
    document["engines"][0]["gates"] = [
        {"name": "agreement", "verdict": "fail", "reason": "the rounds differ", "evidence": None}
    ]
    text = " ".join(" ".join(page_of(document).text).split())
    for part in (
        "τ = 1.380 tokens per round",
        "cpu, float32, kernels sgl_kernel 0+stand-in",
        "29.0% 8.0% 1.0%",
        "lossless 1 of 2 prompts",
        "agreement the rounds differ",
        "unused: t2d",
        "vllm serve org/Target",
        "7 / 1 / 0",
    ):
        assert part in text


def test_the_matrix_is_on_it() -> None:
    document = matrix_of(vllm="fail", trtllm="unavailable")
    for cell in document["cells"]:
        if cell["engine"] == "trtllm":
            expected = "right" if cell["layout"] == "universal" else "refuses"
            cell.update(how="none", mean_acceptance_length=None, preflight=expected)
    document["layouts"][0].update(report=None, verdict=None, refusal={"code": "r", "message": "m", "hint": None})
    document["cells"] = [c for c in document["cells"] if c["layout"] != "specjax"]
    refused = {
        "layout": "specjax",
        "engine": None,
        "verdict": "refused",
        "how": "conversion",
        "reason": "no such norm",
    }
    document["cells"].insert(0, {**refused, "mean_acceptance_length": None, "ci95": None, "preflight": None})
    text = " ".join(" ".join(page_of(document).text).split())
    assert "specjax cannot hold this head no such norm" in text
    assert "specforge ✓ pass τ 1.400 ✗ fails τ 1.400 ✓ pass τ 1.400 ? not here preflight: refuses" in text
    assert "universal ✓ pass τ 1.400 ✗ fails τ 1.400 ✓ pass τ 1.400 ? not here preflight: right" in text


def hostile(value: Any) -> Any:
    """Every text of a document that is not one of its fixed words, made hostile."""
    if isinstance(value, dict):
        return {key: hostile(found) for key, found in value.items()}
    if isinstance(value, list):
        return [hostile(found) for found in value]
    return _HOSTILE if value in ("my-head", "org/Target", "all tensors loaded", "writing", "t2d", "vllm") else value


@pytest.mark.parametrize("make", [samples.report, samples.failed, matrix_of])
def test_hostile_names_are_text(make: Callable[[], dict[str, Any]]) -> None:
    document = hostile(make())
    document["head"]["layout"] = _HOSTILE
    for entry in document.get("engines", []):
        if isinstance(entry, dict):
            entry["reason"] = _HOSTILE
            entry["recipe"]["server_command"] = _HOSTILE
    page = page_of(document)
    assert _HOSTILE in "".join(page.text)


def test_ids_of_two_charts_do_not_meet() -> None:
    html = to_html(Report.from_json(samples.report()))
    assert html.count("<svg ") == 2
    for used in set(re.findall(r"url\(#([^)]+)\)", html)):
        assert html.count(f' id="{used}"') == 1


def test_the_command_writes_it(cli: Cli, head: Path, tmp_path: Path) -> None:
    target = heads.target(tmp_path / "target", heads.dims(hidden=576, vocab=49152), num_hidden_layers=30)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '<b>last</b> words' >&2\nexit 7\n")
    python.chmod(0o755)
    file, report = tmp_path / "report.html", tmp_path / "report.json"
    words = ("validate", head, "--target", target, "--engine", "vllm", "--engine-python", f"vllm={python}")
    status, out, err = cli(*words, "--html", file, "--report", report)
    assert status == 1, err
    assert f"report    {report}\npage      {file}\n" in out, "every file that was written is named"
    assert file.read_text() == to_html(Report.from_json(json.loads(report.read_text())))
    assert "&lt;b&gt;last&lt;/b&gt; words" in file.read_text()
    assert cli(*words, "--html", file)[1].endswith(f"\n\npage      {file}\n")
    status, _, err = cli(*words, "--html", tmp_path / "no" / "report.html")
    assert status == 3
    assert "cannot write" in err


def test_text_of_the_page_has_a_contrast_of_four_and_a_half_on_light_and_dark():
    """WCAG 2.2, 1.4.3: every colour of text on both backgrounds that it can stand on."""
    style = (ROOT / "templates" / "report" / "style.css").read_text()
    schemes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in style.split("@media")[:2]]
    assert len(schemes) == 2

    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for colors in schemes:
        for back in ("back", "soft"):
            for text in ("text", "dim", "pass", "fail", "open", "link"):
                high, low = sorted((luminance(colors[text]), luminance(colors[back])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, back, colors)


def test_on_a_phone_tables_scroll_in_a_box_of_their_own_and_charts_stand_below_each_other():
    """Neither makes the page wider than the screen, and a phone shows a chart at its own size."""
    style = (ROOT / "templates" / "report" / "style.css").read_text()
    assert re.search(r"^\.wide {[^}]*overflow-x: auto", style, re.MULTILINE)
    assert re.search(r"^\.charts {[^}]*flex-wrap: wrap", style, re.MULTILINE)
    assert "min-width: 0" in style and "svg { width: 100%; height: auto" in style
    html = to_html(Report.from_json(samples.report()))
    widths = re.findall(r'<svg [^>]*width="([0-9.]+)pt"', html)
    assert len(widths) == 2
    assert all(float(points) * 4 / 3 <= 360 for points in widths), "CSS pixels: 360 is a small phone"


def test_the_text_of_a_chart_has_the_colour_of_the_page():
    """A picture of its own needs a grey that is legible on white and on black; on a page there is a better one."""
    html = to_html(Report.from_json(samples.report()))
    assert TEXT not in html
    assert "fill: currentColor" in html
    (alone,) = {chart.svg.count(TEXT.encode()) > 0 for chart in charts_of(Report.from_json(samples.report()))}
    assert alone


def test_marks_have_a_word_for_those_who_do_not_see_them():
    style = (ROOT / "templates" / "report" / "style.css").read_text()
    assert 'content: "✓" / "pass:"' in style and 'content: "✗" / "fail:"' in style
    assert '<span role="img" aria-label="pass">✓</span>' in to_html(Matrix.from_json(matrix_of()))
