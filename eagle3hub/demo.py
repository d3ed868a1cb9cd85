"""The main job on the example head that ships with the package."""

from __future__ import annotations

from pathlib import Path

from eagle3hub.demo_target import ensure_target
from eagle3hub.engines import envs
from eagle3hub.engines.options import engine_pythons
from eagle3hub.progress import Progress, silent
from eagle3hub.release import BESIDE, Release, release
from eagle3hub.resources import cache_dir, data_path
from eagle3hub.staging import prepare_destination

EXAMPLE = "examples/smollm2-135m/release.yaml"
ENGINE, DEVICE = "vllm", "cpu"


def demo(
    output: str | Path = "eagle3hub-demo",
    *,
    engine_python: list[str] | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Release:
    """Release the example head into ``output``: fetch its target, install vLLM if need be, convert, validate, card.

    Raises what `eagle3hub.release.release`, the installation of vLLM and the download of the target raise.
    """
    pythons = engine_pythons(engine_python or [])
    prepare_destination(Path(output), force=force, beside=BESIDE)
    target = ensure_target(progress)
    if ENGINE not in pythons:
        envs.install(ENGINE, DEVICE, progress=progress)
    return release(
        data_path(EXAMPLE),
        output=output,
        target=target,
        engine_python=pythons,
        work=cache_dir() / "demo",
        force=force,
        progress=progress,
    )
