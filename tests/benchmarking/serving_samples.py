"""Serving measurements without engines: servers that answer from a table, and what AIPerf's raw records look like."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarking.recorded import AS_TRAINED, RECORDED, TARGET, prompts

from eagle3hub.benchmarking import BenchOptions
from eagle3hub.benchmarking.serving.measure import Answered, CellFault, Measure
from eagle3hub.benchmarking.serving.plan import Contender, ServingCell, ServingPlan
from eagle3hub.benchmarking.serving.results import RequestRow
from eagle3hub.errors import UnavailableError
from eagle3hub.prompts import PromptSet

HEAD = Contender("as-trained", "eagle3", AS_TRAINED, 3, is_baseline=False)
NONE = Contender("none", "none", None, 0, is_baseline=True)
NGRAM = Contender("ngram", "ngram", None, 3, is_baseline=True)
SPEED = {"as-trained": 1.5, "none": 1.0, "ngram": 1.1}


def plan(**changed: Any) -> ServingPlan:
    """A head against two baselines, 1 and 4 requests at a time, three runs of the 16 packaged prompts."""
    return replace(
        ServingPlan(TARGET, (HEAD, NONE, NGRAM), (prompts("smoke"),), (1, 4), 3, None, ("vllm",), BenchOptions(), 0.0),
        **changed,
    )


def rows(cell: ServingCell) -> tuple[RequestRow, ...]:
    """Answers of a server that takes as long as `SPEED` says, prompt by prompt a little otherwise."""
    out, clock = [], 0.0
    for number, (prompt, one) in enumerate(zip(cell.prompts.prompts, RECORDED, strict=False)):
        pace = (1 + 0.02 * ((number * 7 + cell.run * 3) % 5)) / SPEED[cell.contender.name]
        first, last = clock + 0.1, clock + 0.1 + 0.05 * pace * one.new_tokens
        counts = None if cell.contender.method == "none" else one.counts
        question = prompt.question_id
        sha = f"{number:064x}"
        out.append(
            RequestRow(question, prompt.category, one.prompt_tokens, one.new_tokens, sha, clock, first, last, counts)
        )
        clock += (last - clock) / cell.settings.concurrency
    return tuple(out)


@dataclass
class Table:
    """Servers that answer at once; ``stops`` makes one of them stop before a cell, ``absent`` has none at all.

    ``up_for`` lists the servers that were brought up, and ``measured`` the cells that were measured.
    """

    stops: Callable[[ServingCell], bool] = lambda _: False
    absent: str | None = None
    version_told: str = "1.0"
    up_for: list[str] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)

    def version(self, _engine: str) -> str:
        return self.version_told

    @contextmanager
    def up(self, engine: str, contender: Contender, cells: Sequence[ServingCell]) -> Iterator[Measure]:
        if contender.name == self.absent:
            raise UnavailableError(f"{engine} is not installed", code="engine-not-installed")
        self.up_for.append(contender.name)

        def measure(cell: ServingCell) -> Answered:
            if self.stops(cell):
                raise CellFault("serving-stopped", "the server stopped answering: 3 of 16 requests failed")
            self.measured.append(str(cell))
            return Answered(rows(cell), {"processor": "a processor", "threads": 2})

        yield measure


def few(count: int) -> PromptSet:
    """The first prompts of the packaged ones."""
    whole = prompts("smoke")
    return replace(whole, prompts=whole.prompts[:count])


# What vLLM's and SGLang's servers send, piece by piece (recorded, and shortened)


def vllm_pieces(
    tokens: Sequence[Sequence[int]], histogram: Sequence[int] | None
) -> list[tuple[float, dict[str, Any]]]:
    """A streamed answer of vLLM: each piece has its tokens, the last one usage and counters."""
    out: list[tuple[float, dict[str, Any]]] = [
        (1.0, {"choices": [{"delta": {"role": "assistant", "content": ""}}], "prompt_token_ids": [1, 2, 3]})
    ]
    for i, new in enumerate(tokens):
        end = "length" if i == len(tokens) - 1 else None
        choice = {"delta": {"content": "x"}, "finish_reason": end, "token_ids": list(new)}
        out.append((1.0 + 0.5 * i, {"choices": [choice]}))
    usage = {"prompt_tokens": 3, "completion_tokens": sum(map(len, tokens))}
    last: dict[str, Any] = {"choices": [], "usage": usage}
    if histogram is not None:
        drafted = 3 * sum(histogram)
        last["metrics"] = {
            "speculative_decoding": {"acceptance_histogram": list(histogram), "num_draft_tokens": drafted}
        }
    return [*out, (out[-1][0], last)]


def sglang_pieces(ids: Sequence[int], histogram: Sequence[int] | None) -> list[tuple[float, dict[str, Any]]]:
    """A streamed answer of SGLang: text in pieces, token ids and counters in one extension at the end."""
    out: list[tuple[float, dict[str, Any]]] = [(1.0, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})]
    out += [(1.5 + i, {"choices": [{"delta": {"content": "word"}, "finish_reason": None}]}) for i in range(3)]
    out.append((4.0, {"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]}))
    ext: dict[str, Any] = {"input_ids": [1, 2], "output_ids": [list(ids)], "routed_experts": None}
    if histogram is not None:
        accepted = sum(i * n for i, n in enumerate(histogram))
        details = {"spec_verify_ct": sum(histogram), "spec_num_correct_drafts": accepted}
        ext["spec_tokens_details"] = {**details, "spec_correct_drafts_histogram": list(histogram)}
    usage = {"prompt_tokens": 2, "completion_tokens": len(ids)}
    return [*out, (4.0, {"choices": [], "sglext": ext}), (4.0, {"choices": [], "usage": usage})]


# A stand-in for AIPerf's command, for what goes wrong; the engine tests run the real one


def standin_aiperf(folder: Path, python: str) -> Path:
    """Make ``folder/bin`` with an ``aiperf`` that answers each request of its config; returns its ``python``.

    A file ``behave.json`` in ``folder`` changes what it does: ``order`` of the answers, ``fail`` (numbers of requests
    that fail), ``leave_out``, ``exit``, ``hang`` (seconds in which it says nothing).
    """
    place = folder / "bin"
    place.mkdir(parents=True)
    (place / "python").symlink_to(shutil.which(python) or python)
    (place / "aiperf").write_text(f"#!{python}\n{_AIPERF}".replace("BEHAVE", repr(str(folder / "behave.json"))))
    (place / "aiperf").chmod(0o755)
    return place / "python"


_AIPERF = """
import json, os, sys, time
told = json.load(open(BEHAVE)) if os.path.exists(BEHAVE) else {}
config = json.load(open(sys.argv[3]))["benchmark"]
seen = {"argv": sys.argv, "config": config, "offline": os.environ.get("HF_HUB_OFFLINE")}
json.dump(seen, open(BEHAVE + ".seen", "w"))
time.sleep(told.get("hang", 0))
asked = [json.loads(line) for line in open(config["dataset"]["path"])]
records = []
def piece(request):
    return [{"perf_ns": 2_000_000_000, "packets": [{"name": "data", "value": json.dumps({"of": request["n"]})},
            {"name": "event", "value": "x"}, {"name": "data", "value": "not JSON"},
            {"name": "data", "value": "[DONE]"}, {"name": "data", "value": "3"}]}]
