"""Let sglang-jax run on CPU: a stand-in for its TPU attention kernel, and what the CPU needs beside it.

Everything else of sglang-jax runs unmodified. `_CHANGES` names each module that is changed; each change says how.
`_FIXES` are further changes, made only where a test asks for them: they correct where sglang-jax places drafts.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys

__version__ = "stand-in"


def ragged_paged_attention(
    queries,
    keys,
    values,
    kv_cache_fused,
    kv_lens,
    page_indices,
    cu_q_lens,
    cu_kv_lens,
    distribution,
    custom_mask=None,
    attention_sink=None,
    *,
    causal=1,
    sm_scale=1.0,
    sliding_window=None,
    soft_cap=None,
    mask_aligned_to_cu_kv=False,
    **_tuning,
):
    """Compute what ``ragged_paged_attention_v3`` computes for chains, in float32.

    ``queries`` [T, query heads, D], ``keys`` and ``values`` [T, KV heads, D]; ``kv_cache_fused`` [pages, page size,
    2 x KV heads / packing, packing, D padded], keys and values in turn. Sequence s has ``kv_lens[s]`` tokens, of which
    the last ``cu_q_lens[s + 1] - cu_q_lens[s]`` are the queries; its pages begin at page ``cu_kv_lens[s] / page size``
    of ``page_indices``; ``distribution[2]`` is the number of sequences. Returns the output [T, query heads, D] and the
    pool with the new keys and values in it.
    """
    import jax
    import jax.numpy as jnp

    if custom_mask is not None or attention_sink is not None or not causal or mask_aligned_to_cu_kv:
        raise NotImplementedError("the stand-in for sglang-jax's attention has chains only")
    tokens, heads, size = queries.shape
    kv_heads = keys.shape[1]
    pages, page, rows, packing, padded = kv_cache_fused.shape
    slots, sequences = pages * page, kv_lens.shape[0]

    # where each query stands: its sequence, its position, its slot of the pool (`slots`: none)
    token = jnp.arange(tokens)
    of = jnp.clip(jnp.searchsorted(cu_q_lens, token, side="right") - 1, 0, sequences - 1)
    real = token < cu_q_lens[distribution[2]]
    position = kv_lens[of] - (cu_q_lens[of + 1] - cu_q_lens[of]) + token - cu_q_lens[of]
    first_page = -(-cu_kv_lens[:-1] // page)
    at = jnp.clip(first_page[of] + position // page, 0, page_indices.shape[0] - 1)
    slot = jnp.where(real, page_indices[at] * page + position % page, slots)

    # the new keys and values go into the pool
    fused = jnp.concatenate([keys, values], -1).reshape(tokens, 2 * kv_heads, size)
    fused = jnp.pad(fused, ((0, 0), (0, rows * packing - 2 * kv_heads), (0, padded - size)))
    pool = kv_cache_fused.reshape(slots, rows * packing, padded)
    pool = pool.at[slot].set(fused.astype(pool.dtype), mode="drop")

    # the position that each slot of the pool holds in each sequence; -1: the slot is not the sequence's
    nth = jnp.arange(pages)
    listed = page_indices[jnp.clip(first_page[:, None] + nth, 0, page_indices.shape[0] - 1)]
    held = jnp.broadcast_to(nth[:, None] * page + jnp.arange(page), (sequences, pages, page))
    there = (held < kv_lens[:, None, None]) & (jnp.arange(sequences) < distribution[2])[:, None, None]
    places = jnp.where(there, listed[..., None] * page + jnp.arange(page), slots)
    table = jnp.full((sequences, slots), -1, jnp.int32)
    table = table.at[jnp.arange(sequences)[:, None, None], places].set(held.astype(jnp.int32), mode="drop")[of]
    seen = (table >= 0) & (table <= position[:, None]) & real[:, None]
    if sliding_window:
        seen &= position[:, None] - table < sliding_window

    grouped = queries.reshape(tokens, kv_heads, heads // kv_heads, size)
    known, valued = pool[:, 0 : 2 * kv_heads : 2, :size], pool[:, 1 : 2 * kv_heads : 2, :size]
    exact = {"preferred_element_type": jnp.float32, "precision": "highest"}
    scores = jnp.einsum("tkgd,nkd->tkgn", grouped, known, **exact) * sm_scale
    if soft_cap:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -1e30), -1)
    out = jnp.einsum("tkgn,nkd->tkgd", weights, valued.astype(jnp.float32), **exact).reshape(queries.shape)
    return jnp.where(real[:, None, None], out, 0).astype(queries.dtype), pool.reshape(kv_cache_fused.shape)


def _attention(module):
    """The kernel, and the look-up of its block sizes, which knows TPUs only."""
    module.ragged_paged_attention_v3 = ragged_paged_attention
    module.get_tuned_block_sizes_v3 = lambda *_shapes, **_options: None


def _runner(module):
    """It takes another attention backend on CPU, one that cannot draft: keep the one it takes on a TPU."""
    choose = module.ModelRunner._get_attention_backend

    def as_on_tpu(self):
        device, self.server_args.device = self.server_args.device, "tpu"
        try:
            return choose(self)
        finally:
            self.server_args.device = device

    module.ModelRunner._get_attention_backend = as_on_tpu


def _jax(module):
    """Copy arrays of numpy on their way into jax, which the CPU would share, because the engine changes them later."""
    import numpy as np

    def own(value):
        return np.array(value, copy=True) if isinstance(value, np.ndarray) else value

    def owned(tree):
        return module.tree.map(own, tree, is_leaf=lambda leaf: isinstance(leaf, np.ndarray))

    put, convert, call_back = module.device_put, module.numpy.asarray, module.make_array_from_callback
    module.device_put = lambda value, *args, **options: put(owned(value), *args, **options)
    module.numpy.asarray = lambda value, *args, **options: convert(own(value), *args, **options)
    module.make_array_from_callback = lambda shape, sharding, data, *args, **options: call_back(
        shape, sharding, lambda index: own(data(index)), *args, **options
    )
    module.config.update("jax_cpu_enable_async_dispatch", False)


def _placed_states(module):
    """Mend: after a round, the K + 1 states of its tokens belong at their own positions, not one slot before them."""
    import jax.numpy as jnp

    make = module._make_draft_extend_metadata

    def one_longer(metadata, lengths, *args, **options):
        return make(metadata, jnp.where(lengths > 0, lengths + 1, lengths), *args, **options)

    module._make_draft_extend_metadata = one_longer


def _turned_drafts(module):
    """Mend: a draft is turned by the position of the state it continues, as in training, not by the next one."""
    call = module.LlamaEagleModel.__call__

    def turned(self, forward_batch, token_to_kv_pool):
        if forward_batch.forward_mode.is_decode():
            forward_batch.positions = forward_batch.positions - 1
        return call(self, forward_batch, token_to_kv_pool)

    module.LlamaEagleModel.__call__ = turned


_CHANGES = {
    "sgl_jax.srt.layers.attention.flashattention_backend": _attention,
    "sgl_jax.srt.model_executor.model_runner": _runner,
    "jax": _jax,
}
_FIXES = {
    "sgl_jax.srt.speculative.draft_extend_fused": _placed_states,
    "sgl_jax.srt.models.llama_eagle3": _turned_drafts,
}


class _Changing(importlib.abc.MetaPathFinder):
    """Change a module as soon as it has been imported."""

    def __init__(self, changes):
        self.changes = changes

    def find_spec(self, fullname, path=None, target=None):
        change = self.changes.get(fullname)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if change else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def changed(module):
            run(module)
            change(module)

        spec.loader.exec_module = changed
        return spec


def install(*, fixed):
    """Change the modules of `_CHANGES`, and of `_FIXES` if ``fixed``, when they are imported."""
    sys.meta_path.insert(0, _Changing({**_CHANGES, **(_FIXES if fixed else {})}))
