"""Names that are no UTF-8: what is written is text all the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import heads

Cli = Callable[..., tuple[int, str, str]]
C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def recorded(out: Path) -> dict:
    return json.loads((out / "eagle3hub.json").read_bytes().decode("utf-8"))


@pytest.mark.parametrize(
    ("name", "environment", "written"),
    [(b"b\xff", {}, "b\ufffd"), ("b\u00fc".encode(), {}, "b\u00fc"), ("b\u00fc".encode(), C_LOCALE, "b\u00fc")],
)
def test_a_folder_of_any_name(tmp_path: Path, name: bytes, environment: dict[str, str], written: str):
    source = os.path.join(os.fsencode(tmp_path), name)
    try:
        shutil.move(heads.specforge(tmp_path / "head"), source)
    except OSError:
        pytest.skip("this file system takes no such names")
    argv = [sys.executable, "-m", "eagle3hub", "convert", source, tmp_path / "out", "--to", "specjax", "--json"]
    done = subprocess.run(argv, capture_output=True, env={**os.environ, **environment}, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["verified"]
    found = recorded(tmp_path / "out")
    assert (found["source"]["name"], found["command"][2]) == (written, written)


def test_what_a_config_says_in_escapes_stays(tmp_path: Path, cli: Cli):
    """Half of a surrogate pair is no text, but JSON can hold it."""
    source = heads.speculators(tmp_path / "head")
    config = json.loads((source / "config.json").read_text())
    config["speculators_config"]["verifier"]["name_or_path"] = "lab/\ud800"
    (source / "config.json").write_text(json.dumps(config))
    status, _, err = cli("convert", source, tmp_path / "out", "--to", "speculators", "--set", "note=\udcff")
    assert (status, err) == (0, "")
    made = json.loads((tmp_path / "out" / "config.json").read_bytes().decode("utf-8"))
    assert (made["speculators_config"]["verifier"]["name_or_path"], made["note"]) == ("lab/\ud800", "\udcff")
