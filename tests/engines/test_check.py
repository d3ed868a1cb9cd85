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
from support.sampling import examples
from support.versions import TRTLLM, TRTLLM_NEXT

from eagle3hub.engines import ENGINES
from eagle3hub.engines.check import RecipeFinding, check_markdown, check_recipe
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version, recipe_versions, versions_with
from eagle3hub.errors import InputError, UnavailableError

SGLANG = "python -m sglang.launch_server --model-path org/t --speculative-algorithm EAGLE3"
SGLANG += " --speculative-draft-model-path org/d"
JAX = SGLANG.replace("sglang.launch_server", "sgl_jax.launch_server")
NUMBERS = "--speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4"
CONFIG = '{"method": "eagle3", "model": "org/d", "num_speculative_tokens": 3}'
VLLM = f"vllm serve org/t --speculative-config '{CONFIG}'"
FOLDED = SGLANG.replace(" --", " \\\n--")
ENGINE = "import sglang as sgl\nengine = sgl.Engine(model_path='org/t', speculative_algorithm='EAGLE3', "
ENGINE += "speculative_draft_model_path='org/d', {})"
TREE = "--speculative-num-steps 3 --speculative-eagle-topk 4 --speculative-num-draft-tokens 16"
SYNTHETIC = '"rejection_sample_method": "synthetic", "synthetic_acceptance_length": 3.1'
LLM = "from vllm import LLM\nllm = LLM(model='org/t', speculative_config={})"
TRT = "speculative_config:\n  decoding_type: {}\n  {}: org/d\n  max_draft_len: 3\n"


def block(text: str, language: str = "bash") -> str:
    return f"# Card\n\nSome words.\n\n```{language}\n{text}\n```\n"


def found_in(text: str) -> list[RecipeFinding]:
    return check_markdown(text).findings


