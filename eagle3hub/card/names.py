"""How engines, layouts and licenses are called in print."""

from __future__ import annotations

from dataclasses import dataclass

ENGINES = {
    "reference": "eagle3hub reference",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "trtllm": "TensorRT-LLM",
    "sglang_jax": "sglang-jax",
    "llamacpp": "llama.cpp",
}

REFERENCE = "reference"
"""Our own replay of a head: it measures, and serves nothing."""

OUTCOMES = {
    "pass": "pass",
    "fail": "fail",
    "inconclusive": "inconclusive",
    "unavailable": "could not run",
}
"""Verdicts in print; what has none was not run."""

TAGS = {"trtllm": "tensorrt-llm", "sglang_jax": "sglang-jax", "llamacpp": "llama.cpp"}
"""Engines whose tag on the Hub is not eagle3hub's name for them."""

DEVICES = {"cpu": "CPU", "cuda": "NVIDIA GPU", "server": "a running server"}


@dataclass(frozen=True, slots=True)
class LayoutName:
    """A checkpoint layout in print: whose format it is, and the engines that format is written for."""

    title: str
    written_for: str


LAYOUTS = {
    "universal": LayoutName("universal", "vLLM, SGLang, TensorRT-LLM, sglang-jax"),
    "specforge": LayoutName("SpecForge", "SGLang, vLLM, TensorRT-LLM"),
    "modelopt": LayoutName("NVIDIA ModelOpt", "TensorRT-LLM, SGLang, vLLM"),
    "speculators": LayoutName("speculators", "vLLM"),
    "specjax": LayoutName("SpecJAX", "sglang-jax"),
    "safeailab": LayoutName("SafeAILab EAGLE", "SafeAILab's own EAGLE code"),
    "angelslim": LayoutName("AngelSlim", "vLLM"),
}

SPDX = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "cc0-1.0": "CC0-1.0",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
    "odc-by": "ODC-By-1.0",
}
"""Hub license id to SPDX id, for those that have one."""


SUBCARDS = {
    "explainability": "Explainability",
    "bias": "Bias",
    "safety_and_security": "Safety & Security",
    "privacy": "Privacy",
}
"""Governance subcards in print."""


def engine(name: str) -> str:
    """An engine's name as its makers write it."""
    return ENGINES.get(name, name)


def tag(name: str) -> str:
    """An engine's tag, as models on the Hub carry it."""
    return TAGS.get(name, name)


def device(name: str) -> str:
    """A device in print."""
    return DEVICES.get(name, name)


def outcome(verdict: str) -> str:
    """A verdict in print."""
    return OUTCOMES.get(verdict, verdict)


def layout(name: str) -> LayoutName:
    """A layout in print; unknown ones by their own name, written for nobody known."""
    return LAYOUTS.get(name, LayoutName(name, ""))
