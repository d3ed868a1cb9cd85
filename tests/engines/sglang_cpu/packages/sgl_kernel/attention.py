"""Attention over SGLang's paged KV pool, one sequence after the other, in float32."""

import torch
from torch.nn.functional import scaled_dot_product_attention


def attend(query, keys, values, visible, scale):
    """Queries [tokens, heads, d], keys and values [slots, kv heads, d], mask [tokens, slots] or None for all."""
    heads_first = (x.float().transpose(0, 1).unsqueeze(0) for x in (query, keys, values))
    mixed = scaled_dot_product_attention(*heads_first, attn_mask=visible, scale=scale, enable_gqa=True)
    return mixed[0].transpose(0, 1)


def require(**unsupported):
    """Refuse loudly what the stand-in does not compute."""
    for name, used in unsupported.items():
        if used:
            raise NotImplementedError(f"the stand-in for sgl_kernel has no attention with {name}")


def decode_attention_cpu(
    query, key_pool, value_pool, key_scale, value_scale, out, key, value, slots_of_new, _scratch, req_to_token,
    rows, lengths, scale, logit_cap, is_cross, window, _encoder_lens=None, sinks=None,
):  # fmt: skip
    """One new token per sequence: store its key and value, then attend over the whole sequence. Writes ``out``."""
    require(
        scaled_keys=(key_scale, value_scale) != (1.0, 1.0),
        logit_cap=logit_cap,
        cross_attention=is_cross,
        sliding_window=window > 0,
        sinks=sinks is not None,
    )
    if key is not None:
        key_pool[slots_of_new] = key.view(-1, *key_pool.shape[1:]).to(key_pool.dtype)
        value_pool[slots_of_new] = value.view(-1, *value_pool.shape[1:]).to(value_pool.dtype)
    for i, (row, length) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):
        slots = req_to_token[row, :length].long()
        out[i : i + 1] = attend(query[i : i + 1], key_pool[slots], value_pool[slots], None, scale)


def extend_attention_cpu(
    query, key, value, out, key_pool, value_pool, key_scale, value_scale, req_to_token, rows, lengths,
    new_lengths, starts, _longest, scale, logit_cap, is_cross, window, _encoder_lens=None, sinks=None,
    tree_mask=None, is_causal=True,
):  # fmt: skip
    """The last ``new_lengths[i]`` tokens of each sequence at once; SGLang has stored their keys and values already.

    Of MLA the pool holds latents. Where the queries are not as wide as these, the new tokens' own keys and values are
    taken, which SGLang does for sequences that have no tokens before them.

    ``tree_mask`` holds, sequence after sequence, which of its new tokens each new token sees; without it they are a
    chain. Writes ``out``.
    """
    require(
        scaled_keys=(key_scale, value_scale) != (1.0, 1.0),
        logit_cap=logit_cap,
        cross_attention=is_cross,
        sliding_window=window > 0,
        sinks=sinks is not None,
        both_directions=not is_causal,
    )
    taken, own = 0, query.shape[-1] != key_pool.shape[-1]
    for row, length, new, start in zip(
        rows.tolist(), lengths.tolist(), new_lengths.tolist(), starts.tolist(), strict=True
    ):
        slots = req_to_token[row, :length].long()
        among_new = torch.ones(new, new, dtype=torch.bool).tril()
        if tree_mask is not None:
            among_new = tree_mask.view(-1)[taken : taken + new * new].view(new, new)
            taken += new * new
        visible = torch.cat([torch.ones(new, length - new, dtype=torch.bool), among_new], dim=1)
        tokens = slice(start, start + new)
        if own:
            require(a_prefix_beside_latents=length != new)
            keys, values = key[tokens], value[tokens]
        else:
            keys, values = key_pool[slots], value_pool[slots]
        out[tokens] = attend(query[tokens], keys, values, visible, scale).to(out.dtype)


torch.ops.sgl_kernel.decode_attention_cpu = decode_attention_cpu
torch.ops.sgl_kernel.extend_attention_cpu = extend_attention_cpu
