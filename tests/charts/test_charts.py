"""Charts: legible on both backgrounds, nothing on top of anything else, the same bytes every time."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from support import heads

from eagle3hub.charts import (
    Chart,
    Panel,
    Series,
    acceptance_by_dataset,
    acceptance_by_draft_tokens,
    acceptance_by_position,
    draw,
)
from eagle3hub.charts import draw as style
from eagle3hub.charts.data import shortened, wrapped

EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2-135m" / "release.yaml"
LIGHT, DARK = "#ffffff", "#0d1117"
LONG = "RedHatAI--Qwen3-235B-A22B-Instruct-2507-speculator.eagle3-converted-to-modelopt-twice-over-and-back-again"
HEADS = ("my-head", "smollm2-135m-eagle3-lk-losses-step-20000", LONG)
SETS = ("mt_bench", "humaneval", "gsm8k", "alpaca", "questions-our-customers-asked-in-spring-2026.jsonl")


@pytest.fixture(autouse=True)
def nothing_drawn_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test draws its own pictures."""
    monkeypatch.setattr(style, "_DRAWN", {})


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def series(name: str, start: float, count: int) -> Series:
    values = tuple(start + 0.3 * ((3 * i) % 5) for i in range(count))
    return Series(name, values, tuple((v - 0.1, v + 0.15) for v in values))


def panel(title: str, labels: tuple[str, ...], heads: tuple[str, ...] = HEADS) -> Panel:
    return Panel(title, labels, tuple(series(h, 1.5 + 0.4 * i, len(labels)) for i, h in enumerate(heads)))


def falling(title: str, heads: tuple[str, ...] = HEADS, count: int = 7) -> Panel:
    labels = tuple(str(i + 1) for i in range(count))
    return Panel(title, labels, tuple(Series(h, tuple(0.9**i for i in range(count))) for h in heads))


NOTE = "SmolLM2-135M-Instruct on the reference, greedy, up to 128 new tokens\nwhiskers: 95 % intervals over prompts"
DRAWN: dict[str, Callable[[], Chart]] = {
    "data sets, one panel": lambda: acceptance_by_dataset([panel("", SETS)], title="By data set, K = 3", note=NOTE),
    "data sets, three panels": lambda: acceptance_by_dataset(
        [panel(f"K = {k}", SETS) for k in (3, 5, 7)], title="By data set", note=NOTE
    ),
    "one of everything": lambda: acceptance_by_dataset([panel("", SETS[:1], HEADS[:1])], title="One"),
    "positions": lambda: acceptance_by_position([falling(s) for s in SETS], title="By position", note=NOTE),
    "sixteen positions": lambda: acceptance_by_position([falling("", HEADS, 16)], title="By position", note=NOTE),
    "draft tokens": lambda: acceptance_by_draft_tokens(
        [panel(s, ("3", "5", "7")) for s in SETS], title="By K", note=NOTE
    ),
}


@pytest.mark.parametrize("color", style.PALETTE)
def test_every_colour_reads_on_light_and_on_dark(color: str) -> None:
    assert contrast(color, LIGHT) >= 3
    assert contrast(color, DARK) >= 3


def test_text_reads_on_the_papers_own_ground() -> None:
    assert contrast(style.TEXT, style.PAPER) >= 4.5
    assert all(contrast(color, style.PAPER) >= 3 for color in style.PALETTE)


def test_no_two_series_look_alike_without_colour() -> None:
    marks = [style.look(i).marker for i in range(len(style.PALETTE))]
    assert len(set(marks)) == len(marks)
    assert len({(style.look(i).color, style.look(i).marker) for i in range(42)}) == 42


