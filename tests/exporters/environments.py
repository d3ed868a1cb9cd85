"""Virtual environments of the exporters, one each, all on torch's CPU build.

Run it (`python tests/exporters/environments.py CACHE [NAME …]`) to make them; an existing one is left as it is. The
packages' own pins would pull CUDA builds of torch, so the packages that have such pins come without dependencies and
what they import is listed here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"

# no network, no compiler, no GPU
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "JAX_PLATFORMS": "cpu",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}

# each step is one pip call; a step that starts with --no-deps ignores the packages' own pins
STEPS: dict[str, list[list[str]]] = {
    # transformers 5.14 suits both nvidia-modelopt (< 5.15) and speculators (<= 5.19)
    "torch-exporters": [
        [TORCH, "transformers==5.14.1", "accelerate", "numpy", "safetensors"],
        ["--no-deps", "speculators==0.9.0", "nvidia-modelopt==0.47.0", "hs-connectors==0.9.0"],
        ["loguru", "pydantic-settings", "typer", "click", "rich", "psutil", "httpx", "aiohttp", "openai", "datasets"],
        ["requests", "ninja", "nvidia-ml-py", "omegaconf", "pulp<4", "pyyaml", "scipy", "regex"],
    ],
    "specforge": [
        [TORCH, "transformers==5.8.1", "accelerate", "datasets", "triton", "numpy", "safetensors"],
        ["--no-deps", "specforge==0.2.0"],
    ],
    # TorchSpec is in no registry: its make_ script runs a checkout, of which the draft models need these
    "torchspec": [[TORCH, "transformers==4.57.6", "numpy<2.4", "safetensors", "numba", "wandb", "tqdm"]],
    "specjax": [["jax==0.8.3", "numpy", "safetensors", "ml_dtypes", "optax", "transformers==5.14.1"]],
}


def folder(cache: Path, name: str) -> Path:
    return cache / f"exp-{name}"


def python(cache: Path, name: str) -> Path | None:
    """The interpreter of a complete environment, or None."""
    place = folder(cache, name)
    return place / "bin" / "python" if (place / "complete").is_file() else None


def ensure(cache: Path, name: str) -> Path:
    """Make the environment unless it is complete; its interpreter."""
    found = python(cache, name)
    if found is not None:
        return found
    place = folder(cache, name)
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, with_pip=True)
    constraints = place / "constraints.txt"
    constraints.write_text(TORCH + "\n", encoding="utf-8")
    interpreter = place / "bin" / "python"
    for step in STEPS[name]:
        pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", str(constraints), *step], check=True)
    (place / "complete").touch()
    return interpreter


def main() -> None:
    cache = Path(sys.argv[1]).resolve()
    for name in sys.argv[2:] or STEPS:
        sys.stdout.write(f"{name}: {ensure(cache, name)}\n")


if __name__ == "__main__":
    main()
