"""The real SGLang on CPU, with a stand-in for its kernels: the example head in the layouts SGLang reads, and broken.

The numbers are those of vLLM and of the reference on the same prompts: in float32 all three run the same rounds.
``EAGLE3HUB_THOROUGH`` runs every layout on every prompt, and the tree.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.sampling import THOROUGH
from support.validation import histogram
from support.versions import SGLANG

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import EngineFailure, EngineRun, RunSpec
from eagle3hub.engines.check import check_markdown
from eagle3hub.engines.check.commands import ask_parser
from eagle3hub.engines.check.snippets import extract_snippets
from eagle3hub.engines.preflight import examine, preflight
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import Interface, interface
from eagle3hub.head.target import read_target
from eagle3hub.layouts import open_head
from eagle3hub.prompts import load_prompts
from eagle3hub.releasing.demo import NAME
from eagle3hub.system.progress import silent
from eagle3hub.system.typed import build

pytestmark = pytest.mark.engine
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "smollm2-135m" / "head"
TAPS = (2, 15, 27)
# rounds that accepted 0, 1, 2, … drafts, prompt by prompt: float32, K = 3, 64 new tokens
HISTOGRAMS = [[49, 6, 1], [16, 14, 5, 1], [31, 13, 2], [28, 11, 3, 1]]

Run = Callable[..., EngineRun]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, smollm2_target: Path) -> Callable[[str], Path]:
    """Return the example head in a layout; it is converted once."""
    folder = tmp_path_factory.mktemp("heads")

    def in_layout(layout: str) -> Path:
        place = folder / layout
        if not place.exists():
            convert(
                EXAMPLE,
                place,
                layout,
                ConvertOptions(target=str(smollm2_target), target_name=NAME, speculative_tokens=3),
            )
        return place

    return in_layout


@pytest.fixture(scope="module")
def run(smollm2_target: Path, sglang_python: Path) -> Run:
    """Run SGLang to its end."""

    def once(head: Path | None, prompts: int, **settings: Any) -> EngineRun:
        job = RunSpec(target=str(smollm2_target), head=head, prompts=load_prompts("smoke", prompts), **settings)
        found = get_engine("sglang").run(job, sglang_python, timeout=900, progress=silent)
        assert isinstance(found, EngineRun), (found.reason, found.log_tail[-15:])
        return found

    return once


@pytest.fixture(scope="module")
def alone(run: Run) -> EngineRun:
    """The target alone."""
    return run(None, len(HISTOGRAMS))


def broken(head: Path, place: Path, *, config: dict[str, Any] | None = None, drop: tuple[str, ...] = ()) -> Path:
    """Copy a head, with other config values, without some tensors, and with every offset of d2t zero."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(head, place)
    file = place / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **(config or {})}))
    if drop:
        weights = place / "model.safetensors"
        tensors = {name: t for name, t in load_file(weights).items() if name not in drop}
        tensors["d2t"] = tensors["d2t"] * 0
        save_file(tensors, weights)
    return place


@pytest.mark.parametrize(
    ("layout", "prompts"),
    [
        ("universal", 4),
        pytest.param("modelopt", 4 if THOROUGH else 1, marks=pytest.mark.slow),
        *([pytest.param("specforge", 4, marks=pytest.mark.slow)] if THOROUGH else []),
    ],
)
def test_it_runs_the_rounds_vllm_and_the_reference_run(
    run: Run, heads: Callable[[str], Path], alone: EngineRun, layout: str, prompts: int
) -> None:
    found = run(heads(layout), prompts)
    assert found.load is not None
    assert found.load.checked
    assert found.load.not_loaded == ()
    assert set(found.load.ignored) <= {"t2d"}
    assert found.load.aux_boundaries == TAPS
    assert [histogram(p.counts) for p in found.prompts] == HISTOGRAMS[:prompts]
    assert all(p.counts and p.counts.drafted == 3 * p.counts.rounds for p in found.prompts)
    assert [p.tokens for p in found.prompts] == [p.tokens for p in alone.prompts[:prompts]], "speculation is lossless"
    assert found.version == SGLANG
    assert "stand-in" in str(found.environment["kernels"]), "a report says what it was measured on"


