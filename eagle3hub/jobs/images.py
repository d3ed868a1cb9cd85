"""Which container image a Job runs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eagle3hub.errors import UnavailableError, UsageError
from eagle3hub.resources import read_toml
from eagle3hub.validation.options import REFERENCE


@dataclass(frozen=True, slots=True)
class Image:
    """A container image: its engine, its address, the devices it computes on, the flavor it gets if none is asked for.

    ``version`` is the engine's, as our data name it; None for the reference, whose version is ours.
    """

    engine: str
    address: str
    version: str | None
    devices: tuple[str, ...]
    flavor: str

    @property
    def by_digest(self) -> bool:
        """Whether the address cannot come to mean other bytes."""
        return "@sha256:" in self.address


def image_for(engines: Sequence[str]) -> Image:
    """The image for these engines (``reference`` fits into each). UsageError for two, UnavailableError for none."""
    others = [name for name in engines if name != REFERENCE]
    if len(others) > 1:
        raise UsageError(
            f"a job runs in the image of one engine, not of {' and '.join(others)}",
            hint="start one job for each of them; the reference may come along with each",
            code="usage-jobs-engines",
        )
    engine = others[0] if others else REFERENCE
    data = _images().get(engine)
    if data is None:
        raise UnavailableError(
            f"there is no image of {engine} to run as a job",
            hint=f"engines with one: {', '.join(_images())}",
            code="job-no-image",
        )
    return Image(engine, data["image"], data.get("version"), tuple(data["devices"]), data["flavor"])


@cache
def _images() -> dict[str, dict[str, Any]]:
    return read_toml(Path(__file__).resolve().parent / "images.toml")
