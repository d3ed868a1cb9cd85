"""A release folder as ``eagle3hub release`` makes it, with reports that were not measured but fit its bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from card import card_samples
from support import heads

from eagle3hub.card import load_manifest, render_card
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.conversion import convert
from eagle3hub.layouts import open_head

EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2-135m"
REPO = "alice/head"
LAYOUTS = ("specforge", "modelopt")


def make_release(folder: Path, manifest: Path) -> None:
    """Convert the example head into ``folder``: the first layout in its root, the other in a folder."""
    shape = heads.dims(hidden=576, vocab=49152)
    target = heads.target(manifest.parent / "target", shape, num_attention_heads=9, num_hidden_layers=30)
    for i, layout in enumerate(LAYOUTS):
        convert(EXAMPLE / "head", folder / layout if i else folder, layout, target=str(target))
    write_reports(folder, manifest)


def write_reports(folder: Path, manifest: Path, **changes: Any) -> None:
    """Reports for exactly the bytes of ``folder`` and the card; ``changes`` replace fields of the first report."""
    (folder / "reports").mkdir(exist_ok=True)
    reports: list[dict[str, Any]] = []
    names: list[str] = []
    for i, layout in enumerate(LAYOUTS):
        report = card_samples.make_report(layout)
        digest, files = folder_digest(folder / layout if i else folder)
        report["head"] |= {"digest": digest, "files": files}
        names.append(f"reports/{layout}-cpu.json")
        (folder / names[-1]).write_text(json.dumps(report if i else report | changes, indent=1))
        reports.append(report)
    card = render_card(load_manifest(manifest), reports, open_head(folder), report_files=names)
    (folder / "README.md").write_text(card)


def write_manifest(path: Path) -> Path:
    """The example's manifest for two layouts, and its head beside it."""
    text = (EXAMPLE / "release.yaml").read_text()
    text = text.replace("eagle3hub/SmolLM2-135M-Instruct-eagle3", REPO)
    text = text.replace("also: [modelopt, speculators, specjax]", "also: [modelopt]")
    text = text.replace("engine: reference,vllm", "engine: vllm")
    path.write_text(text)
    shutil.copytree(EXAMPLE / "head", path.parent / "head")
    return path


def write_yaml(path: Path, document: dict[str, Any]) -> Path:
    """Write a manifest, its fields in the order given."""
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path
