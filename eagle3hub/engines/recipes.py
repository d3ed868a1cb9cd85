"""Write the command, YAML and Python that serve a (target, head) pair on one version of an engine.

``data/ENGINE/VERSION/engine.toml`` holds the names of flags; this module knows which settings an engine takes, and in
which form.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from eagle3hub.engines.base import EngineSettings, Recipe, merged
from eagle3hub.engines.specs import (
    PARALLEL_DRAFTING,
    Interface,
    Setting,
    VersionData,
    default_version,
    engine_title,
    interface,
    version_data,
)
from eagle3hub.errors import UsageError
from eagle3hub.head.aux_defaults import AUX_CAPTURE

_YAML_NAME = "extra-config.yaml"
_QUESTION = '"Why is the sky blue?"'


@dataclass(frozen=True, slots=True)
class Serving:
    """What to serve, and with which settings.

    Attributes:
        target, head: names or paths as the user will type them.
        draft_tokens: K, tokens drafted per round (for a tree, its depth); None means the engine's own choice, or 3 if
            it has none.
        topk, num_draft_tokens: branches per drafted token, and nodes of the tree including its root; 1 and None mean
            a chain.
        tensor_parallel: number of devices. context: tokens. dtype: of the target.
        parallel_drafting: whether the head drafts all tokens at once (P-EAGLE), which vLLM must be told.
        aux_layers: after-layer ids of the aux hidden states, if they are not the default; ``[-1]`` for the final
            hidden state. Only TensorRT-LLM needs them.
        arguments, environment: further arguments of the engine's constructor, and environment variables.
        chat_template: arguments of the target's chat template.
        extra: further words for the server's command line.
        on_hub: names that are always Hub ids; any other name may be a folder on this machine.
    """

    target: str
    head: str
    draft_tokens: int | None = None
    topk: int = 1
    num_draft_tokens: int | None = None
    tensor_parallel: int | None = None
    dtype: str | None = None
    context: int | None = None
    parallel_drafting: bool = False
    aux_layers: tuple[int, ...] | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    chat_template: Mapping[str, object] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    on_hub: frozenset[str] = frozenset()

    def with_settings(self, engine: str, settings: EngineSettings) -> Serving:
        """Return this with the settings of a run of ``engine``."""
        return replace(
            self,
            tensor_parallel=settings.tensor_parallel if settings.tensor_parallel > 1 else self.tensor_parallel,
            arguments=settings.arguments.get(engine, {}),
            environment=settings.environment.get(engine, {}),
            chat_template=settings.chat_template,
        )

    @property
    def depth(self) -> int:
        """K, or 3 if none was given."""
        return 3 if self.draft_tokens is None else self.draft_tokens

    @property
    def nodes(self) -> int:
        """Tokens verified per round: the nodes of the tree, or K + 1."""
        return self.depth + 1 if self.num_draft_tokens is None else self.num_draft_tokens


def make_recipe(engine: str, serving: Serving, version: str | None = None) -> Recipe:
    """Return the recipe; a version that is not known is served as the one that `known_version` names.

    Raises UsageError for settings that the engine does not have, or for text that is no version.
    """
    _check(engine, serving)
    data = version_data(engine, version)
    build = _BUILDERS[engine]
    argv, yaml, python = build(serving, data)
    argv += _given(engine, serving, interface(engine, version))
    return Recipe(
        engine=engine,
        version=(version or default_version(engine)).partition("+")[0],
        argv=(*data.command, *argv, *serving.extra),
        env=serving.environment,
        python=python,
        yaml=yaml,
        prepare=_conversions(serving, data) if data.convert else (),
    )


HEAD_NODE = "HEAD_NODE"
"""What stands in the commands of several nodes for the address of the first."""


def over_nodes(recipe: Recipe, nodes: int, tensor_parallel: int | None) -> list[tuple[str, ...]]:
    """Return the commands that serve a recipe on several nodes: one for each, the server's first, or one for all.

    Raises UsageError (``usage-recipe``) for an engine that does not span nodes, and for devices that do not divide.
    """
    data = version_data(recipe.engine, recipe.version)
    flags = data.flags
    if "nodes" not in flags and not data.node_launcher:
        raise UsageError(
            f"how {engine_title(recipe.engine)} spans nodes is not known here",
            hint="--extra adds words to its command",
            code="usage-recipe",
        )
    devices = tensor_parallel or 1
    if nodes < 1 or devices % nodes or devices < nodes:
        raise UsageError(
            f"{devices} devices cannot be shared out evenly over {nodes} nodes",
            hint=f"--tp is the number of all devices, as in --tp {8 * max(nodes, 1)} --nodes {max(nodes, 1)}",
            code="usage-recipe",
        )
    if data.node_launcher:
        world = [f"--nodes={nodes}", f"--ntasks={devices}", f"--ntasks-per-node={devices // nodes}", "--mpi=pmix"]
        return [("srun", *world, *data.node_launcher, *recipe.argv)]
    meeting = HEAD_NODE if data.meeting_port is None else f"{HEAD_NODE}:{data.meeting_port}"
    commands = []
    for rank in range(nodes):
        words = [flags["nodes"], str(nodes), flags["node_rank"], str(rank), flags["meeting"], meeting]
        words += [flags["follower"]] if rank and "follower" in flags else []
        commands.append((*recipe.argv, *words))
    return commands


def _check(engine: str, serving: Serving) -> None:
    if serving.depth < 1 or serving.topk < 1 or (serving.tensor_parallel or 1) < 1:
        raise UsageError("draft tokens, top-k and tensor parallel size are 1 or more", code="usage-recipe")
    if engine == "llamacpp" and serving.tensor_parallel is not None:
        raise UsageError(
            "llama.cpp has no tensor parallel size: it splits a model over what devices it finds",
            hint="give llama.cpp's own flags with --extra, for example --extra '--split-mode row'",
            code="usage-recipe",
        )
    if serving.topk == 1:
        if serving.nodes != serving.depth + 1:
            raise UsageError(
                f"a chain of {serving.depth} draft tokens verifies {serving.depth + 1}, not {serving.nodes}",
                hint="leave --num-draft-tokens out, or give --topk 2 or more for a tree",
                code="usage-recipe",
            )
        return
    if engine not in ("sglang", "sglang_jax"):
        raise UsageError(
            f"{engine_title(engine)} drafts EAGLE-3 chains: --topk is for SGLang and sglang-jax", code="usage-recipe"
        )
    if serving.draft_tokens is None or serving.num_draft_tokens is None:
        raise UsageError(
            "a tree is described by three numbers",
            hint="give --draft-tokens (its depth), --topk and --num-draft-tokens (its nodes)",
            code="usage-recipe",
        )


_Built = tuple[list[str], str | None, str]


def vllm_config(head: str, draft_tokens: int, parallel_drafting: bool) -> dict[str, object]:
    """Return vLLM's speculative_config for a head. Nothing in the head's files makes vLLM draft in parallel."""
    config = {"method": "eagle3", "model": head, "num_speculative_tokens": draft_tokens}
    return config | ({PARALLEL_DRAFTING: True} if parallel_drafting else {})


def _vllm(serving: Serving, data: VersionData) -> _Built:
    own = {"speculative_config": vllm_config(serving.head, serving.depth, serving.parallel_drafting)}
    given = merged(own, serving.arguments)
    config = given.pop("speculative_config")
    common = _common(serving, data.flags)
    argv = [serving.target, data.flags["config"], json.dumps(config), *_words(common)]
    keywords = {"model": serving.target, "speculative_config": config, **_keywords(common), **given}
    call = _call("llm", "LLM", keywords)
    rendering = f", chat_template_kwargs={dict(serving.chat_template)!r}" if serving.chat_template else ""
    lines = f'from vllm import LLM, SamplingParams\n\n{call}messages = [{{"role": "user", "content": {_QUESTION}}}]\n'
    lines += (
        f"print(llm.chat(messages, SamplingParams(temperature=0, max_tokens=128){rendering})[0].outputs[0].text)\n"
    )
    return argv, None, lines


def _sglang(serving: Serving, data: VersionData) -> _Built:
    options = _sglang_options(serving, data.flags, numbers=serving.draft_tokens is not None)
    call = _call("engine", "sgl.Engine", {**_keywords(options), **serving.arguments})
    return _words(options), None, _sglang_script("import sglang as sgl", call)


def _sglang_jax(serving: Serving, data: VersionData) -> _Built:
    options = _sglang_options(serving, data.flags, numbers=True)
    argv, keywords = _words(options), _keywords(options)
    if serving.topk > 1:
        argv.append(data.flags["no_overlap"])
        keywords |= _keywords({data.flags["no_overlap"]: True})
    keywords |= serving.arguments
    imports = "from sgl_jax.srt.entrypoints.engine import Engine"
    return argv, None, _sglang_script(imports, _call("engine", "Engine", keywords))


def _sglang_script(imports: str, call: str) -> str:
    """Return a script that asks an engine one question; guarded, because the engine starts processes."""
    sampling = '{"temperature": 0, "max_new_tokens": 128}'
    body = f'{call}print(engine.generate({_QUESTION}, {sampling})["text"])\nengine.shutdown()\n'
    indented = "".join(f"    {line}\n" if line else "\n" for line in body.splitlines())
    return f'{imports}\n\nif __name__ == "__main__":\n{indented}'


def _sglang_options(serving: Serving, flags: Mapping[Setting, str], *, numbers: bool) -> dict[str, object]:
    options: dict[str, object] = {
        flags["target"]: serving.target,
        flags["algorithm"]: "EAGLE3",
        flags["head"]: serving.head,
    }
    if numbers:
        options |= {
            flags["steps"]: serving.depth,
            flags["topk"]: serving.topk,
            flags["draft_tokens"]: serving.nodes,
        }
    return options | _common(serving, flags)


def _trtllm(serving: Serving, data: VersionData) -> _Built:
    import yaml

    own: dict[str, object] = {
        "decoding_type": data.decoding_type,
        "max_draft_len": serving.depth,
        data.head_key: serving.head,
    }
    if serving.aux_layers is not None:
        own[AUX_CAPTURE] = list(serving.aux_layers)
    given = serving.arguments.get("speculative_config")
    speculative = merged(own, given) if isinstance(given, Mapping) else own
    document = merged({"speculative_config": speculative}, serving.arguments)
    if serving.dtype:
        document = {"dtype": serving.dtype, **document}
    common = {k: v for k, v in _common(serving, data.flags).items() if v != serving.dtype}
    argv = [serving.target, data.flags["config"], _YAML_NAME, *_words(common)]
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=False, width=1000)
    name = data.python_config
    keywords = {k: v for k, v in speculative.items() if k != "decoding_type"}
    config = _call("speculative_config", name, keywords)
    arguments = ["model=" + repr(serving.target), "speculative_config=speculative_config"]
    arguments += [f"tensor_parallel_size={serving.tensor_parallel}"] if serving.tensor_parallel else []
    arguments += [f"max_seq_len={serving.context}"] if serving.context else []
    arguments += [f"dtype={serving.dtype!r}"] if serving.dtype else []
    arguments += [f"{k}={v!r}" for k, v in serving.arguments.items() if k != "speculative_config"]
    llm = "llm = LLM(\n" + "".join(f"    {a},\n" for a in arguments) + ")\n"
    python = f"from tensorrt_llm import LLM\nfrom tensorrt_llm.llmapi import {name}\n\n{config}{llm}"
    python += f"print(llm.generate({_QUESTION}).outputs[0].text)\n"
    return argv, text, python


def _llamacpp(serving: Serving, data: VersionData) -> _Built:
    flags = data.flags
    target, head = (f"{name}.gguf" for name in _base_names(serving))
    options = {
        flags["target"]: target,
        flags["method"]: "draft-eagle3",
        flags["head"]: head,
        flags["draft_tokens"]: serving.depth,
    }
    if serving.context:
        options[flags["context"]] = serving.context
    rendering = f', "chat_template_kwargs": {dict(serving.chat_template)!r}' if serving.chat_template else ""
    python = f"""import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = {target!r}
