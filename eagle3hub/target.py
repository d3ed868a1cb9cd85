"""Facts about a target model, read from its config.json alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from eagle3hub.checkpoint.folder import CONFIG, parse_json_object
from eagle3hub.checkpoint.reader import refuse_pointer
from eagle3hub.checkpoint.source import is_folder, read_small
from eagle3hub.errors import SourceError
from eagle3hub.fields import Fields

WEIGHTS = (".safetensors", ".bin", ".pt")
"""Ends of the names of weights files."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What a head must fit.

    Attributes:
        name: Hub id, or the folder as the user typed it.
        is_local: whether it was a folder.
        num_hidden_layers, hidden_size, vocab_size: sizes from the config (of its text part).
        max_position_embeddings: context length in tokens, or None.
        model_type, architectures: as in the config. token_ids: bos/eos/pad ids it states.
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

    Raises SourceError for a folder without, CheckpointError for Git LFS pointers in their place.
    """
    folder = Path(target).expanduser()
    if not folder.is_dir():
        return
    files = sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS and p.is_file())
    if not files:
        raise SourceError(
            f"there are no weights in the target folder {target}",
            hint="measuring runs the target: download all of it, for example with `hf download`",
            code="source-target-weights",
        )
    for file in files:
        with file.open("rb") as f:
            refuse_pointer(f.read(64), Path(target) / file.name)


def read_target(target: str, name: str | None = None) -> TargetFacts:
    """Read the facts of a target: a folder with a config.json, or a Hub id (its config.json is downloaded).

    Args:
        target: folder or Hub id. name: the Hub id to record where ``target`` is a folder.

    Raises SourceError where there is no such target, ConfigError where its config lacks a size, HubError
    where the Hub cannot be asked.
    """
    folder = Path(target).expanduser()
    is_local = is_folder(folder)
    if is_local:
        path = folder / CONFIG
    elif is_hub_id(target):
        from eagle3hub.checkpoint.hub import download_file

        path = download_file(target, CONFIG)
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
    text = Fields(nested if isinstance(nested, dict) else config, f"{target}/{CONFIG}")
    architectures = config.get("architectures")
    return TargetFacts(
        name=name or target,
        is_local=is_local and name is None,
        num_hidden_layers=text.number("num_hidden_layers"),
        hidden_size=text.number("hidden_size"),
        vocab_size=text.number("vocab_size"),
        max_position_embeddings=text.number("max_position_embeddings", default=None),
        model_type=text.text("model_type", default=""),
        architectures=tuple(a for a in architectures if isinstance(a, str)) if isinstance(architectures, list) else (),
        token_ids={
            k: v for k in ("bos_token_id", "eos_token_id", "pad_token_id") if (v := text.token_ids(k)) is not None
        },
    )
