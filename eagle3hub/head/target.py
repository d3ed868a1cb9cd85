"""The target model: the facts of its config that a draft head must fit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from eagle3hub.checkpoint.safetensors import refuse_pointer
from eagle3hub.checkpoint.source import CONFIG, HUB, is_folder, parse_json_object, read_small
from eagle3hub.errors import SourceError
from eagle3hub.head.fields import Fields
from eagle3hub.system.reading import opened, special_kind
from eagle3hub.system.resources import read_toml

if TYPE_CHECKING:
    from eagle3hub.checkpoint.remote import HubAddress

# Types of target models that an engine treats in a way of its own: the lists of ``target_types.toml``.


@cache
def target_types(name: str) -> frozenset[str]:
    """The list of that name, as ``model_type`` of a target's config.json."""
    return frozenset(read_toml(Path(__file__).with_name("target_types.toml"))[name])


# Facts about a target model, read from its config.json alone.


WEIGHTS = (".safetensors", ".bin", ".pt")
"""Ends of the names of weights files."""
_TEMPLATES = "additional_chat_templates"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What a head must fit.

    Attributes:
        name: Hub id, or the folder as the user typed it.
        is_local: whether it was a folder.
        num_hidden_layers, hidden_size, vocab_size: sizes from the config (of its text part).
        max_position_embeddings: context length in tokens, or None.
        model_type, architectures: as in the config, not in its text part: an engine picks the target's class by them.
        token_ids: bos/eos/pad ids it states.
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


def is_hub_id(text: str) -> bool:
    """Whether this is a name a model may have on the Hub: owner/name."""
    return _HUB_ID.fullmatch(text) is not None


def require_weights(target: str) -> None:
    """Find out before anything is started whether a target's folder has weights; a Hub id is taken as it is.

    Raises SourceError for a folder without, and as `require_files`; CheckpointError for Git LFS pointers.
    """
    folder = Path(target).expanduser()
    if not folder.is_dir():
        return
    require_files(target)
    files = sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS and p.is_file())
    if not files:
        raise SourceError(
            f"there are no weights in the target folder {target}",
            hint="measuring runs the target: download all of it, for example with `hf download`",
            code="source-target-weights",
        )
    for file in files:
        with opened(file) as f:
            refuse_pointer(f.read(64), Path(target) / file.name)


def require_files(target: str) -> None:
    """Raise SourceError where a pipe, a device or a socket lies in a target's folder.

    Libraries that load a target open what lies there by its name, and would wait for a pipe for ever.
    """
    folder = Path(target).expanduser()
    try:
        for place in (folder, folder / _TEMPLATES):
            for path in sorted(place.iterdir()) if place.is_dir() else ():
                if path.exists() and (what := special_kind(path.stat().st_mode)) is not None:
                    raise SourceError(
                        f"{path.relative_to(folder)} in the target folder {target} is {what}, not a file",
                        hint="put the file itself there, or take it away",
                        code="source-unreadable",
                    )
    except OSError as e:
        raise SourceError(f"cannot read the target folder {target}: {e.strerror}", code="source-unreadable") from e


def read_target(target: str, name: str | None = None) -> TargetFacts:
    """Read the facts of a target: a folder with a config.json, or a Hub id (its config.json is downloaded).

    Args:
        target: folder or Hub id; ``hf://`` may stand before a Hub id, and after it ``@revision``, that of the config
            that is read. name: the Hub id to record where ``target`` is a folder.

    Raises SourceError where there is no such target, ConfigError where its config lacks a size, HubError
    where the Hub cannot be asked.
    """
    folder = Path(target).expanduser()
    is_local = is_folder(folder)
    if is_local:
        path = folder / CONFIG
    elif (at := _on_hub(target)) is not None:
        from eagle3hub.checkpoint.hub import download_file

        path = download_file(at.repo_id, CONFIG, at.revision)
        target = at.repo_id
    else:
        raise SourceError(
            f"the target {target} is neither a folder nor a Hub id",
            hint="name a folder with the target's config.json, or owner/name on the Hub",
            code="source-target",
        )
    raw = read_small(path)
    if raw is None:
        raise SourceError(f"there is no {CONFIG} in the target folder {target}", code="source-no-config")
    config = parse_json_object(raw, path)
    nested = config.get("text_config")
    whole = Fields(config, f"{target}/{CONFIG}")
    text = Fields(nested, whole.where) if isinstance(nested, dict) else whole
    architectures = config.get("architectures")
    if config.get("draft_vocab_size") is not None or "speculators_model_type" in config:
        hint = "name the model the head was trained for"
        raise SourceError(f"the target {target} is a draft head", hint=hint, code="source-target")
    return TargetFacts(
        name=name or target,
        is_local=is_local and name is None,
        num_hidden_layers=text.number("num_hidden_layers"),
        hidden_size=text.number("hidden_size"),
        vocab_size=text.number("vocab_size"),
        max_position_embeddings=text.number("max_position_embeddings", default=None),
        model_type=whole.text("model_type", default="") or text.text("model_type", default=""),
        architectures=tuple(a for a in architectures if isinstance(a, str)) if isinstance(architectures, list) else (),
        token_ids={
            k: v for k in ("bos_token_id", "eos_token_id", "pad_token_id") if (v := text.token_ids(k)) is not None
        },
    )


def _on_hub(target: str) -> HubAddress | None:
    """The model on the Hub that a target names, or None. Raises SourceError for a revision that is none."""
    if not _HUB_ID.fullmatch(target.removeprefix(HUB).partition("@")[0]):
        return None
    from eagle3hub.checkpoint.remote import parse_address

    at = parse_address(target)
    return None if at.folder else at
