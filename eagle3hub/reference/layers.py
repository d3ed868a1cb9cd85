"""Find the decoder layers of a transformers model and take what they put out, without keeping anything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from eagle3hub.errors import InputError
from eagle3hub.head import FINAL_NORM, Tap


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The parts of a causal language model that are watched.

    Attributes:
        decoder: the text decoder; its ``last_hidden_state`` comes out of the final norm.
        layers: its decoder layers, in order.
        hidden_size: width of their outputs.
    """

    decoder: nn.Module
    layers: tuple[nn.Module, ...]
    hidden_size: int


def dissect(model: Any, name: str) -> Anatomy:
    """Find the decoder layers of a transformers model: its text decoder's list of ``num_hidden_layers`` modules.

    Raises InputError (``reference-target-layers``) where there is no such list, or several and none is ``layers``.
    """
    config = model.config.get_text_config(decoder=True)
    count, hidden_size = config.num_hidden_layers, config.hidden_size
    decoder = model.get_decoder()
    lists = {
        path: module
        for path, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and count > 0
    }
    depth = min((path.count(".") for path in lists), default=0)
    top = {path: module for path, module in lists.items() if path.count(".") == depth}
    found = top.get("layers") or (next(iter(top.values())) if len(top) == 1 else None)
    if found is None:
        raise InputError(
            f"{type(model).__name__} of {name} has {len(top) or 'no'} lists of {count} decoder layers",
            hint="only models with exactly one are supported; save the hidden states elsewhere and give the files",
            code="reference-target-layers",
        )
    return Anatomy(decoder, tuple(found), hidden_size)


class _Enough(Exception):
    """Everything that was wanted of a forward pass is there."""


@dataclass(slots=True)
class Capture:
    """What came by: layer outputs by after-layer id, and the decoder's own output object."""

    layers: dict[int, torch.Tensor] = field(default_factory=dict)
    output: Any = None

    def aux(self, taps: Sequence[Tap], device: torch.device) -> torch.Tensor:
        """The taps side by side, [B, T, taps * hidden size]."""
        states = [self.output.last_hidden_state if tap is FINAL_NORM else self.layers[tap] for tap in taps]
        return torch.cat([state.to(device) for state in states], dim=-1)


@contextmanager
def captured(anatomy: Anatomy, taps: Sequence[Tap], *, final: bool = False, stop: bool = True) -> Iterator[Capture]:
    """Within the block, one forward pass of the model fills the `Capture`.

    Args:
        final: also take the decoder's output.
        stop: end the pass (and the block) as soon as everything wanted is there.

    Raises InputError (``reference-target-states``) where a layer puts out something else than [B, T, hidden size].
    """
    numbers = sorted(tap for tap in taps if isinstance(tap, int))
    final = final or FINAL_NORM in taps
    last = numbers[-1] if numbers and not final else None
    found = Capture()

    def take(number: int, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output
        if not isinstance(state, torch.Tensor) or state.ndim != 3 or state.shape[-1] != anatomy.hidden_size:
            shape = list(state.shape) if isinstance(state, torch.Tensor) else type(state).__name__
            raise InputError(
                f"decoder layer {number} puts out {shape} instead of [batch, tokens, {anatomy.hidden_size}]",
                hint="this architecture has no hidden state per layer that a head could read",
                code="reference-target-states",
            )
        found.layers[number] = state
        if stop and number == last:
            raise _Enough

    def take_output(output: Any) -> None:
        found.output = output
        if stop:
            raise _Enough

    handles = [
        anatomy.layers[n].register_forward_hook(lambda _module, _args, output, n=n: take(n, output)) for n in numbers
    ]
    if final:
        handles.append(anatomy.decoder.register_forward_hook(lambda _module, _args, output: take_output(output)))
    try:
        yield found
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def skipping_decoder(anatomy: Anatomy, output: Any, hidden: torch.Tensor) -> Iterator[None]:
    """Within the block the model's forward takes ``hidden`` [B, T, hidden size] for its decoder's last hidden state.

    What is left of the forward is the model's own way from there to logits: softcapping, scaling and all.
    ``output`` is what the decoder really returned, whose other fields are kept.
    """
    decoder, fields = anatomy.decoder, {k: v for k, v in output.items() if k == "past_key_values"}
    replaced = type(output)(**{**fields, "last_hidden_state": hidden})
    before = decoder.__dict__.get("forward")
    decoder.__dict__["forward"] = lambda *_args, **_kwargs: replaced
    try:
        yield
    finally:
        if before is None:
            del decoder.__dict__["forward"]
        else:
            decoder.__dict__["forward"] = before
