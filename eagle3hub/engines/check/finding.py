"""One thing that is wrong with a recipe, and looking a name up among an engine's facts."""

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
    """Something an engine does not take as written.

    Attributes:
        code: a stable slug. severity: ``error`` (does not start, or not with this), ``warning`` (starts, and does
            something else than meant), ``info`` (works, but is written otherwise by now).
        line: 1-based line of the text; 0 where there are no lines.
        engine: the engine it is about.
        what: one sentence. instead: what to write, or None.
    """

    code: str
    severity: Severity
    line: int
    engine: str
    what: str
    instead: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The finding as an entry of ``findings``."""
        return asdict(self)


def known_fact(engine: str, name: str, line: int) -> RecipeFinding | None:
    """What the engine's data says of a name, if anything."""
    for fact in name_facts(engine):
        if name in fact.names:
            where = f"{engine_title(engine)} {default_version(engine)}"
            return RecipeFinding(fact.code, fact.severity, line, engine, f"{where}: {name} {fact.says}", fact.instead)
    return None


def unknown_name(
    engine: str, code: str, name: str, known: Iterable[str], line: int, *, must_resemble: bool = False
) -> RecipeFinding | None:
    """A finding for a name the engine does not have; with ``must_resemble`` only if it looks like one it has."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=_ALIKE) or [k for k in names if k.startswith(name)][:3]
    if must_resemble and not close:
        return None
    severity: Severity = "warning" if must_resemble else "error"
    what = f"{engine_title(engine)} {default_version(engine)} has no {_KINDS[code]} {name}"
    return RecipeFinding(code, severity, line, engine, what, " or ".join(close) if close else None)
