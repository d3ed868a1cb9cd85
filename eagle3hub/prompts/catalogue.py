"""What is known of the prompt sets that can be fetched, read from ``datasets.toml`` beside this module."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eagle3hub.resources import cache_dir, read_toml

FILE = Path(__file__).resolve().parent / "datasets.toml"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A prompt set that is fetched on first use: JSON Lines in MT-Bench's form.

    Attributes:
        name: what it is called on the command line.
        url: of the file at the pinned revision.
        revision: commit of the repository that holds it.
        sha256: hex digest that the file must have. ``bytes`` is its size.
        prompts: how many the file holds. ``turns``: user turns of each.
        license: SPDX identifier, or a sentence where there is none. ``license_stated``: where it is stated.
        redistribution: whether the text may be passed on; where not, it is never written outside the cache.
        category: category of all its prompts, for a file that names none.
    """

    name: str
    title: str
    url: str
    revision: str
    sha256: str
    bytes: int
    prompts: int
    turns: int
    license: str
    license_stated: str
    redistribution: bool
    category: str | None = None

    @property
    def cache_name(self) -> str:
        """The file's name below the cache folder; another pinned digest is another file."""
        return f"datasets/{self.name}-{self.sha256[:12]}.jsonl"

    @property
    def path(self) -> Path:
        """Where the fetched file is kept."""
        return cache_dir() / self.cache_name

    @property
    def notice(self) -> str:
        """What has to be said when the set is fetched: its licence, and whether it may be passed on."""
        passing_on = "" if self.redistribution else "; not to be passed on"
        return f"{self.title}, licence: {self.license}{passing_on} ({self.license_stated})"

    def to_json(self) -> dict[str, Any]:
        """The ``source`` object of a benchmark's prompts."""
        return {
            "url": self.url,
            "revision": self.revision,
            "sha256": self.sha256,
            "license": self.license,
            "license_stated": self.license_stated,
            "redistribution": self.redistribution,
        }


@cache
def _read(path: Path) -> dict[str, Dataset]:
    entries = read_toml(path)
    return {
        name: Dataset(name=name, **{**entry, "url": entry["url"].format(revision=entry["revision"])})
        for name, entry in entries.items()
    }


def datasets() -> dict[str, Dataset]:
    """The sets that can be fetched, by name."""
    return _read(FILE)