def texts_of(figure: Any) -> list[tuple[str, Any]]:
    """Every text that is drawn, with its box in pixels."""
    from matplotlib.text import Text

    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            hidden |= {id(tick.label1) for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
        if not axes.get_visible():
            hidden |= {id(text) for text in axes.findobj(Text)}
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in hidden]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_is_drawn_over_text_or_beyond_the_edge(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[tuple[str, Any]] = []

    def measure(figure: Any, title: str) -> tuple[bytes, bytes]:
        figure.canvas.draw()
        width, height = figure.get_size_inches() * figure.dpi
        for said, box in texts_of(figure):
            assert min(box.x0, box.y0) >= -1, said
            assert box.x1 <= width + 1, said
            assert box.y1 <= height + 1, said
            boxes.append((said, box))
        return b"", b""

    monkeypatch.setattr(draw, "saved", measure)
    DRAWN[name]()
    assert len(boxes) > 5
    for (one, a), (other, b) in combinations(boxes, 2):
        apart = a.x1 <= b.x0 + 0.5 or b.x1 <= a.x0 + 0.5 or a.y1 <= b.y0 + 1.5 or b.y1 <= a.y0 + 1.5
        assert apart, f"{one!r} overlaps {other!r}"


@pytest.mark.slow
def test_the_bytes_depend_on_nothing_but_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    first = DRAWN["draft tokens"]()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": "mine"}):
        monkeypatch.setattr(style, "_DRAWN", {})
        again = DRAWN["draft tokens"]()
        assert matplotlib.rcParams["font.size"] == 20
    assert again == first
    assert not re.search(rb"\d{4}-\d\d-\d\dT|Matplotlib v", first.svg)
    assert b"tEXt" not in first.png


def test_a_chart_is_drawn_once_for_the_same_numbers_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    first = acceptance_by_position([falling("")], title="a", note="b")
    monkeypatch.setattr(draw, "saved", lambda *_: (b"anew", b"anew"))
    assert acceptance_by_position((falling(""),), title="a", note="b") is first
    others = [
        acceptance_by_position([falling("")], title="a", note="c"),
        acceptance_by_position([falling("")], title="c", note="b"),
        acceptance_by_position([falling("", count=6)], title="a", note="b"),
        acceptance_by_position([falling("", HEADS[:1])], title="a", note="b"),
        acceptance_by_draft_tokens([falling("")], title="a", note="b"),
    ]
    assert {chart.svg for chart in others} == {b"anew"}


@pytest.mark.slow
def test_no_more_than_some_charts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "saved", lambda *_: (b"", b""))
    for i in range(70):
        acceptance_by_position([falling("", HEADS[:1])], title=str(i))
    assert len(style._DRAWN) <= 64


