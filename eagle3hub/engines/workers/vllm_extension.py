"""Watch the draft's loading inside each process of vLLM that holds a part of the models.

vLLM imports this module there (``worker_extension_cls``) before it loads anything, and adds the class to its worker's.
"""

from __future__ import annotations

from vllm_worker import aux_boundaries, watch_draft

_SEEN = {}
watch_draft(_SEEN)


class DraftWatch:
    """What `LLM.collective_rpc` can ask each process."""

    def eagle3hub_draft(self):
        """Return what was seen of the draft's loading, and the captured hidden states; empty without a draft."""
        if not _SEEN:
            return {}
        try:
            taps = aux_boundaries(self.model_runner.get_model())
        except AttributeError:
            taps = None
        return {**_SEEN, "aux_boundaries": taps}
