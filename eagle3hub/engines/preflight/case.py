"""One head, checked against one engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eagle3hub.engines.preflight.contracts import EngineContract
from eagle3hub.engines.preflight.files import HeadFiles, Truth, nested_object
from eagle3hub.head.target import TargetFacts


@dataclass(frozen=True, slots=True)
class PreflightFinding:
    """Something about a case that may matter; ``facts`` fill in the sentence of the rule for ``code``."""

    code: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PreflightCase:
    """A head's files and what it computes, an engine's contract, and the target, if known.

    ``capture`` holds the after-layer ids that the engine is given in addition to the files (``[-1]``: the final hidden
    state), or None. ``tensor_parallel`` is the number of devices that target and draft are split over. ``fields`` are
    the config's, with a nested config merged in.
    """

    files: HeadFiles
    truth: Truth
    contract: EngineContract
    target: TargetFacts | None
    capture: tuple[int, ...] | None = None
    tensor_parallel: int = 1
    fields: Mapping[str, object] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", self.files.fields)

    @property
    def architecture(self) -> str | None:
        """The first of the config's architectures, or None."""
        names = self.files.config.get("architectures")
        return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None

    @property
    def draft_class(self) -> str | None:
        """Kind of the class that the engine builds (``llama``, ``qwen3``, ``mla``), or None if it knows none."""
        terms = self.contract
        if self.files.nested and terms.reads_nested and "qwen3" in terms.architectures:
            kind = self.fields.get("model_type", "llama")
            return kind if kind in ("llama", "qwen3") else None
        if terms.any_architecture:
            return self.truth.kind if self.truth.kind in terms.architectures else "llama"
        for kind, names in terms.architectures.items():
            if self.architecture in names:
                return kind
        return None

    def reads(self, flag: str) -> bool:
        """Whether the engine takes a norm flag as true, from the keys that it reads.

        A key that is present in ``eagle_config`` or in a nested config decides, and null means false.
        """
        nested = self._nested_norms
        if nested is not None:
            return flag in nested and self.files.config.get(flag, nested[flag]) is True
        for key in self.contract.norms.get(flag, ()):
            place, _, name = key.rpartition(".")
            fields = nested_object(self.fields, place) if place else self.fields
            if fields.get(name) is True or (place and name in fields):
                return fields[name] is True
        return False

    def assumes(self, flag: str) -> bool:
        """Whether the nested config has no value for a norm flag, so that the engine uses its own default."""
        return flag in (self._nested_norms or {}) and flag not in self.files.config

    @property
    def _nested_norms(self) -> Mapping[str, bool] | None:
        """The flags that the engine reads from this nested config, with defaults; None if it reads a flat one."""
        if not self.files.nested or not self.contract.nested_norms:
            return None
        return self.contract.nested_norms.get(str(self.files.config.get("speculators_model_type")), {})


def lookup(fields: Mapping[str, object], key: str) -> Any:
    """Return the value at a dotted key, or None."""
    found: Any = fields
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
