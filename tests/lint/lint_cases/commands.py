"""C511: every way in which a card can start an engine on its own files."""

from __future__ import annotations

from dataclasses import replace

from card.card_samples import make_head
from support import outlines
from support.versions import SGLANG, SGLANG_JAX, TRTLLM, VLLM

from eagle3hub.card.served import Served
from lint_cases import Case

ROOT = Served("", "specjax", outlines.specjax(), outlines.target(), make_head())
GOOD = Served("universal", "universal", outlines.universal(), outlines.target(), make_head())
MODELOPT = Served("", "modelopt", outlines.modelopt(), outlines.target(), make_head())
GOOD_ROOT = Served("", "universal", outlines.universal(), outlines.target(), make_head())
FOLDERS = (ROOT, GOOD)


def block(*lines: str, language: str = "bash") -> str:
    return f"# Head\n\n```{language}\n" + "\n".join(lines) + "\n```\n"


def sglang(head: str, launcher: str = "python -m sglang.launch_server") -> str:
    return f"{launcher} --model-path owner/target --speculative-algorithm EAGLE3 --speculative-draft-model-path {head}"


def vllm(head: str) -> str:
    return f"""vllm serve owner/target --speculative-config '{{"method": "eagle3", "model": "{head}"}}'"""


def yaml(head: str, *more: str) -> str:
    start = ("trtllm-serve owner/target --config extra-config.yaml",)
    config = ("speculative_config:", "  decoding_type: Eagle", "  max_draft_len: 3", f"  speculative_model: {head}")
    return block(*start) + block(*config, *more, language="yaml")


def case(name: str, bad: str, at: str, good: str, says: str = f"SGLang {SGLANG} refuses", served=FOLDERS) -> Case:
    return Case("C511", bad, at, good, says, served=served, name=name)


WHOLE = "hf download owner/head --local-dir copy"
PART = "hf download owner/head --include 'universal/*' --local-dir copy"
BRANCH = "hf download owner/head --revision universal --local-dir copy"

CASES = [
    case("by id", block(sglang("owner/head")), "launch_server", block(sglang("owner/head"), sglang("other/head"))),
    case("short", block(sglang("owner/head", "sglang serve")), "sglang serve", block(vllm("owner/head"))),
    case("option by option", block("sglang serve x \\", "  --speculative-draft-model-path owner/head"),
         "draft-model-path", block(PART, sglang("./copy/universal"))),
    case("a copy", block(WHOLE, sglang("./copy")), "launch_server", block(WHOLE, sglang("./copy/universal"))),
    case("a clone", block("git clone https://huggingface.co/owner/head", sglang("./head")), "launch_server",
         block("git clone https://huggingface.co/owner/head", sglang("./head/universal"))),
    case("a branch", block("hf download owner/head --local-dir=copy", sglang("copy/")), "launch_server",
         block(BRANCH, sglang("./copy"))),
    case("in another directory", block(WHOLE) + block(sglang("copy/.")), "launch_server", block(vllm("copy"))),
    case("an address", block(sglang("https://huggingface.co/owner/head")), "launch_server", block(vllm("x/y"))),
    case("a version before", f"With SGLang {SGLANG}:\n\n" + block(sglang("owner/head")), "launch_server",
         f"With SGLang {SGLANG}:\n\n" + block(sglang("owner/head/universal"))),
    replace(case("a version that is not known", "With SGLang 9.1:\n\n" + block(sglang("owner/head")), "launch_server",
         "With SGLang 9.1:\n\n" + block(vllm("owner/head")), f"SGLang 9.1 (judged as {SGLANG}) refuses"),
         severity="warning"),
    case("a bound", "Needs SGLang 0.5.9 or later.\n\n" + block(sglang("owner/head")), "launch_server",
         "Needs SGLang 0.5.9 or later.\n\n" + block(vllm("owner/head"))),
    case("Python", block("import sglang as sgl", "e = sgl.Engine(", "    model_path='owner/target',",
                         "    speculative_draft_model_path='owner/head',", ")", language="python"),
         "sgl.Engine", block("import vllm", "vllm.LLM(model='owner/target', speculative_config={'method': 'eagle3', "
                             "'model': 'owner/head'})", language="python")),
    case("vLLM", block(vllm("owner/head")), "vllm serve", block(vllm("other/head"), sglang("owner/head")),
         f"vLLM {VLLM} serves", (Served("", "universal", outlines.universal(norm_before_residual=True, truth={
             "norm_before_residual": False}), outlines.target(), make_head()), GOOD)),
    case("devices that do not divide its sizes", block(vllm("owner/head") + " -tp 7"), "vllm serve",
         block(vllm("owner/head").replace('"model"', '"draft_tensor_parallel_size": 1, "model"') + " -tp 7",
               vllm("other/head") + " -tp 7"), f"vLLM {VLLM} refuses", (GOOD_ROOT,)),
    case("devices of SGLang", block(sglang("owner/head") + " --tp-size 7"), "launch_server",
         block(sglang("owner/head") + " --tp-size 1"), f"SGLang {SGLANG} refuses", (GOOD_ROOT,)),
    case("YAML", yaml("owner/head"), "speculative_model", yaml("other/head") + block(vllm("owner/head")),
         f"TensorRT-LLM {TRTLLM} refuses", (MODELOPT,)),
    case("YAML that names layers", yaml("owner/head", "  eagle3_layers_to_capture: [2, 15, 27]"), "speculative_model",
         yaml("owner/head", "  eagle3_layers_to_capture: [1, 14, 26]"), f"TensorRT-LLM {TRTLLM} serves", (GOOD_ROOT,)),
    case("TensorRT-LLM in Python", block("from tensorrt_llm.llmapi import EagleDecodingConfig",
         "c = EagleDecodingConfig(max_draft_len=3, speculative_model='owner/head')", language="python"), "c = ",
         block(vllm("owner/head")),
         f"TensorRT-LLM {TRTLLM} refuses", (MODELOPT,)),
    case("sglang-jax", block(sglang("owner/head", "python -m sgl_jax.launch_server")), "sgl_jax",
         block(vllm("owner/head")), f"sglang-jax {SGLANG_JAX} refuses", (MODELOPT,)),
]  # fmt: skip
