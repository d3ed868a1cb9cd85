"""What is expected of every fixture, written by hand from what each exporter and each layout is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "fixtures" / "exporters"
TARGET = FOLDER / "target"

# what a layout has no place for; named as in the codes of refusals
ONE_PLAIN_LAYER = {
    "mla",
    "quantization",
    "no-aux",
    "several-layers",
    "attention-bias",
    "qk-norm",
    "norm-before-residual",
    "norm-before-fc",
    "post-norm-feedback",
    "sliding-window",
    "aux-count",
    "unsorted-vocabulary",
    "parallel-drafting",
}
CANNOT = {
    "specjax": ONE_PLAIN_LAYER | {"fc-norm", "rope-scaling", "embed-tokens", "aux-ids", "full-vocabulary"},
    "specforge": ONE_PLAIN_LAYER - {"parallel-drafting", "mla"},
    "modelopt": {
        "qk-norm",
        "norm-before-residual",
        "norm-before-fc",
        "fc-norm",
        "post-norm-feedback",
        "sliding-window",
        "embed-tokens",
        "parallel-drafting",
    },
    "speculators": {"quantization", "no-aux", "mla"},
    # RoPE scaling of the kinds here (llama3, yarn): its code knows linear and dynamic only
    "safeailab": ONE_PLAIN_LAYER | {"fc-norm", "rope-scaling", "embed-tokens", "aux-ids"},
    "angelslim": ONE_PLAIN_LAYER | {"fc-norm", "aux-ids"},
    # whatever one of the engines cannot do
    "universal": ONE_PLAIN_LAYER - {"unsorted-vocabulary"} | {"fc-norm", "embed-tokens", "aux-ids"},
}


@dataclass(frozen=True)
class Expected:
    """What one fixture is.

    ``layout`` it is detected as; ``has``: which things of `CANNOT` it has; ``error``: why it cannot be used as it is;
    ``reads``: fields of `Semantics` that are not the default; ``taps``: after-layer ids it names;
    ``golden``: what its logits are compared with.

    ``golden`` is "equal" where reading the folder right gives the exporter's logits, "none" where there are none to
    compare, and otherwise names what the exporter's training does that its own files do not say.
    ``lacks``: code of the refusal of a layout that needs what this exporter's files do not hold.
    """

    layout: str | None
    has: frozenset[str] = frozenset()
    error: str | None = None
    reads: dict[str, Any] = field(default_factory=dict)
    taps: tuple[int, ...] | None = (1, 3, 4)
    golden: str = "equal"
    lacks: dict[str, str] = field(default_factory=dict)


def _specforge(*has: str, taps: tuple[int, ...] | None = (1, 3, 4), **more: Any) -> Expected:
    return Expected("specforge", frozenset(has), taps=taps, **more)


def _modelopt(*has: str, **more: Any) -> Expected:
    return Expected("modelopt", frozenset({"unsorted-vocabulary", *has}), **more)


def _torchspec(*has: str, **more: Any) -> Expected:
    return Expected("torchspec", frozenset({"mla", "embed-tokens", "full-vocabulary", *has}), **more)


def _speculators(*has: str, **more: Any) -> Expected:
    return Expected("speculators", frozenset({"embed-tokens", *has}), **more)


def _nemo(*has: str, taps: tuple[int, ...] | None = None, **more: Any) -> Expected:
    return Expected("nemo", frozenset({"embed-tokens", *has}), taps=taps, **more)


EXPECTED: dict[str, Expected] = {
    "specjax-saved": Expected("specjax", taps=None),
    "specjax-resumed": Expected("specjax", error="vocab-double-subtracted", taps=None),
    "specforge-sglang-plain": _specforge(taps=None),
    "specforge-hf-plain": _specforge("embed-tokens", taps=None),
    "specforge-hf-float32-weights": _specforge("embed-tokens", taps=None),
    "specforge-training-plain": _specforge(error="source-no-config", golden="none"),
    "specforge-sglang-fc-norm": _specforge("fc-norm", reads={"fc_norm": True}),
    "specforge-hf-fc-norm": _specforge("fc-norm", "embed-tokens", reads={"fc_norm": True}),
    # sglang-jax reads llama3 and rotates without it
    "specforge-sglang-llama3-rope": _specforge("rope-scaling", lacks={"universal": "refused-rope-type"}),
    "specforge-sglang-norm-output": _specforge(error="config-norm-output"),
    "specforge-sglang-full-vocabulary": _specforge("full-vocabulary", taps=None),
    "specforge-hf-peagle": _specforge(
        "several-layers",
        "parallel-drafting",
        "embed-tokens",
        reads={"num_layers": 2, "parallel_drafting": True},
        lacks={"speculators": "refused-no-mask-token"},
    ),
    "modelopt-default": _modelopt("rope-scaling", golden="plain rope"),
    "modelopt-plain-rope": _modelopt(),
    "modelopt-double-norm": _modelopt(golden="double norm"),
    "modelopt-full-vocabulary": Expected("modelopt", frozenset({"full-vocabulary"})),
    "modelopt-two-layers": _modelopt("several-layers", reads={"num_layers": 2}),
    "modelopt-bias": _modelopt("attention-bias", reads={"attention_bias": True}),
    "modelopt-four-aux": _modelopt("aux-count", "aux-ids", taps=(0, 2, 4, 6)),
    "modelopt-no-aux": _modelopt("no-aux", reads={"uses_aux": False}, taps=None),
    "modelopt-fp8": _modelopt("quantization", golden="none"),
    "modelopt-nvfp4": _modelopt("quantization", golden="none"),
    "torchspec-mla": _torchspec(taps=None),
    "torchspec-mla-no-latent": _torchspec(taps=None, lacks={"universal": "refused-mla-query"}),
    "torchspec-mla-kimi": _torchspec("rope-scaling", golden="base 10000"),
    "torchspec-mla-kimi-vllm": _torchspec("rope-scaling", golden="base 10000"),
    "speculators-default": _speculators(
        "norm-before-residual",
        "norm-before-fc",
        "post-norm-feedback",
        "sliding-window",
        reads={
            "norm_before_residual": True,
            "norm_before_fc": True,
            "feedback": "post_norm",
            "sliding_window": 2048,
        },
    ),
    "speculators-plain": _speculators(),
    "speculators-window": _speculators("sliding-window", reads={"sliding_window": 4}),
    "speculators-qwen3": _speculators("qk-norm", reads={"qk_norm": True}),
    "speculators-two-layers": _speculators("several-layers", reads={"num_layers": 2}),
    "speculators-mixed-layers": _speculators(
        "several-layers", "sliding-window", reads={"num_layers": 2, "sliding_window": 4}
    ),
    "speculators-fc-norm": _speculators("fc-norm", reads={"fc_norm": True}),
    "speculators-norm-output": _speculators("post-norm-feedback", reads={"feedback": "post_norm"}),
    "speculators-full-vocabulary": _speculators("full-vocabulary"),
    "speculators-last-layer": _speculators("aux-ids", taps=(1, 3, 7)),
    "speculators-bias": _speculators("attention-bias", reads={"attention_bias": True}),
    "speculators-peagle": _speculators("parallel-drafting", reads={"parallel_drafting": True}),
    "torchspec-full-vocabulary": Expected("torchspec", frozenset({"embed-tokens", "full-vocabulary"}), taps=None),
    "torchspec-pruned": Expected("torchspec", error="tensor-suspicious", golden="none", taps=None),
    "nemo-plain": _nemo("unsorted-vocabulary"),
    "nemo-eagle31": _nemo(
        "unsorted-vocabulary",
        "fc-norm",
        "post-norm-feedback",
        reads={"fc_norm": True, "feedback": "post_norm"},
    ),
    "nemo-peagle": _nemo(
        "unsorted-vocabulary",
        "several-layers",
        "parallel-drafting",
        reads={"num_layers": 2, "parallel_drafting": True},
        golden="none",
    ),
    "speculators-converted-from-specforge-sglang-plain": Expected("speculators", taps=None),
    "speculators-converted-from-modelopt-plain-rope": Expected("speculators", error="vocab-missing", taps=None),
}
USABLE = [name for name, expected in EXPECTED.items() if expected.error is None]
WITH_GOLDEN = [name for name, expected in EXPECTED.items() if expected.golden != "none"]
