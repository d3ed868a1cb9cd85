"""An engine's server on loopback that is hostile or broken in one exchange at a time.

Every case ends within its limit, either as an error with an endpoint's code or as a failure of the engine: one
sentence, no traceback, no memory without bounds. EAGLE3HUB_TABLE=FILE appends what came of each case.
"""

from __future__ import annotations

import json
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import hostile
from support.hub_server import HubServer, Takeover, _Handler
from support.sampling import THOROUGH
from support.standin_server import StandIn
from support.versions import SGLANG

from eagle3hub.engines.base import EngineFailure, RunSpec
from eagle3hub.engines.endpoints import attach, endpoint
from eagle3hub.engines.options import ENDPOINT_KEY
from eagle3hub.errors import Eagle3HubError
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import silent

LIMIT = 0.5
BOUND = 20.0
MEMORY = 700 << 20
INFO = {
    "version": SGLANG,
    "model_path": "org/target",
    "speculative_algorithm": "EAGLE3",
    "speculative_draft_model_path": "org/head",
    "speculative_num_steps": 3,
    "speculative_eagle_topk": 1,
    "speculative_num_draft_tokens": 4,
    "dtype": "float32",
    "device": "cpu",
}
METRIC = 'vllm:spec_decode_num_drafts_total{engine="0",model_name="org/target"} '


def metric(value: str) -> hostile.Act:
    """Return the expected metrics, with another number of rounds."""

    def act(h: Any, deserved: Any) -> None:
        lines = deserved().partition(b"\r\n\r\n")[2].decode().splitlines()
        told = [METRIC + value if line.startswith(METRIC) else line for line in lines]
        hostile.says("\n".join(told).encode(), kind="text/plain")(h, deserved)

    return act


def more_metrics(*added: str) -> hostile.Act:
    def act(h: Any, deserved: Any) -> None:
        text = deserved().partition(b"\r\n\r\n")[2].decode()
        hostile.says("\n".join([text, *added]).encode(), kind="text/plain")(h, deserved)

    return act


def many_lines(h: Any, deserved: Any) -> None:
    h.connection.sendall(hostile.HEAD + b"Content-Length: 100000000\r\n\r\n")
    hostile.drip(h, iter([b'vllm:x{a="1"} 1.0\n' * 5000] * 1111), step=0)


NUMBERS = {
    "5,000 digits": "9" * 5000,
    "400 digits": "9" * 400,
    "more than 2**53": "1e17",
    "infinite": "+Inf",
    "minus infinite": "-Inf",
    "NaN": "NaN",
    "negative": "-1.0",
    "a fraction": "1.5",
    "letters": "many",
    "two points": "1.2.3",
    "e": "e",
    "1e9999": "1e9999",
    "hexadecimal": "0x10",
}
METRICS = {
    **{f"a number: {what}": metric(value) for what, value in NUMBERS.items()},
    "a sample twice": more_metrics(METRIC + "7.0"),
    "a position of 5,000 digits": more_metrics(
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{position="%s"} 1.0' % ("1" * 5000)
    ),
    "a position far away": more_metrics('vllm:spec_decode_num_accepted_tokens_per_pos_total{position="900"} 1.0'),
    "100 MB of lines": many_lines,
}
BAD = {
    "a number of 400 digits": int("9" * 400),
    "2**63": 2**63,
    "negative": -1,
    "a fraction": 1.5,
    "text": "3",
    "true": True,
    "a list": [1],
    "an object": {"a": 1},
    "infinite": float("inf"),
}


def choice(**fields: Any) -> hostile.Act:
    return hostile.edited(lambda d: {**d, "choices": [{**d["choices"][0], **fields}]})


def meta(**fields: Any) -> hostile.Act:
    def change(d: Any) -> Any:
        one = d["choices"][0]
        return {**d, "choices": [{**one, "meta_info": {**one["meta_info"], **fields}}]}

    return hostile.edited(change)


IDS = {
    **{f"token ids: {what}": choice(token_ids=[bad], response_token_ids=[bad]) for what, bad in BAD.items()},
    "token ids that are no list": choice(token_ids="5 6", response_token_ids={"a": 1}),
    "two choices": hostile.edited(lambda d: {**d, "choices": d["choices"] * 2}),
    "no choice": hostile.edited(lambda d: {**d, "choices": []}),
}
COUNTERS = {
    f"{field}: {what}": meta(**{field: bad})
    for field in ("spec_verify_ct", "spec_num_correct_drafts", "spec_correct_drafts_histogram")
    for what, bad in BAD.items()
}
CONFIGURATION = {
    f"{field}: {what}": hostile.edited(lambda d, field=field, bad=bad: {**d, field: bad})
    for field in (
        "speculative_num_steps",
        "speculative_eagle_topk",
        "speculative_draft_model_path",
        "version",
        "dtype",
    )
    for what, bad in BAD.items()
    if not (what == "text" and field in ("speculative_draft_model_path", "version", "dtype"))
}
MODELS = {
    f"{field}: {what}": hostile.edited(lambda d, field=field, bad=bad: {"data": [{**d["data"][1], field: bad}]})
    for field in ("id", "root")
    for what, bad in {**BAD, "a control character": "a\x1b[2J", "a megabyte": "a" * 1_000_000}.items()
    if what != "text"
}
EVERY = {**hostile.WAITS, **hostile.HEADERS, **hostile.BODIES, **hostile.JSON}
# exchange -> its path, and faults for it besides those for all exchanges
EXCHANGES: dict[tuple[str, str], tuple[str, dict[str, hostile.Act]]] = {
    ("vllm", "models"): ("/v1/models", MODELS),
    ("vllm", "version"): ("/version", {}),
    ("vllm", "metrics"): ("/metrics", METRICS),
    ("vllm", "configuration"): ("/server_info", {}),
    ("vllm", "answer"): ("/v1/chat/completions", IDS),
    ("sglang", "configuration"): ("/server_info", CONFIGURATION),
    ("sglang", "models"): ("/v1/models", MODELS),
    ("sglang", "answer"): ("/v1/chat/completions", {**IDS, **COUNTERS}),
}


