"""Read what trainers leave beside a head about its training, for a starting manifest.

- speculators writes ``run.yaml`` and ``train_command.txt`` beside its checkpoints, and ``val_metrics.json`` into each
  (``speculators/train/config/artifacts.py``, ``train/checkpointer.py``, ``train/utils.py`` of 0.9.0).
- Trainers on transformers' ``Trainer`` (ModelOpt's examples among them) write ``trainer_state.json``
  (``transformers/trainer_callback.py``). Their ``training_args.bin`` is a pickle, and is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.address import is_hub_id
from eagle3hub.errors import Eagle3HubError
from eagle3hub.system.documents import parse_json, read_yaml
from eagle3hub.system.reading import read_text


@dataclass(frozen=True, slots=True)
class TrainingFact:
    """One fact: the field of ``training`` in a manifest, its text, and its file's name.

    ``labelled``: ``field`` is a label of ``training.facts`` and no field of its own.
    """

    field: str
    text: str
    file: str
    labelled: bool = False


def training_facts(folder: Path) -> list[TrainingFact]:
    """Return what the files in a head's folder, or in the folder above it, say about its training.

    Files that cannot be read, or hold something else, say nothing.
    """
    found = {fact.field: fact for fact in (*_of_transformers(folder), *_of_speculators(folder))}
    return list(found.values())


def _of_speculators(folder: Path) -> Iterator[TrainingFact]:
    command = _near(folder, "train_command.txt")
    if command is not None:
        yield from _of_command(command)
    run = _near(folder, "run.yaml")
    stages = {} if run is None else _document(run)
    train = stages.get("train") if isinstance(stages, Mapping) else None
    if run is not None and isinstance(train, Mapping):
        yield from _of_run(train, run.name)
    metrics = folder / "val_metrics.json"
    values = _document(metrics) if metrics.is_file() else {}
    if isinstance(values, Mapping) and isinstance(values.get("loss_epoch"), (int, float)):
        yield TrainingFact("Validation loss of the trainer", f"{values['loss_epoch']:g}", metrics.name, labelled=True)


def _of_command(file: Path) -> Iterator[TrainingFact]:
    text = _text(file)
    if version := re.search(r"^# speculators: (\d[\w.+-]*)$", text, re.MULTILINE):
        yield TrainingFact("framework", f"speculators {version[1]}", file.name)
    if day := re.search(r"^# Timestamp: (\d{4}-\d\d-\d\d)T", text, re.MULTILINE):
        yield TrainingFact("date", day[1], file.name)
    if (size := re.search(r"^# World size: (\d+)$", text, re.MULTILINE)) and int(size[1]) > 1:
        yield TrainingFact("hardware", f"{size[1]} devices", file.name)


def _of_run(train: Mapping[str, Any], file: str) -> Iterator[TrainingFact]:
    def stated(section: str, name: str) -> str:
        own = train.get(section)
        value = own.get(name) if isinstance(own, Mapping) else None
        return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)

    if data := stated("data", "data_path"):
        yield from [TrainingFact("data", data, file)] if is_hub_id(data) else []
    if loss := stated("loss", "loss_fn"):
        yield TrainingFact("objective", loss, file)
    if steps := stated("loss", "ttt_steps"):
        yield TrainingFact("ttt_length", steps, file)
    rate, epochs = stated("optimizer", "lr"), stated("trainer", "epochs")
    schedule = [
        stated("optimizer", "optimizer"),
        rate and f"learning rate {rate}",
        stated("scheduler", "scheduler_type"),
        epochs and f"{epochs} epochs",
    ]
    if any(schedule):
        yield TrainingFact("schedule", ", ".join(filter(None, schedule)), file)
    if length := stated("data", "total_seq_len"):
        yield TrainingFact("Tokens in a batch", length, file, labelled=True)


def _of_transformers(folder: Path) -> Iterator[TrainingFact]:
    state = _near(folder, "trainer_state.json")
    values = {} if state is None else _document(state)
    if state is None or not isinstance(values, Mapping) or not isinstance(values.get("global_step"), int):
        return
    said = [f"{values['global_step']:,} steps"]
    epochs, batch = values.get("epoch"), values.get("train_batch_size")
    said += [f"{epochs:g} epochs"] if isinstance(epochs, (int, float)) else []
    said += [f"batches of {batch} on each device"] if isinstance(batch, int) else []
    yield TrainingFact("schedule", ", ".join(said), state.name)


def _near(folder: Path, name: str) -> Path | None:
    """Return the file of this name in the folder, or in the one above, where trainers keep what all epochs share."""
    return next((place / name for place in (folder, folder.parent) if (place / name).is_file()), None)


def _document(file: Path) -> Any:
    try:
        return read_yaml(file).data if file.suffix == ".yaml" else parse_json(_text(file))
    except (Eagle3HubError, ValueError, RecursionError):
        return {}


def _text(file: Path) -> str:
    try:
        return read_text(file)
    except (Eagle3HubError, OSError, ValueError):
        return ""
