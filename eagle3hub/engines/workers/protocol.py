"""The code that all workers share: messages to the parent, the stage of a failure, what was loaded, the processor.

The worker reads one JSON request from standard input and writes JSON lines to standard output; an engine's own prints
go to standard error instead. When standard input closes, the worker and its process group end.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import signal
import sys
import threading
import traceback


class Failure(Exception):
    """The engine raised ``error`` in ``stage``."""

    def __init__(self, stage, error):
        super().__init__(stage)
        self.stage = stage
        self.error = error


class Stage:
    """Record the stage in which an engine raised an error, and write the traceback to the log."""

    current = None

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        Stage.current = self.name
        return self

    def __exit__(self, kind, error, trace):
        if error is None or isinstance(error, KeyboardInterrupt):
            return
        traceback.print_exception(kind, error, trace)
        raise Failure(self.name, error) from error


def serve(run):
    """Read the request, call ``run(request, tell)``, report how it ended, and end the process."""
    channel = os.dup(1)
    os.dup2(2, 1)

    def tell(event, **fields):
        line = memoryview((json.dumps({"event": event, **fields}) + "\n").encode())
        while line:
            line = line[os.write(channel, line) :]

    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run(request, tell)
        tell("done")
    except Failure as failure:
        error = failure.error
        tell("error", stage=failure.stage, kind=type(error).__name__, message=str(error))
    sys.stderr.flush()
    os._exit(0)


def _end_with_parent():
    while sys.stdin.read(4096):
        pass
    if os.getsid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def load_of_all(seen):
    """Return what the processes of an engine saw of the draft's loading (`LoadWatch.result` and more) as one.

    Each loads its part of every tensor: nothing may be missing in any of them, and a tensor was ignored if none of
    them read it. The load was watched only if every process watched it.
    """
    if not seen or not all(one.get("checked") for one in seen):
        return {"checked": False}
    ignored = [name for name in seen[0]["ignored"] if all(name in one["ignored"] for one in seen)]
    missing = dict.fromkeys(name for one in seen for name in one["not_loaded"])
    taps = [one.get("aux_boundaries") for one in seen]
    same = taps[0] if all(one == taps[0] for one in taps) else None
    return {"checked": True, "not_loaded": list(missing), "ignored": ignored, "aux_boundaries": same}


def processor():
    """Return the model of the CPU."""
    try:
        with pathlib.Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
