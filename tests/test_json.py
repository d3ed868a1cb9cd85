"""Every document that a command prints with --json: its schema, and the page that shows it."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import documents, heads
from support.commands import leaves, root

from eagle3hub.system.documents import schema_faults

ROOT = Path(__file__).parent.parent
CARDS = ROOT / "examples" / "cards"
FIXTURES = ROOT / "tests" / "card" / "fixtures"
REPORT = ROOT / "tests" / "validation" / "fixtures" / "report-three-engines.json"
Cli = Callable[..., tuple[int, str, str]]
SCHEMAS = documents.schemas()
PRINTED = {name for name in SCHEMAS if documents.commands_of(name)}
WITH_JSON = {
    f"eagle3hub {name}" for name, command in leaves(root()) if any("--json" in p.opts for p in command.params)
}


def without_a_schema(commands: set[str]) -> set[str]:
    return commands - {command for name in SCHEMAS for command in documents.commands_of(name)}


def test_every_command_with_json_has_a_schema():
    assert len(WITH_JSON) > 20
    assert without_a_schema(WITH_JSON) == set()
    assert without_a_schema({"eagle3hub whoami"}) == {"eagle3hub whoami"}


def test_every_command_of_a_schema_exists_and_every_printed_name_has_one():
    named = {command for name in PRINTED for command in documents.commands_of(name)}
    assert named - {"eagle3hub"} == WITH_JSON
    assert set(printed_by_the_code()) == PRINTED


def printed_by_the_code() -> Iterator[str]:
    """The names that ``emit`` and ``print_json`` are given."""
    for path in (ROOT / "eagle3hub" / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("emit", "print_json"):
                yield from (
                    n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant) if n.value in SCHEMAS
                )


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_schema_is_named_as_its_file(name: str):
    says = SCHEMAS[name]["properties"].get("schema", {"const": f"eagle3hub/{name}/1"})
    assert says["const"].startswith(f"eagle3hub/{name}/")
    assert name not in PRINTED or "schema" in SCHEMAS[name]["required"]


def places(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every object below a schema, by where it is in it."""
    if isinstance(schema, dict):
        yield path, schema
        for key, inner in schema.items():
            yield from places(inner, f"{path}/{key}")
    elif isinstance(schema, list):
        for i, inner in enumerate(schema):
            yield from places(inner, f"{path}/{i}")


OPEN = ("config", "scaling", "contract", "measurement_conditions", "evidence", "flags", "report")
"""Mappings that others define: configs, the arguments of engines, what a gate compares."""


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_every_object_of_a_schema_names_its_keys_and_every_key_has_a_meaning(name: str):
    for path, inner in places(SCHEMAS[name]):
        if path.endswith("/properties"):
            silent = [key for key, field in inner.items() if not field.get("description") and "$ref" not in field]
            assert not silent or name in ("bench", "matrix", "report", "serving", "imported"), f"{path}: {silent}"
        kinds = inner.get("type", ()) if isinstance(inner, dict) else ()
        if "object" in kinds and "engine_settings" not in path and path.rpartition("/")[2] not in OPEN:
            assert "additionalProperties" in inner, path
        if (
            "properties" in inner
            and "/properties/properties" not in path
            and inner.get("additionalProperties") is False
        ):
            assert set(inner.get("required", ())) <= set(inner["properties"]), path


@pytest.fixture
def head(example_head: Path) -> Path:
    return example_head


LINES: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "HEAD"),
    "convert": ("convert", "HEAD", "OUT", "--to", "specforge", "--target", "TARGET", "--dry-run"),
    "diff": ("diff", "HEAD", "HEAD"),
    "recipe": ("recipe", "HEAD", "--target", "TARGET", "--engine", "vllm"),
    "profile": ("profile", str(REPORT)),
    "profile-dynamo": ("profile", str(REPORT), "--to", "dynamo"),
    "card": ("card", "write", str(CARDS / "qwen3-8b-specjax" / "release.yaml")),
    "lint": ("card", "--check", str(CARDS / "qwen3-8b-specjax" / "README.md")),
    "imported": ("card", "import", str(FIXTURES / "imported" / "vllm-bench.json"), "--measured-by", "the authors"),
    "engines": ("engines", "list"),
    "engine-removed": ("engines", "remove", "vllm"),
    "check": ("engines", "check", str(CARDS / "qwen3-8b-specjax" / "README.md"), "--data-only"),
    "doctor": ("engines", "doctor", "trtllm"),
    "datasets": ("bench", "--list-datasets"),
    "whole-digest": ("verify", "HEAD", "--print-whole-digest"),
    "error": ("inspect", "OUT"),
}


