"""Move byte ranges between files without bringing them into the process where the kernel can help."""

from __future__ import annotations

import errno
import os

_CHUNK = 64 << 20
_BUFFER = 4 << 20
_UNSUPPORTED = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


def copy_range(src: int, src_offset: int, dst: int, dst_offset: int, count: int) -> None:
    """Copy ``count`` bytes between two open files, inside the kernel if it can.

    Tries ``copy_file_range`` (which shares blocks on file systems that can), then ordinary reads and writes
    through a small buffer. Raises OSError as the system does, and EOFError if the source ends early.
    """
    done = 0
    if hasattr(os, "copy_file_range"):
        try:
            while done < count:
                n = os.copy_file_range(src, dst, min(_CHUNK, count - done), src_offset + done, dst_offset + done)
                if n == 0:
                    break
                done += n
        except OSError as e:
            if e.errno not in _UNSUPPORTED:
                raise
    while done < count:
        data = os.pread(src, min(_BUFFER, count - done), src_offset + done)
        if not data:
            raise EOFError
        written = 0
        while written < len(data):
            written += os.pwrite(dst, data[written:], dst_offset + done + written)
        done += len(data)


def same_bytes(a: int, a_offset: int, b: int, b_offset: int, count: int) -> bool:
    """Whether two ranges of two open files hold the same bytes; memory use is two small buffers."""
    one, two = bytearray(_BUFFER), bytearray(_BUFFER)
    done = 0
    while done < count:
        want = min(_BUFFER, count - done)
        m = os.preadv(a, [memoryview(one)[:want]], a_offset + done)
        n = os.preadv(b, [memoryview(two)[:m]], b_offset + done) if m else 0
        if not m or n < 1 or one[:n] != two[:n]:
            return False
        done += n
    return True
