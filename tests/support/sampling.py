"""How deep a run goes: how many random inputs a test tries, and which cases of a product `make fast` runs.

A product is a test over every pair, or every combination, of some values: most of its cases repeat what others try.
`make fast` runs as many as it takes that each value occurs; `make light` runs all.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import settings

THOROUGH = bool(os.environ.get("EAGLE3HUB_THOROUGH"))
"""Whether every case is asked for, however long it takes: once a week, and by hand."""
EXAMPLES = {"fast": 20, "usual": 100, "thorough": 2000}
"""Random inputs for each test."""
FEW = 10
"""A test of so few cases runs them all."""


def load(*, fast: bool) -> None:
    """Say how many random inputs a test tries, before the modules of tests are imported."""
    for name, number in EXAMPLES.items():
        settings.register_profile(name, max_examples=number, deadline=None)
    settings.load_profile("fast" if fast else "thorough" if THOROUGH else "usual")


def examples(times: float) -> int:
    """So many times the number of random inputs that other tests try: more where they cost little."""
    return max(10, round(settings.default.max_examples * times))


def left_out(items: Iterable[pytest.Item]) -> set[pytest.Item]:
    """The cases of products that a fast run leaves out."""
    tests = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            tests[item.nodeid.partition("[")[0]].append(item)
    return {cases[i] for cases in tests.values() for i in repeats([case.callspec.params for case in cases])}


def repeats(cases: Sequence[Mapping[str, object]]) -> set[int]:
    """Indices of those cases of a product whose values all occur in the others.

    Few cases, and those of a table, in which most values occur once, are all kept. Kept are first the cases that share
    no value with an earlier one, then those that bring one more.
    """
    values = [{(name, _key(value)) for name, value in case.items()} for case in cases]
    seen: set[object] = set()
    kept = set()
    for i, case in enumerate(values):
        if not case & seen:
            kept.add(i)
            seen |= case
    for i, case in enumerate(values):
        if case - seen:
            kept.add(i)
            seen |= case
    is_product = len(cases) > FEW and 2 * len(kept) <= len(cases)
    return set(range(len(cases))) - kept if is_product else set()


def _key(value: object) -> object:
    """What two values of a parameter must share to be the same: plain ones are equal, others are one object."""
    plain = isinstance(value, str | bytes | int | float | None)
    return (type(value), value) if plain else id(value)
