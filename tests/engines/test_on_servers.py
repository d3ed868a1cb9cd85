"""Real servers on CPU with the example head: vLLM's, and SGLang's with the stand-in for its kernels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.engine_servers import free_port, served
from support.scripts import load_script
from support.validation import validate
from support.versions import SGLANG, VLLM

from eagle3hub.benchmarking import BenchOptions
from eagle3hub.benchmarking.serving.load import load_generator, send
from eagle3hub.benchmarking.serving.measure import measured_rows
from eagle3hub.benchmarking.serving.plan import Contender, ServingPlan
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.base import EngineRun, RunSpec
from eagle3hub.engines.endpoints import attach
from eagle3hub.engines.endpoints.dialects import PER_REQUEST
from eagle3hub.errors import InputError
from eagle3hub.prompts import load_prompts
from eagle3hub.releasing.demo import NAME
from eagle3hub.system.progress import silent
from eagle3hub.validation.derive import tokens_sha256
from eagle3hub.validation.report import check_report
from eagle3hub.validation.target import Target

pytestmark = pytest.mark.engine
busy = load_script(Path(__file__).resolve().parents[2] / "benchmarks" / "busy.py").busy
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "smollm2-135m" / "head"
# rounds that accepted 0, 1, 2, … drafts, prompt by prompt: float32, K = 3, 64 new tokens
REACHED = [
    (56, [7, 1, 0]),
    (36, [20, 6, 1]),
    (46, [15, 2, 0]),
    (43, [15, 4, 1]),
    (17, [5, 2, 1]),
    (54, [10, 0, 0]),
    (39, [15, 6, 3]),
    (36, [17, 7, 3]),
]


@pytest.fixture(scope="module")
def vllm_server(vllm_python: Path, smollm2_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's server, in the mode in which it shows its configuration."""
    port = free_port()
    speculative = {"method": "eagle3", "model": str(EXAMPLE), "num_speculative_tokens": 3}
    options = {
        "--model": str(smollm2_target),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--max-model-len": "2048",
        "--max-num-seqs": "20",
        "--speculative-config": json.dumps(speculative),
        PER_REQUEST: "summary",
    }
    command = [str(vllm_python), "-s", "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command.append("--no-enable-prefix-caching")  # the same prompts come again
    command += [word for pair in options.items() for word in pair]
    environment = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    with served(command, port, environment, tmp_path_factory.mktemp("vllm-server") / "log") as url:
        yield url


@pytest.fixture(scope="module")
def sglang_head(smollm2_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sglang-head") / "universal"
    convert(
        EXAMPLE, place, "universal", ConvertOptions(target=str(smollm2_target), target_name=NAME, speculative_tokens=3)
    )
    return place


@pytest.fixture(scope="module")
def sglang_server(sglang_head: Path, smollm2_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SGLang's server."""
    from engines.sglang_cpu.environment import server_interpreter

    folder = tmp_path_factory.mktemp("sglang-server")
    port = free_port()
    options = {
        "--model-path": str(smollm2_target),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--device": "cpu",
        "--dtype": "float32",
        "--context-length": "2048",
        "--max-running-requests": "1",
        "--prefill-attention-backend": "intel_amx",
        "--decode-attention-backend": "intel_amx",
        "--speculative-draft-attention-backend": "intel_amx",
        "--mem-fraction-static": "0.8",
        "--max-total-tokens": "2400",
        "--speculative-algorithm": "EAGLE3",
        "--speculative-draft-model-path": str(sglang_head),
        "--speculative-num-steps": "3",
        "--speculative-eagle-topk": "1",
        "--speculative-num-draft-tokens": "4",
    }
    switches = ["--disable-cuda-graph", "--disable-radix-cache", "--disable-overlap-schedule", "--skip-server-warmup"]
    command = [str(server_interpreter(folder)), "-s", "-m", "sglang.launch_server", *switches]
    command += [word for pair in options.items() for word in pair]
    environment = {
        "SGLANG_USE_CPU_ENGINE": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    with served(command, port, environment, folder / "log") as url:
        yield url


@pytest.mark.parametrize("engine", ["vllm", pytest.param("sglang", marks=pytest.mark.slow)])
def test_a_running_server_counts_what_the_reference_counts(
    engine: str, smollm2_target: Path, sglang_head: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(f"{engine}_server")
    head = EXAMPLE if engine == "vllm" else sglang_head
    report = validate(head, target=smollm2_target, target_name="SmolLM2", num_prompts=8, endpoints={engine: url})
    ours, theirs = report.document["engines"]
    assert report.verdict == "pass", report.reason
    assert [entry["engine"] for entry in (ours, theirs)] == ["reference", engine]
    assert [(row["rounds"], row["accepted_per_position"]) for row in theirs["per_prompt"]] == REACHED
    same = ("prompt_tokens", "new_tokens", "tokens_sha256", "rounds", "drafted", "accepted_per_position")
    assert [[row[key] for key in same] for row in ours["per_prompt"]] == [
        [row[key] for key in same] for row in theirs["per_prompt"]
    ]
    assert theirs["lossless"]["identical"] == 8
    assert theirs["unchecked"] == ["which tensors of the head the server loaded"]
    assert "not checked of the server: which tensors of the head the server loaded" in theirs["reason"]
    assert (theirs["device"], theirs["version"]) == ("cpu", {"vllm": VLLM, "sglang": SGLANG}[engine])
    assert "preflight" not in theirs
    text = json.dumps(report.document)
    assert url not in text
    assert str(smollm2_target) not in text
    check_report(json.loads(text), "the report")


@pytest.fixture
def job(smollm2_target: Path) -> RunSpec:
    return RunSpec(target=str(smollm2_target), head=EXAMPLE, prompts=load_prompts("smoke", 1))


@pytest.mark.parametrize(
    ("changed", "code", "says"),
    [
        ({"draft_tokens": 2}, "endpoint-draft-tokens", "drafts 3 tokens per round, not 2"),
        ({"dtype": "bfloat16"}, "endpoint-dtype", "computes in float32, not in bfloat16"),
        ({"head": "other"}, "endpoint-head", "serves the head"),
        ({"target": "other"}, "endpoint-target", "serves the target"),
    ],
)
def test_vllm_serving_something_else_is_refused(
    vllm_server: str, job: RunSpec, tmp_path: Path, changed: dict[str, object], code: str, says: str
) -> None:
    other = Path(shutil.copytree(EXAMPLE, tmp_path / "other"))
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    given = {key: {"head": other, "target": str(other)}.get(key, value) for key, value in changed.items()}
    endpoint = attach("vllm", vllm_server)
    with pytest.raises(InputError) as error:
        endpoint.compare_settings(replace(job, **given))  # type: ignore[arg-type]
    assert error.value.code == code
    assert says in error.value.message
    assert error.value.hint
    same = Path(shutil.copytree(EXAMPLE, tmp_path / "same"))
    assert endpoint.compare_settings(replace(job, head=same)) == ("which tensors of the head the server loaded",)


@pytest.mark.slow
def test_a_busy_server_counts_every_prompt_as_if_it_were_alone(
    vllm_server: str, job: RunSpec, smollm2_target: Path, tmp_path: Path
) -> None:
    whole = load_prompts("smoke")
    rows = [
        {"question_id": f"{prompt.question_id}-{turn}", "category": "x", "turns": [f"{words} {prompt.text}"]}
        for turn, words in enumerate(("Please:", "Now:"))
        for prompt in whole.prompts
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = load_prompts(str(file))
    job = replace(job, prompts=prompts, max_new_tokens=16)
    endpoint = attach("vllm", vllm_server)
    alone = endpoint.run(job, Path("unused"), timeout=600, progress=silent)
    assert isinstance(alone, EngineRun)
    target = Target(str(smollm2_target), NAME, None, None, None)
    contender = Contender("head", "eagle3", None, 3, is_baseline=False, url=vllm_server)
    plan = ServingPlan(target, (contender,), (prompts,), (16,), 1, None, ("vllm",), BenchOptions(), 0.0)
    (cell,) = next(plan.groups())[2]
    python = load_generator().python
    with busy(vllm_server, str(smollm2_target)) as others:
        found = measured_rows(cell, endpoint, job, 600, lambda load: send(load, python))
        meanwhile = len(others)
        again = endpoint.run(
            replace(job, prompts=replace(prompts, prompts=prompts.prompts[:2])),
            Path("unused"),
            timeout=600,
            progress=silent,
        )
    assert meanwhile > 3, "others were answered all the time"
    assert [row.counts for row in found] == [one.counts for one in alone.prompts]
    assert [row.tokens_sha256 for row in found] == [tokens_sha256(one.tokens) for one in alone.prompts]
    assert isinstance(again, EngineRun), "and so a validation may ask a busy server"
    assert [one.counts for one in again.prompts] == [one.counts for one in alone.prompts[:2]]
    overlapping = [sum(a.sent < b.last and b.sent < a.last for b in found) for a in found]
    assert max(overlapping) >= 16, "16 requests were under way at a time"


@pytest.mark.slow
def test_a_stream_of_sglang_holds_the_counters_of_its_request(
    sglang_server: str, job: RunSpec, smollm2_target: Path
) -> None:
    prompts = load_prompts("smoke", 4)
    job = replace(job, prompts=prompts, max_new_tokens=64)
    target = Target(str(smollm2_target), NAME, None, None, None)
    contender = Contender("head", "eagle3", None, 3, is_baseline=False, url=sglang_server)
    plan = ServingPlan(target, (contender,), (prompts,), (2,), 1, 0, ("sglang",), BenchOptions(), 0.0)
    (cell,) = next(plan.groups())[2]
    python = load_generator().python
    found = measured_rows(cell, attach("sglang", sglang_server), job, 600, lambda load: send(load, python))
    counted = [row.counts for row in found if row.counts is not None]
    assert [(one.rounds, list(one.accepted_per_position)) for one in counted] == REACHED[:4]
    assert all(row.sent < row.first < row.last for row in found)
