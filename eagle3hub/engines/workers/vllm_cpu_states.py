"""vLLM's connector for hidden states, on a machine without an accelerator. vLLM imports it in each of its processes.

The connector copies states through pinned memory and waits for an event of CUDA
(``distributed/kv_transfer/kv_connector/v1/example_hidden_states_connector.py``: `_submit_async_write` and
`get_finished`). A CPU has neither, and its states lie in the memory they are wanted in.
"""

from __future__ import annotations

import pathlib

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import ExampleHiddenStatesConnector


class _Done:
    """The event of a copy that is finished."""

    def query(self):
        return True

    def synchronize(self):
        pass


class StatesOnCpu(ExampleHiddenStatesConnector):
    """Writes a request's states as soon as it is finished."""

    def _submit_async_write(self, pending):
        if not self._is_tp_rank_zero:
            return
        at = torch.arange(len(pending.token_ids))
        blocks = torch.tensor(pending.block_ids)[at // self._block_size]
        states = self._kv_cache[blocks, :, at % self._block_size].contiguous()
        pathlib.Path(pending.filename).parent.mkdir(parents=True, exist_ok=True)
        self._req_copy_events[pending.req_id] = _Done()
        tensors = {"hidden_states": states, "token_ids": pending.token_ids.clone()}
        self._write_tensors(tensors, _Done(), pending.filename, self._lock_fds.pop(pending.req_id, None))
