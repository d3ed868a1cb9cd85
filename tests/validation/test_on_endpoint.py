"""Validation and benchmark on a running server, here a stand-in that counts two rounds whatever it is asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from support.standin_server import StandIn, standing_in
from support.versions import VLLM

from eagle3hub.engines.base import LoadReport
from eagle3hub.metrics import Counts, acceptance
from eagle3hub.validation.gates import Divergence, Gate, Lossless, judge
from eagle3hub.validation.report import load_report

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "smollm2-135m"
Cli = Callable[..., tuple[int, str, str]]
NAMED = "which tensors of the head the server loaded, whether it serves this head"


def test_a_server_nothing_vouches_for_is_inconclusive(
    cli: Cli, head: Path, fitting_target: Path, tmp_path: Path
) -> None:
    options = ("--engine", "vllm", "--num-prompts", 3, "--max-new-tokens", 4, "--report", tmp_path / "report.json")
    with standing_in(StandIn(target=str(fitting_target))) as url:
        status, out, _ = cli("validate", head, "--target", fitting_target, "--endpoint", f"vllm={url}", *options)
    assert status == 1
    assert out.startswith(f"INCONCLUSIVE  nothing vouches for the head it runs (not checked of the server: {NAMED}")
    assert f"vllm {VLLM} on server, float32" in out
    assert "τ = 1.500" in out
    assert re.search(rf"unchecked +{NAMED}", out)
    assert "tokens/s with the head" in out
    (entry,) = load_report(tmp_path / "report.json").document["engines"]
    assert entry["unchecked"][-1] == "its output without the head"
    assert entry["lossless"] is None
    assert entry["throughput"]["target_tokens_per_second"] is None
    assert "environment" not in entry
    assert url not in json.dumps(entry)


def test_where_tokens_are_drawn_nobody_expects_those_of_the_target_alone(
    cli: Cli, head: Path, fitting_target: Path, tmp_path: Path
) -> None:
    options = ("--temperature", 1, "--num-prompts", 3, "--max-new-tokens", 4, "--report", tmp_path / "report.json")
    with standing_in(StandIn(target=str(fitting_target))) as url:
        cli("validate", head, "--engine", "vllm", "--target", fitting_target, "--endpoint", f"vllm={url}", *options)
    (entry,) = load_report(tmp_path / "report.json").document["engines"]
    assert "whether it serves this head" in entry["unchecked"]
    assert "its output without the head" not in entry["unchecked"]


def test_a_disturbed_measurement_says_so(cli: Cli, head: Path, fitting_target: Path) -> None:
    options = ("--engine", "vllm", "--num-prompts", 2, "--max-new-tokens", 4)
    with standing_in(StandIn(target=str(fitting_target), foreign=1)) as url:
        status, out, _ = cli("validate", head, "--target", fitting_target, "--endpoint", f"vllm={url}", *options)
    assert status == 1
    assert out.startswith("INCONCLUSIVE  the counters of vLLM's server do not fit prompt 1")


@pytest.mark.parametrize(
    ("server", "option", "status", "says"),
    [
        (StandIn(), ("--draft-tokens", 5), 3, "the server drafts 3 tokens per round, not 5"),
        (StandIn(), ("--topk", 4, "--num-draft-tokens", 8), 3, "the server drafts with top-k 1, not 4"),
        (StandIn(speculative=False), (), 3, "it serves the target alone"),
        (StandIn(key="k"), (), 4, "EAGLE3HUB_ENDPOINT_API_KEY"),
        (StandIn(), ("--layouts", "all"), 2, "--endpoint is about one folder, and --layouts makes several"),
    ],
)
def test_refusals(
    cli: Cli,
    head: Path,
    fitting_target: Path,
    server: StandIn,
    option: tuple[object, ...],
    status: int,
    says: str,
    tmp_path: Path,
) -> None:
    report = tmp_path / "report.json"
    with standing_in(replace(server, target=str(fitting_target))) as url:
        command = ("validate", head, "--engine", "vllm", "--target", fitting_target, "--endpoint", f"vllm={url}")
        found, out, err = cli(*command, *option, "--report", report)
    assert (found, out) == (status, "")
    assert says in err
    assert not report.exists()


def test_no_server_is_exit_4(cli: Cli, head: Path, fitting_target: Path) -> None:
    with standing_in(StandIn()) as url:
        pass
    command = ("validate", head, "--engine", "vllm", "--target", fitting_target, "--endpoint", f"vllm={url}")
    status, _, err = cli(*command)
    assert status == 4
    assert f"no vLLM server answers at {url}" in err


def bench_on_vllm(head: Path, target: Path, prompts: int) -> tuple[object, ...]:
    return "bench", head, "--target", target, "--datasets", "smoke", "--num-prompts", prompts, "--engine", "vllm"


def test_a_benchmark_on_a_server(cli: Cli, head: Path, fitting_target: Path) -> None:
    command = bench_on_vllm(head, fitting_target, 2)
    with standing_in(StandIn(target=str(fitting_target))) as url:
        status, out, _ = cli(*command, "--max-new-tokens", 4, "--endpoint", f"vllm={url}", "--json")
    (cell,) = json.loads(out)["cells"]
    assert (status, cell["verdict"]) == (1, "inconclusive")
    assert cell["acceptance"]["mean_acceptance_length"] == 1.5
    assert cell["engine"] == {"name": "vllm", "version": VLLM, "environment": {}}
    assert cell["settings"]["device"] == "server", "not the device of this machine"
    assert cell["throughput"]["conditions"] == "one sequence at a time on a running server, float32"


def test_a_benchmark_asks_the_preflight_before_it_starts_an_engine(
    cli: Cli, head: Path, fitting_target: Path, tmp_path: Path
) -> None:
    """vLLM reads aux layers from one place of the config only; what else it does with them is known."""
    file = head / "config.json"
    config = json.loads(file.read_text())
    config["eagle_config"] = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 14, 26]}
    config["architectures"] = ["LlamaForCausalLMEagle3"]
    file.write_text(json.dumps(config))
    started = tmp_path / "started"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$2" = -c ] && exit 1\ntouch {started}\nexit 7\n')
    python.chmod(0o755)
    command = bench_on_vllm(head, fitting_target, 1)
    command += ("--engine-python", f"vllm={python}", "--json")
    status, out, _ = cli(*command)
    (cell,) = json.loads(out)["cells"]
    assert (status, cell["verdict"]) == (1, "fail")
    assert cell["reason"].startswith("preflight, engine not started: vLLM")
    assert not started.exists()
    status, out, _ = cli(*command, "--run-anyway")
    assert "exit status 7" in json.loads(out)["cells"][0]["reason"]
    assert started.exists()


GATE = Gate("agreement", "pass", "all 3 prompts have the counters of the reference exactly")
OPEN = ("which tensors of the head the server loaded",)


def verdict(gate: Gate, **changed: object) -> tuple[str, str]:
    arguments: dict[str, object] = {
        "load": LoadReport(checked=False),
        "expected_taps": [2, 15, 27],
        "lossless": Lossless(3, 3, (), by_reference=True),
        "dtype": "float32",
        "acceptance": acceptance([Counts(100, 100, 50, (50,))] * 8),
        "min_acceptance_length": None,
        "gates": [gate],
        "unchecked": OPEN,
    }
    found = judge(**{**arguments, **changed})  # type: ignore[arg-type]
    return found.verdict, found.reason


def test_a_server_passes_on_the_word_of_the_reference_and_the_verdict_names_what_is_open() -> None:
    found, reason = verdict(GATE)
    assert found == "pass"
    assert reason.endswith("; not checked of the server: which tensors of the head the server loaded")
    assert "all tensors loaded" not in reason
    assert verdict(replace(GATE, name="floor"))[0] == "inconclusive", "an acceptance length alone says little"
    assert verdict(replace(GATE, verdict="inconclusive"))[0] == "inconclusive"
    assert verdict(replace(GATE, verdict="fail"))[0] == "fail"


def test_output_other_than_the_references_fails_in_float32_only() -> None:
    changed = Lossless(2, 3, (Divergence("a", 7),), by_reference=True)
    found, reason = verdict(GATE, lossless=changed)
    assert found == "fail"
    assert "not what the reference generates in float32 for 1 of 3 prompts (first: prompt a, new token 7)" in reason
    assert verdict(GATE, lossless=changed, dtype="bfloat16")[0] == "pass"


def test_a_release_measures_on_the_server(cli: Cli, head: Path, fitting_target: Path, tmp_path: Path) -> None:
    document = yaml.safe_load((EXAMPLE / "release.yaml").read_text())
    document["head"] = {"source": str(head)}
    document["target"] |= {"path": str(fitting_target)}
    document["layouts"] = {"main": "specforge", "also": ["modelopt"]}
    document["validate"] = {"engine": "vllm", "num_prompts": 2, "max_new_tokens": 4}
    manifest = tmp_path / "release.yaml"
    manifest.write_text(yaml.safe_dump(document))
    with standing_in(StandIn(target=str(fitting_target))) as url:
        command = ("release", manifest, "--until", "validate", "--json", "--endpoint", f"vllm={url}")
        status, out, _ = cli(*command)
        assert status == 2
        assert json.loads(out)["error"]["code"] == "usage-endpoint"
        del document["layouts"]["also"]
        manifest.write_text(yaml.safe_dump(document))
        status, out, _ = cli(*command)
    made = json.loads(out)
    assert (status, made["verdict"]) == (1, "inconclusive"), "nothing vouches for the head that it runs"
    (entry,) = made["layouts"][0]["engines"]
    assert (entry["engine"], entry["device"], entry["acceptance"]["rounds"]) == ("vllm", "server", 4)
    assert url not in out
