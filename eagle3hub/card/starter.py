"""Write a commented release.yaml to start from, filled with what the head's own files say."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.address import HubAddress, is_hub_id, parse_address, parse_hub_address
from eagle3hub.card.manifest import Manifest
from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.conversion.plan import ConvertOptions, plan_conversion
from eagle3hub.errors import Eagle3HubError, InputError, Refusal, SourceError, UsageError
from eagle3hub.head import Head
from eagle3hub.layouts import LAYOUTS, get_layout, open_head
from eagle3hub.system import resources
from eagle3hub.system.documents import parse_json, read_yaml
from eagle3hub.system.reading import read_text
from eagle3hub.system.text import visible

_HUB_ID = "owner/name"
_OWNER = "your-name"
_OTHER = "other also needs license_name and license_link"
_SUMMARY = "What a reader should know first, in a sentence or two."


def unfilled(manifest: Manifest) -> list[str]:
    """Return the fields of a manifest that still hold what `starter` wrote for somebody to fill in."""
    release = manifest.release
    blanks = {"release.summary": release.summary == _SUMMARY, "release.repo": release.repo.startswith(f"{_OWNER}/")}
    return [field for field, is_blank in blanks.items() if is_blank]


def starter(
    head: Head,
    source: str,
    target: str,
    repo: str | None = None,
    *,
    facts: Sequence[TrainingFact] = (),
    not_universal: str | None = None,
) -> str:
    """Return the text of a release.yaml for a head.

    Args:
        source: what the manifest calls the head: a folder, relative to the manifest, or ``hf://owner/name``.
        target: Hub id of the target, with or without a revision.
        repo: Hub id to publish to; by default made from the target's name.
        facts: what the trainer's files say. not_universal: why the head has no universal folder; None if it has one.

    Raises UsageError if target or repository is not a Hub id.
    """
    at = _on_hub("--target", target)
    if repo is not None and not is_hub_id(repo):
        raise _no_hub_id("--repo", repo)
    published = repo or f"{_OWNER}/{at.name}-eagle3"
    schema = resources.schema("manifest")["properties"]
    read = [
        f"{head.layout} layout, {head.num_parameters:,} parameters, {head.dims.draft_vocab_size:,} of "
        f"{head.dims.vocab_size:,} tokens",
    ]
    if head.semantics.uses_aux and head.aux is not None:
        read.append(f"hidden states after target layers {', '.join(str(t) for t in head.aux.taps)}")
    lines = [
        "# Everything about this release that cannot be measured. Paths are relative to this file.",
        *(f"# Read from the head: {visible(text)}." for text in read),
        "# Lines that start with #? are optional: take the mark away and fill them in.",
        "schema: eagle3hub/manifest/1",
        "",
        f"head:  # {_about(schema, 'head')}",
        f"  source: {_quoted(source)}",
        "",
        f"target:  # {_about(schema, 'target')}",
        f"  id: {at.repo_id}",
        f"  license: unknown  # as the Hub spells it: apache-2.0, mit, …; {_OTHER}",
        f"  revision: {_quoted(at.revision)}" if at.revision else "#?  revision: main",
        "#?  path: ../target  # a copy here, to measure with instead of a download",
        "#?  gated: true  # readers must ask for access to it",
        "",
        f"release:  # {_about(schema, 'release')}",
        f"  repo: {published}",
        f"  title: {_quoted(published.split('/')[1])}",
        f"  summary: {_SUMMARY}",
        f"  license: unknown  # yours to choose, within the terms of target and training data; {_OTHER}",
        "#?  language: [en]",
        "#?  datasets: [owner/name]",
        "#?  authors: [your name]",
        "",
        f"layouts:  # {_about(schema, 'layouts')}",
        *_layouts(head.layout, not_universal),
        "",
        f"speculative_tokens: 3  # {_about(schema, 'speculative_tokens')}",
        "",
        f"#? validate:  # {_about(schema, 'validate')}",
        "#?   engine: reference,vllm",
        "#?   prompts: smoke  # or mt_bench and others, or a JSON Lines file",
        "#?   engine_settings: {chat_template: {enable_thinking: false}}",
        "",
        *_training(schema["training"]["properties"], facts),
        f"#? engines:  # {_about(schema, 'engines')}",
        "#?   - {engine: sglang, tensor_parallel: 8, note: What else somebody must know who serves it there.}",
        "",
        "#? sections:  # text of your own: it goes here, not into the card",
        "#?   - title: Our own words",
        "#?     text: Markdown, one section of the card.",
        "",
        "#? limitations:",
        "#?   - What it was not tested for.",
        "",
        "#? citations: [eagle, eagle2]  # keys of the bibliography or arXiv ids; eagle3 is always cited",
        "#? reports: [reports/*.json]  # what eagle3hub validate wrote of other modes and prompt sets",
        "#? benchmarks: [benchmarks/*.json]  # what eagle3hub bench wrote",
        "#? imported: [imported/*.yaml]  # what others measured",
        "",
        f"#? publish:  # {_about(schema, 'publish')}",
        "#?   stage: true",
        "#?   gated: manual",
        "#?   collection: owner/title-64f9a55bb3115b4f513ec026",
        "#?   tag: v1.0",
    ]
    return "\n".join(lines) + "\n"


def write_starter(source: str, target: str, repo: str | None, output: Path) -> None:
    """Write a starting release.yaml for the head at ``source`` to ``output``.

    Raises UsageError for names that are not Hub ids or a file that exists, InputError for a head that cannot be read,
    and OutputError if the file cannot be written.
    """
    if output.exists():
        raise UsageError(f"{output} exists", hint="name another file with --output", code="usage-exists")
    _on_hub("--target", target)
    checkpoint = open_checkpoint(source, headers_only=True)
    head = open_head(checkpoint)
    at = parse_address(source)
    local = None if isinstance(at, HubAddress) else at.path
    named = str(at) if local is None else os.path.relpath(local, output.absolute().parent)
    facts = training_facts(local) if local is not None else []
    text = starter(head, named, target, repo, facts=facts, not_universal=_refused(checkpoint))
    replace_file(output, text.encode("utf-8"))


def _refused(head: Checkpoint) -> str | None:
    """Return why the head cannot be written as a universal folder, as far as its own files say; None if it can."""
    try:
        plan_conversion(head, "universal", ConvertOptions())
    except Refusal as refusal:
        # what the target settles is no reason: a release reads the target
        settled = {need.code for need in get_layout("universal").contract.needs}
        return None if refusal.code in settled else refusal.message
    except InputError as error:
        return error.message
    return None


def _layouts(own: str, not_universal: str | None) -> list[str]:
    if not_universal is not None:
        return [f"  main: {own}  # not universal: {visible(not_universal)}", f"#?  also: [{_another(own)}]"]
    also = [] if own == "universal" else [f"#?  also: [{own}]  # as the trainer wrote it"]
    return ["  main: universal  # one folder for several engines", *also]


def _another(own: str) -> str:
    return next(name for name in LAYOUTS if name not in (own, "universal"))


def _training(fields: Mapping[str, Any], facts: Sequence[TrainingFact]) -> list[str]:
    """Write what the trainer's files say, and every other field as an optional line."""
    known = {fact.field: fact for fact in facts if not fact.labelled}
    labelled = [fact for fact in facts if fact.labelled]
    lines = ["training:" if facts else "#? training:"]
    for key, field in fields.items():
        if key in known:
            lines.append(f"  {key}: {_quoted(visible(known[key].text))}  # from {known[key].file}")
        elif "string" in field.get("type", ()) and not key.startswith("data_license"):
            lines.append(f"#?   {key}:  # {field['description']}")
    lines += [
        "#?   data_sets:",
        "#?     - {name: Chats, id: owner/name, size: 1M, share: 60, synthetic: 100, made_by: a model, license: mit}",
    ]
    if labelled:
        lines.append("  facts:")
        lines += [f"    {_quoted(fact.field)}: {_quoted(visible(fact.text))}  # from {fact.file}" for fact in labelled]
    return [*lines, ""]


