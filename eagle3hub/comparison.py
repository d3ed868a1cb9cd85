"""Compare two heads: their semantics, and every tensor, chunk by chunk."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from eagle3hub.checkpoint.folder import read_tensor
from eagle3hub.checkpoint.numbers import Gaps, add_gaps, comparable
from eagle3hub.checkpoint.safetensors import BITS, TensorRef
from eagle3hub.errors import CheckpointError
from eagle3hub.head import Head, Tap
from eagle3hub.head.rope import bound_by_context
from eagle3hub.head.target import TargetFacts, read_target
from eagle3hub.layouts import open_head
from eagle3hub.system.html import Cell, panel, rows
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.reading import open_regular

# Compare two tensors in small pieces, bit by bit and as numbers.
#
# Peak memory is a few blocks, whatever the tensors' size.


Status = Literal["bit-equal", "equal-values", "differs", "shape", "only-a", "only-b"]

_SHOWN = 20
"""Largest number of tensors that a notebook lists."""
_BLOCK = 1 << 18
"""Elements decoded at a time (2 MB as float64)."""


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """How one tensor of a head differs from the tensor of the same name in another head.

    Attributes:
        name: canonical name. a, b: dtype and shape on each side, None if absent.
        status: ``bit-equal``; ``equal-values`` (other dtype, zero signs or NaN payloads); ``differs``; ``shape``;
            ``only-a``, ``only-b``.
        differing: elements whose values differ (two NaNs do not); None where elements cannot be paired.
        max_abs: largest |a - b| over pairs of finite numbers. relative: ‖a - b‖ / ‖a‖ over the same pairs.
        nonfinite: differing elements of which at least one is infinite or NaN.
        max_abs, relative and nonfinite are None where no numbers were compared.
    """

    name: str
    status: Status
    a: tuple[str, tuple[int, ...]] | None
    b: tuple[str, tuple[int, ...]] | None
    differing: int | None = None
    max_abs: float | None = None
    relative: float | None = None
    nonfinite: int | None = None

    @property
    def elements(self) -> int:
        """Number of elements, on a side that has the tensor."""
        shape = (self.a or self.b or ("", ()))[1]
        n = 1
        for d in shape:
            n *= d
        return n

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``tensors`` in ``diff --json``; a norm that overflows is null."""
        out = asdict(self)
        for side in ("a", "b"):
            found = getattr(self, side)
            out[side] = None if found is None else {"dtype": found[0], "shape": list(found[1])}
        return {**out, "elements": self.elements}


def diff_tensors(name: str, a: TensorRef | None, b: TensorRef | None, rows: Sequence[int] | None = None) -> TensorDiff:
    """Compare two tensors.

    Args:
        name: their name in the result. a, b: where their bytes are; one of them may be None.
        rows: ``rows[r]`` is the row of ``b`` that belongs to row ``r`` of ``a``, where the order differs.

    Raises CheckpointError if a file cannot be read or is now shorter than its header says.
    """
    left, right = (None if t is None else (t.dtype, t.shape) for t in (a, b))
    if a is None or b is None:
        return TensorDiff(name, "only-b" if a is None else "only-a", left, right)
    if a.shape != b.shape:
        return TensorDiff(name, "shape", left, right)
    if a.dtype == b.dtype and all(x == y for x, y in _paired(a, b, rows)):
        return TensorDiff(name, "bit-equal", left, right, differing=0)
    if not comparable(a.dtype) or not comparable(b.dtype):
        return TensorDiff(name, "differs", left, right)
    return _numbers(name, a, b, rows)


def _numbers(name: str, a: TensorRef, b: TensorRef, rows: Sequence[int] | None) -> TensorDiff:
    gaps = Gaps()
    for raw_a, raw_b in _paired(a, b, rows):
        add_gaps(gaps, raw_a, a.dtype, raw_b, b.dtype)
    overflows = not gaps.scale or max(gaps.squares, gaps.scale) == float("inf")
    return TensorDiff(
        name,
        "differs" if gaps.differing else "equal-values",
        (a.dtype, a.shape),
        (b.dtype, b.shape),
        gaps.differing,
        gaps.largest if gaps.largest < float("inf") else None,
        None if overflows else (gaps.squares / gaps.scale) ** 0.5,
        gaps.nonfinite,
    )


