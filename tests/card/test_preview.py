"""The preview: what it shows, what it refuses to run or to serve, and that a browser can show it."""

from __future__ import annotations

import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from card_samples import HERE
from support.browser import browse, needs_browser

from eagle3hub.card import preview
from eagle3hub.card.markdown import chart
from eagle3hub.errors import SourceError

CARD = """---
license: mit
tags: [eagle3, "</li><script>alert(1)</script>"]
co2_eq_emissions: {emissions: 807500}
---
# A <b>card</b>

<script>document.title = "run"</script>

| A | B |
|:--|--:|
| 1 | 2 |

![chart](charts/a.png) [x](javascript:alert(1)) <!--VERSION-->
"""


def test_the_page_shows_metadata_and_tables_and_runs_nothing() -> None:
    page = preview.page(CARD, "<README>", version="v</script>")
    assert "<b>license</b> mit" in page and "<b>CO2</b> 807500 g" in page and "&lt;README&gt;" in page
    assert '<div class="wide"><table>' in page and '<img src="charts/a.png"' in page
    assert page.count("<script>") == page.count("</script>") == 1
    assert "&lt;script&gt;document.title" in page and 'href="javascript:' not in page


def test_bare_tags_fold_and_everything_else_of_html_is_text() -> None:
    card = (
        "<details><summary>More <img src=x onerror=alert(1)></summary>\n\n| A |\n|--|\n| 1<br>2 |\n\n</details>\n\n"
        "<details ontoggle=alert(1)>\n\na <b onclick=alert(1)>b</b> `<br>` <style>*{display:none}</style>\n"
    )
    page = preview.page(card, "t")
    body = page[page.index("<main>") : page.index("</main>")]
    assert "<details><summary>More &lt;img" in body and "</details>" in body and "1<br>2" in body
    assert "<code>&lt;br&gt;</code>" in body
    assert set(re.findall(r"</?([a-z]+)", body)) <= {
        *("main", "details", "summary", "div", "table", "thead", "tbody", "tr", "th", "td", "br", "p", "b", "code")
    }
    assert not re.search(r"<[a-z]+ (?!class=\"wide\")", body)


def test_tables_of_html_are_tables() -> None:
    """Several labs write their results so; the Hub shows them, without what a page could run."""
    card = (
        '<h3 id="x">Acceptance lengths</h3>\n<table style="background:url(https://tracker.example/a.png)">\n'
        '<tr><th rowspan="2" onclick="alert(1)">Use case</th><th colspan=3 >K</th></tr>\n'
        "<tr><td>Coding</td><td>1.83</td></tr>\n</table>\n\n<form><tdx>x</tdx></form>\n"
    )
    body = preview.page(card, "t").partition("<main>")[2].partition("</main>")[0]
    assert "<h3>Acceptance lengths</h3>" in body and '<div class="wide"><table>' in body
    assert "<tr><th rowspan=2>Use case</th><th colspan=3>K</th></tr>" in body
    assert "<td>Coding</td><td>1.83</td></tr>\n</table></div>" in body
    assert "tracker" not in body and "onclick" not in body and "&lt;form&gt;&lt;tdx&gt;" in body


def test_a_picture_of_a_card_is_shown_with_its_width_and_nothing_else_of_it() -> None:
    shown = chart("τ of “this” & <that>", "charts/a")
    assert shown.startswith(
        '<a href="charts/a.svg"><img src="charts/a.png" alt="τ of “this” &amp; &lt;that&gt;" width="'
    )
    wanted = '<a href="charts/a.svg"><img src="charts/a.png" alt="harmless" width="520"></a>'
    assert wanted in preview.page(f"# A card\n\n{chart('harmless', 'charts/a')}\n", "t")
    for bad in (
        '<img src="charts/a.png" alt="x" width="520" onerror="alert(1)">',
        '<img src="javascript:alert(1)" alt="x" width="520">',
        '<img src="http://tracker.example/a.png" alt="x" width="520">',
        '<a href="javascript:alert(1)">x</a>',
        '<a href="//evil.example/x" ping="y">x</a>',
    ):
        body = preview.page(f"# A card\n\ntext {bad}\n", "t").partition("<main>")[2]
        assert "<img" not in body and "<a href" not in body, bad


def test_metadata_that_cannot_be_read_is_said() -> None:
    assert "<b>metadata</b>" in preview.page("---\na: [\n---\nx", "t")
    assert "<p>no metadata</p>" in preview.page("no metadata", "t")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    card = tmp_path / "site" / "README.md"
    (card.parent / "charts").mkdir(parents=True)
    card.write_text(CARD, encoding="utf-8")
    (card.parent / "charts" / "a.png").write_bytes(b"PNG")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (card.parent / "token.txt").write_text("secret")
    with preview.server(card, 0) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield card, f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return bytes(answer.read())


def test_a_changed_card_changes_its_version(served: tuple[Path, str]) -> None:
    card, at = served
    before = get(f"{at}/version")
    assert before.decode() in get(at).decode()
    card.write_text(CARD + "\nmore words", encoding="utf-8")
    assert get(f"{at}/version") != before
    assert "more words" in get(at).decode()


def test_pictures_beside_the_card_and_nothing_else_are_served(served: tuple[Path, str]) -> None:
    _, at = served
    assert get(f"{at}/charts/a.png") == b"PNG"
    for name in ("token.txt", "README.md", "../secret.png", "%2e%2e/secret.png", "charts/absent.png"):
        with pytest.raises(urllib.error.HTTPError):
            get(f"{at}/{name}")


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        preview.write_page(tmp_path / "absent.md", tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_it_light_and_dark(tmp_path: Path) -> None:
    source = HERE.parent.parent / "examples" / "cards" / "qwen3.5-397b-aq" / "README.md"
    page = tmp_path / "page.html"
    preview.write_page(source, page)
    for theme in ("light", "dark"):
        shown = browse(f"file://{page}?theme={theme}", tmp_path / "profile")
        assert f'data-theme="{theme}"' in shown and "Qwen3.5-397B-A17B-eagle3</h1>" in shown
        assert shown.count("<table>") >= 4


@pytest.mark.slow
@needs_browser
def test_a_browser_reloads_when_the_manifest_changes(tmp_path: Path) -> None:
    """The manifest is changed when the page first asks whether it was, so nothing depends on how fast that is."""
    source = HERE.parent.parent / "examples" / "cards" / "qwen3-8b-specjax"
    folder = Path(shutil.copytree(source, tmp_path / "card"))
    manifest = folder / "release.yaml"
    before = manifest.read_text(encoding="utf-8")
    assert "title: Qwen3-8B-Eagle3\n" in before
    asked = []

    with preview.server(manifest, 0) as made:

        class Changing(made.RequestHandlerClass):  # type: ignore[name-defined, misc]
            def do_GET(self) -> None:
                asked.append(self.path)
                if asked.count("/version") == 1 and self.path == "/version":
                    manifest.write_text(
                        before.replace("title: Qwen3-8B-Eagle3\n", "title: Changed\n"), encoding="utf-8"
                    )
                super().do_GET()

        made.RequestHandlerClass = Changing
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        shown = browse(f"http://127.0.0.1:{made.server_port}/", tmp_path / "profile", "--virtual-time-budget=3000")
        made.shutdown()
        thread.join()
    assert asked.count("/") == 2, "loaded, and reloaded once"
    assert "<h1>Changed</h1>" in shown
