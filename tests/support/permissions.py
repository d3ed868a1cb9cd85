"""The permissions of an ordinary user, also where the tests are run by root."""

from __future__ import annotations

import ctypes

_PR_CAPBSET_DROP = 24
_CAPABILITIES = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def ordinary() -> None:
    """For ``preexec_fn``: what the modes of files forbid is forbidden. Nothing changes for who is not root."""
    prctl = ctypes.CDLL(None).prctl
    for capability in _CAPABILITIES:
        prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