def codes(text: str) -> list[str]:
    return [finding.code for finding in found_in(text)]


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
    ("flag-unknown", block(f"{JAX} {NUMBERS} --brand-new 1")),
    ("flag-value", block(f"{JAX} {NUMBERS} --dtype bf16")),
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
    ("flag-value", block(f"{VLLM} --dtype bf16")),
    ("flag-value", block(f"{VLLM} --max-model-len")),
    ("flag-value", block(f"{VLLM} --enforce-eager=true")),
    ("flag-value", block(f"{VLLM} --reasoning-parser qwen33")),
    ("flag-value", block(f"{SGLANG} {NUMBERS} --dtype int3")),
    ("flag-value", block(LLM.format(f"{CONFIG}, dtype='bf16'"), "python")),
    ("flag-value", block("model: org/t\nport: 8000\ndtype: bf16\nmax-model-len: 4096", "yaml")),
    ("flag-stray", block(f"{VLLM} curl")),
    ("flag-stray", block(f"{VLLM} --enforce-eager true")),
    ("flag-stray", block(f"{SGLANG} {NUMBERS} --disable-radix-cache true --port 1 2")),
    ("flag-twice", block(f"{VLLM} --max-model-len 4096 --max_model_len 8192")),
    ("flag-twice", block(f"{SGLANG} {NUMBERS} --speculative-num-steps 5")),
    ("vllm-config-value", block(VLLM.replace('"eagle3"', '"eagle4"'))),
    ("vllm-config-value", block(VLLM.replace('"method"', '"rejection_sample_method": "exact", "method"'))),
    ("vllm-config-json", block('vllm serve org/t --speculative-config {"method":"eagle3","model":"d"}')),
    ("vllm-config-json", block("vllm serve org/t --speculative-config '[1]'")),
    ("vllm-config", block(VLLM.replace('"method"', '"synthetic_acceptance_length": 3, "method"'))),
    ("vllm-no-model", block(VLLM.replace('"model": "org/d", ', ""))),
    ("vllm-method", block(VLLM.replace("org/d", "org/d-DFlash"))),
    ("vllm-method", block(VLLM.replace('"eagle3"', '"dflash"').replace("org/d", "org/d-eagle3"))),
    ("vllm-method", block(VLLM.replace('"eagle3"', '"ngram"'))),
    ("vllm-method", block(VLLM.replace("org/d", "org/t-P-EAGLE"))),
    ("vllm-draft-tokens", block(VLLM.replace(', "num_speculative_tokens": 3', ""))),
    ("vllm-draft-tokens", block(VLLM.replace('tokens": 3', 'tokens": 0'))),
    ("vllm-draft-devices", block(VLLM.replace('"method"', '"draft_tensor_parallel_size": 2, "method"') + " -tp 4")),
    (
        "vllm-config-key",
        block('{"method": "eagle3", "model": "d", "num_speculative_tokens": 3, "draft_tp": 1}', "json"),
    ),
    ("vllm-config-key", block('{"method": "eagle3", "model": "d", "num_speculative_tokens": 3, "draft_tp": 1}', "")),
    (
        "vllm-config-key",
        block("speculative_config:\n  method: eagle3\n  model: d\n  num_speculative_tokens: 3\n  draft: 1", "yaml"),
    ),
    ("acceptance-simulated", block(VLLM.replace('"method"', f'{SYNTHETIC}, "method"'))),
    ("acceptance-simulated", block(f"SGLANG_SIMULATE_ACC_LEN=3.5 {SGLANG} {NUMBERS}")),
    ("acceptance-lossy", block(f"{SGLANG} {NUMBERS} --speculative-accept-threshold-single 0.4")),
    ("acceptance-lossy", block(VLLM.replace('"method"', '"rejection_sample_method": "fly", "method"'))),
    ("sglang-no-algorithm", block(SGLANG.replace("--speculative-algorithm EAGLE3 ", ""))),
    ("sglang-no-draft", block(SGLANG.replace(" --speculative-draft-model-path org/d", ""))),
    ("sglang-no-draft", block(SGLANG.replace("EAGLE3", "NGRAM"))),
    ("sglang-tree", block(f"{SGLANG} {NUMBERS}".replace("topk 1", "topk 2").replace("tokens 4", "tokens 40"))),
    ("sglang-tree", block(f"{SGLANG} {TREE} --speculative-use-rejection-sampling")),
    ("sglang-tree", block(f"{SGLANG} {TREE} --attention-backend trtllm_mha")),
    ("sglang-tree", block(f"{SGLANG} {TREE} --attention-backend fa4 --page-size 64")),
    ("trtllm-no-draft", block("speculative_config: {decoding_type: Eagle, max_draft_len: 3}", "yaml")),
    ("trtllm-tree", block(TRT.format("Eagle", "speculative_model") + "  use_dynamic_tree: true", "yaml")),
    ("trtllm-decoding-type", block(TRT.format("Eagle4", "speculative_model"), "yaml")),
    ("trtllm-decoding-type", block("speculative_config: {max_draft_len: 3, speculative_model: d}", "yaml")),
    ("yaml-unknown", block("kv_cache_config: {}\ncuda_graph_konfig: {}", "yaml")),
    ("yaml-unknown", block("model: org/t\nport: 8000\nmax-model-length: 4096", "yaml")),
    ("flag-unknown", block("trtllm-serve org/t --max_batchsize 3")),
    ("yaml-syntax", block(TRT.format("Eagle", "speculative_model").replace("  max", "   max"), "yaml")),
    ("python-syntax", block("from vllm import LLM\nLLM(model='t' dtype='auto')", "python")),
    ("json-syntax", block('{"method": "eagle3" "num_speculative_tokens": 3}', "json")),
]
NAMED = [
    ("flag-removed", "Give the head with `--speculative-model owner/head`.\n"),
    ("flag-removed", "SGLang: keep `--speculative-num-steps` small.\n\nWith vLLM, pass `--speculative-model`.\n"),
    ("flag-unknown", f"{block(VLLM)}\nUse `--speculative-konfig` to tune it.\n"),
    ("sglang-algorithm", f"> {SGLANG.replace('EAGLE3', 'EAGLE9').replace(' --spec', chr(10) + '> --spec', 1)}\n"),
    ("sglang-algorithm", block(FOLDED.replace("EAGLE3", "EAGLE9").replace(chr(92), "`"), "powershell")),
]
QUIET = [
    "Older versions took `--speculative-model`.\n",
    "`--speculative-model` was removed.\n",
    "`--speculative-config` has it all; SGLang has `--speculative-num-steps`.\n",
    "Our script has `--draft-name`.\n",
    f"{block('llama-server -m t.gguf')}\nThe other program takes `--draft`.\n",
    f"> {SGLANG} {NUMBERS}\n",
    block(f"$env:CUDA_VISIBLE_DEVICES = '0'\n{FOLDED} {NUMBERS}".replace(chr(92), "`"), "powershell"),
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
    "vllm serve org/t --speculative-config.method eagle3 --speculative-config.model org/d "
    "--speculative-config.num_speculative_tokens 3",
    "trtllm-serve org/t --config c.yml --tp_size 2",
    "llama-server -m t.gguf -md d.gguf -ngl 99 --spec-type draft-eagle3 --spec-draft-n-max 3",
    "export LLAMA_ARG_MODEL=t.gguf",
    "vllm serve <your target> --max-model-len <tokens>  # what's free",
    f"{SGLANG} {TREE}",
    f"{SGLANG} {TREE} --attention-backend fa3 --page-size 64",
    f"{SGLANG} {NUMBERS} --speculative-accept-threshold-single 1.0 --cuda-graph-bs-decode 1 2 4 8",
    f"{SGLANG.replace('EAGLE3', 'NEXTN')} {NUMBERS}",
    SGLANG.replace("EAGLE3", "EAGLE").replace(" --speculative-draft-model-path org/d", ""),
    "python -m sglang.launch_server --model-path org/t --speculative-algorithm NGRAM --speculative-num-draft-tokens 8",
    "python -m sglang.launch_server --model-path org/t $SPECULATIVE",
    "sglang serve org/t --port 30000",
    f"{VLLM} --dtype bfloat16 --reasoning-parser qwen3 --no-enable-prefix-caching -dp 2 [--port 8000]",
    f"{VLLM} --reasoning-parser mine --reasoning-parser-plugin mine.py",
    f"{VLLM} --api-key a b --dtype $DTYPE",
    'vllm serve org/t --speculative-config \'{"method": "mtp", "num_speculative_tokens": 1}\'',
    'vllm serve org/t --speculative-config \'{"method": "ngram", "num_speculative_tokens": 3}\'',
    'vllm serve "$T" --speculative-config "{\\"method\\":\\"eagle3\\",\\"model\\":\\"$D\\",'
    '\\"num_speculative_tokens\\":3}"',
    "vllm serve org/t --spec-method eagle3 --spec-model org/d --spec-tokens 3",
    VLLM.replace("org/d", "org/t-speculator.p-eagle"),
    VLLM.replace("org/d", "org/t-P-EAGLE").replace('"method"', '"parallel_drafting": true, "method"'),
    f"{VLLM} --omni --made-up",
    "pip install sglang && git clone https://example.org/sglang.git",
    f"{VLLM} --max-model-len 4096 --max_model_len 4096",
    f"{VLLM} --middleware a.b --middleware c.d",
]


