"""The target of a validation: which it is, its identity as a report states it, and the context and memory of a run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from eagle3hub.address import HubAddress, head_address, is_folder, is_hub_id, parse_address, target_address
from eagle3hub.checkpoint.digest import file_digest
from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.checkpoint.source import CONFIG, PROVENANCE, parse_json_object, read_small
from eagle3hub.engines.base import RunSpec
from eagle3hub.errors import Eagle3HubError, HubError, InputError, SourceError, UsageError
from eagle3hub.head.quantization import QUANT_CONFIG, json_object, scheme_in
from eagle3hub.head.target import WEIGHTS, read_target
from eagle3hub.layouts import read_head, settle
from eagle3hub.prompts import PromptSet, lengthened, load_prompts, second_turns
from eagle3hub.system.documents import did_you_mean, front_matter
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.reading import read_bytes
from eagle3hub.validation.report import MeasuredTarget

if TYPE_CHECKING:
    from eagle3hub.reference.chat import ChatTokenizer

_CARD = "README.md"
_SMALLEST_CONTEXT = 2048
_IMAGE_TOKENS = 16384
"""Tokens of context for an image: what the largest takes of targets that keep its size, such as Qwen2.5-VL."""
_TEMPLATE_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Target:
    """A target model: where it is, what to call it, and for a folder its digests, its config.json and its commit.

    ``quantization``: form and method of its quantized weights in words, or None.
    """

    source: str
    name: str
    config_sha256: str | None
    weights_digest: str | None
    config: Mapping[str, object] | None
    revision: str | None = None
    quantization: str | None = None

    @property
    def identity(self) -> MeasuredTarget:
        """What a report states of it."""
        return MeasuredTarget(self.name, self.revision, self.config_sha256, self.weights_digest, self.quantization)


@dataclass(frozen=True, slots=True)
class NamedTarget:
    """The target that a head names: its address, and the file beside the weights that names it."""

    address: str
    file: str


def named_target(head_source: str | Path, progress: Progress = silent) -> NamedTarget:
    """The target that a head names, where nobody else says which it is.

    Its config is asked first (``speculators_config.verifier``), then eagle3hub.json, then ``base_model`` of the card
    beside the weights. Only headers of the weights are read.

    Raises UsageError (``usage-no-target``) where none of them names one model, or they name a folder that is not here;
    what `open_checkpoint` and `read_head` raise.
    """
    at = head_address(head_source)
    checkpoint = open_checkpoint(at, headers_only=True, progress=progress)
    head = read_head(checkpoint)
    address, file = head.target_name, CONFIG
    if address is None:
        address, file = settle(head, checkpoint).target_name, PROVENANCE
    if address is None:
        address, file = _base_model(checkpoint), _CARD
    hint = "name it with --target: a folder, or owner/name on the Hub"
    if address is None:
        raise UsageError(f"the head {head_source} does not name its target", hint=hint, code="usage-no-target")
    if not is_hub_id(address) and (checkpoint.on_hub or not is_folder(Path(address))):
        raise UsageError(
            f"{file} of the head {head_source} names the target {address!r}, which is not here",
            hint=hint,
            code="usage-no-target",
        )
    return NamedTarget(address, file)


def _base_model(checkpoint: Checkpoint) -> str | None:
    """``base_model`` of the card beside a head, if it is the Hub id of one model."""
    if _CARD not in checkpoint.files:
        return None
    at = parse_address(checkpoint.source)
    if isinstance(at, HubAddress):
        from eagle3hub.checkpoint.hub import download_file  # the Hub's client takes a while to import

        path = download_file(at.repo_id, at.file(_CARD), at.revision)
    else:
        path = checkpoint.folder / _CARD
    text = (read_small(path) or b"").decode("utf-8", "replace").removeprefix("\ufeff")
    front, _, _ = front_matter(text.splitlines(), _CARD)
    stated = front.data.get("base_model") if front is not None and front.data else None
    one = stated[0] if isinstance(stated, list) and len(stated) == 1 else stated
    return one if isinstance(one, str) and is_hub_id(one) else None


def identify_target(source: str | Path, name: str | None = None, progress: Progress = silent) -> Target:
    """Identify a target: a folder is hashed, weights included; a Hub id is taken as it is.

    Engines load the default branch of a Hub id. Of another revision, and where a folder here has the repository's
    name, a copy is fetched and treated as a folder.
    Raises SourceError for a folder without a readable config.json, and for what is neither folder nor Hub id;
    HubError.
    """
    at = target_address(source)
    revision = None
    if isinstance(at, HubAddress):
        name = name or at.repo_id
        if at.revision is None and not at.is_hidden:
            return Target(at.repo_id, name, None, None, None, quantization=_quantization_on_hub(at))
        from eagle3hub.checkpoint.remote import local_copy  # the Hub's client takes a while to import

        folder, revision = local_copy(at, progress)
    else:
        folder = at.path.resolve()
    config_file = folder / "config.json"
    try:
        raw = read_bytes(config_file)
        config = json.loads(raw)
    except OSError as error:
        raise SourceError(
            f"the target {source!r} has no readable config.json: {error.strerror}", code="source-target"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{config_file} is not JSON: {error}", code="source-target") from error
    if not isinstance(config, dict):
        raise SourceError(f"{config_file} is not a JSON object", code="source-target")
    sha256 = hashlib.sha256(raw).hexdigest()
    quantized = _quantization(config, json_object(read_small(folder / QUANT_CONFIG)))
    return Target(str(folder), name or folder.name, sha256, _weights_digest(folder), config, revision, quantized)


def _quantization_on_hub(at: HubAddress) -> str | None:
    from eagle3hub.checkpoint.hub import download_file

    try:
        return _quantization(json_object(read_small(download_file(at.repo_id, CONFIG))), {})
    except Eagle3HubError:  # a measurement needs no answer of the Hub to this
        return None


def _quantization(config: Mapping[str, object], beside: Mapping[str, object]) -> str | None:
    scheme = scheme_in(config, beside)
    return None if scheme is None else scheme.in_words


def _weights_digest(folder: Path) -> str | None:
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in WEIGHTS)
    return _digest_of(tuple((p, p.stat().st_mtime_ns, p.stat().st_size) for p in files)) if files else None


@cache
def _digest_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Digest of weights files (path, modification time, size), hashed once per process: a target can be huge."""
    lines = "".join(f"{d['sha256']}  {d['path']}\n" for d in (file_digest(path) for path, _, _ in files))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def load_prompts_for(
    target: Target,
    name: str | Path,
    *,
    num_prompts: int | None = None,
    contexts: Sequence[int] = (),
    system_prompt: str | None = None,
    template_options: Mapping[str, object] | None = None,
    new_tokens: int = 0,
    after: str | Path | None = None,
    progress: Progress = silent,
) -> list[PromptSet]:
    """Load a prompt set for a target: as it is, or once for each of ``contexts``, with prompts of that length.

    Args:
        system_prompt: goes before every prompt.
        template_options: arguments of the target's chat template, which count among a prompt's tokens.
        new_tokens: what must fit into the target's context after a prompt.
        after: file of the target's responses to the first turns; the second turns are loaded, each after its first.

    Raises InputError for contexts that the target does not have (``context-target``), and the errors of `load_prompts`
    and `lengthened`; UnavailableError where the packages for its tokenizer are missing.
    """
    loaded = _load_prompts_for(
        target,
        name,
        num_prompts=num_prompts,
        contexts=contexts,
        system_prompt=system_prompt,
        template_options=template_options,
        new_tokens=new_tokens,
        after=after,
        progress=progress,
    )
    for one in loaded:
        check_images(target, one, progress)
    return loaded


