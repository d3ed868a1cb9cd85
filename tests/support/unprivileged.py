"""Processes that the permissions of files hold for, also where the tests are run by root."""

from __future__ import annotations

import ctypes

_LIBC = ctypes.CDLL(None)
_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


def drop_overrides() -> None:
    """To be called between fork and exec: what is executed has no capability to pass over permissions."""
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        _LIBC.prctl(_PR_CAPBSET_DROP, capability)  # fails for who has none
