"""Fetching a prompt set: from a server on loopback, into a cache of the test's own."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support import heads, targets
from support.hub_server import HubServer

from eagle3hub.errors import HubError, InputError, OutputError, SourceError, UnavailableError, UsageError
from eagle3hub.prompts import Image, PromptSet, datasets, fetch, is_cached, load_prompts, sets
from eagle3hub.prompts.sets import Rows, _read, parse_prompts, parse_rows

datasets_of_the_package = datasets()

BODY = "".join(
    json.dumps({"question_id": i, "category": "", "turns": [f"Question {i}?", "And then?"]}) + "\n" for i in range(400)
).encode()
Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """Answer requests with the given answers in order, and repeat the last one."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


def whole(handler: BaseHTTPRequestHandler, body: bytes = BODY) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def cut(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    handler.wfile.write(BODY[:1000])


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


def wrong(handler: BaseHTTPRequestHandler) -> None:
    whole(handler, b"<html>Please log in to the hotel's network</html>")


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b"x" * 65536)


def stuck(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    handler.wfile.write(BODY[:10])
    threading.Event().wait(1)


def never_begins(handler: BaseHTTPRequestHandler) -> None:
    for _ in range(1000):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Start a server for the data set ``quiz`` of the test's own datasets.toml."""
    told = Server(answers=[whole])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.paths.append(self.path)
            answer = told.answers.pop(0) if len(told.answers) > 1 else told.answers[0]
            try:
                answer(self)
            except OSError:  # the client hung up, as some of these tests want
                self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None:
            pass

    http = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{http.server_address[1]}"
    toml = tmp_path / "datasets.toml"
    toml.write_text(
        "[quiz]\n"
        'title = "A quiz"\n'
        f'url = "{told.url}/at/{{revision}}/quiz.jsonl"\n'
        'revision = "abc123"\n'
        f'sha256 = "{hashlib.sha256(BODY).hexdigest()}"\n'
        f"bytes = {len(BODY)}\n"
        "prompts = 400\nturns = 2\n"
        'category = "trivia"\n'
        'license = "CC-BY-NC-4.0"\nlicense_stated = "https://quiz.example/terms"\nredistribution = false\n'
    )
    monkeypatch.setattr("eagle3hub.prompts.sets.DATASETS_FILE", toml)
    monkeypatch.setattr("eagle3hub.prompts.fetch._ATTEMPTS", 2)
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield told
    http.shutdown()
    http.server_close()
    thread.join()


def cached(tmp_path: Path) -> list[Path]:
    """Return everything in the cache, under any name."""
    return [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_set_is_fetched_once_and_its_licence_told(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    quiz = datasets()["quiz"]
    assert not is_cached(quiz)
    first = load_prompts("quiz", 3, progress=lambda message, fraction=None: said.append(message))
    assert [p.text for p in first.prompts] == ["Question 0?", "Question 1?", "Question 2?"]
    assert first.categories == {"trivia": 3}
    assert first.name == "quiz"
    assert first.dataset == quiz
    assert server.paths == ["/at/abc123/quiz.jsonl"]
    assert "licence: CC-BY-NC-4.0; not to be passed on (https://quiz.example/terms)" in said[0]
    assert cached(tmp_path) == [quiz.path]
    assert is_cached(quiz)
    assert load_prompts("quiz").prompts[:3] == first.prompts
    assert len(server.paths) == 1


def test_a_connection_that_ends_early_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.answers = [cut, whole]
    assert len(load_prompts("quiz").prompts) == 400
    assert len(server.paths) == 2


@pytest.mark.parametrize(
    ("answer", "requests", "code", "says"),
    [
        (cut, 2, "hub-dataset-cut", "ended after 1,000 of the"),
        (hang_up, 2, "hub-dataset-cut", "ended after 0 of the"),
        (wrong, 1, "hub-dataset-digest", "not the pinned file: 49 bytes"),
        (endless, 1, "hub-dataset-digest", f"not the pinned file: {len(BODY) + 1:,} bytes"),
        (status(404), 1, "hub-dataset-missing", "answered 404"),
        (status(503), 1, "hub-dataset", "answered 503"),
        (never_begins, 1, "hub-dataset", "quiz cannot be fetched: "),
    ],
)
def test_what_fails_keeps_nothing(
    server: Server, tmp_path: Path, answer: Answer, requests: int, code: str, says: str
) -> None:
    server.answers = [answer]
    with pytest.raises(HubError, match=says) as error:
        load_prompts("quiz")
    assert error.value.code == code
    assert error.value.exit_code == 5
    assert f"at $EAGLE3HUB_CACHE/{datasets()['quiz'].cache_name} yourself" in (error.value.hint or "")
    assert len(server.paths) == requests
    assert cached(tmp_path) == []


def test_a_server_that_stands_still(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", 0.1)
    server.answers = [stuck]
    with pytest.raises(HubError, match="took too long") as error:
        load_prompts("quiz")
    assert error.value.code == "hub-dataset-timeout"
    assert cached(tmp_path) == []


def test_a_server_that_drips_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        for byte in BODY[:100]:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            threading.Event().wait(0.03)

    monkeypatch.setattr(fetch, "TIMEOUT", 0.1)
    server.answers = [drip]
    with pytest.raises(HubError, match="took too long"):
        load_prompts("quiz")


def test_without_a_network_the_file_can_be_put_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="quiz is not in the cache and cannot be fetched: Connection refused") as error:
        load_prompts("quiz")
    assert error.value.code == "hub-dataset-offline"
    assert server.paths == []
    path = datasets()["quiz"].path
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert len(load_prompts("quiz").prompts) == 400


def test_a_proxy_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    load_prompts("quiz")
    assert server.paths[0].startswith("http://127.0.0.1")


@pytest.mark.parametrize("damage", [BODY[:-1], BODY + b"\n", BODY.replace(b"Question 1?", b"Question 2?")])
def test_the_cached_file_is_held_to_its_digest_every_time(server: Server, damage: bytes) -> None:
    load_prompts("quiz")
    datasets()["quiz"].path.write_bytes(damage)
    with pytest.raises(InputError, match="pinned quiz") as error:
        load_prompts("quiz")
    assert error.value.code == "prompts-digest"
    assert len(server.paths) == 1


def test_a_cache_that_cannot_be_read_or_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(SourceError, match="Not a directory"):
        load_prompts("quiz")
    (tmp_path / "cache").unlink()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "datasets").symlink_to(tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(OutputError, match="cannot write"):
        load_prompts("quiz")


def test_a_file_of_the_same_name_is_given_by_path(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quiz").write_text('{"question_id": "mine", "category": "c", "turns": ["Hello?"]}')
    assert load_prompts("./quiz").prompts[0].question_id == "mine"
    assert load_prompts("quiz").prompts[0].question_id == 0
    with pytest.raises(UsageError, match="quiz has 400"):
        load_prompts("quiz", 401)


def test_what_the_package_pins_is_complete() -> None:
    sets = datasets()
    assert {"mt_bench", "humaneval", "gsm8k"} <= set(sets)
    for name, one in sets.items():
        assert one.revision in one.url, name
        assert one.url.startswith("https://"), name
        assert one.sha256 is None or len(one.sha256) == 64, name
        assert (one.sha256 is None) == (name in {"mbpp", "ceval", "speed_bench_published"}), name
        assert (one.bytes is None) == (one.sha256 is None or name == "mmstar"), name
        assert (one.category is not None) == (name == "alpaca"), name
        assert name in one.cache_name
        assert one.license_stated.startswith("https://"), name
    assert not sets["alpaca"].redistribution
    assert not sets["sum"].redistribution


# Sets whose digest nobody could state: the first fetch records it.


def unpinned(tmp_path: Path, server: Server, *rows: str) -> None:
    (tmp_path / "datasets.toml").write_text(
        "[quiz]\n"
        'title = "A quiz"\n'
        f'url = "{server.url}/at/{{revision}}/quiz.jsonl"\n'
        'revision = "main"\n'
        "prompts = 400\nturns = 1\n"
        'license = "MIT"\nlicense_stated = "https://quiz.example/terms"\nredistribution = true\n' + "\n".join(rows)
    )
    _read.cache_clear()


def named(handler: BaseHTTPRequestHandler) -> None:
    """An answer that names the commit it comes from, as the Hub's do."""
    handler.send_response(200)
    handler.send_header("X-Repo-Commit", "c0ffee" * 6)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    handler.wfile.write(BODY)


def test_the_first_fetch_records_what_later_ones_are_held_to(server: Server, tmp_path: Path) -> None:
    unpinned(tmp_path, server, 'category = "trivia"')
    server.answers = [named]
    first = load_prompts("quiz")
    assert first.dataset is not None
    assert (first.dataset.sha256, first.dataset.bytes) == (hashlib.sha256(BODY).hexdigest(), len(BODY))
    assert first.dataset.revision == "c0ffee" * 6
    assert first.dataset.to_json()["sha256"] == hashlib.sha256(BODY).hexdigest()
    again = load_prompts("quiz")
    assert again.dataset == first.dataset
    path = datasets()["quiz"].path
    path.write_bytes(BODY + b" ")
    with pytest.raises(InputError, match="pinned quiz") as error:
        load_prompts("quiz")
    assert error.value.code == "prompts-digest"
    path.unlink()
    server.answers = [lambda handler: whole(handler, BODY[:-2] + b"\n\n")]
    with pytest.raises(HubError, match="not the pinned file") as changed:
        load_prompts("quiz")
    assert changed.value.code == "hub-dataset-digest"
    assert not path.exists()


def test_a_file_put_there_by_hand_is_recorded_too(server: Server, tmp_path: Path) -> None:
    unpinned(tmp_path, server, 'category = "trivia"')
    path = datasets()["quiz"].path
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert load_prompts("quiz").dataset.sha256 == hashlib.sha256(BODY).hexdigest()  # type: ignore[union-attr]
    assert server.paths == []
    datasets()["quiz"].pin.write_text("{}")
    with pytest.raises(SourceError, match="cannot read what was recorded of quiz"):
        load_prompts("quiz")


def test_a_file_of_unknown_size_is_bounded(server: Server, tmp_path: Path) -> None:
    unpinned(tmp_path, server, "most_bytes = 1048576")
    server.answers = [endless]
    with pytest.raises(HubError, match="larger than 1 MB"):
        load_prompts("quiz")
    server.answers = [cut]
    with pytest.raises(HubError, match="ended after 1,000 of the"):
        load_prompts("quiz")
    assert cached(tmp_path) == []


# Rows of another form.


MBPP = Rows("{text} Your code should pass:\n{test_list}", "{task_id}", "coding", 2, 3)
ROWS = "".join(
    json.dumps({"task_id": i, "text": f"Do {i}.", "test_list": [f"assert {i}", "assert True"]}) + "\n"
    for i in range(1, 5)
).encode()


def test_rows_of_json_make_prompts() -> None:
    found = parse_rows(ROWS, "x", MBPP)
    assert [(p.question_id, p.category) for p in found] == [("2", "coding"), ("3", "coding")]
    assert found[0].text == "Do 2. Your code should pass:\nassert 2\nassert True"


def a_zip(**members: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/") + ".csv", text)
    return out.getvalue()


def test_csv_files_in_a_zip_make_prompts() -> None:
    rows = datasets()["ceval"].rows
    assert rows is not None
    header = "id,question,A,B,C,D,answer\n"
    raw = a_zip(
        val__law_val=header + '0,"什么, 是？",甲,乙,丙,丁,A\n',
        val__art_val=header + "0,Q,a,b,c,d,B\n",
        test__art_test=header,
    )
    art, law = parse_rows(raw, "ceval", rows)
    assert (art.question_id, art.category) == ("art-0", "art")
    assert law.text == "什么, 是？\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n答案："


@pytest.mark.parametrize(
    ("raw", "rows", "says"),
    [
        (b'{"task_id": 1}\n{"task_id": 2}\n', MBPP, "KeyError"),
        (b"[1]\n", MBPP, "no JSON object"),
        (b"\xff", MBPP, "UnicodeDecodeError"),
        (b"no zip", Rows("{a}", "{a}", "{a}", members="(?P<name>.*)"), "BadZipFile"),
        (a_zip(big="a\n" + "x" * (65 << 20)), Rows("{a}", "{a}", "{a}", members="(?P<name>.*)"), "64 MB"),
    ],
)
def test_files_of_another_form_are_said(raw: bytes, rows: Rows, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        parse_rows(raw, "quiz", rows)
    assert error.value.code == "prompts-rows"


def test_rows_that_leave_nothing_are_said() -> None:
    with pytest.raises(InputError) as error:
        parse_rows(b"", "quiz", MBPP)
    assert error.value.code == "prompts-empty"


def test_math_500_as_the_package_describes_it(server: Server, tmp_path: Path) -> None:
    rows = datasets_of_the_package["math500"].rows
    assert rows is not None
    row = {
        "problem": "What is $1+1$?",
        "answer": "2",
        "subject": "Algebra",
        "level": 1,
        "unique_id": "test/algebra/1.json",
    }
    (found,) = parse_rows(json.dumps(row).encode(), "math500", rows)
    assert (found.question_id, found.category, found.text) == ("test/algebra/1.json", "Algebra", "What is $1+1$?")


def a_table(images: list[Any], **columns: list[Any]) -> bytes:
    """Rows as the Hub has MMStar: the image as an object with its bytes."""
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    columns = {
        "index": [*range(len(images))],
        "question": ["What is it? Options: A: a, B: b"] * len(images),
        **columns,
    }
    columns = {"category": ["math"] * len(images), **columns}
    parquet.write_table(pyarrow.table({**columns, "image": images}), out)
    return out.getvalue()


PNG = targets.picture(0)


def test_mmstar_as_the_package_describes_it(server: Server, tmp_path: Path) -> None:
    described = datasets_of_the_package["mmstar"]
    assert described.cache_name.endswith(".parquet")
    rows = described.rows
    assert rows is not None
    others = [{"bytes": targets.picture(n), "path": f"{n}.png"} for n in (1, 2)]
    first, second, third = parse_rows(a_table([{"bytes": PNG, "path": None}, *others]), "mmstar", rows)
    assert (first.question_id, first.category) == ("0", "math")
    assert first.images == (Image(PNG),)
    picture, text = first.messages[0]["content"]
    assert picture == {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"},
    }
    assert text == {"type": "text", "text": "What is it? Options: A: a, B: b"}
    one, other = PromptSet("mmstar", (first, second)), PromptSet("mmstar", (first, third))
    assert one.sha256 != other.sha256, "only the image differs"
    digests = "".join(f"{hashlib.sha256(image).hexdigest()}\n" for image in (PNG, targets.picture(1)))
    assert one.images is not None
    assert one.images.to_json() == {"count": 2, "sha256": hashlib.sha256(digests.encode()).hexdigest()}
    assert parse_rows(a_table([PNG]), "mmstar", rows)[0].images == (Image(PNG),)


def speed_bench(turns: list[Any]) -> bytes:
    """Rows as the Hub has SPEED-Bench's: eight columns, of which three are read."""
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    ids = [f"{n:032x}" for n in range(len(turns))]
    columns = {
        "question_id": ids,
        "category": ["coding"] * len(ids),
        "sub_category": [None] * len(ids),
        "turns": turns,
        "source": ["https://sets.example/of-another"] * len(ids),
        "src_id": [None if n % 2 else f"test_{n}" for n in range(len(ids))],
        "difficulty": [None] * len(ids),
        "multiturn": [len(one) > 1 for one in turns],
    }
    parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


PLACEHOLDER = "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE USING SPECDEC_BENCH"
MASKED = (
    [PLACEHOLDER],
    [f"{PLACEHOLDER}\n\nSum up:\n{{article}}"],
    [PLACEHOLDER, PLACEHOLDER],
    [f"{PLACEHOLDER}\n\nYou are {{role_name}}.", "And then?"],
)
"""Turns of rows whose text may not be passed on, in the forms that NVIDIA's script fills."""


def test_speed_benchs_published_rows_are_those_with_text(server: Server, tmp_path: Path) -> None:
    described = datasets_of_the_package["speed_bench_published"]
    assert not described.redistribution
    rows = described.rows
    assert rows is not None
    first, second = parse_rows(speed_bench([["First?", "Then?"], *MASKED, ["Only?"]]), "speed_bench_published", rows)
    assert first.turns == ("First?", "Then?")
    assert (second.question_id, second.category, second.turns) == (f"{5:032x}", "coding", ("Only?",))
    with pytest.raises(InputError, match="holds no prompts"):
        parse_rows(speed_bench([*MASKED]), "speed_bench_published", rows)
    for wrong_turns in ([[]], ["text"]):
        with pytest.raises(InputError, match="turns is not a list of texts"):
            parse_rows(speed_bench(wrong_turns), "speed_bench_published", rows)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with SPEED-Bench's 880 rows at the pinned commit, where the package's own entry is pointed."""
    with HubServer() as hub:
        file = tmp_path / "datasets.toml"
        text = sets.DATASETS_FILE.read_text(encoding="utf-8")
        file.write_text(text.replace('url = "https://huggingface.co/', f'url = "{hub.url}/'), encoding="utf-8")
        monkeypatch.setattr("eagle3hub.prompts.sets.DATASETS_FILE", file)
        monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        publish(hub, [MASKED[n % 4] if n % 9 < 5 else [f"Why {n}?", *["And then?"] * (n % 2)] for n in range(880)])
        yield hub


def publish(hub: HubServer, turns: list[Any]) -> None:
    """Put rows into the repository, at the commit that the package pins."""
    pinned = datasets()["speed_bench_published"]
    repo, _, path = pinned.url.removeprefix(f"{hub.url}/").partition(f"/resolve/{pinned.revision}/")
    made = hub.commit(repo, {path: speed_bench(turns)})
    commits = hub.repos[repo].commits
    commits[pinned.revision] = replace(commits[made], oid=pinned.revision)


def test_speed_bench_is_fetched_from_a_hub_once(hub: HubServer) -> None:
    """It answers as the Hub does: a redirect that names the commit, to a host that has the large file."""
    pinned = datasets()["speed_bench_published"]
    found = load_prompts("speed_bench_published")
    assert len(found.prompts) == 390
    assert not [p for p in found.prompts if any("FULL BENCHMARK" in turn for turn in p.turns)]
    assert found.prompts[1].turns == ("Why 6?",)
    assert found.prompts[2].turns == ("Why 7?", "And then?")
    came = found.dataset
    assert came is not None
    assert (came.revision, came.sha256) == (pinned.revision, hashlib.sha256(pinned.path.read_bytes()).hexdigest())
    assert [one.status for one in hub.requests] == [302, 200]
    assert load_prompts("speed_bench_published") == found
    assert len(hub.requests) == 2
    pinned.path.unlink()
    assert load_prompts("speed_bench_published") == found
    pinned.path.unlink()
    publish(hub, [["Something else?"]] * 880)
    with pytest.raises(HubError, match="not the pinned file") as error:
        load_prompts("speed_bench_published")
    assert error.value.code == "hub-dataset-digest"
    assert not pinned.path.exists()


def test_the_commit_of_a_branch_is_what_the_redirect_names(hub: HubServer) -> None:
    pinned = datasets()["ceval"]
    assert pinned.revision == "main"
    rows = "".join(f'{n},"什么？",甲,乙,丙,丁,A\n' for n in range(400))
    repo, _, file = pinned.url.removeprefix(f"{hub.url}/").partition("/resolve/main/")
    made = hub.commit(repo, {file: a_zip(val__law_val=f"id,question,A,B,C,D,answer\n{rows}")})
    found = load_prompts("ceval")
    assert len(found.prompts) == 400
    assert found.dataset is not None
    assert found.dataset.revision == made
    assert [one.status for one in hub.requests] == [302, 200]


@pytest.mark.slow
def test_a_head_is_measured_on_speed_bench(hub: HubServer, tmp_path: Path, cli: Callable[..., Any]) -> None:
    target = targets.save(tmp_path / "target", tokenizer=True, num_hidden_layers=8)
    sizes = heads.dims(hidden=16, inter=24, heads=4, kv=2, head_dim=4, vocab=targets.VOCAB, draft=60)
    taps = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 3, 4]}
    head = heads.specforge(tmp_path / "head", sizes, eagle_config=taps)
    asked = ("bench", head, "--target", target, "--target-name", "owner/target", "--num-prompts", 8)
    asked = (*asked, "--datasets", "speed_bench_published", "--max-new-tokens", 8, "--output", tmp_path / "out")
    status, _, err = cli(*asked)
    assert status == 1, "weights at random get nothing accepted"
    assert "licence: NVIDIA Evaluation Dataset License" in err
    written = (tmp_path / "out" / "results.json").read_text(encoding="utf-8")
    pinned = datasets()["speed_bench_published"]
    (cell,) = json.loads(written)["cells"]
    assert cell["prompts"]["source"]["revision"] == pinned.revision
    assert cell["prompts"]["source"]["sha256"] == hashlib.sha256(pinned.path.read_bytes()).hexdigest()
    assert cell["prompts"]["count"] == 8
    texts = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert not [file for file, text in texts.items() if b"Why 5?" in text], "the licence keeps it in the cache"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"no table", "Parquet"),
        (a_table([b"GARBAGE"]), "neither PNG"),
        (a_table(["text"]), "is str, not bytes"),
        (a_table([b"\xff\xd8\xff" + bytes(33 << 20)]), "larger than 32 MB"),
    ],
)
def test_tables_and_images_of_another_form_are_said(raw: bytes, says: str) -> None:
    rows = datasets_of_the_package["mmstar"].rows
    assert rows is not None
    with pytest.raises(InputError, match=says) as error:
        parse_rows(raw, "mmstar", rows)
    assert error.value.code == "prompts-rows"


def test_a_table_that_unpacks_to_too_much_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "_MOST_TABLE", 100)
    rows = datasets_of_the_package["mmstar"].rows
    assert rows is not None
    with pytest.raises(InputError, match="unpacked"):
        parse_rows(a_table([PNG]), "mmstar", rows)


def test_a_table_needs_a_package_that_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets_of_the_package["mmstar"].rows
    assert rows is not None
    raw = a_table([PNG])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnavailableError, match="pyarrow reads") as error:
        parse_rows(raw, "mmstar", rows)
    assert error.value.code == "prompts-parquet"


def test_a_pinned_digest_without_a_size_is_held(server: Server, tmp_path: Path) -> None:
    table = a_table([PNG])
    toml = tmp_path / "datasets.toml"
    unpinned(tmp_path, server, f'sha256 = "{hashlib.sha256(table).hexdigest()}"', "most_bytes = 65536")
    toml.write_text(
        toml.read_text() + '\n[quiz.rows]\ntext = "{question}"\nquestion_id = "{index}"\ncategory = "{category}"\n'
        'parquet = true\nimage = "image"\n'
    )
    _read.cache_clear()
    server.answers = [wrong, lambda handler: whole(handler, table)]
    with pytest.raises(HubError, match=r"not the pinned file: .* with SHA-256 [0-9a-f]{16}…, not [0-9a-f]{16}…;"):
        load_prompts("quiz")
    assert load_prompts("quiz").prompts[0].images == (Image(PNG),)
    datasets()["quiz"].path.write_bytes(b"other")
    with pytest.raises(InputError, match=r"the pinned quiz has [0-9a-f]{16}…"):
        load_prompts("quiz")


def test_lines_name_images_beside_their_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(PNG)
    (tmp_path / "out.png").write_bytes(PNG)
    file = tmp_path / "in" / "seen.jsonl"

    def read(*images: object) -> tuple[Image, ...]:
        row = {"question_id": 1, "category": "x", "turns": ["?"], "images": list(images)}
        file.write_text(json.dumps(row))
        return load_prompts(file).prompts[0].images

    address = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert read("a.png", address) == (Image(PNG), Image(PNG))
    for images, says in (
        (("../out.png",), "not in the folder of the prompts"),
        ((str(tmp_path / "out.png"),), "not in the folder of the prompts"),
        (("b.png",), "cannot be read: No such file"),
        ((1,), "images is not a list of names of files"),
        (("seen.jsonl",), "neither PNG"),
        (("data:image/png,abc",), "is not base64"),
        (("data:image/png;base64,*",), "line 1: "),
    ):
        with pytest.raises(InputError, match=says) as error:
            read(*images)
        assert error.value.code == "prompts-line"
    with pytest.raises(InputError, match="no folder is known"):
        parse_prompts(file.read_bytes().replace(b"data:", b"x"), "quiz")


def test_the_messages_that_speed_bench_prepares_are_turns(tmp_path: Path) -> None:
    file = tmp_path / "qualitative.jsonl"
    messages = [{"role": "user", "content": "First?"}, {"role": "user", "content": "Second?"}]
    file.write_text(json.dumps({"question_id": "q1", "category": "coding", "messages": messages}))
    (found,) = load_prompts(file).prompts
    assert found.turns == ("First?", "Second?")
    file.write_text(json.dumps({"question_id": "q1", "category": "coding", "messages": [{"role": "system"}]}))
    with pytest.raises(InputError, match="line 1: turns"):
        load_prompts(file)


@pytest.mark.parametrize("place", ["turns", "messages"])
def test_a_prompt_of_speed_bench_that_was_not_fetched_is_refused(tmp_path: Path, place: str) -> None:
    """Of its 880 published rows 494 hold this in place of their text."""
    file, masked = (
        tmp_path / "qualitative.jsonl",
        "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE USING SPECDEC_BENCH",
    )
    rows = []
    for number, text in enumerate(["Why is the sky blue?", masked], start=1):
        turns = [text] if place == "turns" else [{"role": "user", "content": text}]
        rows.append(json.dumps({"question_id": f"q{number}", "category": "coding", place: turns}))
    file.write_text("\n".join(rows))
    with pytest.raises(InputError, match="line 2: SPEED-Bench's placeholder") as found:
        load_prompts(file)
    assert found.value.code == "prompts-placeholder"


def test_a_category_stands_in_only_where_there_is_none() -> None:
    raw = b'{"question_id": 1, "category": "own", "turns": ["a"]}\n{"question_id": 2, "category": "", "turns": ["b"]}'
    assert [p.category for p in parse_prompts(raw, "x", category="given")] == ["own", "given"]
    with pytest.raises(InputError, match="line 2: category"):
        parse_prompts(raw, "x")
