"""Which container image a Job runs in: an engine's is stated in ``engine.toml`` of its pinned version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eagle3hub.engines import ENGINES
from eagle3hub.engines.specs import default_version, version_data
from eagle3hub.errors import UnavailableError, UsageError
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


# Tag and digest as several public Dockerfiles of 2026 pin them; not run by us.
_OF_THE_REFERENCE = Image(
    REFERENCE,
    "pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime"
    "@sha256:6acf597eeb8e376a96580dde4952f37cc017fef732bb40bfc73f28f25e3f64b4",
    None,
    ("cpu", "cuda"),
    "cpu-upgrade",
)


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
    if engine == REFERENCE:
        return _OF_THE_REFERENCE
    data = version_data(engine).image if engine in ENGINES else None
    if data is None:
        known = [REFERENCE, *(name for name in ENGINES if version_data(name).image is not None)]
        raise UnavailableError(
            f"there is no image of {engine} to run as a job",
            hint=f"engines with one: {', '.join(known)}",
            code="job-no-image",
        )
    return Image(engine, data.address, default_version(engine), data.devices, data.flavor)
