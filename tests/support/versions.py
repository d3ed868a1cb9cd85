"""The engine versions that this program pins, asked of its data: tests write none."""

from __future__ import annotations

from eagle3hub.engines.specs import default_version, engine_data

VLLM = default_version("vllm")
VLLM_NEXT = engine_data("vllm").beside[-1]
SGLANG = default_version("sglang")
TRTLLM = default_version("trtllm")
TRTLLM_NEXT = engine_data("trtllm").beside[0]
SGLANG_JAX = default_version("sglang_jax")
LLAMACPP = default_version("llamacpp")
