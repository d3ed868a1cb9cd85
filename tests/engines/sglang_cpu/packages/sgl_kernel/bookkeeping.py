"""Manage the slots of the KV pool. All tensors are written in place; ``req_to_token[row, position]`` is a slot."""

import ctypes

import numpy as np
import torch


def _spans(rows, starts, ends):
    return zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)


def assign_req_to_token_pool_cpu(rows, req_to_token, starts, ends, slots, _width):
    """Note in each sequence's row the slots handed out for its positions ``start`` to ``end``."""
    pieces = slots.split([end - start for _, start, end in _spans(rows, starts, ends)])
    for (row, start, end), piece in zip(_spans(rows, starts, ends), pieces, strict=True):
        req_to_token[row, start:end] = piece.to(req_to_token.dtype)


def assign_extend_cache_locs_cpu(rows, req_to_token, starts, ends, slots, _width):
    """Read back, sequence after sequence, the slots of positions ``start`` to ``end``."""
    found = torch.cat([req_to_token[row, start:end] for row, start, end in _spans(rows, starts, ends)])
    slots[: len(found)] = found.to(slots.dtype)


def assign_draft_cache_locs_contiguous_cpu(rows, req_to_token, lengths, slots, width, topk, steps):
    """Read back the slots of the ``topk * steps`` positions that follow each sequence."""
    assign_extend_cache_locs_cpu(rows, req_to_token, lengths, lengths + topk * steps, slots, width)


def build_draft_decode_metadata_cpu(req_to_token, rows, lengths, topk, steps, width):
    """[sequences * topk, width]: each branch's own row, its ``steps`` slots moved up to follow the sequence."""
    branches = req_to_token[rows, :width].repeat_interleave(topk, dim=0)
    for i, (row, length) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):
        own = req_to_token[row, length : length + topk * steps].view(topk, steps)
        branches[i * topk : (i + 1) * topk, length : length + steps] = own
    return branches


def fill_bonus_tokens_cpu(accepted, counts, bonus, stride):
    """The last accepted token of each sequence (``counts`` includes the target's own)."""
    last = torch.arange(len(counts)) * stride + counts.long() - 1
    bonus[: len(counts)] = accepted.reshape(-1)[last].to(bonus.dtype)


def fill_accept_out_cache_loc_cpu(accept_index, slots, accepted_slots):
    """The slots of the accepted tokens, without gaps; -1 marks a rejected one."""
    indices = accept_index.reshape(-1)
    found = slots[indices[indices >= 0].long()]
    accepted_slots[: len(found)] = found


def rotate_input_ids_cpu(input_ids, starts, lengths, new_tokens, places=None):
    """Shift each sequence's tokens left by one and put its new token at the end (or at ``places``)."""
    ends = starts + lengths
    where = ends - 1 if places is None else places
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        input_ids[start : end - 1] = input_ids[start + 1 : end].clone()
    input_ids[where.long()] = new_tokens.reshape(-1)[: len(where)].to(input_ids.dtype)


def copy_all_layer_kv_cache_cpu(pointers, strides, targets, sources):
    """Move rows of every layer's pool, given as addresses of memory and bytes per row."""
    to, origin = targets.numpy(), sources.numpy()
    if not len(to):
        return
    rows = int(max(to.max(), origin.max())) + 1
    for pointer, stride in zip(pointers.tolist(), strides.tolist(), strict=True):
        memory = (ctypes.c_uint8 * (rows * stride)).from_address(pointer % 2**64)
        pool = np.frombuffer(memory, dtype=np.uint8).reshape(rows, stride)
        pool[to] = pool[origin]
