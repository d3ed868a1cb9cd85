"""The list of places that make errors is whole, and a run that leaves one out is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support import raised

ROOT = Path(__file__).parent.parent


def codes_in(path: str) -> set[str | None]:
    return {place.code for place in raised.places() if place.path == path}


def test_places_are_found_however_an_error_is_spelled() -> None:
    found = raised.places()
    assert len(found) > 600
    assert len({place.code for place in found}) > 300
    codes = {place.code for place in found}
    assert {"output-verify", "refused-shards", "usage-gate"} <= codes, "made with code="
    assert "aux-boundary" in codes, "a Problem"
    assert {"zero", "arange", "duplicate"} <= codes_in("head/vocab.py"), "made by a helper of the module"
    assert "publish-unmeasured" in codes_in("publishing/derived.py"), "made by a helper"
    assert "publish-license" in codes_in("publishing/gates.py"), "made by a helper of another module"
    assert None in codes_in("validation/options.py"), "an error without a code of its own"


def test_a_place_is_reached_by_any_of_its_lines_and_by_no_other() -> None:
    found = raised.places()
    assert raised.missed(set()) == found
    assert raised.missed({(place.path, place.lines[1]) for place in found}) == []
    one = next(place for place in found if place.code == "refused-shards")
    outside = {(one.path, one.lines[0] - 1), (one.path, one.lines[1] + 1), ("head/vocab.py", one.lines[0])}
    assert one in raised.missed(outside)


def test_a_run_that_leaves_errors_out_fails_and_names_them(tmp_path: Path) -> None:
    env = {**os.environ, "EAGLE3HUB_RAISED": str(tmp_path)}
    argv = ["-q", "-p", "no:cacheprovider", "--every-error", "tests/test_vocab.py", "-k", "own_word"]
    run = subprocess.run([sys.executable, "-m", "pytest", *argv], cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert "passed" in run.stdout.splitlines()[-1], "not because a test failed"
    assert "failed" not in run.stdout.splitlines()[-1]
    left = [line for line in run.stdout.splitlines() if line.startswith("no test makes the error of eagle3hub/")]
    assert len(left) > 500
    assert any("refused-shards" in line for line in left)
    reached = ("zero", "absolute", "t2d-mismatch", "duplicate", "out-of-range")
    assert not any("/vocab.py" in line and line.endswith(f": {word}") for line in left for word in reached)
