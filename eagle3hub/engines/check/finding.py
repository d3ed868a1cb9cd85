"""A fault of a recipe, what could not be checked, and how to look up names and values in an engine's data."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from eagle3hub.engines.specs import (
    Interface,
    KnownVersion,
    engine_title,
    interface,
    known_version,
    name_facts,
    versions_with,
)
from eagle3hub.errors import Severity

_ALIKE = 0.85
_MOST = 6
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
        engine: the engine in question, or ``shell``, ``yaml``, ``json``, ``python`` for text that does not parse.
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


@dataclass(frozen=True, slots=True)
class NotChecked:
    """Something that could not be checked: its ``line`` from 1, ``what`` it is and why, in one sentence.

    ``engine`` is the engine that it is for, or None if that is not known.
    """

    line: int
    engine: str | None
    what: str

    def to_json(self) -> dict[str, Any]:
        """Return it as an entry of ``not_checked`` in ``--json`` output."""
        return asdict(self)


@dataclass(slots=True)
class Outcome:
    """What checking a text found.

    Attributes:
        findings: the faults. not_checked: what could not be checked. warnings: versions judged as others.
        checked: how many commands, variables, documents and Python snippets were checked against an engine's data.
    """

    findings: list[RecipeFinding] = field(default_factory=list)
    not_checked: list[NotChecked] = field(default_factory=list)
    checked: int = 0
    warnings: list[str] = field(default_factory=list)

    def left(self) -> dict[str, list[int]]:
        """Return, for each thing that was not checked, its lines."""
        lines: dict[str, list[int]] = {}
        for one in self.not_checked:
            lines.setdefault(one.what, []).append(one.line)
        return lines

    def summary(self) -> str:
        """Return one line that says how much was checked and what was found: nothing unchecked is called fine."""
        left = f", {len(self.not_checked)} not checked" if self.not_checked else ""
        if not self.checked and not self.findings:
            return f"nothing was checked{left or ': it holds no command, variable or settings of an engine'}"
        found = f"{len(self.findings)} found" if self.findings else "nothing that an engine would read differently"
        return f"{self.checked} checked{left}; {found}"


@dataclass(frozen=True, slots=True)
class Against:
    """The engine versions that a text is checked against: ``versions`` by engine, for others the pinned one.

    One that is not known is judged as another; see `known_version`. Its methods raise UsageError for text that is no
    version.
    """

    versions: Mapping[str, str] = field(default_factory=dict)

    def judged(self, engine: str) -> KnownVersion:
        """Return the version of ``engine`` that texts are checked against: one with an interface, if any has one."""
        file = "interface.json" if versions_with(engine, "interface.json") else "engine.toml"
        return known_version(engine, self.versions.get(engine), file)

    def version(self, engine: str) -> str:
        """Return the number of that version."""
        return self.judged(engine).version

    def title(self, engine: str) -> str:
        """Return the engine's name with that version."""
        return f"{engine_title(engine)} {self.version(engine)}"

    def warnings(self) -> list[str]:
        """Return a sentence for each version that is judged as another."""
        return [warning for engine in self.versions if (warning := self.judged(engine).warning)]

    def interface(self, engine: str) -> Interface | None:
        """Return the flags and names of that version, or None if we never had its package."""
        return interface(engine, self.version(engine))

    def fact(self, engine: str, name: str, line: int) -> RecipeFinding | None:
        """Return what the engine's data says about a name, or None."""
        for fact in name_facts(engine):
            if name in fact.names:
                what = f"{self.title(engine)}: {name} {fact.says}"
                return RecipeFinding(fact.code, fact.severity, line, engine, what, fact.instead)
        return None

    def unknown_name(
        self, engine: str, code: str, name: str, known: Iterable[str], line: int, *, must_resemble: bool = False
    ) -> RecipeFinding | None:
        """Return a finding for a name that the engine does not have.

        With ``must_resemble`` the result is None unless the name looks like one that the engine has.
        """
        names = list(known)
        close = resembling(name, names, beginnings=not must_resemble)
        if must_resemble and not close:
            return None
        severity: Severity = "warning" if must_resemble else "error"
        what = f"{self.title(engine)} has no {_KINDS[code]} {name}"
        return RecipeFinding(code, severity, line, engine, what, " or ".join(close) if close else None)

    def unknown_value(
        self, engine: str, code: str, name: str, value: str, known: Iterable[str], line: int
    ) -> RecipeFinding:
        """Return a finding for a value that the engine does not take; those that it takes are named if few."""
        names = list(known)
        close = resembling(value, names) or (names if len(names) <= _MOST else [])
        what = f"{self.title(engine)} takes no {value!r} for {name}"
        return RecipeFinding(code, "error", line, engine, what, " or ".join(close) if close else None)


def resembling(name: str, known: list[str], *, beginnings: bool = True) -> list[str]:
    """Return the name that ``name`` misspells, or else the names that begin with it; at most three."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)
    return close or [k for k in known if beginnings and k.startswith(name)][:3]
