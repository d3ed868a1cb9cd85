"""Count acceptance on a busy server of vLLM, and compare it with the same prompts one after the other.

    python benchmarks/busy.py --target FOLDER --device cuda --engine-python vllm=PATH --output busy.json

A server with the example head answers 64 prompts one at a time, and then 16 at a time while three others ask all the
time. In float32 the counters and tokens of every prompt must be the same: each answer brings its own counters.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eagle3hub.benchmarking import BenchOptions
from eagle3hub.benchmarking.serving.measure import RealServers
from eagle3hub.benchmarking.serving.plan import ServingOptions, serving_plan
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines import engine_pythons
from eagle3hub.prompts import load_prompts

HEAD = Path(__file__).resolve().parent.parent / "examples" / "smollm2-135m" / "head"
AT_A_TIME = 16
_WORDS = ("Please:", "Now:", "Once more:", "Briefly:")


@contextlib.contextmanager
def busy(url: str, target: str, temperature: float = 0.0) -> Iterator[list[int]]:
    """Let three other users ask all the time; gives a list that grows by one with each of their answers.

    On CPU they ask greedily: there, one request with a temperature spoils every other one of its batch in vLLM's
    rejection sampler (``greedy_only`` in its ``engine.toml``).
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    over = threading.Event()
    answered: list[int] = []

    def user(name: int) -> None:
        while not over.is_set():
            asked = f"Tell me {len(answered)} things about the number {name}"
            body = {"model": target, "prompt": asked, "max_tokens": 40, "ignore_eos": True, "temperature": temperature}
            request = urllib.request.Request(
                f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with direct.open(request, timeout=120) as answer:
                answer.read()
            answered.append(name)

    users = [threading.Thread(target=user, args=(name,)) for name in range(3)]
    for one in users:
        one.start()
    try:
        yield answered
    finally:
        over.set()
        for one in users:
            one.join()


def questions(count: int, file: Path) -> Path:
    """So many prompts as a set: each smoke prompt after one of a few words."""
    whole = load_prompts("smoke").prompts
    rows = [
        {"question_id": f"{prompt.question_id}-{n}", "category": "x", "turns": [f"{words} {prompt.text}"]}
        for n, words in enumerate(_WORDS)
        for prompt in whole
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))
    return file


class _Watched(RealServers):
    """Servers whose address is remembered."""

    url = ""

    def _measure(self, engine: str, spec: Any, url: str, *rest: Any) -> Any:
        self.url = url
        return super()._measure(engine, spec, url, *rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--engine-python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--num-prompts", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = BenchOptions(
            engine="vllm",
            device=given.device,
            datasets=str(questions(given.num_prompts, Path(folder) / "questions.jsonl")),
            max_new_tokens=given.max_new_tokens,
            engine_python=engine_pythons(given.engine_python),
        )
        asked = ServingOptions(concurrency=f"1,{AT_A_TIME}", runs=1)
        plan = serving_plan([str(HEAD)], given.target, options, asked)
        servers = _Watched(plan)
        engine, contender, cells = next(plan.groups())
        with servers.up(engine, contender, cells) as measure:
            alone = measure(cells[0]).requests
            with busy(servers.url, given.target, 0.0 if given.device == "cpu" else 0.8) as others:
                found = measure(cells[1]).requests
                meanwhile = len(others)
    pairs = list(zip(alone, found, strict=True))
    result = {
        "engine_version": servers.version(engine),
        "prompts": len(pairs),
        "at_a_time": max(sum(a.sent < b.last and b.sent < a.last for b in found) for a in found),
        "others": meanwhile,
        "equal_counters": sum(a.counts == b.counts for a, b in pairs),
        "equal_tokens": sum(a.tokens_sha256 == b.tokens_sha256 for a, b in pairs),
        "rounds": sum(row.counts.rounds for row in found if row.counts),
    }
    replace_file(given.output, json.dumps(result, indent=1).encode())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
