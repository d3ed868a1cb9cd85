"""Calls of Linux that Python has no function for; where the system lacks one, nothing is done."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

_NO_SUCH_CALL = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_SYNC_FILE_RANGE_WRITE = 2


def reserve(fd: int, size: int) -> None:
    """Give a new file its ``size`` bytes at once, which makes writing it faster, where the file system can.

    Calls ``fallocate(2)`` and not ``posix_fallocate(3)``: the latter writes into every block where a file system has
    no such call. Raises OSError where there is no room.
    """
    call = _function("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call is not None and call(fd, 0, 0, size) != 0:
        number = ctypes.get_errno()
        if number in _NO_SUCH_CALL:
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def start_writing(fd: int, offset: int, count: int) -> None:
    """Have the system begin to write a range of a file to the disk, without waiting for it (``sync_file_range(2)``).

    No promise is made: only ``fsync`` says whether data has arrived, and reports what went wrong here.
    """
    call = _function("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    if call is not None:
        call(fd, offset, count, _SYNC_FILE_RANGE_WRITE)


def _function(name: str, *argtypes: Any) -> Any:
    call = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if call is not None:
        call.argtypes = argtypes
    return call
