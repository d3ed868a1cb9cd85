"""List the types of targets that a version of an engine drafts for with EAGLE-3, from its own source.

    python tools/target_types.py ENGINE --python PATH [--source FOLDER] [--write]

PATH is the interpreter of an environment that has the version. FOLDER holds the engine's package if the environment
has transformers alone, such as a checkout of TensorRT-LLM. A type (``model_type`` of a config.json) is known if the
class that the engine registers for its architecture hands out aux hidden states: in vLLM it has ``SupportsEagle3``
among its bases, in SGLang and sglang-jax a method ``set_eagle3_layers_to_capture``, its own or inherited, in
TensorRT-LLM ``SpecDecOneEngineForCausalLM`` among its bases. Transformers, of the same environment, says which
architectures a type has; ``REMOTE`` does for types whose published models say otherwise. Prints ``known_targets`` and
``not_targets`` as ``contract.toml`` has them (of sglang-jax, which stops at every other type, ``only_targets``);
``--write`` puts them into the contract of the version. Neither the
engine nor a model is imported: sources are parsed.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

from eagle3hub.engines.specs import DATA, default_version, engine_module

MODELS = {
    "vllm": ("vllm/model_executor/models", "vllm/models"),
    "sglang": ("sglang/srt/models",),
    "sglang_jax": ("sgl_jax/srt/models",),
    "trtllm": ("tensorrt_llm/_torch/models",),
}
"""Where an engine keeps its model classes, below site-packages; the registry is in the first."""
REMOTE = {
    "deepseek_v32": ["DeepseekV32ForCausalLM"],
    "deepseek_vl_v2": ["DeepseekVLV2ForCausalLM", "DeepseekVL2ForCausalLM"],
    "kimi_k2": ["DeepseekV3ForCausalLM"],
    "kimi_k25": ["KimiK25ForConditionalGeneration"],
    "kimi_k3": ["KimiK3ForConditionalGeneration"],
    "kimi_linear": ["KimiLinearForCausalLM"],
    "internlm2": ["InternLM2ForCausalLM"],
    "internlm3": ["InternLM3ForCausalLM"],
    "minicpm": ["MiniCPMForCausalLM"],
    "minicpm3": ["MiniCPM3ForCausalLM"],
    "minimax_m3": ["MiniMaxM3SparseForCausalLM"],
    "bailing_moe": ["BailingMoeForCausalLM"],
    "bailing_moe_v2": ["BailingMoeV2ForCausalLM"],
    "sarvam_moe": ["SarvamMoEForCausalLM"],
    "mimo": ["MiMoForCausalLM"],
    "mimo_v2_flash": ["MiMoV2FlashForCausalLM"],
    "step3_vl": ["Step3VLForConditionalGeneration"],
    "step3p5": ["Step3p5ForCausalLM"],
    "baichuan": ["BaichuanForCausalLM", "BaiChuanForCausalLM"],
    "chatglm": ["ChatGLMModel", "ChatGLMForConditionalGeneration"],
    "exaone": ["ExaoneForCausalLM"],
    "internvl_chat": ["InternVLChatModel"],
    "kimi_vl": ["KimiVLForConditionalGeneration"],
    "minicpmv": ["MiniCPMV"],
    "nemotron-nas": ["DeciLMForCausalLM"],
    "phi4mm": ["Phi4MMForCausalLM"],
    "plamo2": ["Plamo2ForCausalLM"],
}
"""Architectures of types whose config class comes with the model, by the config.json of published models."""
_BASES = {"vllm": "SupportsEagle3", "trtllm": "SpecDecOneEngineForCausalLM"}
"""The class that an engine's models inherit from if it drafts for them."""
# transformers 4 hands its modules out by attribute only where torch is, which sglang-jax does without
_TELL = (
    "import importlib, json; m = importlib.import_module('transformers.models.auto.modeling_auto');"
    "names = ['CAUSAL_LM', 'IMAGE_TEXT_TO_TEXT', 'MULTIMODAL_LM'];"
    "print(json.dumps([dict(getattr(m, f'MODEL_FOR_{name}_MAPPING_NAMES', {})) for name in names]));"
    "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]).submodule_search_locations[0])"
)


def told(python: Path, engine: str) -> tuple[dict[str, list[str]], Path]:
    """The architectures of each type that transformers knows, and the folder that the engine's package lies in."""
    out = subprocess.run([str(python), "-c", _TELL, engine], stdout=subprocess.PIPE, text=True, check=True).stdout
    maps, package = out.strip().splitlines()[-2:]
    types: dict[str, list[str]] = {}
    for mapping in json.loads(maps):
        for kind, names in mapping.items():
            types.setdefault(kind, []).extend([names] if isinstance(names, str) else names)
    for kind, names in REMOTE.items():
        types.setdefault(kind, []).extend(names)
    return types, Path(package).parent


