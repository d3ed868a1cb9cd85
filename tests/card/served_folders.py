"""Release folders of the example head in several layouts, and of a head without aux layers; their target's facts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import card_samples as samples
import yaml
from support import heads, variants
from support.variants import Has

from eagle3hub.card import Manifest, load_manifest
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.head import Head
from eagle3hub.layouts import open_head

LAYOUTS = ("specjax", "specforge", "modelopt", "universal", "angelslim")


def make_all(root: Path) -> Path:
    """A folder for each of `LAYOUTS`, ``no-aux`` (as ModelOpt writes one), and ``target``."""
    shape = heads.dims(hidden=576, vocab=49152)
    target = heads.target(root / "target", shape, num_attention_heads=9, num_hidden_layers=30)
    for layout in LAYOUTS:
        convert(samples.EXAMPLE.parent / "head", root / layout, layout, ConvertOptions(target=str(target)))
    d = heads.dims()
    small = heads.target(root / "small-target", d)
    trained = variants.modelopt(root / "trained", has=Has(uses_aux=False))
    convert(trained, root / "no-aux", "modelopt", ConvertOptions(target=str(small)))
    return root


def release_of(root: Path, dest: Path, main: str, *also: str) -> Path:
    """A release folder: ``main`` in its root, the others in folders of their names."""
    shutil.copytree(root / main, dest)
    for name in also:
        shutil.copytree(root / name, dest / name)
    return dest


def heads_of(folder: Path, *also: str) -> dict[str, Head]:
    """What `render_text` is given of a release folder."""
    return {name: open_head(folder / name) for name in ("", *also)}


def manifest_of(folder: Path, main: str, *also: str, **changes: Any) -> Manifest:
    """The example's manifest for these layouts, written into ``folder``; ``changes`` replace its fields."""
    document = yaml.safe_load(samples.EXAMPLE.read_text())
    layouts: dict[str, Any] = {"main": main}
    document["layouts"] = layouts | ({"also": list(also)} if also else {})
    document["head"]["source"] = "head"
    path = folder / "release.yaml"
    path.write_text(yaml.safe_dump(document | changes, sort_keys=False))
    return load_manifest(path)


def report_of(folder: Path, layout: str, engine: str, version: str, **changes: Any) -> dict[str, Any]:
    """A report that says that an engine passed with a folder's files, with the recipe of that engine."""
    return samples.of_folder(samples.make_report(layout, engine=engine, version=version, **changes), folder)