def _paired(a: TensorRef, b: TensorRef, rows: Sequence[int] | None) -> Iterator[tuple[bytes, bytes]]:
    """Yield the bytes of both tensors block by block, with the rows of ``b`` in the order of ``a``'s."""
    first = open_regular(a.path)
    try:
        second = open_regular(b.path)
        try:
            pieces = (_even(a), _even(b)) if rows is None else (_by_row(a, range(len(rows))), _by_row(b, rows))
            for (at_a, n_a), (at_b, n_b) in zip(*pieces, strict=True):
                yield _read(first, a, at_a, n_a), _read(second, b, at_b, n_b)
        finally:
            os.close(second)
    finally:
        os.close(first)


def _even(ref: TensorRef) -> Iterator[tuple[int, int]]:
    """Yield offsets and lengths of blocks of `_BLOCK` elements (8 times as many if elements are parts of bytes)."""
    step = _BLOCK * max(BITS[ref.dtype], 8) // 8
    for at in range(0, ref.nbytes, step):
        yield ref.offset + at, min(step, ref.nbytes - at)


def _by_row(ref: TensorRef, rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    length = ref.nbytes // ref.shape[0]
    for row in rows:
        yield ref.offset + row * length, length


def _read(fd: int, ref: TensorRef, offset: int, count: int) -> bytes:
    data = os.pread(fd, count, offset)
    while len(data) < count:
        more = os.pread(fd, count - len(data), offset + len(data))
        if not more:
            raise CheckpointError(f"{ref.path} became shorter while it was read", code="checkpoint-truncated")
        data += more
    return data


# Compare two heads, in any layouts.
#
# Both are first read into the canonical description, which tells a real difference from another way to store the same
# thing. Then they are compared tensor by tensor and field by field, and their vocabulary maps by what they map.


Verdict = Literal["equal", "equal-up-to-spelling", "different"]
MapStatus = Literal["equal", "other-order", "different", "one-side", "unusable"]
_ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Spelling:
    """A fact that both heads share but store differently: its name, and how each side stores it."""

    name: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that makes them different heads.

    ``where`` is ``sizes``, ``semantics``, ``aux``, ``vocabulary`` or ``tensors``; ``name`` is the field or tensor;
    ``a`` and ``b`` are the two values.
    """

    where: str
    name: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class MapDiff:
    """Two draft-to-target maps, compared by what they map.

    Attributes:
        status: ``equal`` (two full vocabularies included); ``other-order`` (the same target tokens under other draft
            ids); ``different``; ``one-side`` (the other head covers the whole vocabulary); ``unusable`` (a map is
            wrong and maps nothing).
        first: the first draft id that means a different token on each side, with both tokens (None past the end).
        only_a, only_b: how many target tokens only this side can draft.
    """

    status: MapStatus
    first: tuple[int, int | None, int | None] | None = None
    only_a: int = 0
    only_b: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the ``vocab_map`` object of ``diff --json``."""
        first = None if self.first is None else dict(zip(("draft_id", "a", "b"), self.first, strict=True))
        return {"status": self.status, "first": first, "only_a": self.only_a, "only_b": self.only_b}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing two heads.

    Attributes:
        a, b: the heads. verdict: the answer.
        spelling: facts that both share but store differently. differences: facts that make them different heads.
        tensors: every weight of either side by canonical name. vocab_map: the maps.
    """

    a: Head
    b: Head
    verdict: Verdict
    spelling: list[Spelling]
    differences: list[Difference]
    tensors: list[TensorDiff] = field(default_factory=list)
    vocab_map: MapDiff = field(default_factory=lambda: MapDiff("equal"))

    def to_json(self) -> dict[str, Any]:
        """Return the document ``diff --json`` prints."""
        return {
            "a": _summary(self.a),
            "b": _summary(self.b),
            "verdict": self.verdict,
            "spelling": [asdict(s) for s in self.spelling],
            "differences": [asdict(d) for d in self.differences],
            "semantics": _fields(self.a.semantics_to_json(), self.b.semantics_to_json()),
            "sizes": _fields(_sizes(self.a), _sizes(self.b)),
            "aux": {"a": _in_json(_blocks(self.a)), "b": _in_json(_blocks(self.b))},
            "vocab_map": self.vocab_map.to_json(),
            "tensors": [t.to_json() for t in self.tensors],
        }

    def _repr_html_(self) -> str:
        equal = sum(t.status == "bit-equal" for t in self.tensors)
        other = [t for t in self.tensors if t.status != "bit-equal"]
        return panel(
            Cell(self.verdict.replace("-", " "), self.verdict),
            rows([(side, one.source, one.layout, one.dtype) for side, one in (("A", self.a), ("B", self.b))]),
            rows([(d.where, d.name, str(d.a), str(d.b)) for d in self.differences], ("differs", "", "A", "B")),
            rows([(s.name, str(s.a), str(s.b)) for s in self.spelling], ("written differently", "A", "B")),
            rows([(t.name, Cell(t.status, "differs")) for t in other[:_SHOWN]], ("tensor", "")),
            subtitle=f"{equal} of {len(self.tensors)} tensors are bit-equal",
        )


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How to compare two heads.

    Attributes:
        from_a, from_b: their layouts, to skip detection.
        target: the target model of both; it settles what one of them may not state (the aux layers).
    """

    from_a: str | None = None
    from_b: str | None = None
    target: TargetFacts | str | Path | None = None


DEFAULTS = CompareOptions()


def compare(
    a: str | Path, b: str | Path, options: CompareOptions = DEFAULTS, *, progress: Progress = silent
) -> Comparison:
    """Compare the heads at two addresses (`parse_address`), in any layouts.

    Heads with a wrong vocabulary map are compared too. Peak memory does not depend on their size. Raises InputError if
    one of them cannot be read, and UsageError for an unknown layout.
    """
    target = options.target
    facts = target if isinstance(target, TargetFacts | None) else read_target(target)
    left = open_head(a, layout=options.from_a, target=facts)
    return compare_heads(left, open_head(b, layout=options.from_b, target=facts), progress)


def compare_heads(a: Head, b: Head, progress: Progress = silent) -> Comparison:
    """Compare two opened heads. Raises CheckpointError if their files cannot be read."""
    spelling: list[Spelling] = []
    differences: list[Difference] = []
    for where, left, right in (
        ("sizes", _sizes(a), _sizes(b)),
        ("semantics", a.semantics_to_json(), b.semantics_to_json()),
    ):
        found = _fields(left, right)
        differences += [Difference(where, name, f["a"], f["b"]) for name, f in found.items() if not f["equal"]]
    _compare_aux(a, b, spelling, differences)
    vocab = _compare_maps(a, b, differences)
    tensors = _compare_tensors(a, b, _row_order(a, b, vocab), progress)
    for t in tensors:
        if t.status != "bit-equal":
            differences.append(Difference("tensors", t.name, _stored(t.a), _stored(t.b)))
    if vocab.status == "other-order":
        head = next((t for t in tensors if t.name == "lm_head.weight"), None)
        if head is not None and head.status == "bit-equal":
            spelling.append(Spelling("draft order", _order(a), _order(b)))
        else:
            differences.insert(0, Difference("vocabulary", "order of the draft ids", _order(a), _order(b)))
    spelling += _spelling(a, b, differences)
    verdict: Verdict = "different" if differences else "equal-up-to-spelling" if spelling else "equal"
    return Comparison(a, b, verdict, spelling, differences, tensors, vocab)


def _compare_tensors(a: Head, b: Head, rows: array[int] | None, progress: Progress) -> list[TensorDiff]:
    names = sorted(a.tensors.keys() | b.tensors.keys())
    sizes = {n: max(h.tensors[n].nbytes for h in (a, b) if n in h.tensors) for n in names}
    total, done, out = sum(sizes.values()) or 1, 0, []
    for name in names:
        progress("comparing every tensor", done / total)
        left, right = a.tensors.get(name), b.tensors.get(name)
        moved = rows if name.startswith("lm_head.") and left is not None and _has_rows(left, len(rows or ())) else None
        out.append(diff_tensors(name, left, right, moved))
        done += sizes[name]
    return out


def _has_rows(ref: TensorRef, count: int) -> bool:
    return bool(ref.shape) and ref.shape[0] == count > 0


def _compare_aux(a: Head, b: Head, spelling: list[Spelling], out: list[Difference]) -> None:
    left, right = _blocks(a), _blocks(b)
    if left == right:
        return
    sides = _tap_text(left), _tap_text(right)
    stated = b if left is None else a
    if None in (left, right) and stated.fc_order is None and stated.has_default_aux:
        spelling.append(Spelling("aux layers", *sides))
    else:
        out.append(Difference("aux", "aux layers", *sides))


def _blocks(head: Head) -> tuple[Tap, ...] | None:
    """Return the taps in the order of fc's column blocks, or None if nothing states the order."""
    return head.fc_order or (None if head.aux is None else head.aux.taps)


def _tap_text(taps: tuple[Tap, ...] | None) -> str:
    if taps is None:
        return "not stated (the default of the target's depth)"
    return "after " + ", ".join(str(t) if isinstance(t, int) else "the final norm" for t in taps)


def _compare_maps(a: Head, b: Head, out: list[Difference]) -> MapDiff:
    wrong = [h for h in (a, b) if h.vocab_map is None and h.vocab_status != "full"]
    if wrong:
        if a.vocab_status == b.vocab_status and _buffer_bytes(a) == _buffer_bytes(b):
            return MapDiff("equal")
        out.append(Difference("vocabulary", "map", f"map {a.vocab_status}", f"map {b.vocab_status}"))
        return MapDiff("unusable")
    if a.vocab_map is None or b.vocab_map is None:
        if a.vocab_map is b.vocab_map:
            return MapDiff("equal")
        out.append(Difference("vocabulary", "map", _order(a), _order(b)))
        return MapDiff("one-side")
    left, right = a.vocab_map.target_id, b.vocab_map.target_id
    if left == right:
        return MapDiff("equal")
    at = next((i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), min(len(left), len(right)))
    first = (at, left[at] if at < len(left) else None, right[at] if at < len(right) else None)
    in_a, in_b = set(left), set(right)
    if in_a == in_b:
        return MapDiff("other-order", first)
    out.append(Difference("vocabulary", f"token of draft id {at}", first[1], first[2]))
    return MapDiff("different", first, len(in_a - in_b), len(in_b - in_a))


def _row_order(a: Head, b: Head, vocab: MapDiff) -> array[int] | None:
    """Return, for each draft id of ``a``, the id of ``b`` that means the same token; None if the order is the same."""
    if vocab.status != "other-order" or a.vocab_map is None or b.vocab_map is None:
        return None
    where = {t: i for i, t in enumerate(b.vocab_map.target_id)}
    return array("q", (where[t] for t in a.vocab_map.target_id))


def _buffer_bytes(head: Head) -> list[tuple[str, bytes]]:
    tensors = {} if head.opened is None else head.opened.tensors
    found = ((n, tensors[head.other_names.get(n, n)]) for n in sorted(head.buffers))
    return [(ref.dtype, read_tensor(ref)) for _, ref in found]


def _order(head: Head) -> str:
    vocab = head.vocab_map
    return "full vocabulary" if vocab is None else "ascending" if vocab.is_sorted else "not ascending"


def _spelling(a: Head, b: Head, out: list[Difference]) -> list[Spelling]:
    """List facts that are stored differently; facts that contradict each other are added to ``out``."""
    found: list[Spelling] = []

    def note(name: str, left: Any, right: Any) -> None:
        if left != right:
            found.append(Spelling(name, _text(left), _text(right)))

    note("layout", a.layout, b.layout)
    renamed = [n for n in sorted(a.tensors.keys() & b.tensors.keys()) if a.tensors[n].name != b.tensors[n].name]
    if renamed:
        more = f" (and {len(renamed) - 1} more)" if len(renamed) > 1 else ""
        note("tensor names", a.tensors[renamed[0]].name + more, b.tensors[renamed[0]].name + more)
    note("d2t", a.buffers.get("d2t", _ABSENT), b.buffers.get("d2t", _ABSENT))
    note("t2d", a.buffers.get("t2d", _ABSENT), b.buffers.get("t2d", _ABSENT))
    note("header metadata", a.metadata, b.metadata)
    note("files", _files(a), _files(b))
    if not renamed and _files(a) == _files(b) and _in_file(a) != _in_file(b):
        note("order in the file", _in_file(a)[0], _in_file(b)[0])
    _compare_config(a, b, found, out)
    return found


def _compare_config(a: Head, b: Head, found: list[Spelling], out: list[Difference]) -> None:
    """Compare the rest of the configs; most of it concerns the target and serving, and counts as stored differently.

    Three facts change what a head computes: P-EAGLE's mask token, how weights are quantized, and the context length if
    RoPE scaling is derived from it.
    """
    tokens = sorted(a.token_ids.keys() | b.token_ids.keys())
    facts: list[tuple[str, Any, Any]] = [
        ("max_position_embeddings", a.max_position_embeddings, b.max_position_embeddings),
        *((k, a.token_ids.get(k), b.token_ids.get(k)) for k in tokens),
        ("target name", a.target_name, b.target_name),
        ("recommended draft tokens", a.speculative_tokens, b.speculative_tokens),
    ]
    computes: set[str] = set()
    if any(bound_by_context(h.semantics.rope.scaling) for h in (a, b)):
        computes.add("max_position_embeddings")
    if a.semantics.parallel_drafting and b.semantics.parallel_drafting:
        facts.append(("mask_token_id", a.mask_token_id, b.mask_token_id))
        if None not in (a.mask_token_id, b.mask_token_id):  # SpecForge does not record it
            computes.add("mask_token_id")
    if a.semantics.quantization is not None and b.semantics.quantization is not None:
        left_files, right_files = _quantization_files(a), _quantization_files(b)
        places = left_files.keys() | right_files.keys()
        unlike = {place: _unlike(left_files.get(place), right_files.get(place)) for place in sorted(places)}
        facts += [(place, *sides) for place, sides in unlike.items()]
        computes |= {p for p in left_files.keys() & right_files.keys() or places if not _by_producer(*unlike[p])}
    for name, left, right in facts:
        if left == right:
            continue
        if name in computes:
            out.append(Difference("semantics", name, left, right))
        else:
            found.append(Spelling(name, _text(left), _text(right)))
    if a.layout == b.layout:
        named = {s.name for s in found} | {d.name for d in out}
        keys = sorted(k for k in (a.config.keys() | b.config.keys()) - named if a.config.get(k) != b.config.get(k))
        if keys:
            shown = ", ".join(keys[:3]) + (" …" if len(keys) > 3 else "")
            sides = [_text({k: h.config[k] for k in keys if k in h.config} or None) for h in (a, b)]
            found.append(Spelling(f"config.json ({shown})", *sides))


def _quantization_files(head: Head) -> dict[str, object]:
    """Return how the weights are quantized, keyed by the config key or the file that states it."""
    found = {"quantization_config": head.config.get("quantization_config")}
    for name, raw in head.side_files.items():
        try:
            found[name] = json.loads(raw)
        except (ValueError, RecursionError):
            found[name] = raw.decode("utf-8", "backslashreplace")
    return {place: what for place, what in found.items() if what is not None}


def _unlike(a: Any, b: Any) -> tuple[Any, Any]:
    """Return two objects without the fields that are equal in both; anything else is returned unchanged."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return a, b
    same = {k for k in a.keys() & b.keys() if a[k] == b[k]}
    return {k: v for k, v in a.items() if k not in same}, {k: v for k, v in b.items() if k not in same}


def _by_producer(a: Any, b: Any) -> bool:
    """Return whether two such objects differ only in which program wrote them."""
    return isinstance(a, dict) and isinstance(b, dict) and {*a, *b} <= {"producer"}


def _files(head: Head) -> str:
    names = sorted({t.path.name for t in head.tensors.values()})
    return names[0] if len(names) == 1 else f"{len(names)} files"


def _in_file(head: Head) -> list[str]:
    return [t.name for t in sorted(head.tensors.values(), key=lambda t: (t.path.name, t.offset))]


def _text(value: Any) -> str:
    if value is None:
        return _ABSENT
    return value if isinstance(value, str) else str(value)


def _stored(found: tuple[str, tuple[int, ...]] | None) -> str:
    return _ABSENT if found is None else f"{found[0]} {list(found[1])}"


def _in_json(taps: tuple[Tap, ...] | None) -> list[int | str] | None:
    return None if taps is None else [t if isinstance(t, int) else t.value for t in taps]


def _fields(a: Mapping[str, object], b: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Compare field by field: both values, and whether they are equal."""
    names = [*a, *(k for k in b if k not in a)]
    return {n: {"a": a.get(n), "b": b.get(n), "equal": a.get(n) == b.get(n)} for n in names}


def _sizes(head: Head) -> dict[str, object]:
    """The sizes of a head by name; those of MLA attention as ``mla.kv_lora_rank`` and so on."""
    sizes = head.dims.to_json()
    latent = sizes.pop("mla", {})
    return sizes | {f"mla.{name}": size for name, size in latent.items()}


def _summary(head: Head) -> dict[str, object]:
    return {
        "source": head.source,
        "layout": head.layout,
        "parameters": head.num_parameters,
        "dtype": head.dtype,
        "vocab_status": head.vocab_status,
        "config": head.config,
        "assumptions": [a.to_json() for a in head.assumptions],
        "problems": [p.to_json() for p in head.problems],
    }
