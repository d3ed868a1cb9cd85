"""Attaching to a running server: its possible answers and their results; test_on_servers has real servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.standin_server import StandIn, standing_in
from support.versions import SGLANG, VLLM

from eagle3hub.engines.base import EngineFailure, EngineRun, RunSpec
from eagle3hub.engines.endpoints import attach
from eagle3hub.engines.endpoints.dialects import ServerSettings, compare_settings
from eagle3hub.engines.options import ENDPOINT_KEY, endpoint_urls
from eagle3hub.errors import Eagle3HubError, InputError, UnavailableError, UsageError
from eagle3hub.metrics import Counts
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import silent

Serve = Callable[[StandIn], str]
SGLANG_INFO = {
    "version": SGLANG,
    "api_key": "the server's own secret",
    "model_path": "org/target",
    "speculative_algorithm": "EAGLE3",
    "speculative_draft_model_path": "org/head",
    "speculative_num_steps": 3,
    "speculative_eagle_topk": 1,
    "speculative_num_draft_tokens": 4,
    "dtype": "bfloat16",
    "device": "cuda",
}
COUNTS = Counts(2, 6, 1, (1, 0, 0))
OWN = {"acceptance_histogram": [3, 0, 1, 0], "num_draft_tokens": 12, "num_spec_tokens": 3}
"""What vLLM's answers hold with ``--per-request-spec-decode-metrics``: other counters than its metrics'."""


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(standing_in(server))


@pytest.fixture
def job(tmp_path: Path) -> RunSpec:
    (tmp_path / "head").mkdir()
    return RunSpec("org/target", tmp_path / "head", load_prompts("smoke", 2), max_new_tokens=4)


def failure(engine: str, url: str, job: RunSpec, timeout: float = 30.0) -> EngineFailure:
    found = attach(engine, url).run(job, Path("unused"), timeout=timeout, progress=silent)
    assert isinstance(found, EngineFailure)
    return found


def refusal(engine: str, url: str) -> Eagle3HubError:
    with pytest.raises(Eagle3HubError) as error:
        attach(engine, url)
    assert error.value.hint
    return error.value


def test_vllm_is_counted_by_the_growth_of_its_metrics(serve: Serve, job: RunSpec) -> None:
    server = StandIn(late=0.2)
    found = attach("vllm", serve(server)).run(job, Path("unused"), timeout=30, progress=silent)
    assert isinstance(found, EngineRun)
    assert [(p.prompt_tokens, p.tokens, p.counts) for p in found.prompts] == [(2, (5, 6, 7, 8), COUNTS)] * 2
    assert found.load is not None
    assert not found.load.checked
    assert found.unchecked == (
        "which tensors of the head the server loaded",
        "whether it serves this head",
        "its dtype",
        "its device",
    )
    (body, *_) = [body for path, _, body in server.seen if path == "/v1/chat/completions"]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("served", 0.0, 4)
    assert body["messages"] == [{"role": "user", "content": job.prompts.prompts[0].text}]
    assert (body["top_p"], body["repetition_penalty"]) == (1.0, 1.0), "a model's own generation settings do not count"


def test_sglang_brings_its_counters_along_whatever_else_it_does(serve: Serve, job: RunSpec) -> None:
    job = replace(job, dtype="bfloat16")
    endpoint = attach("sglang", serve(StandIn(info=SGLANG_INFO, foreign=7, active=3)))
    found = endpoint.run(job, Path("unused"), timeout=30, progress=silent)
    assert isinstance(found, EngineRun)
    assert [p.counts for p in found.prompts] == [COUNTS, COUNTS]
    assert found.unchecked == ("which tensors of the head the server loaded", "whether it serves this head")
    assert (endpoint.version, endpoint.device) == (SGLANG, "cuda")
    assert "secret" not in json.dumps(endpoint.flags(job))


@pytest.mark.parametrize(
    ("server", "says"),
    [
        (StandIn(active=2), "4 other requests are under way"),
        (StandIn(foreign=1), "it answered one request with 4 tokens, and counted 2 requests and 8 tokens"),
    ],
)
def test_somebody_else_on_vllm_leaves_the_question_open(
    serve: Serve, job: RunSpec, server: StandIn, says: str
) -> None:
    found = failure("vllm", serve(server), job)
    assert found.verdict == "inconclusive"
    assert says in found.reason
    assert "other requests reach it, or several servers answer at this address" in found.reason
    assert "--per-request-spec-decode-metrics summary" in found.reason


def test_vllm_that_counts_each_request_may_be_busy(serve: Serve, job: RunSpec) -> None:
    server = StandIn(own=OWN, foreign=3, active=2)
    found = attach("vllm", serve(server)).run(job, Path("unused"), timeout=30, progress=silent)
    assert isinstance(found, EngineRun)
    assert [p.counts for p in found.prompts] == [Counts(4, 12, 2, (1, 1, 0))] * 2


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({}, "no histogram of accepted drafts"),
        ([], "no histogram of accepted drafts"),
        ({"acceptance_histogram": [1]}, "no histogram of accepted drafts"),
        ({**OWN, "acceptance_histogram": [3, -1, 1, 0]}, "histogram of accepted drafts is not a count"),
        ({**OWN, "num_draft_tokens": None}, "number of drafted tokens is not a count (NoneType)"),
        ({**OWN, "num_draft_tokens": 13}, "13 tokens drafted in 4 rounds of at most 3"),
    ],
)
def test_own_counters_that_make_no_sense(serve: Serve, job: RunSpec, own: object, says: str) -> None:
    found = failure("vllm", serve(StandIn(own=own)), job)
    assert found.verdict == "fail"
    assert says in found.reason


@pytest.mark.parametrize(
    ("server", "engine", "says"),
    [
        (StandIn(status=400), "vllm", "gave no answer to prompt 1: HTTP status 400: the prompt is longer"),
        (StandIn(answer={"token_ids": None}), "vllm", "its chat completion has no token_ids"),
        (StandIn(info=SGLANG_INFO, answer={"meta_info": None}), "sglang", "its chat completion has no meta_info"),
        (StandIn(info=SGLANG_INFO, answer={"meta_info": {"spec_verify_ct": 5}}), "sglang", "holds 0"),
    ],
)
def test_a_server_that_answers_otherwise_is_a_failure(
    serve: Serve, job: RunSpec, server: StandIn, engine: str, says: str
) -> None:
    found = failure(engine, serve(server), replace(job, dtype="bfloat16" if engine == "sglang" else "float32"))
    assert found.verdict == "fail"
    assert says in found.reason
    assert "\n" not in found.reason


def test_the_time_limit(serve: Serve, job: RunSpec) -> None:
    found = failure("vllm", serve(StandIn(slow=5.0)), job, timeout=0.5)
    assert "gave no answer to prompt 1 within 0.5 seconds" in found.reason


@pytest.mark.parametrize(
    ("engine", "server", "error", "code"),
    [
        ("vllm", StandIn(speculative=False), InputError, "endpoint-no-speculation"),
        ("vllm", StandIn(metrics=False), InputError, "endpoint-metrics"),
        (
            "sglang",
            StandIn(info={**SGLANG_INFO, "speculative_algorithm": None}),
            InputError,
            "endpoint-no-speculation",
        ),
        ("sglang", StandIn(), InputError, "endpoint-protocol"),
        ("vllm", StandIn(key="k"), UnavailableError, "endpoint-key"),
        ("vllm", StandIn(moved="http://127.0.0.1:9"), InputError, "endpoint-protocol"),
    ],
)
def test_a_server_that_cannot_be_measured(
    serve: Serve, engine: str, server: StandIn, error: type[Exception], code: str
) -> None:
    found = refusal(engine, serve(server))
    assert isinstance(found, error)
    assert found.code == code


def test_no_server_at_all(serve: Serve) -> None:
    with standing_in(StandIn()) as url:
        pass
    found = refusal("vllm", url)
    assert (found.code, found.exit_code) == ("endpoint-unreachable", 4)
    assert url in found.message


def test_the_key_comes_from_the_environment_and_goes_to_the_server_only(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT_KEY, "sesame")
    assert attach("vllm", serve(StandIn(key="sesame"))).version == VLLM
    elsewhere = StandIn()
    moved = StandIn(moved=serve(elsewhere))
    assert "sesame" not in refusal("vllm", serve(moved)).message
    assert moved.seen
    assert not elsewhere.seen, "a redirect would carry the key away"


SHOWN = ServerSettings("1", "served", "org/Target", "org/head", "eagle3", 3, 1, 4, "float32", "cuda")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"method": "eagle"}, "endpoint-method"),
        ({"draft_tokens": 5}, "endpoint-draft-tokens"),
        ({"topk": 4}, "endpoint-topk"),
        ({"num_draft_tokens": 8}, "endpoint-num-draft-tokens"),
        ({"dtype": "bfloat16"}, "endpoint-dtype"),
        ({"target": "org/other"}, "endpoint-target"),
    ],
)
def test_what_contradicts_the_request(job: RunSpec, changed: dict[str, Any], code: str) -> None:
    with pytest.raises(InputError) as error:
        compare_settings(replace(SHOWN, **changed), job, "vLLM", here=False)
    assert error.value.code == code
    assert error.value.hint


def test_heads_by_name_and_by_folder(job: RunSpec, tmp_path: Path) -> None:
    first = "which tensors of the head the server loaded"
    cached = tmp_path / "models--org--Head" / "snapshots" / "0a1b"
    cached.mkdir(parents=True)
    assert compare_settings(SHOWN, replace(job, head=cached), "vLLM", here=False) == (first,)
    other = replace(SHOWN, head="org/another")
    with pytest.raises(InputError, match="serves the head 'org/another'"):
        compare_settings(other, replace(job, head=cached), "vLLM", here=False)
    assert compare_settings(other, job, "vLLM", here=False) == (first, "whether it serves this head"), (
        "a folder has no name"
    )
    for name, config in (("head", "{}"), ("same", "{}"), ("different", '{"a": 1}')):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text(config)
    same, different = (replace(SHOWN, head=str(tmp_path / name)) for name in ("same", "different"))
    assert compare_settings(same, job, "vLLM", here=True) == (first,)
    with pytest.raises(InputError, match="serves the head"):
        compare_settings(different, job, "vLLM", here=True)
    assert len(compare_settings(different, job, "vLLM", here=False)) == 2, (
        "a path of another machine means nothing here"
    )


def test_addresses() -> None:
    pairs = ["vllm=http://host:8000/v1/", "sglang=https://[::1]:30000/prefix"]
    assert endpoint_urls(pairs) == {"vllm": "http://host:8000", "sglang": "https://[::1]:30000/prefix"}


@pytest.mark.parametrize(
    "pair",
    [
        "vllm",
        "vllm=",
        "vllm=host:8000",
        "vllm=ftp://host",
        "vllm=http://",
        "vllm=http://host:99999",
        "vllm=http://host/ a",
        "trtllm=http://host",
        "vllm=http://host?x=1",
        "vllm=http://me:key@host",
    ],
)
def test_what_is_no_address(pair: str) -> None:
    with pytest.raises(UsageError) as error:
        endpoint_urls([pair])
    assert error.value.hint
    assert "key@" not in error.value.message
    with pytest.raises(UsageError, match="twice"):
        endpoint_urls(["vllm=http://a", "vllm=http://b"])
