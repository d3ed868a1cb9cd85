"""Inference engines: recipes to serve a head, environments to run it in, and runs that count acceptance."""

from __future__ import annotations

from eagle3hub.engines.base import Engine
from eagle3hub.errors import UsageError

ENGINES = ("vllm", "sglang", "trtllm", "sglang_jax", "llamacpp")


def engine_name(name: str) -> str:
    """The name an engine goes by here (``sglang-jax`` is ``sglang_jax``); UsageError names those there are."""
    found = name.replace("-", "_")
    if found not in ENGINES:
        raise UsageError(f"no engine is called {name!r}", hint=f"engines: {', '.join(ENGINES)}", code="usage-engine")
    return found


def get_engine(name: str) -> Engine:
    """The engine called ``name``; UsageError names those there are."""
    found = engine_name(name)
    if found == "vllm":
        from eagle3hub.engines.vllm import VLLM

        return VLLM()
    if found == "sglang":
        from eagle3hub.engines.sglang import SGLang

        return SGLang()
    if found == "trtllm":
        from eagle3hub.engines.trtllm import TensorRTLLM

        return TensorRTLLM()
    if found == "llamacpp":
        from eagle3hub.engines.llamacpp import LlamaCpp

        return LlamaCpp()
    from eagle3hub.engines.sglang_jax import SGLangJAX

    return SGLangJAX()
