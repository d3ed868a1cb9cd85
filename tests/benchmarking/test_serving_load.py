"""Sending prompts with AIPerf: requests and answers in order, and what goes wrong. Engine tests run the real one."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarking.serving_samples import behave, seen, standin_aiperf

from eagle3hub.benchmarking.serving.load import AIPERF, Load, LoadFault, send
from eagle3hub.engines.options import ENDPOINT_KEY
from eagle3hub.engines.process import bare_environment, run_leashed

REQUESTS = [{"model": "m", "n": n // 2, "messages": [{"role": "user", "content": str(n // 2)}]} for n in range(6)]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return standin_aiperf(tmp_path / "aiperf", sys.executable)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return Load("http://127.0.0.1:9", REQUESTS, 2, 3, str(tmp_path), timeout=20, deadline=60)


def test_answers_come_back_in_the_order_of_the_requests_and_warm_up_is_left_out(python: Path, load: Load) -> None:
    behave(python, order=[5, 0, 4, 2, 1, 3])
    found = send(load, python)
    assert [[piece["of"] for _, piece in one.pieces] for one in found] == [[0], [0], [1], [1], [2], [2]]
    assert [when for one in found for when, _ in one.pieces] == [2.0] * 6
    assert sorted(round((one.sent - 1) * 1e9) for one in found) == list(range(6))


def test_what_aiperf_is_told(python: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT_KEY, "sesame")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    send(load, python)
    told = seen(python)
    config = told["config"]
    assert config["dataset"]["format"] == "raw_payload", "our requests as they are"
    assert config["dataset"]["sampling"] == "sequential"
    assert config["profiling"] == {"type": "concurrency", "concurrency": 2, "requests": 6}
    assert config["warmup"]["requests"] == 3
    assert config["endpoint"]["apiKey"] == f"${{{ENDPOINT_KEY}}}"
    assert "sesame" not in json.dumps(told), "a key in a command line is read by every user of the machine"
    assert told["offline"] is None, "AIPerf would take a folder's name for one on the Hub"
    monkeypatch.delenv(ENDPOINT_KEY)
    send(replace(load, warmup=0, tokenizer="owner/name"), python)
    told = seen(python)
    assert "warmup" not in told["config"]
    assert "apiKey" not in told["config"]["endpoint"]
    assert told["offline"] == "1"


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (
            {"fail": {"2": {"error": {"message": "Server\ndisconnected"}}, "4": {"error": {"type": "Timeout"}}}},
            "2 of 6 requests failed, request 3 first: Server disconnected",
        ),
        ({"fail": {"5": {"error": {}}}}, "1 of 6 requests failed, request 6 first: no reason is given"),
        ({"fail": {"0": {"status": 500}}}, "request 1 first: HTTP status 500"),
        ({"leave_out": [1, 3]}, "4 of 6 requests were answered, and AIPerf ended with exit status 0: done"),
        ({"nothing": True, "exit": 3}, "0 of 6 requests were answered, and AIPerf ended with exit status 3: ERROR it"),
    ],
)
def test_requests_that_are_not_answered(python: Path, load: Load, told: dict[str, object], says: str) -> None:
    behave(python, **told)
    with pytest.raises(LoadFault) as error:
        send(load, python)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_answer_without_text_is_an_answer(python: Path, load: Load) -> None:
    behave(python, fail={"2": {"whole": True, "error": {"message": "No responses with actual content"}}})
    assert len(send(load, python)) == 6
    behave(python, fail={"2": {"whole": True, "status": 500}})
    with pytest.raises(LoadFault, match="request 3 first: HTTP status 500"):
        send(load, python)


def test_traffic_that_stands_still_is_ended(python: Path, load: Load) -> None:
    behave(python, hang=30)
    with pytest.raises(LoadFault, match=r"not answered within 0\.3 seconds"):
        send(replace(load, deadline=0.3), python)


def test_a_command_is_ended_when_its_time_is_over_whatever_it_does_with_its_output() -> None:
    for does in ("pass", "print('still there', flush=True)", "os.close(1); os.close(2)"):
        lines: list[bytes] = []
        code = f"import os, time; {does}; time.sleep(600)"
        with pytest.raises(TimeoutError):
            run_leashed([sys.executable, "-c", code], bare_environment(), lines.append, seconds=1.0)
    assert run_leashed([sys.executable, "-c", "print(3)"], bare_environment(), lines.append, seconds=600) == 0
    assert lines == [b"3\n"], "lines have their ends, with a limit as without"


def test_the_environment_of_aiperf_is_complete_and_frozen() -> None:
    lines = [line for line in AIPERF.requirements.read_text().splitlines() if line and not line.startswith("#")]
    assert all("==" in line for line in lines)
    assert AIPERF.distribution in lines
