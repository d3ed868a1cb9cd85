"""Escaping: text from outside renders as itself, in every position, and as nothing else."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from support.versions import VLLM

from eagle3hub.card import markdown
from eagle3hub.card.markdown import Md, code, escape, fence, file_link, finalize, link
from eagle3hub.system.text import visible

HOSTILE = [
    "**bold** _it_ `code` ~~gone~~",
    "[click](https://evil.example) ![x](https://evil.example/x.png)",
    "<script>alert(1)</script><!-- x --><img src=x onerror=y>",
    "&lt;b&gt; &amp; &#60;",
    "<!-- never closed",
    "<script",
    "<div class=x",
    "<![CDATA[ x",
    "<?php x",
    "{{ 7 * 7 }} {% for x in y %}{# c #}",
    "--- \n---\ntitle: x\n---",
    "# heading", "- item", "+ item", "1. item", "12) item", "> quote", "=====", "    indented", "~~~",
    "```\ncode\n```",
    "a | b | c\n|--|--|\n| 1 | 2 |",
    "line one\nline two\r\n\r\nnew paragraph\u2028x\u0085y",
    "back\\slash \\| \\` \\[ trailing\\",
    "$$x^2$$ \\(y\\) $z$",
    "@everyone user@evil.example https://evil.example www.evil.example mailto:a@b.c",
    "[ref]: https://evil.example 'title'", "[^1] [ref][ref]", "<https://evil.example>",
    "\u202egnp.exe \u2066x\u2069 \u200b\ufeff \x1b[31mred \x00 \ud800",
    "x``y```z", "`", "``", "|", "\\|", "`|`", "a\\`|", " ", "",
]  # fmt: skip


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = "", []

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def rendered(source: str) -> tuple[str, list[str]]:
    parser = _Text()
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(source)
    parser.feed(html)
    return " ".join(parser.text.split()), parser.tags


def plain(text: str) -> str:
    return " ".join(visible(text).split())


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_renders_as_itself(text: str) -> None:
    want = plain(text)
    places = {
        "{}": ["p"], "before {} after": ["p"], "- {}": ["ul", "li"], "> {}": ["blockquote", "p"],
        "**{}**x": ["p", "strong"],
    }  # fmt: skip
    for place, tags in places.items():
        if not want and "before" not in place:
            continue
        got, got_tags = rendered(place.format(escape(text)))
        if place == "**{}**x":
            assert set(got_tags) <= {"p", "strong"}
        else:
            assert got_tags == tags
        if place == "{}":
            assert got == want


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("shape", [escape, code])
def test_a_table_cell_holds_any_text(text: str, shape: object) -> None:
    cell = shape(text)  # type: ignore[operator]
    got, tags = rendered(f"| a | b |\n|--|--|\n| {cell} | end |\n")
    assert got.removeprefix("a b").removesuffix("end").split() == plain(text).split()
    assert [t for t in tags if t != "code"] == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_fence_cannot_be_closed_from_inside(text: str) -> None:
    got, tags = rendered(f"{fence(text, 'bash')}\n\nafter")
    assert tags == ["pre", "code", "p"]
    assert got.endswith("after")


@pytest.mark.parametrize("text", HOSTILE)
def test_link_labels_are_inert(text: str) -> None:
    got, tags = rendered(link(text, "https://ok.example/a_b"))
    assert set(tags) <= {"p", "a"}
    assert got == plain(text)


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "http://x.example", "https:evil", "https://a b", "data:text/html,x", "//x", ""]
)
def test_only_https_becomes_a_link(url: str) -> None:
    assert "](" not in link("label", url)


@pytest.mark.parametrize(
    "url", ["https://ok.example/) [x](https://evil.example", 'https://ok.example/"><b>', "https://ok.example/\n#"]
)
def test_addresses_cannot_leave_their_link(url: str) -> None:
    _, tags = rendered(link("label", url))
    assert tags == ["p", "a"]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "javascript:x", ""])
def test_file_links_stay_in_the_repository(path: str) -> None:
    assert "](" not in file_link("label", path)


def test_nothing_invisible_survives() -> None:
    shown = visible("a\u202eb\u200bc\x1b\ud800\U000e0041")
    assert shown == "a⟨U+202E⟩b⟨U+200B⟩c⟨U+001B⟩⟨U+D800⟩⟨U+E0041⟩"
    assert visible("नि\u200dx 中文 é 👩\u200d💻") == "नि\u200dx 中文 é 👩\u200d💻"


def test_numbers_and_names_are_not_uglified() -> None:
    for text in ("1.45", "-1.5", "1e-05", f"vLLM {VLLM}", "16 (smoke)", "33.1%", "SmolLM2-135M-Instruct", "+cpu"):
        assert escape(text) == text


def test_what_other_renderers_act_on_is_gone() -> None:
    """The Hub renders KaTeX, mentions and bare addresses, which CommonMark does not."""
    for text in (
        "$$x$$",
        "$x$",
        "\\(x\\)",
        "\\[x\\]",
        "@everyone",
        "https://x",
        "www.x",
        "WWW.x",
        "mailto:a",
        "ftp://x",
    ):
        source = escape(text)
        for active in ("$", "\\(", "\\\\", "@", "://", "www.", "WWW.", "mailto:"):
            assert active not in source, (text, source)


def test_finalize_refuses_what_has_no_fixed_form() -> None:
    for value in (1.5, None, True, ["x"], {}):
        with pytest.raises(TypeError):
            finalize(value)
    assert finalize(3) == "3"
    assert finalize("*") == "\\*"
    assert finalize(Md("*")) == "*"


def test_string_operations_lose_the_mark() -> None:
    assert not isinstance(Md("a") + "b", Md)
    assert finalize(markdown.Md("*a*").upper()) == "\\*A\\*"
