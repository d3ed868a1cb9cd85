"""The least number of prompts is one number: what is written down says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from eagle3hub.metrics import MIN_PROMPTS
from eagle3hub.system.resources import data_path

ROOT = Path(__file__).resolve().parents[2]
WORDS = {8: "eight"}


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("schemas/report.schema.json", "null from fewer than {n} prompts with a round"),
        ("schemas/bench.schema.json", "null from fewer than {n} prompts with a round"),
        ("schemas/bench.schema.json", "null from fewer than {n} pairs"),
        ("schemas/matrix.schema.json", "null from fewer than {n} prompts with a round"),
        ("schemas/manifest.schema.json", "Fewer than {n} settle nothing"),
        ("docs/measuring.md", "With fewer than {word} prompts that have rounds there is no interval"),
        ("docs/troubleshooting.md", "fewer than {word} prompts had a round"),
        ("docs/coverage.md", "An interval needs {n} prompts"),
        ("README.md", "fewer than {word} prompts"),
    ],
)
def test_what_is_written_down(path: str, says: str) -> None:
    file = data_path(path) if path.startswith("schemas/") else ROOT / path
    text = " ".join(Path(file).read_text(encoding="utf-8").split())
    assert says.format(n=MIN_PROMPTS, word=WORDS[MIN_PROMPTS]) in text


def test_the_option_says_it() -> None:
    from eagle3hub.cli import parameters as options

    assert f"fewer than {MIN_PROMPTS} settle nothing" in Path(options.__file__).read_text(encoding="utf-8")