def check_images(target: Target, prompts: PromptSet, progress: Progress = silent) -> None:
    """Raise InputError (``target-no-images``) for prompts with images and a target that takes text alone."""
    if not prompts.has_images:
        return
    config = target.config
    if config is None:
        raw = _file(target.source, Path(target.source) / CONFIG, progress)
        config = {} if raw is None else parse_json_object(raw, CONFIG)
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]  # Qwen-Omni nests it
    if not any(isinstance(part.get("vision_config"), Mapping) for part in parts):
        raise InputError(
            f"the prompts of {prompts.name} hold images, and {target.name} takes text alone: its {CONFIG} has no "
            "vision_config",
            hint="name a target that takes images, or other prompts",
            code="target-no-images",
        )


def _load_prompts_for(
    target: Target,
    name: str | Path,
    *,
    num_prompts: int | None,
    contexts: Sequence[int],
    system_prompt: str | None,
    template_options: Mapping[str, object] | None,
    new_tokens: int,
    after: str | Path | None,
    progress: Progress,
) -> list[PromptSet]:
    if after is not None:
        if contexts:
            raise UsageError(
                "--context lengthens first turns, and --second-turns names the answers to them",
                hint="leave one out",
                code="usage-context",
            )
        from eagle3hub.reference.responses import answers_of

        first = load_prompts(name, num_prompts, progress=progress).with_system(system_prompt)
        first.refuse_images("--second-turns")
        return [second_turns(first, answers_of(after, _tokenizer_of(target)), Path(after).name)]
    if not contexts:
        return [load_prompts(name, num_prompts, progress=progress).with_system(system_prompt)]
    limit = read_target(target.source).max_position_embeddings
    longest = max(contexts)
    if limit is not None and longest + new_tokens > limit:
        raise InputError(
            f"prompts of {longest:,} tokens with {new_tokens:,} after them do not fit into the context of "
            f"{target.name}, {limit:,}",
            hint=f"ask for contexts up to {max(0, limit - new_tokens):,}, or for fewer new tokens",
            code="context-target",
        )
    from eagle3hub.reference.chat import PromptLengths

    whole = load_prompts(name, progress=progress).with_system(system_prompt)
    whole.refuse_images("--context")
    progress(f"making long prompts of {whole.name}")
    return lengthened(whole, contexts, PromptLengths(_tokenizer_of(target), template_options or {}), num_prompts)


