"""Each rule, once with an input that it must report and once with one that it must not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagle3hub.engines import ENGINES
from eagle3hub.engines.check import check_markdown, check_recipe
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version, recipe_versions
from eagle3hub.errors import InputError, UnavailableError

SGLANG = "python -m sglang.launch_server --model-path org/t --speculative-algorithm EAGLE3"
SGLANG += " --speculative-draft-model-path org/d"
JAX = SGLANG.replace("sglang.launch_server", "sgl_jax.launch_server")
NUMBERS = "--speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4"
CONFIG = '{"method": "eagle3", "model": "org/d", "num_speculative_tokens": 3}'
VLLM = f"vllm serve org/t --speculative-config '{CONFIG}'"
FOLDED = SGLANG.replace(" --", " \\\n--")
ENGINE = 'import sglang as sgl\nengine = sgl.Engine(model_path="org/t", speculative_algorithm="EAGLE3", {})'
LLM = "from vllm import LLM\nllm = LLM(model='org/t', speculative_config={})"
TRT = "speculative_config:\n  decoding_type: {}\n  {}: org/d\n  max_draft_len: 3\n"


def block(text: str, language: str = "bash") -> str:
    return f"# Card\n\nSome words.\n\n```{language}\n{text}\n```\n"


def codes(text: str) -> list[str]:
    return [finding.code for finding in check_markdown(text)]


SPEAKS = [
    ("flag-removed", block(f"{SGLANG} {NUMBERS} --mamba-scheduler-strategy extra_buffer")),
    ("flag-deprecated", block(f"{SGLANG} {NUMBERS} --disable-cuda-graph")),
    ("flag-unknown", block(f"{SGLANG} {NUMBERS} --speculative-draft-modelpath x")),
    ("env-no-effect", block("export SGLANG_ENABLE_SPEC_V2=1")),
    ("env-no-effect", block(f"SGLANG_ENABLE_SPEC_V2=1 {SGLANG} {NUMBERS}")),
    ("env-no-effect", block("docker run -e VLLM_USE_V1=1 vllm/vllm-openai:latest --model org/t")),
    ("env-unknown", block("export SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LENGTH=1")),
    ("sglang-numbers", block(f"{SGLANG} --speculative-num-steps 5 --speculative-eagle-topk 4")),
    ("sglang-numbers", block(f"{SGLANG} --speculative-num-draft-tokens 4")),
    ("sglang-numbers", block(f"{SGLANG} --speculative-num-steps 3 --speculative-eagle-topk 1")),
    ("sglang-numbers", block(ENGINE.format("speculative_num_steps=5, speculative_eagle_topk=4"), "python")),
    ("sglang-chain", block(f"{SGLANG} {NUMBERS}".replace("tokens 4", "tokens 8"))),
    ("sglang-algorithm", block(f"{SGLANG} {NUMBERS}".replace("EAGLE3", "EAGLE9"))),
    ("sglang-eagle", block(f"{SGLANG} {NUMBERS}".replace("EAGLE3", "EAGLE").replace("org/d", "org/t-Eagle3"))),
    ("sglang-chat-template", block(f"{SGLANG} {NUMBERS} --chat-template qwen3-instruct-no-thinking")),
    ("python-name", block("import sglang as sgl\nllm = sgl.LLM(model_path='t')", "python")),
    ("python-name", block("from sglang import LLM", "python")),
    ("python-name", block("import vllm\nvllm.Engine('t')", "python")),
    ("python-name", block("from tensorrt_llm.llmapi import Eagle3DecodingConfig", "python")),
    ("python-keyword", block("import sglang\nsglang.Engine(model='org/t')", "python")),
    ("sglang-jax-version", block(f"{JAX} {NUMBERS}")),
    ("sglang-jax-numbers", block(JAX)),
    ("sglang-jax-numbers", block(f"{JAX} {NUMBERS}".replace("topk 1", "topk 4"))),
    ("flag-removed", block("vllm serve org/t --speculative-model org/d --num-speculative-tokens 3")),
    ("flag-unknown", block(f"{VLLM} --speculative-konfig x")),
    ("vllm-config-json", block("vllm serve org/t --speculative-config '{method: eagle3}'")),
    ("vllm-config-key", block(VLLM.replace('"method"', '"tensor_parallel_size": 1, "method"'))),
    ("vllm-config-key", block(VLLM.replace('"num_speculative_tokens"', '"num_draft_tokens"'))),
    ("vllm-config-key", block(LLM.format("{'method': 'eagle3', 'model': 'd', 'num_tokens': 3}"), "python")),
    (
        "vllm-draft-devices",
        block(VLLM.replace('"method"', '"draft_tensor_parallel_size": 2, "method"') + " --tensor-parallel-size 4"),
    ),
    (
        "vllm-draft-devices",
        block(LLM.format("{'method': 'eagle3', 'model': 'd', 'draft_tensor_parallel_size': 2}"), "python"),
    ),
    ("vllm-method", block(VLLM.replace('"method": "eagle3", ', "").replace("org/d", "org/eagle-head"))),
    ("vllm-method", block(VLLM.replace('"eagle3"', '"eagle"').replace("org/d", "org/d-eagle3"))),
    ("flag-removed", block("llama-server -m t.gguf -md d.gguf --draft-max 3")),
    ("flag-unknown", block("llama-server -m t.gguf --spec-draft-modle d.gguf")),
    ("env-unknown", block("export LLAMA_ARG_MODLE=t.gguf")),
    ("flag-alias", block("trtllm-serve org/t --extra_llm_api_options c.yml")),
    ("trtllm-decoding-type", block(TRT.format("Eagle3", "speculative_model"), "yaml")),
    ("yaml-alias", block(TRT.format("Eagle3", "speculative_model_dir"), "yaml")),
    ("yaml-unknown", block(TRT.format("Eagle3", "speculative_modle"), "yaml")),
    (
        "trtllm-final-state",
        block(TRT.format("Eagle3", "speculative_model") + "  eagle3_layers_to_capture: [-1]", "yaml"),
    ),
    ("trtllm-draft-len", block("speculative_config: {decoding_type: Eagle3, speculative_model: org/d}", "yaml")),
    (
        "trtllm-draft-len",
        block("from tensorrt_llm.llmapi import Eagle3DecodingConfig as E\nE(speculative_model='d')", "py"),
    ),
]
SILENT = [
    f"{SGLANG} {NUMBERS}",
    SGLANG,
    f"{SGLANG} {NUMBERS} --chat-template ./no-thinking.jinja",
    f"{SGLANG} {NUMBERS} --chat-template llama-4",
    f"{SGLANG} {NUMBERS} --tp 8 --mamba-radix-cache-strategy extra_buffer --host 0.0.0.0 > log 2>&1 &",
    f"{SGLANG} --speculative-num-steps 5 --speculative-eagle-topk 4 --speculative-num-draft-tokens 8",
    f"CUDA_VISIBLE_DEVICES=0 nohup {SGLANG} {NUMBERS}",
    "export SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1\nexport HF_TOKEN=x\nexport SGLANG_MODEL=org/t",
    VLLM,
    VLLM.replace("--speculative-config", "--speculative_config"),
    f"{VLLM} --tensor-parallel-size $TP --max-model-len=4096 -O3",
    VLLM.replace('"method"', '"draft_tensor_parallel_size": 4, "method"') + " --tensor-parallel-size 4",
    VLLM.replace('"method"', '"draft_tensor_parallel_size": 1, "method"') + " --tensor-parallel-size=4",
    VLLM.replace('"method"', '"draft_tensor_parallel_size": 2, "method"') + " --tensor-parallel-size $TP",
    f"docker run --gpus all --ipc=host vllm/vllm-openai:v{default_version('vllm')} --model org/t "
    f"--speculative-config '{CONFIG}'",
    "vllm serve org/t --speculative-config.method eagle3 --speculative-config.model org/d",
    "trtllm-serve org/t --config c.yml --tp_size 2",
    "llama-server -m t.gguf -md d.gguf -ngl 99 --spec-type draft-eagle3 --spec-draft-n-max 3",
    "export LLAMA_ARG_MODEL=t.gguf",
    "vllm serve <your target> --max-model-len <tokens>  # what's free",
    "pip install sglang && git clone https://example.org/sglang.git",
]


@pytest.mark.parametrize(("code", "text"), SPEAKS)
def test_it_speaks(code: str, text: str) -> None:
    found = [f for f in check_markdown(text) if f.code == code]
    assert found, codes(text)
    assert all(f.line >= 6 and f.what for f in found)


@pytest.mark.parametrize("command", SILENT)
def test_it_is_silent(command: str) -> None:
    assert check_markdown(block(command)) == []


@pytest.mark.parametrize(
    "text",
    [
        block(
            ENGINE.format("speculative_num_steps=3, speculative_eagle_topk=1, speculative_num_draft_tokens=4"),
            "python",
        ),
        block(ENGINE.format("speculative_num_steps=5, **options"), "python"),
        block(
            ENGINE.format("speculative_num_steps=steps, speculative_eagle_topk=1, speculative_num_draft_tokens=n"),
            "py",
        ),
        block(LLM.format(CONFIG), "python"),
        block(TRT.format("Eagle", "speculative_model"), "yaml"),
        block(TRT.format("MTP", "speculative_modle"), "yaml"),
        block("import sglang\nfrom sglang.srt.server_args import ServerArgs\nsglang.utils.x()", "python"),
        block('{"speculative_config": 1}', "json"),
        block("SGLANG_ENABLE_SPEC_V2=1 --mamba-scheduler-strategy x", "cpp"),
        "The flag `--mamba-scheduler-strategy` and SGLANG_ENABLE_SPEC_V2=1 are gone: vllm serve --speculative-model.",
    ],
)
def test_it_is_silent_about_what_is_right_or_no_recipe(text: str) -> None:
    assert check_markdown(text) == []


def test_the_lines_are_those_of_the_flags() -> None:
    command = SGLANG.replace(" --", " \\\n  --") + " \\\n  --speculative-num-steps 5 \\\n  --speculative-eagle-topk 4"
    (finding,) = check_markdown(block(command))
    assert block(command).splitlines()[finding.line - 1].strip() == "--speculative-eagle-topk 4"
    (finding,) = check_markdown(block("import sglang as sgl\nx = 1\nsgl.LLM()", "python"))
    assert finding.line == 8


def test_unfenced_cards_are_read_as_well() -> None:
    card = f"""How to run
