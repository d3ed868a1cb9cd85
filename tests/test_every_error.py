"""The list of places that make errors is whole, and a run that leaves one out is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import raised

from eagle3hub import errors
from eagle3hub.errors import InputError
from eagle3hub.metrics import Counts

ROOT = Path(__file__).parent.parent


def codes_in(path: str) -> set[str | None]:
    return {place.code for place in raised.places() if place.path == path}


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_place_is_reached_by_any_of_its_lines_and_by_no_other() -> None:
    found = raised.places()
    assert raised.missed(set()) == found
    assert raised.missed({(place.path, place.lines[1]) for place in found}) == ()
    one = next(place for place in found if place.code == "refused-shards")
    outside = {(one.path, one.lines[0] - 1), (one.path, one.lines[1] + 1), ("head/vocab.py", one.lines[0])}
    assert one in raised.missed(outside)


@pytest.mark.slow
def test_a_run_that_leaves_errors_out_fails_and_names_them(tmp_path: Path) -> None:
    env = {**os.environ, "EAGLE3HUB_RAISED": str(tmp_path)}
    files = ["tests/head/test_vocab.py", "tests/checkpoint/test_pickles.py"]
    argv = ["-q", "-p", "no:cacheprovider", "--every-error", *files, "-k", "own_word or damaged_pickle_never"]
    run = subprocess.run([sys.executable, "-m", "pytest", *argv], cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert "passed" in run.stdout.splitlines()[-1], "not because a test failed"
    assert "failed" not in run.stdout.splitlines()[-1]
    left = [line for line in run.stdout.splitlines() if line.startswith("no test makes the error of eagle3hub/")]
    assert len(left) > 500
    assert any("refused-shards" in line for line in left)
    reached = ("zero", "absolute", "t2d-mismatch", "duplicate", "out-of-range")
    assert not any("/vocab.py" in line and line.endswith(f": {word}") for line in left for word in reached)
    assert any("checkpoint/pickles.py" in line and line.endswith("-truncated") for line in left), "reached by chance"


def refuse() -> None:
    with pytest.raises(InputError, match="negative"):
        Counts(rounds=-1, drafted=0, accepted=0, accepted_per_position=())


@pytest.mark.slow
def test_what_is_noted_and_by_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (errors.Eagle3HubError, errors.Problem):
        monkeypatch.setattr(kind, "__init__", kind.__init__)  # as it is now when the test is over
    raised.watch(tmp_path)
    place = next(p for p in raised.places() if p.code == "metrics-counters")
    with raised.by_chance():
        refuse()
    assert place in raised.missed(raised.reached(tmp_path)), "random inputs may miss it the next time"
    child = os.fork()
    if not child:
        refuse()
        os._exit(0)
    os.waitpid(child, 0)
    assert place not in raised.missed(raised.reached(tmp_path)), "a fork notes it, though it ends at once"
    assert [file.name for file in tmp_path.iterdir()] == [str(child)]