@pytest.mark.slow
@pytest.mark.skipif(not THOROUGH, reason="EAGLE3HUB_THOROUGH is not set")
def test_a_tree_accepts_more_and_changes_nothing(run: Run, heads: Callable[[str], Path], alone: EngineRun) -> None:
    tree = run(heads("universal"), 4, topk=4, num_draft_tokens=8)
    assert [p.tokens for p in tree.prompts] == [p.tokens for p in alone.prompts]
    rounds = [p.counts.rounds if p.counts else 0 for p in tree.prompts]
    assert all(few < sum(many) for few, many in zip(rounds, HISTOGRAMS, strict=True))


@pytest.mark.slow
def test_taps_one_layer_too_low_are_seen(run: Run, heads: Callable[[str], Path], tmp_path: Path) -> None:
    low = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [0, 13, 25]}
    found = run(broken(heads("universal"), tmp_path / "head", config={"eagle_config": low}), 1)
    assert found.load is not None
    assert found.load.aux_boundaries == (1, 14, 26)
    assert found.load.not_loaded == ()
    assert histogram(found.prompts[0].counts) != HISTOGRAMS[0], "the rounds see it as well"


@pytest.mark.slow
def test_what_sglang_does_not_miss_is_missed_here(
    run: Run, heads: Callable[[str], Path], alone: EngineRun, tmp_path: Path
) -> None:
    """SGLang serves a d2t of zeros, and missing tensors, without a message.

    ``bias: true`` has it build a bias of fc, and one of o_proj that starts at zero.
    """
    lost = ("midlayer.hidden_norm.weight", "midlayer.self_attn.k_proj.weight")
    head = broken(heads("universal"), tmp_path / "head", drop=lost, config={"bias": True})
    found = run(head, 1, max_new_tokens=24)
    assert found.load is not None
    assert set(found.load.not_loaded) == {
        "layers.0.hidden_norm.weight",
        "layers.0.self_attn.k_proj.weight",
        "fc.bias",
    }
    (prompt,) = found.prompts
    assert prompt.counts is not None
    assert prompt.counts.accepted <= 2, "ids of the draft vocabulary are taken for the target's"
    assert prompt.tokens == alone.prompts[0].tokens[:24]


@pytest.mark.parametrize("layout", ["specjax", "speculators"])
def test_preflight_refuses_what_sglang_cannot_load(
    heads: Callable[[str], Path], smollm2_target: Path, layout: str
) -> None:
    checkpoint = open_checkpoint(heads(layout))
    facts = read_target(str(smollm2_target))
    verdict = preflight(examine(checkpoint, open_head(checkpoint, target=facts)), "sglang", SGLANG, facts)
    assert verdict.kind == "refuses"


@pytest.mark.slow
def test_and_sglang_does_not_load_it(smollm2_target: Path, sglang_python: Path) -> None:
    job = RunSpec(target=str(smollm2_target), head=EXAMPLE, prompts=load_prompts("smoke", 1), max_new_tokens=8)
    found = get_engine("sglang").run(job, sglang_python, timeout=300, progress=silent)
    assert isinstance(found, EngineFailure)
    assert found.verdict == "fail"
    assert found.reason.startswith("SGLang could not load the model with the head: "), found.reason
    assert any("Traceback" in line or "Error" in line for line in found.log_tail)
    assert str(smollm2_target) not in " ".join((found.reason, *found.log_tail))


