"""Where the bytes of one tensor lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_SCALES = frozenset({"weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale", "k_scale", "v_scale"})


def is_scale(name: str) -> bool:
    """Whether a tensor's name is that of a quantizer's scale."""
    return name.rpartition(".")[2] in _SCALES


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where the bytes of one tensor lie: ``nbytes`` bytes at ``offset`` of ``path``.

    ``dtype`` is the safetensors name (``BF16``, ``I64``, ``BOOL`` …). ``remote`` reads (offset, count) of a file
    that is not on this machine; ``path`` is then where it would lie once downloaded.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int
    remote: Callable[[int, int], bytes] | None = field(default=None, compare=False, repr=False)

    @property
    def num_elements(self) -> int:
        """Number of elements (1 for a scalar)."""
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def num_parameters(self) -> int:
        """Number of weights in it: two in every byte of NVFP4, and none in the scales that a quantizer adds."""
        return 0 if is_scale(self.name) else self.num_elements * (2 if self.dtype == "U8" else 1)
