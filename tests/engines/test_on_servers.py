"""Real servers on CPU with the example head: vLLM's, and SGLang's with the stand-in for its kernels."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.engine_servers import free_port, served
from support.validation import validate
from support.versions import SGLANG, VLLM

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.base import EngineFailure, RunSpec
from eagle3hub.engines.endpoints import attach
from eagle3hub.errors import InputError
from eagle3hub.prompts import load_prompts
from eagle3hub.releasing.demo import NAME
from eagle3hub.system.progress import silent
from eagle3hub.validation.report import check_report

pytestmark = pytest.mark.engine
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
        "--max-num-seqs": "1",
        "--speculative-config": json.dumps(speculative),
    }
    command = [str(vllm_python), "-s", "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
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


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
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


@contextlib.contextmanager
def busy(url: str, target: Path) -> Iterator[None]:
    """Send a long request of another user; it is dropped at the end."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    body = {"model": str(target), "prompt": "Once", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with direct.open(request, timeout=60) as stream:
        stream.readline()
        yield


def test_another_user_of_vllm_is_noticed(vllm_server: str, job: RunSpec, smollm2_target: Path) -> None:
    endpoint = attach("vllm", vllm_server)
    with busy(vllm_server, smollm2_target):
        found = endpoint.run(job, Path("unused"), timeout=120, progress=silent)
    assert isinstance(found, EngineFailure)
    assert found.verdict == "inconclusive"
    assert "other requests" in found.reason
