"""The engine versions that this program pins, asked of its data: tests write none."""

from __future__ import annotations

from eagle3hub.engines import specs
from eagle3hub.engines.preflight import contracts, current_contracts
from eagle3hub.engines.preflight.contracts import contracts_of_version
from eagle3hub.engines.preflight.probed import probed
from eagle3hub.engines.specs import default_version, engine_data

VLLM = default_version("vllm")
VLLM_NEXT = engine_data("vllm").beside[-1]
SGLANG = default_version("sglang")
TRTLLM = default_version("trtllm")
TRTLLM_NEXT = engine_data("trtllm").beside[0]
SGLANG_JAX = default_version("sglang_jax")
LLAMACPP = default_version("llamacpp")

CACHED = (
    *(specs.engine_data, specs.versions_with, specs._version_data, specs._interface),
    *(contracts, contracts_of_version, current_contracts, probed),
)


def forget() -> None:
    """Forget what was read of the data, so that other data are read."""
    for cached in CACHED:
        cached.cache_clear()
