"""Starting a server of an engine, waiting for it, and ending it; test_serving_on_vllm starts real ones."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from eagle3hub.engines.base import EngineSettings, RunSpec
from eagle3hub.engines.servers import free_port, options, started
from eagle3hub.engines.sglang import SGLang
from eagle3hub.engines.vllm import VLLM
from eagle3hub.errors import UnavailableError
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import silent

SERVER = """
import http.server, os, sys
print(os.getpid(), file=open(sys.argv[2], "w"))
if len(sys.argv) > 3:
    print("loading"); print("ValueError: no such model"); print("bye " + "x" * (400 * (sys.argv[3] == "4")))
    sys.exit(int(sys.argv[3]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            print("RuntimeError: out of memory", flush=True); os._exit(7)
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def command(port: int, pid: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", SERVER, str(port), str(pid), *more]


def alive(pid: Path) -> bool:
    """Whether the process runs; one that ended and waits to be noticed by its parent does not."""
    try:
        state = Path(f"/proc/{int(pid.read_text())}/stat").read_text().rpartition(") ")[2]
    except OSError:
        return False
    return not state.startswith("Z")


def test_a_server_is_up_while_the_block_runs(tmp_path: Path) -> None:
    port, pid = free_port(), tmp_path / "pid"
    with started("vLLM", command(port, pid), {}, port, seconds=60, progress=silent) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        assert server.fault() is None
        assert alive(pid)
    assert not alive(pid)


@pytest.mark.slow
def test_a_server_has_let_go_of_its_memory_when_the_block_is_left(tmp_path: Path) -> None:
    """A killed process that holds much memory takes a moment to end, and keeps its port until then."""
    port, pid = free_port(), tmp_path / "pid"
    large = [sys.executable, "-c", "held = bytearray(b'x') * (1 << 29)\n" + SERVER, str(port), str(pid)]
    for _ in range(3):
        with started("vLLM", large, {}, port, seconds=60, progress=silent):
            assert alive(pid)
        assert not alive(pid)


def test_a_server_that_dies_says_why(tmp_path: Path) -> None:
    import urllib.error
    import urllib.request

    port, pid = free_port(), tmp_path / "pid"
    with started("vLLM", command(port, pid), {}, port, seconds=60, progress=silent) as server:
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{server.url}/die", timeout=10)
        until = time.monotonic() + 20
        while server.fault() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert server.fault() == "vLLM's server ended with exit status 7: RuntimeError: out of memory"


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    port = free_port()
    with (
        pytest.raises(UnavailableError) as error,
        started("vLLM", command(port, tmp_path / "pid", "3"), {}, port, seconds=60, progress=silent),
    ):
        pass
    assert (error.value.code, error.value.exit_code) == ("server-start", 4)
    assert error.value.message == "vLLM's server ended with exit status 3: ValueError: no such model bye"
    assert error.value.hint
    with (
        pytest.raises(UnavailableError, match=r"no such model bye x+…$"),
        started("vLLM", command(port, tmp_path / "pid", "4"), {}, port, seconds=60, progress=silent),
    ):
        pass
    silent_one = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        pytest.raises(UnavailableError, match=r"did not answer within 0\.2 seconds: it said nothing"),
        started("SGLang", silent_one, {}, port, seconds=0.2, progress=silent),
    ):
        pass


def test_arguments_become_options() -> None:
    given = {"model": "m", "enforce_eager": True, "trust_remote_code": False, "enable_prefix_caching": False}
    given |= {"speculative_config": {"method": "mtp"}, "lora_modules": ["a", "b"], "seed": None}
    assert options(given, negated=("enable_prefix_caching",)) == [
        *("--model", "m", "--enforce-eager", "--no-enable-prefix-caching"),
        *("--speculative-config", '{"method": "mtp"}', "--lora-modules", "a", "b"),
    ]


SPEC = RunSpec("org/target", Path("/head"), load_prompts("smoke", 1), draft_tokens=2, concurrency=8, serves=True)


def words(engine: VLLM | SGLang, spec: RunSpec) -> str:
    argv, _ = engine.server(spec, Path("/python"), 9)
    return " ".join(argv)


def test_servers_of_vllm() -> None:
    told = words(VLLM(), SPEC)
    assert told.startswith("/python -s -m vllm.entrypoints.openai.api_server --model org/target")
    assert "--max-num-seqs 8 --enforce-eager --no-enable-prefix-caching" in told
    assert '"method": "eagle3"' in told
    assert "--per-request-spec-decode-metrics summary --host 127.0.0.1 --port 9" in told
    assert "--enforce-eager" not in words(VLLM(), replace(SPEC, device="cuda")), "speed matters there"
    alone = words(VLLM(), replace(SPEC, head=None))
    assert "speculative" not in alone and "per-request" not in alone, "vLLM refuses it without speculation"
    for method in ("mtp", "ngram"):
        told = words(VLLM(), replace(SPEC, head=None, baseline=method))
        assert f'--speculative-config {{"method": "{method}", "num_speculative_tokens": 2}}' in told
    given = EngineSettings(2, {"vllm": {"max_num_batched_tokens": 99, "speculative_config": {"disable_padded": 1}}})
    told = words(VLLM(), replace(SPEC, engine_settings=given))
    assert "--tensor-parallel-size 2" in told and "--max-num-batched-tokens 99" in told and "disable_padded" in told
    none = words(VLLM(), replace(SPEC, head=None, engine_settings=given))
    assert "99" in none and "disable_padded" not in none, (
        "what is given about the head's drafting is not the baseline's"
    )
    assert VLLM().server(SPEC, Path("p"), 9)[1].get("VLLM_ENABLE_V1_MULTIPROCESSING") is None


def test_servers_of_sglang() -> None:
    told = words(SGLang(), SPEC)
    assert told.startswith("/python -s -m sglang.launch_server --model-path org/target")
    assert "--max-running-requests 8 --disable-cuda-graph --disable-radix-cache --disable-overlap-schedule" in told
    assert "--speculative-algorithm EAGLE3 --speculative-draft-model-path /head" in told
    fast = words(SGLang(), replace(SPEC, device="cuda", dtype="bfloat16"))
    assert "--disable-radix-cache" in fast
    assert "cuda-graph" not in fast and "overlap" not in fast
    assert "speculative" not in words(SGLang(), replace(SPEC, head=None))
    mtp = words(SGLang(), replace(SPEC, head=None, baseline="mtp"))
    assert "--speculative-algorithm EAGLE --speculative-num-steps 2 --speculative-eagle-topk 1" in mtp
    assert "draft-model-path" not in mtp
    ngram = words(SGLang(), replace(SPEC, head=None, baseline="ngram"))
    assert "--speculative-algorithm NGRAM --speculative-num-draft-tokens 3" in ngram
