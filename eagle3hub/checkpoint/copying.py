"""Move byte ranges between files without bringing them into the process where the kernel can help."""

from __future__ import annotations

import errno
import os

from eagle3hub.checkpoint.background import start_writeback

_CHUNK = 32 << 20
_BUFFER = 2 << 20
_UNSUPPORTED = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


def copy_range(src: int, src_offset: int, dst: int, dst_offset: int, count: int) -> None:
    """Copy ``count`` bytes between two open files, inside the kernel if it can.

    Tries ``copy_file_range`` (which shares blocks on file systems that can), then ordinary reads and writes
    through a small buffer; either way the kernel is told to begin writing out what is there. Raises OSError as the
    system does, and EOFError if the source ends early.
    """
    done = 0
    if hasattr(os, "copy_file_range"):
        try:
            while done < count:
                n = os.copy_file_range(src, dst, min(_CHUNK, count - done), src_offset + done, dst_offset + done)
                if n == 0:
                    break
                start_writeback(dst, dst_offset + done, n)
                done += n
        except OSError as e:
            if e.errno not in _UNSUPPORTED:
                raise
    while done < count:
        data = os.pread(src, min(_BUFFER, count - done), src_offset + done)
        if not data:
            raise EOFError
        write_all(dst, data, dst_offset + done)
        done += len(data)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
