"""Inference engines: recipes to serve a head, environments to run it in, and runs that count acceptance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eagle3hub.errors import UsageError

if TYPE_CHECKING:
    from eagle3hub.engines.base import Engine

ENGINES = ("vllm", "sglang", "trtllm", "sglang_jax", "llamacpp")


def engine_name(name: str) -> str:
    """Return the engine's name as this package writes it (``sglang-jax`` becomes ``sglang_jax``).

    Raises UsageError, which lists the known engines.
    """
    found = name.replace("-", "_")
    if found not in ENGINES:
        raise no_such_engine(name, ENGINES)
    return found


def no_such_engine(name: str, known: Sequence[str]) -> UsageError:
    """The error for a name that is none of the ``known``; if one is spelled alike, the hint names it."""
    from difflib import get_close_matches

    from eagle3hub.engines.specs import engine_title

    spelt = {engine_title(engine).lower(): engine for engine in known if engine in ENGINES}
    spelt |= {engine: engine for engine in known}
    close = get_close_matches(name.lower(), spelt, n=1)
    meant = f"; did you mean {spelt[close[0]]!r}?" if close else ""
    return UsageError(f"no engine is called {name!r}{meant}", hint=f"engines: {', '.join(known)}", code="usage-engine")


def engine_pythons(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``["sglang=/path/python"]`` into a mapping. Raises UsageError for anything else."""
    out = {}
    for pair in pairs:
        engine, _, path = pair.partition("=")
        name = engine.replace("-", "_")
        if not path or name not in ENGINES:
            raise UsageError(
                f"--engine-python {pair!r} is not ENGINE=PATH",
                hint=f"engines: {', '.join(ENGINES)}",
                code="usage-engine-python",
            )
        out[name] = path
    return out


def engine_versions(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``["vllm=0.19.0"]`` into a mapping. Raises UsageError for anything else, and for what is no version."""
    from eagle3hub.engines.specs import known_version

    out = {}
    for pair in pairs:
        engine, _, version = pair.partition("=")
        if not version:
            raise UsageError(
                f"--engine-version {pair!r} is not ENGINE=VERSION",
                hint=f"engines: {', '.join(ENGINES)}",
                code="usage-engine-version",
            )
        out[engine_name(engine)] = version
        known_version(engine_name(engine), version)
    return out


def get_engine(name: str, version: str | None = None) -> Engine:
    """Return the engine called ``name``, in the version that its package or server reports.

    Without a version, or with a text that is no version (``unknown``), it is the pinned one. Raises
    UsageError, which lists the known engines.
    """
    found = engine_name(name)
    version = version if version and version[0].isdigit() else None
    if found == "vllm":
        from eagle3hub.engines.vllm import VLLM

        return VLLM(version)
    if found == "sglang":
        from eagle3hub.engines.sglang import SGLang

        return SGLang(version)
    if found == "trtllm":
        from eagle3hub.engines.trtllm import TensorRTLLM

        return TensorRTLLM(version)
    if found == "llamacpp":
        from eagle3hub.engines.llamacpp import LlamaCpp

        return LlamaCpp(version)
    from eagle3hub.engines.sglang_jax import SGLangJAX

    return SGLangJAX(version)