def _on_hub(option: str, given: str) -> HubAddress:
    try:
        at = parse_hub_address(given)
    except SourceError:
        raise _no_hub_id(option, given) from None
    if at.folder:
        raise _no_hub_id(option, given)
    return at


def _no_hub_id(option: str, given: str) -> UsageError:
    return UsageError(f"{option} {given!r} is not a Hub id", hint=f"write it as {_HUB_ID}", code="usage-hub-id")


def _about(schema: Mapping[str, Any], key: str) -> str:
    text: str = schema[key]["description"]
    return text.split(". ")[0].rstrip(".")


def _quoted(text: str) -> str:
    """Write text as one YAML scalar on one line, whatever it holds."""
    return json.dumps(text, ensure_ascii=True)


# What trainers leave beside a head about its training
#
# speculators writes ``run.yaml`` and ``train_command.txt`` beside its checkpoints, and ``val_metrics.json`` into each
# (``speculators/train/config/artifacts.py``, ``train/checkpointer.py``, ``train/utils.py`` of 0.9.0). Trainers on
# transformers' ``Trainer`` write ``trainer_state.json`` (``transformers/trainer_callback.py``): ModelOpt's examples,
# and AngelSlim (``angelslim/compressor/speculative/train/trainer/eagle3_trainer.py`` at 67394ce). Their
# ``training_args.bin`` is a pickle, and is not read. SpecForge writes ``RUN.best_meta.json`` beside its checkpoints
# (``specforge/training/checkpoint.py`` at a6b6b02); the rest is in ``training_state.pt``, a pickle. SpecJAX writes
# weights and ``config.json`` alone (``specjax/models/draft/eagle3.py`` at d047ed4), which say nothing of the training.


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
    found = {
        fact.field: fact for fact in (*_of_transformers(folder), *_of_specforge(folder), *_of_speculators(folder))
    }
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


def _of_run(train: Mapping[str, object], file: str) -> Iterator[TrainingFact]:
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


def _of_specforge(folder: Path) -> Iterator[TrainingFact]:
    """Yield what SpecForge's file about the best checkpoint says, if this folder's name has the step of that one."""
    metas = sorted(file for place in (folder, folder.parent) for file in place.glob("*.best_meta.json"))
    if len(metas) != 1:  # of several runs it is not known whose the head is
        return
    values = _document(metas[0])
    if not isinstance(values, Mapping) or not isinstance(values.get("run_id"), str):
        return
    step, score, metric = values.get("step"), values.get("score"), values.get("metric")
    of_this = not re.search(r"-step\d+$", folder.name) or folder.name.endswith(f"-step{step}")
    if isinstance(step, int) and of_this:
        yield TrainingFact("framework", "SpecForge", metas[0].name)
        yield TrainingFact("schedule", f"{step:,} steps", metas[0].name)
        if isinstance(score, (int, float)) and isinstance(metric, str):
            yield TrainingFact(f"{metric} of the trainer", f"{score:g}", metas[0].name, labelled=True)


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
