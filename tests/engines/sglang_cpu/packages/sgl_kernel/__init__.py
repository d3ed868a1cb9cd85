"""A stand-in, in plain torch, for the CPU build of SGLang's kernel package, which is not published.

It has the functions that SGLang imports from ``sgl_kernel`` to serve a Llama-like target with an EAGLE-3 head
on CPU, greedily, without AMX kernels. Anything else fails when it is imported. Written from what the callers pass and
expect; none of it is SGLang's code. See the README one folder up.
"""

from . import attention as attention  # registers the attention operators
from .bookkeeping import (
    assign_draft_cache_locs_contiguous_cpu,
    assign_extend_cache_locs_cpu,
    assign_req_to_token_pool_cpu,
    build_draft_decode_metadata_cpu,
    copy_all_layer_kv_cache_cpu,
    fill_accept_out_cache_loc_cpu,
    fill_bonus_tokens_cpu,
    rotate_input_ids_cpu,
)
from .tree import build_tree_kernel_efficient_cpu, verify_tree_greedy_cpu

__version__ = "0+eagle3hub.stand-in"

__all__ = [
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_draft_decode_metadata_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "rotate_input_ids_cpu",
    "verify_tree_greedy_cpu",
]