def document_of(name: str, head: Path, tmp_path: Path, cli: Cli) -> dict[str, Any]:
    words = {
        "HEAD": head,
        "OUT": tmp_path / "nothing",
        "TARGET": heads.target(tmp_path / "t", heads.dims(hidden=576, vocab=49152)),
    }
    _, out, _ = cli(*(words.get(word, word) for word in LINES[name]), "--json")
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture(autouse=True)
def no_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", LINES)
def test_a_document_says_its_schema_first_and_the_schema_notices_a_changed_key(
    name: str, head: Path, tmp_path: Path, cli: Cli
):
    document = document_of(name, head, tmp_path, cli)
    assert next(iter(document)) == "schema"
    assert document["schema"] == SCHEMAS[name]["properties"]["schema"]["const"]
    assert list(schema_faults(document, SCHEMAS[name])) == []
    for key in document:
        missing, misnamed = copy.deepcopy(document), copy.deepcopy(document)
        del missing[key]
        misnamed[f"{key}s"] = misnamed.pop(key)
        assert list(schema_faults(misnamed, SCHEMAS[name])), f"{key}s for {key}"
        assert list(schema_faults(missing, SCHEMAS[name])) or key not in SCHEMAS[name]["required"], key


def test_what_does_not_fit_is_noticed_where_it_is_printed(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(AssertionError, match="removd"):
        documents.hold(
            "engine-removed", {"engine": "vllm", "device": "cpu", "removd": True}, "eagle3hub engines remove"
        )
    with pytest.raises(AssertionError, match="does not name eagle3hub inspect"):
        documents.hold("cancelled", {"cancelled": "a/b"}, "eagle3hub inspect")
    monkeypatch.setattr("eagle3hub.engines.environments.remove_environment", lambda *_: "yes")
    with pytest.raises(AssertionError, match='removed is "yes"'):
        cli("engines", "remove", "vllm", "--json")


def test_what_a_task_printed_is_a_part_of_what_is_collected(head: Path, tmp_path: Path, cli: Cli):
    """A release that ran on a cluster printed its document with its schema; of several heads each has none."""
    (tmp_path / "release.yaml").write_text(
        f"schema: eagle3hub/manifest/1\nhead: {{source: {head}}}\ntarget: {{id: a/b, license: mit, path: t}}\n"
        "release: {repo: alice/head, title: T, summary: S, license: mit}\n"
        "layouts: {main: specforge}\nspeculative_tokens: 3\n"
        "training: {framework: f, data: d, hardware: h}\nlimitations: [short]\n"
    )
    heads.target(tmp_path / "t", heads.dims(hidden=576, vocab=49152))
    status, out, err = cli("release", tmp_path / "release.yaml", "--until", "convert", "--json")
    assert status == 0, out + err
    printed = json.loads(out)
    assert printed["schema"] == "eagle3hub/released/1"
    documents.hold("measured-layouts", {"layouts": [printed], "then": ["eagle3hub", "release"]}, None)
    del printed["schema"]
    documents.hold("released-heads", {"heads": [printed]}, None)


def test_a_failure_prints_one_document_with_its_status(tmp_path: Path, cli: Cli):
    for argv in (["inspect", tmp_path / "nothing"], ["inspect"], ["inspect", "x", "--nope"], ["nope"]):
        status, out, err = cli(*argv, "--json")
        document = json.loads(out)
        assert (document["schema"], document["error"]["exit_code"], err) == ("eagle3hub/error/1", status, "")


def test_every_command_says_its_exit_statuses():
    silent = [name for name, command in leaves(root()) if "Exit status: " not in " ".join(command.help.split())]
    assert silent == []


def test_a_part_that_is_copied_is_as_in_its_own_schema():
    for name, schema in SCHEMAS.items():
        for part, inner in schema.get("$defs", {}).items():
            source, _, path = inner.get("x-copied-from", "#").partition("#")
            if source and path:
                there: Any = SCHEMAS[source]
                for step in path.split("/")[1:]:
                    there = there[step]
                assert {**there, "x-copied-from": inner["x-copied-from"]} == inner, f"{name}: {part}"