params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3]
params.speculative.draft.mparams.path = {head!r}
params.speculative.draft.n_max = {serving.depth}
server = xllamacpp.Server(params)
messages = [{{"role": "user", "content": {_QUESTION}}}]
answer = server.handle_chat_completions({{"messages": messages, "temperature": 0, "max_tokens": 128{rendering}}})
print(answer["choices"][0]["message"]["content"])
"""
    return _words(options), None, python


def _conversions(serving: Serving, data: VersionData) -> tuple[str, ...]:
    """Return shell lines that download what is not a local folder, then convert target and head to GGUF."""
    sources, names = (serving.target, serving.head), _base_names(serving)
    fetch = [source for source in sources if source in serving.on_hub or _on_hub(source)]
    folders = [name if source in fetch else source for source, name in zip(sources, names, strict=True)]
    lines = [
        shlex.join(["hf", "download", source, "--local-dir", folder])
        for source, folder in zip(sources, folders, strict=True)
        if source in fetch
    ]
    dtype = [] if serving.dtype is None else ["--outtype", data.dtypes.get(serving.dtype, serving.dtype)]
    for name, folder, more in zip(names, folders, ([], ["--target-model-dir", folders[0]]), strict=True):
        lines.append(shlex.join([*data.convert, folder, *more, "--outfile", f"{name}.gguf", *dtype]))
    return tuple(lines)


def _on_hub(name: str) -> bool:
    """Whether a name is a Hub id, and not a folder on this machine."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _base_names(serving: Serving) -> tuple[str, str]:
    """Return two different file names for what is made from target and head."""
    target, head = PurePath(serving.target).name, PurePath(serving.head).name
    return target, f"{head}-draft" if head == target else head


