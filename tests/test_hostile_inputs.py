"""Whatever lies where a command reads: one sentence, an exit status that says whose fault it is, and no wait."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from support import heads

from eagle3hub.card.imported import find
from eagle3hub.cli import app
from eagle3hub.errors import ManifestError
from eagle3hub.system.documents import ecma_pattern, schema_faults
from eagle3hub.system.reading import open_regular, read_bytes
from eagle3hub.system.resources import data_path

PATIENCE = 60
EXPECTED = {0, 1, 2, 3, 4, 5}
RAW = {
    "nothing": b"",
    "no UTF-8": b"\xff\xfe\x00\x01",
    "deep lists": b"[" * 3_000,
    "deep objects": b'{"a":' * 3_000,
    "a long number": b"1" * 6000,
    "null": b"null",
    "a list": b"[[]]",
    "a NUL": b"\x00",
    "half a pair": b'"\\ud800"',
    "half a pair inside": b'{"architectures": ["\\ud800"], "schema": "\\udfff", "a\\u0000b": "\\ud800"}',
    "too large a number": b'{"hidden_size": 1e999, "size": NaN}',
    "an anchor in itself": b"a: &a [*a]\n",
    "a tag": b"!!python/object:os.system x\n",
    "a key that is a list": b"? [a]\n: b\n",
    "a BOM": b"\xef\xbb\xbf{}",
    "a size that is text": b'{"files": [{"path": "a", "size": "big", "sha256": 3}], "head": {"files": "big"}}',
}
Argv = list[str]
DIGEST = "sha256:" + "0" * 64
READS: dict[str, list[str]] = {
    "head/config.json": [
        "inspect head",
        "diff head other",
        "diff other head",
        "convert head x --to specjax --dry-run",
        "recipe head --target alice/t",
        "validate head --target target",
        "card init head --target a/b --output new.yaml",
        "bench head --target target --datasets smoke",
    ],
    "head/model.safetensors": [
        "inspect head",
        "diff head other",
        "convert head x --to specjax --dry-run",
    ],
    "head/model.safetensors.index.json": [
        "inspect head",
        "diff head other",
    ],
    "head/eagle3hub.json": [
        "inspect head",
        "diff other head",
        "convert other head --to specjax --force --dry-run",
        "publish head --repo a/b --dry-run",
    ],
    "head/release.json": [
        "convert other head --to specjax --force --dry-run",
        "verify head --digest DIGEST",
    ],
    "head/README.md": [
        "card head --check",
        "card preview head --output page.html",
        "publish head --repo a/b --dry-run",
    ],
    "head/SHA256SUMS": [
        "verify head --digest DIGEST",
        "publish head --repo a/b --dry-run",
    ],
    "head/model.sig": [
        "publish head --repo a/b --dry-run",
    ],
    "head/hf_quant_config.json": [
        "inspect head",
    ],
    "target/config.json": [
        "inspect head --target target",
        "convert head x --to specjax --target target --dry-run",
        "validate head --target target",
    ],
    "target/tokenizer.json": [
        "validate head --target target --num-prompts 1",
    ],
    "target/tokenizer_config.json": [
        "validate head --target target --num-prompts 1",
    ],
    "target/generation_config.json": [
        "validate head --target target --num-prompts 1",
    ],
    "release.yaml": [
        "card release.yaml",
        "card release.yaml --check",
        "release release.yaml --until convert",
        "card preview release.yaml --output page.html",
        "publish head --repo a/b --manifest release.yaml --dry-run",
        "validate head --target target --manifest release.yaml",
    ],
    "report.json": [
        "card release.yaml --report report.json",
        "engines check report.json",
    ],
    "note.md": [
        "card note.md --check",
        "engines check note.md",
    ],
    "recipe.yaml": [
        "engines check recipe.yaml",
    ],
    "prompts.jsonl": [
        "validate head --target target --prompts prompts.jsonl",
        "bench head --target target --datasets prompts.jsonl",
    ],
    "responses.jsonl": [
        "validate head --target target --responses responses.jsonl",
    ],
    "reference.yaml": [
        "validate head --target target --acceptance-reference reference.yaml",
    ],
    "states/states.json": [
        "validate head --target target --hidden-states states",
    ],
    "results/results.json": [
        "bench head --target target --datasets smoke --output results --resume",
    ],
    "map.bin": [
        "convert head x --to specjax --d2t map.bin --dry-run",
    ],
    "embeddings.safetensors": [
        "convert head x --to specjax --include-embeddings embeddings.safetensors --dry-run",
    ],
    "key.pem": [
        "publish head --repo a/b --sign key.pem --dry-run",
    ],
    "templates/card.md.j2": [
        "card release.yaml --templates templates",
    ],
}
"""What every command reads, by where it lies."""


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """A read that never ends is a failure, and not the end of the tests."""

    def late(*_: object) -> None:
        pytest.fail(f"it went on for {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, late)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A head, another, their target and a manifest, all of them tiny; the working directory."""
    heads.specforge(tmp_path / "head")
    heads.specforge(tmp_path / "other")
    heads.target(tmp_path / "target")
    (tmp_path / "release.yaml").write_text(
        "schema: eagle3hub/manifest/1\nhead: {source: head}\ntarget: {id: alice/target, license: mit, path: target}\n"
        "release: {repo: alice/head, title: T, summary: S, license: mit}\nlayouts: {main: specforge}\n"
        "speculative_tokens: 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def says(argv: str | Argv, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    words = argv.replace("DIGEST", DIGEST).split() if isinstance(argv, str) else argv
    signal.alarm(PATIENCE)
    status = app._run(words)
    signal.alarm(0)
    printed = capsys.readouterr()
    assert status in EXPECTED, printed.err
    assert "bug in eagle3hub" not in printed.err
    assert "Traceback" not in printed.err
    waits = "asking the Hub"  # told only where it takes long
    return status, "".join(line for line in printed.err.splitlines(True) if not line.startswith(waits))


@pytest.mark.parametrize("raw", RAW)
@pytest.mark.parametrize("file", READS)
def test_hostile_bytes(file: str, raw: str, place: Path, capsys: pytest.CaptureFixture[str]):
    (place / file).parent.mkdir(exist_ok=True)
    (place / file).write_bytes(RAW[raw])
    for argv in READS[file]:
        says(argv, capsys)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": lambda path: listen(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


def listen(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is short
    made.bind(path.name)
    os.chdir(here)
    made.close()
    return made


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("file", READS)
def test_what_is_no_file_is_not_read(file: str, kind: str, place: Path, capsys: pytest.CaptureFixture[str]):
    path = place / file
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    SPECIAL[kind](path)
    for argv in READS[file]:
        status, err = says(argv, capsys)
        if status != 0:
            assert err.count("error: ") == 1 or "refused" in err or not err
        else:
            assert file.startswith(("head/", "target/", "templates/"))


@pytest.mark.parametrize(
    "file",
    [
        "release.yaml",
        "report.json",
        "note.md",
        "prompts.jsonl",
        "reference.yaml",
        "target/config.json",
        "head/config.json",
    ],
)
def test_a_pipe_is_named_as_one(file: str, place: Path, capsys: pytest.CaptureFixture[str]):
    (place / file).unlink(missing_ok=True)
    os.mkfifo(place / file)
    status, err = says(READS[file][0], capsys)
    assert status == 3
    assert "it is a pipe, not a file: write its content to a file first" in err, err


@pytest.mark.slow
def test_process_substitution_is_refused_with_a_way_out(place: Path):
    """`--prompts <(…)` is a pipe, and prompts are read more than once."""
    argv = f"{sys.executable} -m eagle3hub validate head --target target --prompts <(echo '{{}}')"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(["bash", "-c", argv], capture_output=True, text=True, env=env, timeout=PATIENCE)
    assert done.returncode == 3
    assert "it is a pipe, not a file: write its content to a file first" in done.stderr


def test_nothing_but_files_is_opened(tmp_path: Path):
    for kind, make in SPECIAL.items():
        path = tmp_path / kind.replace(" ", "-")
        make(path)
        with pytest.raises(OSError, match="Errno"):
            open_regular(path)
    for name in ("a\0b", "\ud800"):
        with pytest.raises(OSError, match="no file can have such a name"):
            open_regular(tmp_path / name)
    (tmp_path / "file").write_bytes(b"123")
    assert read_bytes(tmp_path / "file", 3) == b"123"
    with pytest.raises(OSError, match="larger than 2 bytes"):
        read_bytes(tmp_path / "file", 2)


@pytest.mark.parametrize(
    "argv",
    [
        "inspect a\0b",
        "inspect head --target a\0b",
        "convert head a\0b --to specjax",
        "card a\0b",
        "card a\0b --check",
        "engines check a\0b",
        "diff head a\0b",
        "release a\0b",
        "publish a\0b --repo a/b",
        "verify a\0b --digest x",
        "card preview a\0b",
        "card init head --target a/b --output a\0b",
        "validate head --target target --report a\0b",
        "validate head --target target --prompts a\0b",
        "inspect \ud800",
        "convert head \ud800 --to specjax",
    ],
)
def test_a_name_that_no_file_can_have(argv: str, place: Path, capsys: pytest.CaptureFixture[str]):
    assert says(argv, capsys)[0] in (2, 3)


@pytest.mark.parametrize(
    "field", ["head: {source: X}", "reports: [X]", "reports: [reports/*.json, X]", "imported: [X]", "benchmarks: [X]"]
)
@pytest.mark.parametrize("value", ['"a\\0b"', '"\\uD800"', '"/**/*"', '"/*/*/*/*/*"', '"../../../../../**"'])
def test_hostile_paths_of_a_manifest(field: str, value: str, place: Path, capsys: pytest.CaptureFixture[str]):
    text = (place / "release.yaml").read_text().replace("head: {source: head}\n", "")
    (place / "release.yaml").write_text(text + field.replace("X", value) + "\n")
    begun = time.monotonic()
    says(["card", "release.yaml"], capsys)
    assert time.monotonic() - begun < PATIENCE / 2


@pytest.mark.slow
def test_a_pattern_does_not_search_the_disk(tmp_path: Path):
    (tmp_path / "reports" / "deep").mkdir(parents=True)
    for name in ("a.json", "b.json", ".hidden.json", "deep/c.json"):
        (tmp_path / "reports" / name).touch()
    (tmp_path / "reports" / "loop").symlink_to(tmp_path)

    def found(*patterns: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in find(tmp_path, patterns)]

    assert (
        found("reports/*.json") == found("reports/[ab].json", "reports/?.json") == ["reports/a.json", "reports/b.json"]
    )
    assert (
        found("reports/**/*.json") == found("**/*.json") == ["reports/a.json", "reports/b.json", "reports/deep/c.json"]
    )
    assert found("reports/.*.json") == ["reports/.hidden.json"]
    assert found(str(tmp_path / "reports" / "a.json"), "nowhere/*", "reports/a.json") == ["reports/a.json"]
    for pattern in ("/**/*", "/*/*/*/*/*/*", "/**/*.no-such-name"):
        with pytest.raises(ManifestError, match="would look at more than") as error:
            find(tmp_path, [pattern])
        assert error.value.code == "manifest-pattern"


def schemas() -> list[Path]:
    return sorted(data_path("schemas").glob("*.json"))


def patterns(document: object) -> Iterator[str]:
    if isinstance(document, dict):
        if isinstance(document.get("pattern"), str):
            yield document["pattern"]
        for value in document.values():
            yield from patterns(value)
    elif isinstance(document, list):
        for value in document:
            yield from patterns(value)


@cache
def text_that_fits(pattern: str) -> str:
    from hypothesis import Phase, settings
    from hypothesis import find as example
    from hypothesis import strategies as st

    any_will_do = settings(phases=[Phase.generate], database=None)  # the smallest takes thousands of tries
    return example(st.from_regex(ecma_pattern(pattern)), lambda _: True, settings=any_will_do)


@pytest.mark.parametrize("path", schemas(), ids=lambda path: path.name.split(".")[0])
def test_no_pattern_takes_a_line_break_at_the_end(path: Path):
    for pattern in set(patterns(json.loads(path.read_text()))):
        assert pattern.startswith("^")
        assert pattern.endswith("$")
        fitting = text_that_fits(pattern)
        assert list(schema_faults(fitting, {"type": "string", "pattern": pattern})) == []
        assert list(schema_faults(fitting + "\n", {"type": "string", "pattern": pattern})) != [], pattern


def test_patterns_are_those_of_json_schema():
    assert not ecma_pattern(r"^\d+$").search("٣")
    assert not ecma_pattern("^a$").search("a\n")
    assert ecma_pattern(r"^[$]\$x$").search("$$x")


def test_a_document_that_fitted_is_held_to_another_schema_and_again_when_it_changed():
    number, text = {"type": "array", "items": {"type": "integer"}}, {"type": "array", "items": {"type": "string"}}
    document: list[object] = [1]
    for schema in (number, number, text, number):
        assert bool(list(schema_faults(document, schema))) == (schema is text)
    for other in (1.0, True, "1", [1]):
        document[0] = other
        assert list(schema_faults(document, number)), other


@pytest.mark.slow
@pytest.mark.parametrize("limit", [200, 260, 320])
def test_low_memory_is_said(limit: int, place: Path):
    """Under a limit on its memory a command ends with a sentence, wherever the limit strikes."""
    big = heads.specforge(place / "big", heads.dims(hidden=512, inter=2048, vocab=60_000, draft=30_000))
    del big

    def low() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit << 20, limit << 20))

    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "eagle3hub", "diff", "big", "big"],
        capture_output=True, text=True, env=env, preexec_fn=low, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode in (0, 4), done.stderr
    assert done.returncode == 0 or "error: there is not enough memory for this" in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("x.so: failed to map segment from shared object"),
    ],
)
def test_what_libraries_say_of_low_memory(
    error: Exception, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("eagle3hub.layouts.open_head", fails)
    monkeypatch.setattr("eagle3hub.inspection.open_head", fails, raising=False)
    monkeypatch.setattr("eagle3hub.cli.inspect.open_head", fails, raising=False)
    status, err = says(["inspect", "head"], capsys)
    assert (status, "not enough memory" in err) == (4, True), err
