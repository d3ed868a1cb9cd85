"""The exception tree. Each class has one exit code; each error has one stable code of its own.

    Eagle3HubError
    ├── UsageError              2   the command line or an option is wrong
    ├── InputError              3   what was given cannot be used
    │   ├── SourceError             no such folder, no config, unreadable file
    │   ├── CheckpointError         the bytes of a weights file are not what they claim
    │   ├── ConfigError             config.json is malformed or contradicts itself
    │   ├── TensorError             a tensor is missing, unknown or has the wrong shape
    │   ├── VocabMapError           d2t / t2d do not describe a draft vocabulary
    │   ├── LayoutError             no layout, or more than one, fits the source
    │   ├── ManifestError           release.yaml or a report is malformed
    │   └── Refusal                 the target layout cannot keep what the source has
    ├── OutputError             3   the destination cannot be written
    ├── FoundWanting            1   checked, and the check did not pass
    ├── UnavailableError        4   an engine or a device is not there
    ├── HubError                5   the Hub or the network failed
    └── InternalError           70  a bug in eagle3hub

Every message is one sentence that says what is wrong and where; ``hint`` says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NoReturn

Severity = Literal["error", "warning", "info"]
_LONGEST = 800


class Hint(str):
    """What to do, in words that name options of one command.

    A hint is text, and stays text in JSON, reports and cards. Besides its words it knows which options they name, so
    that another command can say whose these are.

    Attributes:
        options: the options that the text names, such as ``--aux-layers``. command: the command that has them.
    """

    options: tuple[str, ...]
    command: str

    def __new__(cls, text: str, *options: str, command: str = "convert") -> Hint:
        """A hint in the words ``text``. Raises ValueError for an option that they do not name."""
        if absent := [option for option in options if option not in text]:
            raise ValueError(f"the hint does not name {absent[0]}: {text}")
        hint = super().__new__(cls, text)
        hint.options, hint.command = options, command
        return hint

    @classmethod
    def join(cls, parts: Iterable[str], separator: str = "; ") -> Hint:
        """Several hints as one that names the options of all. Raises ValueError where they are of two commands."""
        parts = list(parts)
        hints = [part for part in parts if isinstance(part, cls)]
        commands = {hint.command for hint in hints} or {"convert"}
        if len(commands) > 1:
            raise ValueError(f"hints of {' and '.join(sorted(commands))} cannot be one")
        options = dict.fromkeys(option for hint in hints for option in hint.options)
        return cls(separator.join(parts), *options, command=commands.pop())

    def for_command(self, own: Collection[str], fields: Collection[str] = ()) -> str:
        """The words for users of a command with the options ``own``, whose manifest has these fields of ``head``.

        Where it lacks one of the hint's options, but has it under longer names (``--from-a`` for ``--from``) or as a
        field of the manifest, they name these; otherwise they say which command has it.
        """
        lacking = [option for option in self.options if option not in own]
        longer = sorted(name for name in own if name.startswith(tuple(f"{option}-" for option in lacking)))
        if not lacking:
            return str(self)
        if longer:
            return f"{self}; here {' or '.join(longer)}"
        told = [option.removeprefix("--").replace("-", "_") for option in lacking]
        if set(told) <= set(fields):
            return f"{self}; in the manifest: {' or '.join(f'head.{name}' for name in told)}"
        verb = "is an option" if len(lacking) == 1 else "are options"
        return f"{self}; {' and '.join(lacking)} {verb} of eagle3hub {self.command}"


class Eagle3HubError(Exception):
    """Root of every error this package raises on purpose.

    Attributes:
        message: one sentence: what is wrong, and where.
        hint: what the user can do about it, or None; may be given as a function, which is called when it is asked for.
        code: a stable slug (``vocab-absolute``) that scripts may match.
        exit_code: the exit status of the command line.
    """

    exit_code: ClassVar[int] = 3
    default_code: ClassVar[str] = "error"

    def __init__(
        self, message: str, *, hint: str | Callable[[], str | None] | None = None, code: str | None = None
    ) -> None:
        super().__init__(_one_line(message))
        self.message = _one_line(message)
        self._hint = hint
        self.code = code or self.default_code

    @property
    def hint(self) -> str | None:
        """What the user can do about it, on one line."""
        hint = self._hint() if callable(self._hint) else self._hint
        return None if hint is None else _one_line(hint)

    def to_json(self) -> dict[str, Any]:
        """The error as the ``error`` object of ``--json`` output."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "exit_code": self.exit_code}


def _one_line(text: str) -> str:
    """One printable line of bounded length: names inside it come from files that anybody may have written."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 40]} … ({len(text)} characters)"


class UsageError(Eagle3HubError):
    """An option is unknown, missing or contradicts another."""

    exit_code = 2
    default_code = "usage"


class InputError(Eagle3HubError):
    """What was given cannot be read, is not supported, or is refused."""

    default_code = "input"


class SourceError(InputError):
    """A folder or a file of the source is missing or unreadable."""

    default_code = "source"


class CheckpointError(InputError):
    """A weights file is truncated, malformed, or points outside itself."""

    default_code = "checkpoint"


class ConfigError(InputError):
    """config.json is missing a field, malformed, or contradicts itself."""

    default_code = "config"


class TensorError(InputError):
    """A tensor is missing, unknown, or its shape contradicts the config."""

    default_code = "tensor"


class VocabMapError(InputError):
    """The draft-to-target vocabulary map is missing or wrong."""

    default_code = "vocab"


class LayoutError(InputError):
    """The source fits no known layout, or the named layout does not fit it."""

    default_code = "layout"


class ManifestError(InputError):
    """release.yaml, a report or a provenance file is malformed."""

    default_code = "manifest"


class Refusal(InputError):
    """The target layout has no way to hold what the source contains."""

    default_code = "refused"


class OutputError(Eagle3HubError):
    """The destination exists, cannot be written, or the disk is full."""

    default_code = "output"


class FoundWanting(Eagle3HubError):
    """Something was checked and did not pass."""

    exit_code = 1
    default_code = "found-wanting"


class UnavailableError(Eagle3HubError):
    """An engine, its environment or a device is not available."""

    exit_code = 4
    default_code = "unavailable"


class HubError(Eagle3HubError):
    """The Hub or the network failed."""

    exit_code = 5
    default_code = "hub"


class InternalError(Eagle3HubError):
    """A bug in eagle3hub. The command line reports every unexpected exception as one."""

    exit_code = 70
    default_code = "internal"


_FAMILY: dict[str, type[InputError]] = {
    "source": SourceError,
    "checkpoint": CheckpointError,
    "config": ConfigError,
    "tensor": TensorError,
    "vocab": VocabMapError,
    "layout": LayoutError,
    "manifest": ManifestError,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something found in a head: ``error`` stops a conversion, ``warning`` and ``info`` do not.

    The code's first word names the family (``vocab-duplicate`` is a VocabMapError).
    """

    severity: Severity
    code: str
    message: str
    hint: str | None = None

    def to_error(self) -> InputError:
        """The exception that stops a command on this problem."""
        family = _FAMILY.get(self.code.split("-", 1)[0], InputError)
        return family(self.message, hint=self.hint, code=self.code)

    def to_json(self) -> dict[str, Any]:
        """The problem as an entry of ``problems`` in ``--json`` output."""
        return asdict(self)


def assert_never(value: NoReturn) -> NoReturn:
    """End a ``match`` over a closed type: mypy refuses a call that a new member could reach."""
    raise AssertionError(f"{value!r} is not handled")