def _common(serving: Serving, flags: Mapping[Setting, str]) -> dict[str, object]:
    """Map the flags that most engines share to their values, where a value was given."""
    asked: dict[Setting, Any] = {
        "tensor_parallel": serving.tensor_parallel,
        "dtype": serving.dtype,
        "context": serving.context,
    }
    return {flags[name]: value for name, value in asked.items() if value is not None and name in flags}


_TEMPLATE_FLAGS = ("--default-chat-template-kwargs", "--chat-template-kwargs")


def _given(engine: str, serving: Serving, own: Interface | None) -> list[str]:
    """Return further arguments as words of the server's command, as far as it has flags for them.

    TensorRT-LLM takes them in its YAML, and vLLM what concerns the draft in one flag.
    """
    known = own.flags if own is not None else ()
    words: list[str] = []
    for name, value in () if engine == "trtllm" else serving.arguments.items():
        flag = "--" + name.replace("_", "-")
        if name == "speculative_config" or value is None:
            continue
        if isinstance(value, bool):
            written = flag if value else f"--no-{name.replace('_', '-')}"
            words += [written] if value or written in known else []
        elif isinstance(value, list) and not any(isinstance(one, list | dict) for one in value):
            words += [flag, *map(str, value)]
        else:
            words += [flag, value if isinstance(value, str) else json.dumps(value)]
    if serving.chat_template:
        words += next(([f, json.dumps(dict(serving.chat_template))] for f in _TEMPLATE_FLAGS if f in known), [])
    return words


def _words(options: Mapping[str, object]) -> list[str]:
    return [word for flag, value in options.items() for word in (flag, str(value))]


def _keywords(options: Mapping[str, object]) -> dict[str, object]:
    return {flag.lstrip("-").replace("-", "_"): value for flag, value in options.items()}


def _call(result: str, name: str, keywords: Mapping[str, object]) -> str:
    return f"{result} = {name}(\n" + "".join(f"    {k}={v!r},\n" for k, v in keywords.items()) + ")\n"


_BUILDERS: dict[str, Callable[[Serving, VersionData], _Built]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
    "sglang_jax": _sglang_jax,
    "llamacpp": _llamacpp,
}