def _tokenizer_of(target: Target) -> ChatTokenizer:
    from eagle3hub.reference.chat import ChatTokenizer
    from eagle3hub.reference.loading import load_tokenizer

    folder = Path(target.source) if Path(target.source).is_dir() else None
    return ChatTokenizer(load_tokenizer(target.source, folder, None), target.name)


_TEMPLATE_FILE, _TOKENIZER_FILE = "chat_template.jinja", "tokenizer_config.json"


def check_rendering(target: Target, arguments: Mapping[str, object], progress: Progress = silent) -> None:
    """Raise InputError (``target-chat-template-arg``) for an argument that the target's chat template never names.

    Such a template ignores it without a word. Nothing is read where there are no ``arguments``.
    """
    if not arguments:
        return
    template = _chat_template(target, progress)
    if template is None:
        raise InputError(
            f"{target.name} has no chat template for --chat-template-arg {next(iter(arguments))}",
            hint="leave it out",
            code="target-chat-template-arg",
        )
    named = _names_in(template)
    for name in arguments:
        if name not in named:
            raise InputError(
                f"the chat template of {target.name} has no argument {name}{did_you_mean(name, sorted(named))}",
                hint="its arguments are the names that the template looks at, beside messages",
                code="target-chat-template-arg",
            )


def _chat_template(target: Target, progress: Progress) -> str | None:
    """Return the text of the template that a conversation is rendered with, or None if there is none."""
    folder = Path(target.source)
    own = _file(target.source, folder / _TEMPLATE_FILE, progress)
    if own is not None:
        return own.decode("utf-8", "replace")
    stated = _file(target.source, folder / _TOKENIZER_FILE, progress)
    found = {} if stated is None else parse_json_object(stated, folder / _TOKENIZER_FILE)
    template = found.get("chat_template")
    if isinstance(template, list):  # several, by name
        by_name = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = by_name.get("default")
    return template if isinstance(template, str) else None


def _file(source: str, path: Path, progress: Progress) -> bytes | None:
    """Return a small file of a target's folder, or of its repository on the Hub; None if it is not there."""
    at = target_address(source)
    if not isinstance(at, HubAddress):
        return read_small(path)
    from eagle3hub.checkpoint.hub import download_file

    try:
        return read_small(download_file(at.repo_id, path.name, at.revision, progress))
    except HubError as error:
        if error.code == "hub-no-file":
            return None
        raise


def _names_in(template: str) -> set[str]:
    """Return the variables that a Jinja template looks at. It is split into tokens, and never run."""
    from jinja2 import Environment, TemplateSyntaxError

    names, before = set(), ""
    try:
        for _, kind, text in Environment().lex(template):
            if kind == "name" and before != ".":
                names.add(text)
            before = before if kind == "whitespace" else text
    except TemplateSyntaxError:
        return set(re.findall(r"[A-Za-z_]\w*", template))
    return names


def with_room(job: RunSpec, target: Target) -> RunSpec:
    """``job`` with the context its longest prompt needs, and memory for the KV cache of that."""
    most = max(p.text_bytes + _IMAGE_TOKENS * len(p.images) for p in job.prompts.prompts)
    context = job.prompts.context
    tokens = context_length(target, most if context is None else context.tokens, job.max_new_tokens)
    return replace(job, max_model_len=tokens, kv_cache_gib=kv_cache_gib(target, tokens))


def context_length(target: Target, longest_prompt_bytes: int, max_new_tokens: int) -> int:
    """Tokens of context a run needs, at most the target's own limit. A token is a byte or longer."""
    needed = max(_SMALLEST_CONTEXT, longest_prompt_bytes + _TEMPLATE_TOKENS + max_new_tokens)
    limit = _text_config(target).get("max_position_embeddings")
    return min(needed, limit) if isinstance(limit, int) and limit > 0 else needed


def kv_cache_gib(target: Target, tokens: int) -> int:
    """GiB of KV cache for one sequence of ``tokens`` in float32, with room for the head's layers; at least 1."""
    config = _text_config(target)
    heads = config.get("num_attention_heads")
    hidden = config.get("hidden_size")
    layers = config.get("num_hidden_layers")
    if not (isinstance(heads, int) and isinstance(hidden, int) and isinstance(layers, int) and heads > 0):
        return 4
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    if not (isinstance(kv_heads, int) and isinstance(head_dim, int)):
        return 4
    per_token = 2 * (layers + 2) * kv_heads * head_dim * 4
    return 1 + int(per_token * tokens * 1.25 / 2**30)


def _text_config(target: Target) -> Mapping[str, object]:
    config = target.config or {}
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config
