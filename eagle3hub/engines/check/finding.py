"""A fault of a recipe, and how to look up a name in an engine's data."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from eagle3hub.engines.specs import default_version, engine_title, name_facts
from eagle3hub.errors import Severity

_ALIKE = 0.85
_KINDS = {
    "flag-unknown": "flag",
    "env-unknown": "variable",
    "python-name": "name",
    "python-keyword": "keyword",
    "yaml-unknown": "key",
    "vllm-config-key": "key of the speculative config",
    "sglang-algorithm": "speculative algorithm",
}


@dataclass(frozen=True, slots=True)
class RecipeFinding:
    """Something in a recipe that an engine does not accept as written.

    Attributes:
        code: a stable slug. severity: ``error`` (the engine does not start, or not with this), ``warning`` (it starts
            and does something else), ``info`` (it works, but there is a newer form).
        line: 1-based line of the text; 0 if there are no lines.
        engine: the engine in question.
        what: one sentence. instead: what to write, or None.
    """

    code: str
    severity: Severity
    line: int
    engine: str
    what: str
    instead: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the finding as an entry of ``findings`` in ``--json`` output."""
        return asdict(self)


def known_fact(engine: str, name: str, line: int) -> RecipeFinding | None:
    """Return what the engine's data says about a name, or None."""
    for fact in name_facts(engine):
        if name in fact.names:
            where = f"{engine_title(engine)} {default_version(engine)}"
            return RecipeFinding(fact.code, fact.severity, line, engine, f"{where}: {name} {fact.says}", fact.instead)
    return None


def unknown_name(
    engine: str, code: str, name: str, known: Iterable[str], line: int, *, must_resemble: bool = False
) -> RecipeFinding | None:
    """Return a finding for a name that the engine does not have.

    With ``must_resemble`` the result is None unless the name looks like one that the engine has.
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=_ALIKE) or [k for k in names if k.startswith(name)][:3]
    if must_resemble and not close:
        return None
    severity: Severity = "warning" if must_resemble else "error"
    what = f"{engine_title(engine)} {default_version(engine)} has no {_KINDS[code]} {name}"
    return RecipeFinding(code, severity, line, engine, what, " or ".join(close) if close else None)
