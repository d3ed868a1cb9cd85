"""Make a release folder like ``eagle3hub release`` does, with the counters of another head of the same size."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from card import card_samples
from support import heads

from eagle3hub.card.folder import complete
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert

EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2-135m"
REPO = "alice/head"
LAYOUTS = ("specforge", "modelopt")
SHAPE = heads.dims(hidden=32, inter=64, heads=4, vocab=400, draft=64)
"""Small, but large enough that the Hub stores the weights apart from the other files."""


def make_release(folder: Path, manifest: Path) -> None:
    """Convert the head beside ``manifest`` into ``folder``: the first layout in its root, the other in a folder."""
    target = heads.target(manifest.parent / "target", SHAPE)
    for i, layout in enumerate(LAYOUTS):
        source = manifest.parent / "head"
        convert(source, folder / layout if i else folder, layout, ConvertOptions(target=str(target)))
    write_reports(folder, manifest)


def write_reports(folder: Path, manifest: Path, waived: Sequence[str] = (), **changes: Any) -> None:
    """Make reports for exactly the bytes of ``folder``, the card and the record.

    ``changes`` are those of `card_samples.make_report` for the first report.
    """
    (folder / "reports").mkdir(exist_ok=True)
    for i, layout in enumerate(LAYOUTS):
        report = card_samples.make_report(layout, **({} if i else changes))
        card_samples.of_folder(report, folder / layout if i else folder)
        (folder / "reports" / f"{layout}-cpu.json").write_text(json.dumps(report, indent=1))
    complete(folder, manifest, waived=waived)


def write_manifest(path: Path) -> Path:
    """Write a small head, and the example's manifest for two layouts of it beside it."""
    text = (EXAMPLE / "release.yaml").read_text()
    text = text.replace("eagle3hub/SmolLM2-135M-Instruct-eagle3", REPO)
    text = text.replace("also: [modelopt, speculators, specjax]", "also: [modelopt]")
    text = text.replace("engine: reference,vllm", "engine: vllm")
    text = re.sub("num_prompts: [0-9]+", "num_prompts: 16", text)
    path.write_text(text)
    heads.specjax(path.parent / "head", SHAPE)
    return path


def write_yaml(path: Path, document: dict[str, Any]) -> Path:
    """Write a manifest with its fields in the given order."""
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path