class Classes:
    """The model classes of a package: bases, methods and modules, by name."""

    def __init__(self, *folders: Path) -> None:
        self.bases: dict[str, set[str]] = {}
        self.methods: dict[str, set[str]] = {}
        self.registered: dict[str, str] = {}
        for file in sorted(file for folder in folders for file in folder.rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    self.bases.setdefault(node.name, set()).update(_name(base) for base in node.bases)
                    defined = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
                    self.methods.setdefault(node.name, set()).update(defined)
                    self.registered |= dict.fromkeys(_registered_as(node), node.name)
                elif isinstance(node, ast.Assign) and any(_name(t) == "EntryClass" for t in node.targets):
                    entries = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
                    self.registered |= {_name(entry): _name(entry) for entry in entries}

    def lineage(self, name: str) -> set[str]:
        """The class and all classes it inherits from."""
        found, queue = set(), [name]
        while queue:
            one = queue.pop()
            if one not in found:
                found.add(one)
                queue += self.bases.get(one, ())
        return found


def _registered_as(node: ast.ClassDef) -> list[str]:
    """The architectures that TensorRT-LLM's ``register_auto_model`` gives a class."""
    calls = [
        one for one in node.decorator_list if isinstance(one, ast.Call) and _name(one.func) == "register_auto_model"
    ]
    return [str(arg.value) for call in calls for arg in call.args if isinstance(arg, ast.Constant)]


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def vllm_registry(registry: Path) -> dict[str, str]:
    """The class of each architecture, by the tables of ``registry.py``."""
    found: dict[str, str] = {}
    for node in ast.parse(registry.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple) and len(value.elts) == 2:
                    last = value.elts[1]
                    if isinstance(last, ast.Constant):
                        found[str(key.value)] = str(last.value)
    return found


def targets(engine: str, python: Path, source: Path | None = None) -> tuple[list[str], list[str]]:
    """The types that the engine drafts for, and those whose class it has but does not draft for."""
    types, site = told(python, engine_module(engine) if source is None else "transformers")
    folders = [(source or site) / folder for folder in MODELS[engine]]
    classes = Classes(*folders)
    table = vllm_registry(folders[0] / "registry.py") if engine == "vllm" else classes.registered

    def drafts(name: str) -> bool:
        line = classes.lineage(name)
        if engine in _BASES:
            return _BASES[engine] in line
        return any("set_eagle3_layers_to_capture" in classes.methods.get(one, ()) for one in line)

    known, lacking = [], []
    for kind, names in sorted(types.items()):
        own = [table[name] for name in names if name in table]
        if own:
            (known if any(map(drafts, own)) else lacking).append(kind)
    return known, lacking


def listed(name: str, kinds: list[str]) -> str:
    """A list as a contract has it, wrapped."""
    lines, line = [], "   "
    for kind in kinds:
        if len(line) + len(kind) + 4 > 119:
            lines.append(line)
            line = "   "
        line += f' "{kind}",'
    return f"{name} = [\n" + "\n".join([*lines, line]) + "\n]\n"


def lists(engine: str, known: list[str], lacking: list[str]) -> dict[str, str]:
    """The lists of an engine's contract, by name: those that a class drafts for, and those that none does."""
    found = {"only_targets": known} if engine == "sglang_jax" else {"known_targets": known, "not_targets": lacking}
    return {name: listed(name, kinds) for name, kinds in found.items()}


def write(engine: str, version: str, known: list[str], lacking: list[str]) -> None:
    """Put the lists into the contract of a version, in place of its own."""
    path = DATA / engine / version / "contract.toml"
    text = path.read_text(encoding="utf-8")
    for name, wanted in lists(engine, known, lacking).items():
        text, count = re.subn(rf"^{name} = \[.*?^\]\n", wanted, text, count=1, flags=re.MULTILINE | re.DOTALL)
        if not count:
            at = re.search(r"^\[", text, re.MULTILINE)
            end = len(text) if at is None else at.start()
            text = f"{text[:end]}{wanted}{'' if at is None else chr(10)}{text[end:]}"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Parse the command line, and print or write the lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=tuple(MODELS))
    parser.add_argument("--python", type=Path, required=True, help="interpreter that has the engine")
    parser.add_argument("--source", type=Path, help="folder of the engine's package, such as a checkout")
    parser.add_argument("--version", help="the version whose contract is written (default: the pinned one)")
    parser.add_argument("--write", action="store_true", help="put the lists into contract.toml")
    given = parser.parse_args()
    known, lacking = targets(given.engine, given.python, given.source)
    if given.write:
        write(given.engine, given.version or default_version(given.engine), known, lacking)
    else:
        sys.stdout.write("".join(lists(given.engine, known, lacking).values()))


if __name__ == "__main__":
    main()