def marked(mark: str) -> list[int]:
    """Processes that have ``mark`` in their environment."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            if (
                place.name.isdigit()
                and int(place.name) != os.getpid()
                and mark.encode() in (place / "environ").read_bytes()
            ):
                found.append(int(place.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_the_time_limit_leaves_no_process_of_sglang(
    heads: Callable[[str], Path], smollm2_target: Path, sglang_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    monkeypatch.setenv("EAGLE3HUB_TEST_MARK", mark)
    prompts = load_prompts("smoke", 16)
    job = RunSpec(target=str(smollm2_target), head=heads("universal"), prompts=prompts, max_new_tokens=1500)
    most = 0

    def watch(message: str, fraction: float | None = None) -> None:
        """Let the time run out once SGLang has started its own processes."""
        nonlocal most
        if "starting" in message:  # nothing looks at the clock before this returns
            until = time.monotonic() + 240
            while most < 3 and time.monotonic() < until:
                most = max(most, len(marked(mark)))
                time.sleep(0.2)
            time.sleep(max(0.0, started + limit + 2 - time.monotonic()))  # counted from the start of the worker

    started, limit = time.monotonic(), 10.0
    found = get_engine("sglang").run(job, sglang_python, timeout=limit, progress=watch)
    assert isinstance(found, EngineFailure)
    assert "within 10 seconds" in found.reason
    assert most >= 3, "SGLang had started processes of its own"
    until = time.monotonic() + 10
    while marked(mark) and time.monotonic() < until:
        time.sleep(0.1)
    assert marked(mark) == []


def test_recipes_pass_sglangs_parser_and_its_resolution(
    heads: Callable[[str], Path], smollm2_target: Path, sglang_python: Path
) -> None:
    names = (str(smollm2_target), str(heads("universal")))
    chain = make_recipe("sglang", Serving(*names, draft_tokens=3, dtype="bfloat16", context=4096))
    tree = make_recipe("sglang", Serving(*names, draft_tokens=5, topk=4, num_draft_tokens=8, tensor_parallel=2))
    unset = make_recipe("sglang", Serving(*names))
    commands = [[*recipe.argv[3:], "--device", "cuda"] for recipe in (chain, tree, unset)]
    lacking = [*commands[2], "--speculative-num-steps", "3"]
    version, errors = ask_parser(
        "sglang", sglang_python, [*commands, lacking, ["--model-path", "t", "--speculative-nothing"]]
    )
    assert version == SGLANG
    assert errors[:3] == [None, None, None]
    assert "TypeError" in str(errors[3]), "what the check says of one number without the others is true"
    assert "unrecognized arguments" in str(errors[4])


def test_recipes_pass_vllms_parser(vllm_python: Path) -> None:
    serving = Serving("org/t", "org/d", draft_tokens=3, dtype="bfloat16", context=4096, tensor_parallel=2)
    good = make_recipe("vllm", serving).argv[2:]
    _, errors = ask_parser("vllm", vllm_python, [good, ["org/t", "--speculative-model", "org/d"]])
    assert errors[0] is None
    assert "unrecognized arguments" in str(errors[1])


ARGUMENTS = [
    "",
    "--dtype bfloat16",
    "--dtype bf16",
    "--dtype",
    "--dtype=auto --port 1",
    "--port 1 2",
    "--made-up 1",
    "--trust-remote-code",
    "--trust-remote-code true",
    "--trust-remote-code=true",
    "--served-model-name a --seed -1",
    "--tensor-parallel 2",
    "--tool-call-parser nobody",
    "--reasoning-parser qwen3",
    "--kv-cache-dtype fp9",
]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_data_refuse_what_the_parser_refuses(engine: str, vllm_python: Path, sglang_python: Path) -> None:
    python = {"vllm": vllm_python, "sglang": sglang_python}[engine]
    lines = [f"{engine} serve {'--model-path ' if engine == 'sglang' else ''}org/t {more}" for more in ARGUMENTS]
    commands = [extract_snippets(f"```bash\n{line}\n```").commands[0] for line in lines]
    errors = ask_parser(engine, python, [command.words for command in commands])[1]
    # vLLM holds its tool parsers against their names when the server starts, after its parser
    refused = [error is not None or "nobody" in line for error, line in zip(errors, lines, strict=True)]
    found = [bool(check_markdown(f"```bash\n{line}\n```").findings) for line in lines]
    assert dict(zip(lines, found, strict=True)) == dict(zip(lines, refused, strict=True))
    assert 0 < sum(refused) < len(refused)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_interfaces_on_file_are_the_packages_own(engine: str, vllm_python: Path, sglang_python: Path) -> None:
    import subprocess

    worker = Path(get_engine.__code__.co_filename).parent / "workers" / "interface_worker.py"
    python = {"vllm": vllm_python, "sglang": sglang_python}[engine]
    done = subprocess.run(
        [str(python), "-s", str(worker), "--dump", engine], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert build(Interface, json.loads(done.stdout[done.stdout.index("{") :]), "the package") == interface(engine)


def test_a_device_that_is_not_there_is_unavailable(smollm2_target: Path, sglang_python: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a CUDA device")
    job = RunSpec(target=str(smollm2_target), head=None, prompts=load_prompts("smoke", 1))
    found = get_engine("sglang").run(replace(job, device="cuda"), sglang_python, timeout=300, progress=silent)
    assert isinstance(found, EngineFailure)
    assert (found.verdict, "CUDA" in found.reason) == ("unavailable", True)