class Server(HubServer):
    """Answer like `StandIn`, unless a fault takes over."""

    def __init__(self, engine: str) -> None:
        super().__init__()
        self.stand_in = StandIn(info=INFO if engine == "sglang" else None)


def _reply(h: _Handler) -> None:
    server = h.server.hub
    assert isinstance(server, Server)
    status, found = server.stand_in.reply(h.path, json.loads(h.body) if h.body else None)
    if isinstance(found, str):
        h.send_bytes(found.encode(), status)
    else:
        h.send_json(found, status)


Server.routes = [("GET|POST", ".*", _reply)]


@pytest.fixture
def job(tmp_path: Path) -> RunSpec:
    (tmp_path / "head").mkdir()
    return RunSpec("org/target", tmp_path / "head", load_prompts("smoke", 2), max_new_tokens=4)


def try_one(
    engine: str, path: str, act: hostile.Act | None, job: RunSpec, limit: float = LIMIT
) -> tuple[float, str, str | None]:
    """Return the seconds it took, the outcome, and what is wrong with the outcome."""
    begun = time.monotonic()
    wrong: str | None = None
    with Server(engine) as server:
        if act is not None:
            server.takeovers.append(Takeover("GET|POST", f"^{path}", act))
        try:
            found = attach(engine, server.url).run(job, Path("unused"), timeout=limit, progress=silent)
            outcome = "failure" if isinstance(found, EngineFailure) else "ok"
            said = found.reason if isinstance(found, EngineFailure) else ""
        except Eagle3HubError as error:
            outcome, said = f"{error.code} ({error.exit_code})", error.message
            if not error.code.startswith("endpoint-") or not error.hint:
                wrong = "no error of an endpoint"
        except Exception as error:
            outcome, said, wrong = type(error).__name__, "", f"{type(error).__name__}: {error}"
        if not said.isprintable() or len(said) > 1200 or "sesame" in said:
            wrong = f"message {said[:200]!r}"
    seconds = time.monotonic() - begun
    return seconds, outcome, wrong or (f"took {seconds:.0f} s" if seconds > BOUND else None)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "what"), EXCHANGES)
def test_no_exchange_with_a_hostile_server_hangs(
    job: RunSpec, monkeypatch: pytest.MonkeyPatch, engine: str, what: str
) -> None:
    monkeypatch.setenv(ENDPOINT_KEY, "sesame")
    path, own = EXCHANGES[engine, what]
    assert try_one(engine, path, None, job, limit=60)[1:] == ("ok", None)
    monkeypatch.setattr(endpoint, "_LOOK_SECONDS", LIMIT)
    every = EVERY if THOROUGH or what in {"metrics", "answer"} else {}
    some = {k: act for i, (k, act) in enumerate(EVERY.items()) if (i + len(what)) % 3 == 0}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ThreadPoolExecutor(24) as pool:
        futures = {
            fault: pool.submit(try_one, engine, path, act, job) for fault, act in {**(every or some), **own}.items()
        }
        done = {fault: future.result() for fault, future in futures.items()}
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10
    write_down(f"{engine} {what}", done, grown)
    wrong = {fault: f"{why} ({outcome})" for fault, (_, outcome, why) in done.items() if why}
    assert not wrong
    passed = {fault for fault, (_, outcome, _) in done.items() if outcome == "ok"}
    assert passed <= harmless(engine, what)
    assert grown < MEMORY


def harmless(engine: str, what: str) -> set[str]:
    """Return the faults that leave the needed data as it was."""
    found = {"commit that is a path"}  # a header of the Hub's
    if (engine, what) == ("vllm", "version"):
        found |= {"no field", "every field null"}
    if (engine, what) == ("vllm", "configuration"):  # it is there in development mode only, and then tells more
        found |= set(EVERY)
    if (engine, what) == ("vllm", "metrics"):
        found |= {"one byte less"}
    if (engine, what) == ("sglang", "models"):  # its configuration names the target
        found |= {fault for fault in MODELS if fault.startswith("root:")}
    return found


def write_down(name: str, done: dict[str, tuple[float, str, str | None]], grown: int) -> None:
    if table := os.environ.get("EAGLE3HUB_TABLE"):
        with Path(table).open("a") as f:
            for fault, (seconds, outcome, wrong) in done.items():
                f.write(f"{name}\t{fault}\t{outcome}\t{seconds:.2f}\t{grown >> 20}\t{wrong or ''}\n")
