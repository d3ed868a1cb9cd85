"""A card is parsed with the right lines, as source and as the text of a page."""

from __future__ import annotations

import pytest
from lint_cases import FRONT

from eagle3hub.lint.model import Cell, Code, Heading, Prose, Table, numbers
from eagle3hub.lint.parse import parse_card

CARD = (
    FRONT
    + """
# Title

First *line*
second [link](https://a.example) `code`.

## Results

| Set | τ |
|:--|--:|
| `a` | **2.15** ± 0.1 |
| b | 57 of 622 |

- item one
  goes on

```bash
vllm serve a
```

<p align="x">Words <img src="i.png" alt="i"></p>

@misc{key,
  title = {A {T}itle \\& more},
  author = {van der Berg, Jan and Li, Yuhui and others},
  year = 2025
}
"""
)


def line_of(text: str, source: str = CARD) -> int:
    return next(i for i, line in enumerate(source.split("\n"), 1) if text in line)


def test_blocks_and_their_lines():
    card = parse_card(CARD, files=["i.png"])
    blocks = {type(b): b for s in card.sections for b in s.blocks if not isinstance(b, Prose)}
    table, code = blocks[Table], blocks[Code]
    assert table.header == ("Set", "τ") and table.line == line_of("| Set")
    assert [(r.line, r.label) for r in table.rows] == [(line_of("`a`"), "a"), (line_of("| b"), "b")]
    assert table.rows[0].cells[1].number.value == 2.15 and table.rows[0].cells[1].number.ulp == pytest.approx(0.01)
    assert (code.language, code.text, code.line) == ("bash", "vllm serve a", line_of("vllm serve"))
    prose = [b for s in card.sections for b in s.blocks if isinstance(b, Prose)]
    assert (prose[0].line, prose[0].text) == (line_of("First"), "First line\nsecond link code.")
    assert prose[1].text == "item one\ngoes on"
    assert [(x.line, x.target, x.image) for x in card.links] == [
        (line_of("second"), "https://a.example", False),
        (line_of("<p"), "i.png", True),
    ]
    assert [s.path[-1].text for s in card.sections if s.path] == ["Title", "Results"]
    assert card.sections[2].path == (Heading(line_of("# Title"), 1, "Title"), Heading(line_of("## Res"), 2, "Results"))
    assert card.metadata["base_model"] == "owner/target" and card.metadata_line("tags") == line_of("tags:")
    assert not card.is_page_text and card.files == frozenset({"i.png"})


def test_bibtex_in_running_text():
    (entry,) = parse_card(CARD).bibtex
    assert (entry.key, entry.kind, entry.line, entry.lines["year"]) == (
        "key",
        "misc",
        line_of("@misc"),
        line_of("year"),
    )
    assert entry.fields["title"] == "A Title & more" and entry.arxiv is None
    assert entry.authors == (("Jan", "van der Berg"), ("Yuhui", "Li"), ("", "others"))


def test_code_that_looks_like_bibtex_is_none():
    assert parse_card("```python\n@app.get{x,\n```\n").bibtex == ()


def test_search_counts_lines_through_breaks():
    (hit,) = parse_card(CARD).search(r"line second link")
    assert hit.line == line_of("First")
    assert parse_card(CARD).search("57 of")[0].line == line_of("| b")


@pytest.mark.parametrize(
    ("text", "why", "line"),
    [
        ("---\nlicense: mit\n", "no closing line", 1),
        ("---\nlicense: mit\nlicense: mit\n---\n", "twice", 3),
        ("---\n- a\n---\n", "not a mapping", 2),
        ("---\na: [1\n---\n", "YAML", 3),
    ],
)
def test_metadata_that_cannot_be_read(text: str, why: str, line: int):
    card = parse_card(text)
    assert card.front is None and card.front_error is not None
    assert why in card.front_error[1] and abs(card.front_error[0] - line) <= 1


@pytest.mark.parametrize(
    ("text", "value", "unit", "ulp"),
    [
        ("MTP +0.4%", 0.4, "%", 0.1),
        ("1,866", 1866, "", 1),
        ("−20.25 %", -20.25, "%", 0.01),
        ("1.35x", 1.35, "x", 0.01),
        (".71", 0.71, "", 0.01),
    ],
)
def test_numbers(text: str, value: float, unit: str, ulp: float):
    (number,) = numbers(text)
    assert (number.value, number.unit, number.ulp) == (value, unit, pytest.approx(ulp))
    assert numbers("Qwen3-8B acc_0 v2") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("**≈ 3.1**", 3.1), ("2.15 ± 0.1", 2.15), ("-0.4%", -0.4), ("MTP +0.4%", None), ("the 3rd", None), ("–", None)],
)
def test_a_cell_is_a_number_if_it_starts_with_one(text: str, value: float | None):
    number = Cell.of(text).number
    assert (number and number.value) == value


