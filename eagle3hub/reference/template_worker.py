"""Render chat templates in a process of its own: a template is a stranger's program, and this process can be stopped.

Run as a script. Standard input brings one JSON request a line (``template``, ``messages``, ``variables``), and one
JSON line answers each (``text`` or ``error``). transformers renders in Jinja's immutable sandbox, as its tokenizers
do. This process limits memory and processor time; the caller limits the waiting time (`eagle3hub.reference.chat`).
"""

from __future__ import annotations

import json
import resource
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

if sys.path and Path(sys.path[0]) == Path(__file__).parent:
    del sys.path[0]  # so that this package's modules do not hide others of the same names

MEMORY = 1 << 30
"""Most bytes a template may use, on Linux."""
PROCESSOR_SECONDS = 30
"""Most processor seconds for one text; then the system ends the process, even if the caller still waits."""
LONGEST = 8 << 20
"""Most characters of a rendered text."""
_LONGEST_ERROR = 500


def _limit_memory() -> None:
    """Limit what a template may use, where the system says how much is in use; macOS neither says nor limits it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except FileNotFoundError:
        return
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _render(request: dict[str, Any]) -> dict[str, str]:
    from transformers.utils.chat_template_utils import render_jinja_template

    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + PROCESSOR_SECONDS)
    try:
        found: Any = render_jinja_template(
            [request["messages"]],
            chat_template=request["template"],
            add_generation_prompt=True,
            **request["variables"],
        )
        text = found[0][0]
        if len(text) > LONGEST:
            return {"error": f"its text has {len(text)} characters"}
        return {"text": text}
    except MemoryError:
        return {"error": f"it wants more than {MEMORY >> 20} MiB of memory"}
    except Exception as error:  # a template may raise any exception
        return {"error": f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]}


def main() -> None:
    """Answer requests until standard input ends."""
    import_module("transformers.utils.chat_template_utils")  # load everything before memory is limited
    _limit(resource.RLIMIT_CORE, 0)
    _limit_memory()
    for line in sys.stdin:
        answer = _render(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