@pytest.mark.parametrize(("code", "text"), SPEAKS)
def test_it_speaks(code: str, text: str) -> None:
    found = [f for f in found_in(text) if f.code == code]
    assert found, codes(text)
    assert all(f.line >= 6 and f.what for f in found)


@pytest.mark.parametrize(("code", "text"), NAMED)
def test_it_speaks_of_flags_in_sentences_quotes_and_other_shells(code: str, text: str) -> None:
    assert code in codes(text)


@pytest.mark.parametrize("text", QUIET)
def test_it_is_silent_about_what_was_and_what_is_right(text: str) -> None:
    assert found_in(text) == []


@pytest.mark.parametrize("command", SILENT)
def test_it_is_silent(command: str) -> None:
    assert found_in(block(command)) == []


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
    assert found_in(text) == []


def test_the_lines_are_those_of_the_flags() -> None:
    command = SGLANG.replace(" --", " \\\n  --") + " \\\n  --speculative-num-steps 5 \\\n  --speculative-eagle-topk 4"
    (finding,) = found_in(block(command))
    assert block(command).splitlines()[finding.line - 1].strip() == "--speculative-eagle-topk 4"
    (finding,) = found_in(block("import sglang as sgl\nx = 1\nsgl.LLM()", "python"))
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
    speculative_model: org/d
