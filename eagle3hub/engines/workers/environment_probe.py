"""Report on an interpreter: versions of Python, engine and torch or jax, whether it imports, and the device.

The request has ``module`` (the engine's package), ``framework`` (``torch`` or ``jax``, what it computes with) and
``device``. The answer is one ``probe`` event.
"""

from __future__ import annotations

import importlib
import platform

from protocol import processor, serve


def _run(request, tell):
    found = {"python": platform.python_version(), "engine": None, "framework": None}
    found |= {"processor": None, "free_gib": None}
    problem = None
    try:
        found["engine"] = str(getattr(importlib.import_module(request["module"]), "__version__", "of unknown version"))
    except Exception as error:
        lines = str(error).strip().splitlines()
        problem = f"{request['module']} does not import: {type(error).__name__}: {lines[0] if lines else 'no message'}"
    try:
        framework = importlib.import_module(request["framework"])
        found["framework"] = f"{framework.__name__} {framework.__version__}"
        if request["device"] == "cuda":
            _cuda(framework, found)
        elif request["device"] == "tpu":
            found["processor"] = framework.devices("tpu")[0].device_kind
    except Exception as error:
        problem = problem or f"{request['framework']} does not work: {type(error).__name__}: {error}"
    if request["device"] == "cpu":
        found["processor"] = processor()
    elif problem is None and found["processor"] is None:
        problem = "PyTorch sees no CUDA device"
    tell("probe", problem=problem, **found)


def _cuda(torch, found):
    if torch.cuda.is_available():
        found["processor"] = torch.cuda.get_device_name()
        found["free_gib"] = round(torch.cuda.mem_get_info()[0] / 2**30, 1)


if __name__ == "__main__":
    serve(_run)