PAGE = """\
A Draft Head

What it does, in a sentence that is long enough not to be taken for a heading.

Usage

python -m sglang.launch_server \\
    --model owner/target

from vllm import LLM

llm = LLM(
    model="owner/target",
)

config.yml is like this

a_key: 1
b_key:
    c_key: 2

Results

Temperature is 0.

Model A-Bench (τ) B-Bench (τ)
theirs 2.64 4.03
ours 3.18 4.42

Reference

@misc{key,
  title={T},
}
Downloads last month
273
Nothing below counts 9.99
"""


def test_a_page_is_known_by_its_bullets():
    text = "A Draft Head\n\nUsage\n\n  • vLLM 0.1\n  • K: 3\n"
    card = parse_card(text)
    assert card.is_page_text and [s.path[-1].text for s in card.sections if s.path] == ["A Draft Head", "Usage"]
    assert [p.item > 0 for _, p in card.blocks_of(Prose)] == [True, True]
    assert not parse_card(text.replace("Usage", "## Usage")).is_page_text


def test_text_of_a_page_becomes_markdown_again():
    card = parse_card(PAGE)
    assert card.is_page_text
    assert [s.path[-1].text for s in card.sections if s.path] == ["A Draft Head", "Usage", "Results", "Reference"]
    assert [c.language for c in card.code] == ["bash", "python", "yaml", "bibtex"]
    assert [c.line for c in card.code][:3] == [line_of(t, PAGE) for t in ("python -m", "from vllm", "a_key")]
    assert card.code[1].text.endswith(")") and card.code[2].text.endswith("c_key: 2")
    ((_, table),) = card.tables
    assert table.header == ("Model", "A-Bench (τ)", "B-Bench (τ)") and table.line == line_of("Model A", PAGE)
    assert [(r.line, r.label, r.cells[2].text) for r in table.rows] == [
        (line_of("theirs", PAGE), "theirs", "4.03"),
        (line_of("ours", PAGE), "ours", "4.42"),
    ]
    assert card.bibtex[0].line == line_of("@misc", PAGE)
    assert not card.says("Nothing below")


def test_a_header_is_dealt_to_its_columns():
    page = "Set Temperature = 0 Temperature = 1\na 4.25 3.77\nb 4.32 4.08\n\nDownloads last month\n"
    ((_, table),) = parse_card(page).tables
    assert table.header == ("Set", "Temperature = 0", "Temperature = 1")


def test_a_page_without_blank_lines_has_headings_and_tables_too():
    page = "Overview\n" + "A long sentence. " * 5 + "\nResults\n| S | τ |\n|---|---|\n| a | 2 |\n" + "B c. " * 20
    card = parse_card(page + "\n- Downloads last month\n")
    assert [s.path[-1].text for s in card.sections if s.path] == ["Overview", "Results"]
    ((section, table),) = card.tables
    assert len(table.rows) == 1 and section.path[-1].text == "Results"


def test_a_paragraph_as_long_as_a_book_has_its_links_and_its_tags():
    text = "A **word** of a book.\n" * 3_000
    card = parse_card(f"# A\n\n{text}[a *b*](c.md) and ![d](e.png) <script>x</script>\n")
    assert [(link.line, link.target, link.image) for link in card.links] == [
        (3003, "c.md", False),
        (3003, "e.png", True),
    ]
    assert [(tag.line, tag.name) for tag in card.tags] == [(3003, "script")]
    (prose,) = (prose for _, prose in card.blocks_of(Prose))
    assert prose.line == 3 and prose.text.startswith("A word of a book.\nA word")


@pytest.mark.parametrize("row", ["<tr>", '<tr class="a">'])
def test_the_rows_of_an_html_table_are_read_with_and_without_attributes(row: str):
    rows = "".join(f"{row}<td>set {i}</td>\n<td>**2.{i}**</td></tr>\n\n" for i in range(3))
    text = f"<table>\n<thead>{row}<th>Set</th><th>τ</th></tr></thead>\n{rows}</table>\n"
    ((_, table),) = parse_card(f"# A\n\n{text}").tables
    assert table.header == ("Set", "τ")
    assert [(r.line, r.label, r.cells[1].text) for r in table.rows] == [
        (5, "set 0", "2.0"), (8, "set 1", "2.1"), (11, "set 2", "2.2"),
    ]  # fmt: skip


@pytest.mark.parametrize("before", ["", "Target: "])
def test_a_link_in_html_has_its_words(before: str):
    card = parse_card(f'# A\n\n{before}<a href="https://a.b/c">Some <b>words</b></a> and <a name="x">more</a>\n')
    assert [(link.target, link.text) for link in card.links] == [("https://a.b/c", "Some words")]
