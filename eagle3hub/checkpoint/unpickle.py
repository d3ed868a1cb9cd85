"""Interpret pickle instructions without importing or calling anything they name.

A small machine instead of a restricted `pickle.Unpickler`: it knows only the instructions that build plain data,
every name goes through the caller's table, and a call is made only to a `Stub` from that table. The standard
library's machine would also reserve gigabytes for a hostile memo index or byte array; this one cannot use more
memory than a fixed multiple of the file's own bytes. Instructions: ``pickletools`` of CPython 3.11.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_PICKLE_BYTES = 16 << 20
_MAX_INSTRUCTIONS = 1_000_000
_MAX_INTEGER_BYTES = 16


class BadPickle(Exception):
    """The instructions do not build plain data; the message continues "a torch pickle that …"."""


class CutShort(BadPickle):
    """The instructions go on beyond the bytes that were given."""


@dataclass(frozen=True, slots=True)
class Stub:
    """What a name in a pickle stands for: ``build`` makes a description from the arguments of a call."""

    name: str
    build: Callable[..., Any] | None = None


_MARK = object()
_Table = Callable[[str, str], Any]


def interpret(data: bytes, at: int, find: _Table, load: Callable[[Any], Any]) -> tuple[Any, int]:
    """Run the instructions from ``at`` to their STOP.

    Args:
        find: (module, name) -> what stands for it; raises `BadPickle` for names it does not know.
        load: persistent id -> what stands for it (torch: a storage).

    Returns the object and the position after it. Raises `BadPickle` or `CutShort`.
    """
    machine = _Machine(data, at, find, load)
    try:
        return machine.run(), machine.at
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error) as e:
        raise BadPickle(f"is damaged at byte {machine.at}") from e


class _Machine:
    def __init__(self, data: bytes, at: int, find: _Table, load: Callable[[Any], Any]) -> None:
        self.data = data
        self.at = at
        self.find = find
        self.load = load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MAX_INSTRUCTIONS):
            code = self.take(1)
            if code == b".":
                return self.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise BadPickle(f"uses instruction {code!r}, which tensors do not need")
            instruction(self)
        raise BadPickle(f"has more than {_MAX_INSTRUCTIONS} instructions")

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise CutShort("ends in the middle of an instruction")
        out = self.data[self.at : end]
        self.at = end
        return out

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 1000)
        if end < 0:
            raise (
                CutShort("has a name without an end")
                if len(self.data) - self.at < 1000
                else BadPickle("has a name of more than 1000 bytes")
            )
        out = self.data[self.at : end].decode("utf-8")
        self.at = end + 1
        return out

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError
        return value

    def since_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                out = self.stack[i + 1 :]
                del self.stack[i:]
                return out
        raise ValueError

    def items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise ValueError
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str) and not (isinstance(key, int) and -(2**31) <= key < 2**31):
                raise BadPickle("has a table with a key that is neither text nor a small number")
            target[key] = value

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError
        target.extend(values)

    def call(self) -> None:
        arguments, what = self.pop(), self.pop()
        if not isinstance(what, Stub) or what.build is None or not isinstance(arguments, tuple):
            raise BadPickle("calls something that is not a tensor's constructor")
        self.push(what.build(*arguments))

    def set_state(self) -> None:
        self.pop()  # attributes, such as a state dict's _metadata, are not tensors
        if not isinstance(self.stack[-1], dict):
            raise BadPickle("sets the state of something that is not a table")

    def named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError
        self.push(self.find(module, name))

    def integer(self, width: int) -> None:
        if width > _MAX_INTEGER_BYTES:
            raise BadPickle("has a number of more than 16 bytes")
        self.push(int.from_bytes(self.take(width), "little", signed=True))

    def text(self, width: int) -> None:
        self.push(self.take(width).decode("utf-8"))

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def pop_any(self) -> None:
        self.stack.pop()


def _tuple(count: int) -> Callable[[_Machine], None]:
    def build(m: _Machine) -> None:
        values = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(values)))

    return build


def _pair(m: _Machine) -> None:
    value, key = m.pop(), m.pop()
    m.items([key, value])


def _dict(m: _Machine) -> None:
    pairs = m.since_mark()
    m.push({})
    m.items(pairs)


def _append(m: _Machine) -> None:
    value = m.pop()
    m.extend([value])


def _stack_global(m: _Machine) -> None:
    name, module = m.pop(), m.pop()
    m.named(module, name)


def _frame(m: _Machine) -> None:
    m.take(8)


def _protocol(m: _Machine) -> None:
    version = m.number(1)
    if not 2 <= version <= 5:
        raise BadPickle(f"is written in pickle protocol {version}")


def _instance(m: _Machine) -> None:
    m.named(m.line(), m.line())
    raise BadPickle("builds an instance of a class")


_INSTRUCTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _protocol,
    b"\x95": _frame,
    b"(": lambda m: m.push(_MARK),
    b"0": lambda m: m.pop_any(),
    b"1": lambda m: m.since_mark(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"d": _dict,
    b"l": lambda m: m.push(m.since_mark()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"s": _pair,
    b"u": lambda m: m.items(m.since_mark()),
    b"a": _append,
    b"e": lambda m: m.extend(m.since_mark()),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"J": lambda m: m.integer(4),
    b"\x8a": lambda m: m.integer(m.number(1)),
    b"\x8b": lambda m: m.integer(m.number(4)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: m.text(m.number(4)),
    b"\x8c": lambda m: m.text(m.number(1)),
    b"\x8d": lambda m: m.text(m.number(8)),
    b"B": lambda m: m.push(m.take(m.number(4))),
    b"C": lambda m: m.push(m.take(m.number(1))),
    b"\x8e": lambda m: m.push(m.take(m.number(8))),
    b"q": lambda m: m.remember(m.number(1)),
    b"p": lambda m: m.remember(int(m.line())),
    b"g": lambda m: m.push(m.memo[int(m.line())]),
    b"V": lambda m: m.push(m.line()),
    b"r": lambda m: m.remember(m.number(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.push(m.memo[m.number(1)]),
    b"j": lambda m: m.push(m.memo[m.number(4)]),
    b"c": lambda m: m.named(m.line(), m.line()),
    b"\x93": _stack_global,
    b"i": _instance,
    b"R": lambda m: m.call(),
    b"\x81": lambda m: m.call(),
    b"b": lambda m: m.set_state(),
    b"Q": lambda m: m.push(m.load(m.pop())),
}