@pytest.mark.slow
def test_another_process_draws_the_same() -> None:
    code = (
        "import hashlib\n"
        "from eagle3hub.charts import *\n"
        "c = acceptance_by_dataset([Panel('', ('a',), (Series('h', (2.0,), ((1.9, 2.1),)),))], title='t')\n"
        "print(hashlib.sha256(c.svg + c.png).hexdigest())\n"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(runs) == 1


def test_the_picture_has_paper_and_is_twice_its_size() -> None:
    chart = DRAWN["one of everything"]()
    assert chart.png.startswith(b"\x89PNG")
    width, _, depth, kind = struct.unpack(">IIBB", chart.png[16:26])
    assert (depth, kind) == (8, 6)
    from io import BytesIO

    from matplotlib.image import imread

    pixels = imread(BytesIO(chart.png), format="png")
    assert pixels[0, 0].tolist() == pixels[-1, -1].tolist() == [1, 1, 1, 1], "white paper, whatever the page"
    match = re.search(rb'width="([\d.]+)pt" height="([\d.]+)pt"', chart.svg)
    assert match is not None
    assert width == pytest.approx(float(match[1]) / 72 * 96 * 2, abs=1)
    assert b"<title>One</title>" in chart.svg


@pytest.mark.slow
def test_the_words_have_the_numbers() -> None:
    one = Panel("K = 3", ("mt_bench", "gsm8k"), (Series("mine", (2.131, None), ((2.0, 2.27), None)),))
    chart = acceptance_by_dataset([one], title="Acceptance length")
    assert chart.alt == (
        "Acceptance length. K = 3: mine: mt_bench 2.13 (2.00 to 2.27), gsm8k not measured. "
        "95 % intervals in parentheses."
    )
    rates = Panel("", ("1", "2"), (Series("mine", (0.5, 0.25)),))
    assert acceptance_by_position([rates], title="Rates").alt == "Rates. mine: position 1 50.0%, position 2 25.0%."
    many = acceptance_by_draft_tokens([panel("a", ("1", "2", "3", "4", "5")) for _ in range(2)], title="T").alt
    assert "a: my-head: from 1.50 (K = 1) to 2.70 (K = 4)." in many
    nothing = Panel("", tuple(map(str, range(30))), (Series("mine", (None,) * 30),))
    assert acceptance_by_draft_tokens([nothing], title="T").alt == "T. mine: not measured."


@pytest.mark.parametrize("name", ["a$b$c", "_hidden", "头部模型", "<b>&amp;", "x" * 300, r"\frac{1}", "a\nb"])
def test_any_name_can_be_drawn(name: str) -> None:
    one = Panel(name, (name,), (Series(name, (2.0,)), Series("other", (1.5,))))
    chart = acceptance_by_dataset([one], title=name, note=name)
    assert name in chart.alt


@pytest.mark.slow
def test_nothing_invisible_is_drawn() -> None:
    name = "a\u202eb\u200bc"
    one = Panel(name, (name,), (Series(name, (2.0,)), Series("other", (1.5,))))
    by_number = Panel(name, ("1",), (Series(name, (0.5,)), Series("other", (0.25,))))
    for chart in (
        acceptance_by_dataset([one], title=name, note=name),
        acceptance_by_position([by_number], title=name, note=name),
        acceptance_by_draft_tokens([by_number], title=name, note=name),
    ):
        svg = chart.svg.decode()
        assert "a⟨U+202E⟩b⟨U+200B⟩c" in svg
        assert not set(name) & {c for c in svg if not c.isprintable()}
        assert {tag.lower() for tag in re.findall(r"<([a-zA-Z]+)[ >]", svg)} <= {
            *("svg", "g", "path", "use", "rect", "defs", "style", "metadata", "title", "clippath")
        }
        assert not re.search(r'href="(?!#)', svg)


def test_faults_of_the_caller() -> None:
    with pytest.raises(ValueError, match="1 values and 0 intervals for 2 labels"):
        Panel("", ("a", "b"), (Series("h", (1.0,)),))
    with pytest.raises(ValueError, match="needs a panel"):
        acceptance_by_position([], title="t")
    with pytest.raises(ValueError, match="same labels"):
        acceptance_by_dataset([panel("", SETS), panel("", SETS[:2])], title="t")


def test_long_names_keep_both_ends() -> None:
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 7) == "abcd…jk"
    assert wrapped("mt_bench", 20) == "mt_bench"
    for text in ("x" * 90, SETS[4], LONG, "a b c"):
        lines = wrapped(text, 20).split("\n")
        assert len(lines) <= 2
        assert all(len(line) <= 20 for line in lines)


def test_importing_charts_does_not_import_matplotlib() -> None:
    code = "import sys, eagle3hub.charts; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("command", ["validate", "bench", "release"])
def test_without_matplotlib_a_command_that_draws_says_so_before_it_measures(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr(draw, "find_spec", lambda name: None)
    head, target = heads.specforge(tmp_path / "head"), heads.target(tmp_path / "target")
    page = tmp_path / "made"
    argv: list[object] = {
        "validate": ["validate", head, "--target", target, "--html", page],
        "bench": ["bench", head, "--target", target, "--datasets", "smoke", "--output", page],
        "release": [
            "release",
            EXAMPLE,
            "--until",
            "card",
            "--target",
            target,
            "--output",
            page,
            "--work",
            tmp_path / "w",
        ],
    }[command]
    status, out, _ = cli(*argv, "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (4, "unavailable-charts-extra")
    assert error["message"] == "charts are drawn with matplotlib, which this environment does not have"
    assert re.search(r"-m pip install .*(matplotlib|\[charts\])", error["hint"])
    assert not page.exists()
    assert not (tmp_path / "w").exists()
