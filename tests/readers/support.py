"""Run a reader of heads in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from exporters import environments
from exporters.expectations import FOLDER, TARGET

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import Eagle3HubError

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("EAGLE3HUB_EXPORTERS", "~/.cache/eagle3hub/exporters")).expanduser()


def speculators_python() -> Path:
    """The interpreter of an environment with the speculators library, made if it is not there."""
    return environments.ensure(CACHE, "torch-exporters")


def run_reader(interpreter: Path, script: str, heads: dict[str, Path], work: Path) -> dict[str, dict[str, Any]]:
    """What a reader reports of each head."""
    job, result = work / "job.json", work / "result.json"
    exporters = str(HERE.parent / "exporters")
    asked = {"heads": {k: str(v) for k, v in heads.items()}, "exporters": exporters, "result": str(result)}
    job.write_text(json.dumps(asked))
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | environments.QUIET
    command = [str(interpreter), str(HERE / script), str(job)]
    done = subprocess.run(command, env=env, cwd=work, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(result.read_text()))


def convert_all(names: list[str], to: str, work: Path) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """Every fixture in another layout: the folders, and a report of those that could not be converted."""
    heads: dict[str, Path] = {}
    failed: dict[str, dict[str, Any]] = {}
    options: dict[str, Any] = {"target": str(TARGET), "target_name": "owner/target", "speculative_tokens": 3}
    for name in names:
        try:
            convert(FOLDER / name / "head", work / name, to, ConvertOptions(**options))
        except Eagle3HubError as e:
            failed[name] = {"failed": f"conversion: {e.code}: {e}"}
        else:
            heads[name] = work / name
    return heads, failed