"""
    lines = card.splitlines()
    found = {f.code: lines[f.line - 1] for f in found_in(card)}
    assert found == {
        "env-no-effect": "export SGLANG_ENABLE_SPEC_V2=1",
        "flag-removed": "--mamba-scheduler-strategy extra_buffer",
        "python-name": "llm = sgl.LLM(",
        "trtllm-decoding-type": "    decoding_type: Eagle3",
    }


@pytest.mark.parametrize("dashes", ["---", "-----", "--- | ---", ":-- | --:", "-- and so on", "--"])
def test_dashes_of_markdown_are_no_flags(dashes: str) -> None:
    card = (
        f"---\nlicense: mit\n---\n\nText\n{dashes}\n{block(VLLM)}\n{dashes}\n\n- item\n{dashes}\n--max-modle-len x\n"
    )
    lines = card.splitlines()
    assert [lines[f.line - 1] for f in found_in(card)] == ["--max-modle-len x"]


def test_a_heredoc_is_the_file_it_writes() -> None:
    text = f"cat > config.yaml <<EOF\n{TRT.format('Eagle3', 'speculative_model')}EOF\ntrtllm-serve t --config c.yaml"
    assert codes(block(text)) == ["trtllm-decoding-type"]


@pytest.mark.parametrize("engine", ENGINES)
def test_our_own_recipes_are_clean(engine: str) -> None:
    # TensorRT-LLM's other releases spell their YAML as the pinned one does not
    versions = [default_version(engine)] if engine == "trtllm" else recipe_versions(engine)
    for version in versions:
        more = {} if engine == "llamacpp" else {"tensor_parallel": 2}
        for given_settings in ({}, {"draft_tokens": 5, "dtype": "bfloat16", "context": 4096, **more}):
            recipe = make_recipe(engine, Serving("org/t", "org/d", **given_settings), version).to_json()
            found = [f for f in check_recipe(recipe).findings if f.code != "sglang-jax-version"]
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
@settings(max_examples=examples(1.5))
def test_no_text_is_a_crash_and_no_line_is_made_up(text: str) -> None:
    lines = len(text.splitlines())
    assert all(1 <= finding.line <= lines for finding in found_in(text))


def test_a_flag_that_was_split_names_both_halves() -> None:
    (finding,) = found_in(block(f"{SGLANG} {NUMBERS} --cuda-graph-max-bs 8"))
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


PUBLISHED = "The mean acceptance length is 3.45 at K = 3.\n"


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        (block(VLLM.replace('"method"', f'{SYNTHETIC}, "method"')), "warning"),
        (PUBLISHED + block(VLLM.replace('"method"', f'{SYNTHETIC}, "method"')), "error"),
        ("| | τ |\n|-|-|\n| MT-Bench | 3.45 |\n" + block(f"export SGLANG_SIMULATE_ACC_LEN=3\n{SGLANG}"), "error"),
        (block(f"export SGLANG_SIMULATE_ACC_LEN=3\n{SGLANG}"), "warning"),
        ("平均接受长度为 3.2。\n" + block(f"{SGLANG} --speculative-accept-threshold-acc 0.5"), "error"),
        (PUBLISHED + block(LLM.format({"method": "eagle3", "rejection_sample_method": "fly"}), "python"), "error"),
    ],
)
def test_simulated_acceptance_is_an_error_beside_a_published_one(text: str, severity: str) -> None:
    found = [f for f in found_in(text) if f.code.startswith("acceptance-")]
    assert [f.severity for f in found] == [severity]


def test_the_version_that_is_named_decides() -> None:
    text = block(VLLM.replace('"method"', '"xpress_topc": 4, "method"'))
    first, second = versions_with("vllm", "interface.json")
    assert [f.code for f in check_markdown(text, versions={"vllm": first}).findings] == ["vllm-config-key"]
    outcome = check_markdown(text, versions={"vllm": second})
    assert (outcome.findings, outcome.warnings) == ([], [])
    assert check_markdown(text, versions={"vllm": "99.0"}).warnings == [
        f"vLLM 99.0 is newer than every version that eagle3hub knows: it is judged as {second}"
    ]
    lossy = block(VLLM.replace('"method"', '"rejection_sample_method": "fly", "method"'))
    assert [f.code for f in check_markdown(lossy, versions={"vllm": second}).findings] == ["acceptance-lossy"]


@pytest.mark.parametrize(
    ("text", "checked", "left"),
    [
        ("Only words.", 0, []),
        (block(VLLM), 1, []),
        (block(f"{VLLM}\nvllm bench serve --model org/t"), 1, ["vllm bench: its flags are not known here"]),
        (
            block("python -m sglang.bench_serving --backend sglang"),
            0,
            ["sglang.bench_serving: its flags are not known"],
        ),
        (block("name: CI\non: push", "yaml"), 0, ["YAML that is no engine's settings"]),
        (block("{{ .Values.x }}: [", "yaml"), 0, ["YAML that does not parse"]),
        (block("a: 1\nb: 2", "yaml"), 0, ["YAML that is no engine's settings"]),
        (block("- a\n- b", "yaml"), 0, ["YAML that is no engine's settings"]),
        (block("from vllm import LLM\nllm = LLM(model='t', ...)", "python"), 0, ["Python that does not parse"]),
        (block('{"num_speculative_tokens": 3, ...}', "json"), 0, ["JSON that does not parse"]),
        (block("trtllm-serve org/t --tp_size 2 --brand_new 3"), 1, ["whether it has --brand_new"]),
        (block("kv_cache_config: {}\nbrand_new: 1", "yaml"), 1, ["whether it has brand_new"]),
        (block("speculative_config: {decoding_type: MTP, a: 1}", "yaml"), 1, ["the keys of decoding_type MTP"]),
        (block(f"{VLLM} --omni"), 0, ["the command starts vLLM-Omni"]),
        (block("vllm serve 'org/t --dtype auto\necho 1"), 0, ["a command that does not parse as shell"]),
        ("vllm serve 'org/t --dtype auto\nand more words", 1, ["a command that does not parse as shell"]),
    ],
)
def test_what_is_held_against_nothing_is_said(text: str, checked: int, left: list[str]) -> None:
    outcome = check_markdown(text)
    assert outcome.checked == checked
    assert [f.code for f in outcome.findings if "shell" not in f.code] == []
    assert len(outcome.not_checked) == len(left), outcome.not_checked
    assert all(part in one.what for part, one in zip(left, outcome.not_checked, strict=True)), outcome.not_checked
    assert ("nothing was checked" in outcome.summary()) == (not checked and not outcome.findings)
    assert (f"{len(left)} not checked" in outcome.summary()) == bool(left)


def test_the_command_line_says_what_was_not_checked(cli: Callable[..., Any], tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text(block(VLLM) + block("a: 1", "yaml"))
    status, out, _ = cli("engines", "check", card, "--data-only", "--version", "vllm=99.0")
    assert status == 0
    assert "card.md:13: not checked: YAML that is no engine's settings" in out
    assert out.endswith("card.md: 1 checked, 1 not checked; nothing that an engine would read differently\n")
    assert out.startswith("vLLM 99.0 is newer than every version that eagle3hub knows")
    status, out, _ = cli("engines", "check", card, "--data-only", "--json")
    document = json.loads(out)
    assert (status, document["checked"]) == (0, 1)
    assert [one["line"] for one in document["not_checked"]] == [13]
    card.write_text("Only words.")
    assert "card.md: nothing was checked" in cli("engines", "check", card, "--data-only")[1]
    assert cli("engines", "check", card, "--version", "vllm")[0] == 2
    assert cli("engines", "check", card, "--version", "vllm=newest")[0] == 2
    script = tmp_path / "serve.sh"
    script.write_text(f"#!/bin/sh\n{VLLM} --dtype bf16\n")
    status, out, _ = cli("engines", "check", script, "--data-only", "--json")
    assert (status, [f["line"] for f in json.loads(out)["findings"]]) == (1, [2])


@pytest.mark.parametrize("version", [TRTLLM, TRTLLM_NEXT])
def test_the_decoding_type_to_write_is_one_that_the_version_takes(version: str) -> None:
    settings = "speculative_config: {{max_draft_len: 3, speculative_model: org/d{}}}"
    (found,) = check_markdown(block(settings.format(""), "yaml"), versions={"trtllm": version}).findings
    assert found.code == "trtllm-decoding-type"
    written = block(settings.format(f", {found.instead}"), "yaml")
    assert check_markdown(written, versions={"trtllm": version}).findings == []
