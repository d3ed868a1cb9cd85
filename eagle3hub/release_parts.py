"""The parts of a release that are done apart, by jobs or on other machines, and what each must be told."""

from __future__ import annotations

import os

from eagle3hub.card.manifest import Manifest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.source import CONFIG, HUB, INDEX, PICKLE_INDEX, PROVENANCE, TRAINING_STATES
from eagle3hub.layouts.quantized import QUANT_CONFIG
from eagle3hub.validation.options import REFERENCE, engine_names

_READ = (CONFIG, INDEX, PICKLE_INDEX, PROVENANCE, QUANT_CONFIG)


def engine_runs(manifest: Manifest) -> list[dict[str, str]]:
    """The runs of ``validate`` that can be made apart, one an engine: its name, what --engine asks for, the device."""
    asked = engine_names(manifest.validate.engine)
    held = f"{REFERENCE}," if REFERENCE in asked else ""
    engines = {name: held + name for name in asked if name != REFERENCE} or {REFERENCE: REFERENCE}
    return [{"name": name, "engine": engine, "device": manifest.validate.device} for name, engine in engines.items()]


def as_typed(source: str) -> str:
    """A head's source as a command in this folder would name it."""
    return source if source.startswith(HUB) else os.path.relpath(source)


def original_files(source: str) -> list[str] | None:
    """Names of the files of a head's folder that are read to convert and to measure it, and of no others.

    None where its weights lie in a training state, together with what nobody is to be sent; no names for a head on
    the Hub. Raises SourceError, ConfigError or CheckpointError.
    """
    if source.startswith(HUB):
        return []
    checkpoint = open_checkpoint(source)
    weights = [path.name for path in checkpoint.weights]
    if any(name in TRAINING_STATES for name in weights):
        return None
    return sorted([name for name in _READ if (checkpoint.folder / name).is_file()] + weights)