export SGLANG_ENABLE_SPEC_V2=1
--mamba-scheduler-strategy extra_buffer
--speculative-num-steps 3
Then
{FOLDED}
and in Python
import sglang as sgl
llm = sgl.LLM(
    model_path="t",
)
That is all.
kv: is not it
speculative_config:
    decoding_type: Eagle3
    max_draft_len: 3
"""
    lines = card.splitlines()
    found = {f.code: lines[f.line - 1] for f in check_markdown(card)}
    assert found == {
        "env-no-effect": "export SGLANG_ENABLE_SPEC_V2=1",
        "flag-removed": "--mamba-scheduler-strategy extra_buffer",
        "python-name": "llm = sgl.LLM(",
        "trtllm-decoding-type": "    decoding_type: Eagle3",
    }


@pytest.mark.parametrize("dashes", ["---", "-----", "--- | ---", ":-- | --:", "-- and so on", "--"])
def test_dashes_of_markdown_are_no_flags(dashes: str) -> None:
    card = f"---\nlicense: mit\n---\n\nText\n{dashes}\n{block(VLLM)}\n{dashes}\n\n- item\n{dashes}\n--made-up x\n"
    lines = card.splitlines()
    assert [lines[f.line - 1] for f in check_markdown(card)] == ["--made-up x"]


def test_a_heredoc_is_the_file_it_writes() -> None:
    text = (
        f"cat > config.yaml <<EOF\n{TRT.format('Eagle3', 'speculative_model')}EOF\ntrtllm-serve t --config config.yaml"
    )
    assert codes(block(text)) == ["trtllm-decoding-type"]


@pytest.mark.parametrize("engine", ENGINES)
def test_our_own_recipes_are_clean(engine: str) -> None:
    # TensorRT-LLM's other releases spell their YAML as the pinned one does not
    versions = [default_version(engine)] if engine == "trtllm" else recipe_versions(engine)
    for version in versions:
        more = {} if engine == "llamacpp" else {"tensor_parallel": 2}
        for given_settings in ({}, {"draft_tokens": 5, "dtype": "bfloat16", "context": 4096, **more}):
            recipe = make_recipe(engine, Serving("org/t", "org/d", **given_settings), version).to_json()
            found = [f for f in check_recipe(recipe) if f.code != "sglang-jax-version"]
            assert found == []


def test_json_without_a_recipe_is_an_error() -> None:
    with pytest.raises(InputError, match="no recipe"):
        check_recipe({"engines": []})


@pytest.mark.parametrize(
    "text", ["```", "```bash\n", "\\\n" * 50, "vllm serve '", "--", "export", "speculative_config:", "```py\n\x00"]
)
def test_odd_text_is_no_crash(text: str) -> None:
    check_markdown(text)


FENCES = ["```", "```bash", "```python", "```yaml", "\n", " ", "\\\n", "'", '"', "{", "}", "<", ">", "&&", "EOF"]
WORDS = [
    "<<EOF > c.yaml",
    "speculative_config:",
    "  decoding_type: Eagle",
    "--speculative-config",
    "--a=b",
    "--",
    "A=1",
]
STARTS = [
    "export A=1",
    "[-1]",
    "vllm serve t",
    "trtllm-serve",
    SGLANG,
    NUMBERS,
    "import sglang as sgl",
    "sgl.LLM(",
    ")",
]
PIECES = st.sampled_from([*FENCES, *WORDS, *STARTS, "def f():", "\x00", "\ud800"])


@given(st.lists(PIECES, max_size=30).map("".join))
@settings(max_examples=150, deadline=None)
def test_no_text_is_a_crash_and_no_line_is_made_up(text: str) -> None:
    lines = len(text.splitlines())
    assert all(1 <= finding.line <= lines for finding in check_markdown(text))


def test_a_flag_that_was_split_names_both_halves() -> None:
    (finding,) = check_markdown(block(f"{SGLANG} {NUMBERS} --cuda-graph-max-bs 8"))
    assert finding.code == "flag-unknown"
    assert finding.instead == "--cuda-graph-max-bs-decode or --cuda-graph-max-bs-prefill"


def test_an_interpreter_without_the_engine_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="vLLM's parser"):
        check_markdown(block(VLLM), {"vllm": Path(sys.executable)})


def test_the_command_line(cli: Callable[..., Any], tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text(block(f"{SGLANG} --speculative-num-steps 5"))
    status, out, _ = cli("engines", "check", card, "--data-only", "--json")
    assert status == 1
    assert [f["code"] for f in json.loads(out)["findings"]] == ["sglang-numbers"]
    status, out, _ = cli("engines", "check", card, "--data-only")
    assert "card.md:6: error" in out
    card.write_text(block("export SGLANG_ENABLE_SPEC_V2=1"))
    assert cli("engines", "check", card, "--data-only")[0] == 0
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(make_recipe("sglang", Serving("t", "d"), None).to_json()))
    assert cli("engines", "check", recipe, "--data-only")[0] == 0
    settings = tmp_path / "extra.yaml"
    settings.write_text("speculative_config: {decoding_type: Eagle3}\n")
    status, out, _ = cli("engines", "check", settings, "--data-only", "--json")
    assert (status, json.loads(out)["findings"][0]["line"]) == (1, 1)
    assert cli("engines", "check", tmp_path / "nowhere.md", "--data-only")[0] == 3
    assert cli("engines", "check", card, "--engine-python", "nothing")[0] == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is not JSON: "), ("[" * 100_000, "is not JSON: "), ('["vllm serve"]', "is not a JSON object")],
)
def test_a_file_that_holds_no_recipe(tmp_path: Path, cli: Callable[..., tuple[int, str, str]], text: str, says: str):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    status, out, _ = cli("engines", "check", path, "--data-only", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (3, "recipe-json")
    assert error["message"].startswith(f"'{path}' {says}")