for phase, chosen in (("warmup", asked[: config.get("warmup", {}).get("requests", 0)]), ("profiling", asked)):
    for n in told.get("order", range(len(chosen))) if phase == "profiling" else range(len(chosen)):
        if phase == "profiling" and n in told.get("leave_out", ()):
            continue
        record = {"metadata": {"benchmark_phase": phase}, "start_perf_ns": 1_000_000_000 + n, "status": 200,
                  "payload": chosen[n], "responses": piece(chosen[n])}
        fault = told.get("fail", {}).get(str(n))
        if phase == "profiling" and fault is not None:
            record |= {"responses": [], **fault} if not fault.pop("whole", False) else fault
        records.append(record)
out = config["artifacts"]["dir"]
os.makedirs(out, exist_ok=True)
if not told.get("nothing"):
    with open(os.path.join(out, "profile_export_raw.jsonl"), "w") as file:
        file.write("".join(json.dumps(r) + "\\n" for r in records))
print("ERROR it went wrong" if told.get("exit") else "done")
sys.exit(told.get("exit", 0))
"""


def behave(python: Path, **told: Any) -> None:
    """Say what the stand-in of `standin_aiperf` does next."""
    (python.parent.parent / "behave.json").write_text(json.dumps(told))


def seen(python: Path) -> Mapping[str, Any]:
    """What the stand-in was given last."""
    found: Mapping[str, Any] = json.loads((python.parent.parent / "behave.json.seen").read_text())
    return found
