"""The target model: the facts of its config that a draft head must fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eagle3hub.address import Address, HubAddress, LocalAddress, parse_address, target_address
from eagle3hub.checkpoint.source import CONFIG, parse_json_object, read_small, refuse_pointer
from eagle3hub.errors import SourceError
from eagle3hub.head.fields import TOKEN_IDS, Fields
from eagle3hub.head.rope import Reader, StatedRope, read_rope
from eagle3hub.system.reading import opened, special_kind

WEIGHTS = (".safetensors", ".bin", ".pt")
"""Suffixes of weights files."""
_TOKENIZER = "tokenizer_config.json"
_TEMPLATES = "additional_chat_templates"
_TEXT_PARTS = ("text_config", "thinker_config", "llm_config", "language_config")
"""Where configs of multimodal models keep their language model: transformers, Qwen-Omni, InternVL, DeepSeek-VL2."""
_DEPTHS = ("num_layers", "n_layer", "n_layers")
_WIDTHS = ("n_embd", "d_model")
_CONTEXTS = ("n_positions", "seq_length", "max_sequence_length", "max_seq_len")
"""Other names of sizes, as vLLM reads them (``transformers_utils/model_arch_config_convertor.py``)."""


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What a head must fit.

    Attributes:
        name: Hub id, or the folder as the user typed it.
        is_local: whether it was a folder.
        num_hidden_layers, hidden_size, vocab_size: sizes from the config (of its text part).
        max_position_embeddings: context length in tokens, or None.
        model_type, architectures: from the whole config, not its text part; engines pick the target's class by them.
        token_ids: bos/eos/pad ids it states.
        tokenizer_class: as the tokenizer's config in its folder names it; None if it names none, or of a Hub id.
        dtype: of its weights, as its config says (``bfloat16``); None if it says nothing.
        fields: the config of its text part, as it stands.
    """

    name: str
    is_local: bool
    num_hidden_layers: int
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int | None
    model_type: str
    architectures: tuple[str, ...]
    token_ids: dict[str, int | list[int]]
    tokenizer_class: str | None = None
    dtype: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def ties_embeddings(self) -> bool:
        """Whether its lm_head is its embeddings, as far as its config says."""
        return self.fields.get("tie_word_embeddings") is True

    def rope(self, reader: Reader = "standard") -> StatedRope | None:
        """Its RoPE as a program reads it, or None where the config states none.

        Where it differs by kind of layer: that of ``full_attention``.
        """
        stated = self.fields.get("rope_parameters") or self.fields.get("rope_scaling") or {}
        if not stated and self.fields.get("rope_theta") is None:
            return None
        full = stated.get("full_attention") if isinstance(stated, dict) else None
        if isinstance(full, dict):
            return read_rope({**self.fields, "rope_scaling": None, "rope_parameters": full}, reader)
        return read_rope(self.fields, reader)


def require_weights(target: str | Path | Address) -> None:
    """Check, before anything is started, that a target's folder has weights; a Hub id is not checked.

    Raises SourceError for a folder without, and as `require_files`; CheckpointError for Git LFS pointers.
    """
    at = parse_address(target)
    if not isinstance(at, LocalAddress) or not at.path.is_dir():
        return
    require_files(at)
    folder = at.path
    files = sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS and p.is_file())
    if not files:
        raise SourceError(
            f"there are no weights in the target folder {target}",
            hint="measuring runs the target: download all of it, for example with `hf download`",
            code="source-target-weights",
        )
    for file in files:
        with opened(file) as f:
            refuse_pointer(f.read(64), Path(at.text) / file.name)


def require_files(target: str | Path | Address) -> None:
    """Raise SourceError where a pipe, a device or a socket lies in a target's folder.

    Libraries that load a target open what lies there by its name, and would wait for a pipe for ever.
    """
    at = parse_address(target)
    if isinstance(at, HubAddress):
        return
    folder = at.path
    try:
        for place in (folder, folder / _TEMPLATES):
            for path in sorted(place.iterdir()) if place.is_dir() else ():
                if path.exists() and (what := special_kind(path.stat().st_mode)) is not None:
                    raise SourceError(
                        f"{path.relative_to(folder)} in the target folder {at} is {what}, not a file",
                        hint="put the file itself there, or take it away",
                        code="source-unreadable",
                    )
    except OSError as e:
        raise SourceError(f"cannot read the target folder {at}: {e.strerror}", code="source-unreadable") from e


def read_target(target: str | Path | Address, name: str | None = None) -> TargetFacts:
    """Read the facts of a target from its config.json; that of a repository is downloaded, at its revision.

    Args:
        target: see `target_address`. name: the Hub id to record where ``target`` is a folder.

    Raises SourceError where there is no such target, ConfigError where its config lacks a size, HubError
    where the Hub cannot be asked.
    """
    at = target_address(target)
    if isinstance(at, HubAddress):
        from eagle3hub.checkpoint.hub import download_file

        path, shown, tokenizer = download_file(at.repo_id, CONFIG, at.revision), at.repo_id, None
    else:
        path, shown, tokenizer = at.path / CONFIG, at.text, at.path / _TOKENIZER
    raw = read_small(path)
    if raw is None:
        raise SourceError(f"there is no {CONFIG} in the target folder {shown}", code="source-no-config")
    config = parse_json_object(raw, path)
    whole = Fields(config, f"{shown}/{CONFIG}")
    text = Fields(_text_part(config), whole.where)
    architectures = config.get("architectures")
    if config.get("draft_vocab_size") is not None or "speculators_model_type" in config:
        hint = "name the model the head was trained for"
        raise SourceError(f"the target {shown} is a draft head", hint=hint, code="source-target")
    return TargetFacts(
        name=name or shown,
        is_local=isinstance(at, LocalAddress) and name is None,
        num_hidden_layers=text.number(text.known("num_hidden_layers", *_DEPTHS)),
        hidden_size=text.number(text.known("hidden_size", *_WIDTHS)),
        vocab_size=text.number("vocab_size"),
        max_position_embeddings=text.number(text.known("max_position_embeddings", *_CONTEXTS), default=None),
        model_type=whole.text("model_type", default="") or text.text("model_type", default=""),
        architectures=tuple(a for a in architectures if isinstance(a, str)) if isinstance(architectures, list) else (),
        token_ids={k: v for k in TOKEN_IDS if (v := text.token_ids(k)) is not None},
        tokenizer_class=None if tokenizer is None else _tokenizer_class(tokenizer),
        dtype=stated_dtype(text.data) or stated_dtype(config),
        fields=text.data,
    )


def depth_of(config: dict[str, object]) -> int | None:
    """The layers that a model's config states, of its text part; None if it states none."""
    text = _text_part(config)
    stated = (text.get(key) for key in ("num_hidden_layers", *_DEPTHS))
    return next((depth for depth in stated if type(depth) is int), None)


def stated_dtype(config: Mapping[str, object]) -> str | None:
    """The dtype that a model's config states for its weights, under the key of today or that of before."""
    stated = config.get("dtype") or config.get("torch_dtype")
    return stated.removeprefix("torch.") if isinstance(stated, str) and stated != "auto" else None


def _tokenizer_class(path: Path) -> str | None:
    raw = read_small(path)
    named = None if raw is None else parse_json_object(raw, path).get("tokenizer_class")
    return named if isinstance(named, str) else None


def _text_part(config: dict[str, object]) -> dict[str, object]:
    """The config of the language model in a model's config, which may lie in parts of parts (Qwen-Omni's thinker)."""
    nested = next((part for key in _TEXT_PARTS if isinstance(part := config.get(key), dict)), None)
    return config if nested is None else _text_part(nested)
