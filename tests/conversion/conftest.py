from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.folders import load

from eagle3hub.system.documents import schema_faults
from eagle3hub.system.resources import schema

Ok = Callable[..., tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any]]]
Refused = Callable[..., str]


@pytest.fixture
def ok(cli, tmp_path: Path) -> Ok:
    """Convert and return what --json printed, the tensors written, and the config; the record is checked too."""

    def run(source: Path, to: str, *options: object, name: str = "out"):
        status, out, err = cli("convert", source, tmp_path / name, "--to", to, "--json", *options)
        assert (status, err) == (0, ""), out
        document = json.loads(out)
        record = json.loads((tmp_path / name / "eagle3hub.json").read_text())
        assert not [*schema_faults(record, schema("provenance"))]
        assert record["repairs"] == document["repairs"]
        assert all(str(tmp_path) not in word for word in record["command"])
        return document, load(tmp_path / name), json.loads((tmp_path / name / "config.json").read_text())

    return run


@pytest.fixture
def refused(cli, tmp_path: Path) -> Refused:
    """The command ends with ``status``, says one sentence and writes nothing; returns the error's code."""

    def run(source: Path, to: str, *options: object, status: int = 3) -> str:
        before = sorted(tmp_path.rglob("*"))
        found, out, err = cli("convert", source, tmp_path / "refused", "--to", to, "--json", *options)
        assert (found, err) == (status, ""), out
        error = json.loads(out)["error"]
        assert "\n" not in error["message"]
        assert sorted(tmp_path.rglob("*")) == before
        return f"{error['code']}: {error['message']} / {error['hint']}"

    return run


@pytest.fixture
def to_speculators(target: Path) -> dict:
    return {"target": str(target), "speculative_tokens": 5}
