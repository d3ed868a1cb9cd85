"""Run a speculators Eagle3DraftModel on a batch and read what passes inside it. Needs the library's environment."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

BLOCK = 128


def run(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """First-step logits and the hidden state its own loop feeds to the next step, in float32, as numpy arrays.

    ``batch`` holds ``token_ids`` [B, T] and ``aux_hidden_states`` [B, T, A·H]. The library packs sequences into one
    row, so each row of the batch is a call of its own, padded on the right to the block its attention masks come in
    (attention is causal: the padding changes nothing before it).
    """
    import torch
    from speculators.models.eagle3 import Eagle3DraftModel

    model = model.float().eval()
    hidden = model.config.transformer_layer_config.hidden_size
    logits: list[torch.Tensor] = []
    fed: list[torch.Tensor] = []

    def keep_logits(_module: Any, _args: Any, output: torch.Tensor) -> None:
        logits.append(output.detach())

    def keep_input(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
        fed.append(args[0].detach()[..., hidden:])

    hooks = [
        model.lm_head.register_forward_hook(keep_logits),
        model.layers[0].register_forward_pre_hook(keep_input),
    ]
    try:
        with torch.no_grad():
            for tokens, aux in zip(batch["token_ids"], batch["aux_hidden_states"], strict=True):
                row = torch.nn.functional.pad(torch.from_numpy(tokens), (0, BLOCK - len(tokens)))[None]
                states = torch.nn.functional.pad(torch.from_numpy(aux), (0, 0, 0, BLOCK - len(tokens)))[None]
                # a P-EAGLE model is one of these, whose own forward samples masked positions and gives no logits
                Eagle3DraftModel.forward(model, states, row, torch.zeros_like(row), ttt_steps=2)
    finally:
        for hook in hooks:
            hook.remove()
    # two steps a row: logits of the first, input of the second
    length = batch["token_ids"].shape[1]
    return {
        "logits": torch.cat(logits[::2])[:, :length].numpy(),
        "feedback": torch.cat(fed[1::2])[:, :length].numpy(),
    }


def run_masked(model: Any, batch: dict[str, Any], depths: int) -> Any:
    """A PEagleDraftModel's own logits of masked slots, float32 numpy [B, depths, T, draft vocabulary].

    Slot d of position i stands d places after it: what a draft that begins at i makes of its (d + 1)-th token. The
    library draws such slots at random; here every position has every depth.
    """
    import torch
    from speculators.models.peagle import core

    length = batch["token_ids"].shape[1]
    chosen = torch.arange(length).repeat(depths), torch.arange(1, depths + 1).repeat_interleave(length)
    # padded to the block its masks come in, with slots that nothing above sees
    fill = BLOCK - len(chosen[0])
    anchors = torch.cat([torch.arange(BLOCK), chosen[0], torch.full((fill,), BLOCK - 2)])
    slots = torch.cat([torch.zeros(BLOCK, dtype=torch.long), chosen[1], torch.ones(fill, dtype=torch.long)])
    logits: list[torch.Tensor] = []
    hook = model.lm_head.register_forward_hook(lambda _module, _args, output: logits.append(output.detach()))
    every = patch.object(core, "generate_cod_sample_indices", lambda **_options: (anchors, slots))
    no_loss = patch.object(core, "compute_metrics", lambda **_options: (None, {}))  # its kernels need Triton
    try:
        with torch.no_grad(), every, no_loss:
            for tokens, aux in zip(batch["token_ids"], batch["aux_hidden_states"], strict=True):
                row = torch.nn.functional.pad(torch.from_numpy(tokens), (0, BLOCK - len(tokens)))[None]
                states = torch.nn.functional.pad(torch.from_numpy(aux), (0, 0, 0, BLOCK - len(tokens)))[None]
                last = torch.zeros(1, BLOCK, model.fc.out_features)  # of the verifier: for the loss only
                model(states, row, torch.zeros_like(row), verifier_last_hidden_states=last, num_depths=depths + 1)
    finally:
        hook.remove()
    end = BLOCK + depths * length
    return torch.cat([x[:, BLOCK:end].unflatten(1, (depths, length)) for x in logits]).numpy()
