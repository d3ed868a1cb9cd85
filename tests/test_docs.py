"""The documentation says what the code does."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from support.browser import browse, needs_browser
from support.commands import blocks, leaves, root
from support.scripts import load_script

from eagle3hub._version import __version__
from eagle3hub.layouts import LAYOUTS
from eagle3hub.layouts.base import FEATURES, Need
from eagle3hub.lint import RULES

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return load_script(DOCS / "generate.py")


def test_the_tables_are_what_the_contracts_say(generate: ModuleType):
    assert generate.main(["--check"]) == 0, "run python docs/generate.py"


def test_every_layout_and_every_feature_is_in_them(generate: ModuleType):
    page = generate.PAGE.read_text()
    for name, layout in LAYOUTS.items():
        assert f"{layout.contract.title} (`{name}`)" in page
    for feature in FEATURES:
        assert f"| {feature.title} | `refused-{feature.name.replace('_', '-')}` |" in page
    reasons = [
        reason
        for layout in LAYOUTS.values()
        for feature, reason in layout.contract.cannot.items()
        if feature not in layout.contract.expresses
    ]
    assert reasons
    assert all(reason in page for reason in reasons)


@pytest.mark.parametrize(
    "change",
    [
        {"tensor_prefix": "elsewhere."},
        {"reads": ("nothing",)},
        {"writes": "nothing"},
        {"expresses": frozenset()},
        {"vocab_dtype": "I16"},
        {"metadata": {"format": "np"}},
        {"aux_ids": "nowhere"},
        {"needs": (Need("patience", "--wait", "refused-impatient"),)},
        {"cannot": {"unsorted_vocabulary": "it says so"}, "expresses": frozenset()},
    ],
)
def test_a_change_of_a_contract_shows(generate: ModuleType, change: dict):
    page = generate.PAGE.read_text()
    layouts = {
        name: SimpleNamespace(name=name, contract=replace(layout.contract, **change))
        if name == "speculators"
        else layout
        for name, layout in LAYOUTS.items()
    }
    assert generate.filled(page, layouts) != page


def test_the_schema_has_the_layouts_of_the_registry_in_both_places(generate: ModuleType):
    schema = json.loads(generate.filled_schema(generate.MANIFEST_SCHEMA.read_text(), ["one", "two"]))
    layouts = schema["properties"]["layouts"]["properties"]
    assert layouts["main"]["enum"] == layouts["also"]["items"]["enum"] == ["one", "two"]


def test_a_missing_table_is_an_error(generate: ModuleType):
    for fill in (generate.filled, generate.filled_lint, generate.filled_cli):
        with pytest.raises(ValueError, match="the generator knows"):
            fill("<!-- table: spelling -->\n<!-- end -->")


def test_every_rule_of_the_linter_is_documented(generate: ModuleType):
    page = generate.LINT_PAGE.read_text()
    for code, rule in RULES.items():
        assert f"| {code} | {rule.severity} | **{rule.title}.** {rule.why} *{rule.fix}* |" in page


@pytest.mark.parametrize("change", [{"title": "T"}, {"why": "W."}, {"fix": "F."}, {"severity": "info"}])
def test_a_change_of_a_rule_shows(generate: ModuleType, change: dict):
    page = generate.LINT_PAGE.read_text()
    rules = {**RULES, "C101": replace(RULES["C101"], **change)}
    assert generate.filled_lint(page, rules) != page


def test_every_command_and_option_is_documented(generate: ModuleType):
    page = generate.CLI_PAGE.read_text()
    for name, command in leaves(root()):
        section = page.partition(f"\n## eagle3hub {name}\n")[2].partition("\n## ")[0]
        assert section, name
        assert all(f"`{option}`" in section for p in command.params for option in p.opts if option.startswith("-"))


def test_a_change_of_a_command_shows(generate: ModuleType):
    page = generate.CLI_PAGE.read_text()
    changed = root()
    assert generate.filled_cli(page, changed) == page
    changed.commands["engines"].commands["install"].params[1].default = "cuda"
    assert generate.filled_cli(page, changed) != page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as `make docs` builds it."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=DOCS.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_every_page_and_no_link_that_leads_nowhere(site: Path):
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")}
    assert pages <= {page.relative_to(site) for page in site.rglob("*.html")}


@pytest.mark.slow
def test_the_site_asks_nothing_of_other_hosts(site: Path):
    for page in ("index.html", "trainers/specjax.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"?([^\" >]+)", (site / page).read_text()
        )
        assert loaded and not [address for address in loaded if "//" in address]


@pytest.mark.slow
@needs_browser
def test_the_site_can_be_searched_where_its_pages_are_opened_as_files(site: Path, tmp_path: Path):
    page = site / "trainers/specjax.html"
    shown = browse(f"file://{page}?q=acceptance", tmp_path / "profile", "--virtual-time-budget=60000")
    found = re.search(r'class="md-search-result__meta">(\d+) matching documents', shown)
    assert found is not None and int(found[1]) > 5
    assert "measuring.html?h=acceptance" in shown


def test_the_citation_is_of_this_version_and_of_the_bibliography():
    citation = yaml.safe_load((DOCS.parent / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    paper = citation["references"][0]
    entry = (DOCS.parent / "eagle3hub" / "card" / "bibliography.bib").read_text().partition("{eagle3,")[2]
    authors = " and ".join(f"{a['given-names']} {a['family-names']}" for a in paper["authors"])
    for said in (paper["title"], authors, paper["collection-title"], str(paper["year"]), paper["url"]):
        assert said in entry.partition("\n}")[0]


def test_links_between_the_pages_lead_somewhere():
    pages = [*DOCS.rglob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"]
    for page in pages:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_code_of_a_recipe_check_is_documented():
    package = DOCS.parent / "eagle3hub" / "engines"
    text = "".join(path.read_text() for path in (package / "check").glob("*.py"))
    codes = set(re.findall(r'Finding\(\s*"([a-z-]+)"', text)) | set(
        re.findall(r'unknown\(\s*"?\w+"?, "([a-z-]+)"', text)
    )
    for path in package.glob("data/*/common.toml"):
        codes |= set(re.findall(r'^code = "([a-z-]+)"', path.read_text(), re.MULTILINE))
    assert len(codes) > 15
    page = (DOCS / "engines.md").read_text()
    assert not [code for code in codes if f"`{code}`" not in page]


def test_the_picture_of_inspect_shows_what_the_page_shows():
    """The block of README.md is run and holds; `make pictures` makes the picture anew."""
    page = [command for block in blocks(DOCS.parent / "README.md") for command in block.commands]
    (command,) = [one for one in page if one.line.startswith("eagle3hub inspect ")]
    svg = (DOCS / "images" / "inspect.svg").read_text()
    shown = html.unescape("".join(re.findall(r"<text [^>]*>([^<]*)</text>", svg)))
    assert "".join(shown.split()) == "".join(f"$ {command.line} {' '.join(command.printed)}".split())
    assert not re.findall(r"https?://(?!www\.w3\.org)", svg)
