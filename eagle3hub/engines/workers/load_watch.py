"""Watch an engine load a draft model: which parameters it filled, and which tensors of the file it read.

This runs inside the engine's interpreter. Before loading, every parameter is filled with a bit pattern that no
checkpoint holds; a parameter that still holds it afterwards was not written. The addresses in torch's operations show
which tensors were read. Neither check depends on how the engine names or fuses tensors.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_PATTERNS = {1: 0x5A, 2: 0x7FA5, 4: 0x7FA5A5A5, 8: 0x7FF4A5A5A5A5A5A5}
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_VIEWS = ("view", "slice", "select", "narrow", "transpose", "t.", "detach", "alias", "expand", "unsqueeze", "reshape")


class LoadWatch:
    """Watch one load of ``model``; pass the (name, tensor) pairs through `weights`.

    Parameters of one byte per element (bool, int8, FP8) are not watched: every pattern may be a real value there.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._before: dict[str, torch.Tensor] = {}
        self._names: list[str] = []
        self._spans: list[tuple[int, int, str]] = []
        self._read: set[str] = set()
        self._alive: list[torch.Tensor] = []
        self.untouched: dict[str, tuple[list[str], torch.Tensor]] = {}
        """By parameter that was not filled, after `result`: canonical names, and a mask of its elements."""

    def __enter__(self) -> LoadWatch:
        for name, parameter in self._model.named_parameters():
            bits = _bits(parameter.data)
            if bits is not None:
                self._before[name] = parameter.data.clone()
                bits.fill_(_PATTERNS[parameter.element_size()])
        self._mode = _Reads(self)
        self._mode.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        self._mode.__exit__(*problem)
        self._alive.clear()

    def weights(self, pairs):
        """Yield the same pairs, and remember each tensor's name and address."""
        for name, tensor in pairs:
            self._names.append(name)
            if not isinstance(tensor, torch.Tensor):  # a table of a training state, which loaders hand on as it is
                yield name, tensor
                continue
            self._alive.append(tensor)
            start = tensor.data_ptr()
            self._spans.append((start, start + tensor.numel() * tensor.element_size(), name))
            yield name, tensor

    def saw(self, tensor: torch.Tensor) -> None:
        """Note that an operation read ``tensor``."""
        address = tensor.data_ptr()
        for start, end, name in self._spans:
            if start <= address < end:
                self._read.add(name)
                return

    def result(self) -> dict[str, list[str]]:
        """Return ``not_loaded`` and ``ignored``, and restore the old values of parameters that were not filled."""
        missing: list[str] = []
        modules = dict(self._model.named_modules())
        parameters = dict(self._model.named_parameters())
        for name, before in self._before.items():
            parameter = parameters.get(name)
            if parameter is None or parameter.shape != before.shape or parameter.dtype != before.dtype:
                continue
            untouched = _bits(parameter.data) == _PATTERNS[before.element_size()]
            if not bool(untouched.any()):
                continue
            parameter.data[untouched] = before[untouched]
            parts = _parts(name, untouched, modules.get(name.rpartition(".")[0]))
            self.untouched[name] = parts, untouched
            missing += parts
        ignored = [name for name in self._names if name not in self._read]
        return {"not_loaded": missing, "ignored": ignored}


class _Reads(TorchDispatchMode):
    def __init__(self, watch: LoadWatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        if not name.startswith(_VIEWS):
            sources = args[1:] if name.startswith("copy_") else args
            for argument in sources:
                # torch.cat takes a list
                for tensor in argument if isinstance(argument, list | tuple) else (argument,):
                    if isinstance(tensor, torch.Tensor):
                        self._watch.saw(tensor)
        return func(*args, **(kwargs or {}))


def _bits(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the tensor's storage as integers of the same width, or None if it cannot be watched."""
    size = tensor.element_size()
    if size not in (2, 4, 8) or tensor.is_complex() or not tensor.is_contiguous() or not tensor.numel():
        return None
    return tensor.view(_INTEGERS[size])


def _parts(name: str, untouched: torch.Tensor, module: torch.nn.Module | None) -> list[str]:
    """Return the canonical names of what is missing; for a fused projection, the parts that were not filled."""
    canonical = name.removeprefix("model.").replace("draft_id_to_target_id", "d2t")
    fused = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
    for whole, parts in fused.items():
        sizes = getattr(module, "output_partition_sizes", None)
        if f".{whole}." in canonical and sizes and len(sizes) == len(parts) and sum(sizes) == untouched.shape[0]:
            rows = untouched.split(list(sizes))
            return [canonical.replace(whole, part) for part, row in zip(parts, rows, strict=True) if bool(row.any())]
    return [canonical]
