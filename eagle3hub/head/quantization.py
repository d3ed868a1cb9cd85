"""How a head's weights are quantized, as its config says: the method, the form of the numbers, what is left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

QUANT_CONFIG = "hf_quant_config.json"
"""How the weights are quantized, in a file of its own (up to ModelOpt 0.29 only there)."""

# What a config says.
#
# ``quantization_config`` is an object with ``quant_method`` (transformers); compressed-tensors once called it
# ``compression_config`` (vLLM 0.32.0 ``transformers_utils/model_arch_config_convertor.py:263-303``). ModelOpt's
# exporter of heads writes ``producer`` and ``quantization`` in place of ``quant_method``, and the same in
# QUANT_CONFIG, which counts where config.json has neither (vLLM ``transformers_utils/config.py:886-902``).


QUANT_KEYS = ("quantization_config", "compression_config")
"""The keys of config.json that state a scheme; the first that has one counts."""
_METHODS = {
    "modelopt": ("modelopt", "modelopt_fp8", "modelopt_fp4", "modelopt_mixed", "modelopt_mxfp8"),
    "compressed-tensors": ("compressed-tensors", "compressed_tensors"),
    "gptq": ("gptq", "gptq_marlin", "auto_gptq"),
    "awq": ("awq", "awq_marlin", "auto_awq"),
    "quark": ("quark",),
    "fp8": ("fp8",),
}
_SPELLINGS = {spelling: method for method, spellings in _METHODS.items() for spelling in spellings}
KNOWN = frozenset(_METHODS)
"""The methods whose tensors are understood; weights of any other are kept as they are, unchecked."""
UNSTATED = "unknown"
"""The method of quantized weights whose config does not say how they are quantized."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a config says of how weights are quantized.

    Attributes:
        method: one of `KNOWN`, or the name of another method.
        place: the key of config.json, or the file, that says so.
        fields: the object there; that of ModelOpt with its inner ``quantization`` merged in.
    """

    method: str
    place: str
    fields: Mapping[str, Any]

    @property
    def known(self) -> bool:
        """Whether the tensors of this method are understood."""
        return self.method in KNOWN

    @property
    def form(self) -> str:
        """The form of the numbers in few words: ``FP8``, ``INT W8A8`` (8-bit weights, 8-bit inputs), ``NVFP4`` …

        Several forms in one head are ``mixed``; a form that is not recognised is empty.
        """
        forms = set(_FORMS[self.method](self.fields)) if self.known else set()
        return forms.pop() if len(forms) == 1 else "mixed" if forms else ""

    @property
    def bits(self) -> int | None:
        """Bits of a weight, where the config says so."""
        found = {n for part in self._weights for n in (part.get("num_bits"), part.get("bits"), part.get("w_bit"))}
        named = {int(m[1]) for part in self._weights if (m := _DTYPE_BITS.search(str(part.get("dtype", ""))))}
        sizes = {n for n in found | named if type(n) is int and n in (2, 3, 4, 8)}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def group_size(self) -> int | None:
        """Number of inputs that share a scale, where the config says so."""
        keys = ("group_size", "q_group_size")
        sizes = {part[key] for part in self._weights for key in keys if type(part.get(key)) is int and part[key] > 0}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def block(self) -> tuple[int, int] | None:
        """Outputs and inputs that share a scale, where the config says so."""
        for part in self._weights:
            for key in ("weight_block_size", "block_structure", "block_size"):
                found = part.get(key)
                if isinstance(found, list) and len(found) == 2 and all(type(n) is int and n > 0 for n in found):
                    return found[0], found[1]
        return None

    @property
    def static_inputs(self) -> bool:
        """Whether the scales of the inputs are stored, not computed anew for every input."""
        if self.method == "compressed-tensors":
            inputs = [_object(group, "input_activations") for group in _groups(self.fields)]
            return any(part and not part.get("dynamic") for part in inputs)
        return self.method == "fp8" and self.fields.get("activation_scheme") == "static"

    @property
    def asymmetric(self) -> bool:
        """Whether weights have zero points, which are stored beside their scales."""
        parts = [_object(group, "weights") for group in _groups(self.fields)]
        return self.method == "compressed-tensors" and any(part.get("symmetric") is False for part in parts)

    @property
    def _weights(self) -> list[Mapping[str, Any]]:
        """The objects that describe weights."""
        if self.method == "compressed-tensors":
            return [_object(group, "weights") for group in _groups(self.fields)]
        if self.method == "quark":
            found = _object(self.fields, "global_quant_config").get("weight")
            return [part for part in (found if isinstance(found, list) else [found]) if isinstance(part, dict)]
        return [self.fields]


_DTYPE_BITS = re.compile(r"(?:int|fp)(\d+)")


def scheme_in(config: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> Scheme | None:
    """The scheme that config.json states, else the one of QUANT_CONFIG ``beside`` it; None if neither has one."""
    for place in QUANT_KEYS:
        found = config.get(place)
        if isinstance(found, dict) and found:
            return _scheme(found, place)
    return _scheme(beside, QUANT_CONFIG) if beside else None


def _scheme(found: Mapping[str, Any], place: str) -> Scheme:
    inner = found.get("quantization")
    fields = {**found, **inner} if isinstance(inner, dict) else dict(found)
    stated = str(found.get("quant_method") or "").lower()
    if not stated:
        makers = (place == QUANT_CONFIG, isinstance(inner, dict), "quant_algo" in found)
        stated = "modelopt" if any(makers) else ""
    return Scheme(_SPELLINGS.get(stated, stated or UNSTATED), place, fields)


def _object(fields: Any, key: str) -> Mapping[str, Any]:
    found = fields.get(key) if isinstance(fields, Mapping) else None
    return found if isinstance(found, dict) else {}


def _groups(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The config groups of compressed-tensors."""
    groups = _object(fields, "config_groups").values()
    return [group for group in groups if isinstance(group, dict)]


def _modelopt_forms(fields: Mapping[str, Any]) -> Iterator[str]:
    algorithm = str(fields.get("quant_algo") or "").upper()
    if algorithm:
        yield "mixed" if algorithm == "MIXED_PRECISION" else algorithm


def _compressed_forms(fields: Mapping[str, Any]) -> Iterator[str]:
    for group in _groups(fields):
        weights, inputs = _object(group, "weights"), _object(group, "input_activations")
        yield _form(
            kind=str(weights.get("type", "int")),
            bits=weights.get("num_bits"),
            group=weights.get("group_size"),
            inputs=inputs.get("num_bits") if inputs else None,
        )


def _quark_forms(fields: Mapping[str, Any]) -> Iterator[str]:
    whole = _object(fields, "global_quant_config")
    weights, inputs = whole.get("weight"), whole.get("input_tensors")
    if isinstance(weights, list) and len(weights) > 1:
        kinds = [str(_object({"w": w}, "w").get("dtype", "")) for w in weights]
        yield "NVFP4" if kinds == ["fp4", "fp8_e4m3"] else "+".join(kinds).upper()
    else:
        weight = weights[0] if isinstance(weights, list) and weights else weights
        first = inputs[0] if isinstance(inputs, list) and inputs else inputs
        dtype, taken = (str(_object({"x": x}, "x").get("dtype", "")) for x in (weight, first))
        bits, read = (_DTYPE_BITS.search(name) for name in (dtype, taken))
        if bits:
            kind = "float" if "fp" in dtype else "int"
            group = _object({"w": weight}, "w").get("group_size")
            yield _form(kind, int(bits[1]), group, int(read[1]) if read else None)
    if _object(fields, "layer_quant_config") or _object(fields, "layer_type_quant_config"):
        yield "mixed"


def _fp8_forms(fields: Mapping[str, Any]) -> Iterator[str]:
    yield "FP8 in blocks" if fields.get("weight_block_size") else "FP8"


def _integer_forms(fields: Mapping[str, Any]) -> Iterator[str]:
    bits = fields.get("bits", fields.get("w_bit"))
    yield _form("int", bits, fields.get("group_size"), None)
    if fields.get("dynamic"):
        yield "mixed"


def _form(kind: str, bits: Any, group: Any, inputs: Any) -> str:
    if kind == "float" and bits == 4:
        return "NVFP4" if group == 16 else "MXFP4"
    if kind == "float" and bits == 8 and group == 32:
        return "MXFP8"
    return f"{'FP' if kind == 'float' else 'INT'} W{bits}A{inputs or 16}"


_FORMS = {
    "modelopt": _modelopt_forms,
    "compressed-tensors": _compressed_forms,
    "quark": _quark_forms,
    "fp8": _fp8_forms,
    "gptq": _integer_forms,
    "awq": _integer_forms,
}


# Names of modules in a scheme: lists of what is left out, of what is taken, settings by layer.


Matching = str
"""How an engine compares an entry of a list with the name of a module; the keys of `_MATCHES`."""


def _equal(entry: str, name: str) -> bool:
    return entry == name


_LONGEST_PATTERN = 500
_MOST_WILDCARDS = 5
_SLOW = re.compile(r"\)\s*[*+{?]|\\[1-9]|\(\?")
"""Groups that repeat, and other means by which a regular expression can take for ever."""


class UnclearPattern(ValueError):
    """An entry is no regular expression, or one that could take too long to try."""


def _regex(entry: str, name: str) -> bool:
    pattern = entry.removeprefix("re:")
    _refuse_slow(entry, pattern, sum(pattern.count(sign) for sign in "*+{"))
    try:
        return re.match(pattern, name) is not None
    except (re.error, RecursionError, OverflowError) as e:
        raise UnclearPattern(entry) from e


def _refuse_slow(entry: str, pattern: str, wildcards: int) -> None:
    if len(pattern) > _LONGEST_PATTERN or wildcards > _MOST_WILDCARDS or _SLOW.search(pattern):
        raise UnclearPattern(entry)


def _suffix(entry: str, name: str) -> bool:
    return entry == name or name.endswith(f".{entry}")


def _path(entry: str, name: str) -> bool:
    return f".{entry.rstrip('.')}." in f".{name}."


def _glob(entry: str, name: str) -> bool:
    _refuse_slow(entry, entry.replace(")", "").replace("(", ""), entry.count("*"))
    return fnmatch(name, entry)


def _glob_of_part(entry: str, name: str) -> bool:
    _refuse_slow(entry, entry.replace(")", "").replace("(", ""), entry.count("*"))
    pattern = ".*".join(re.escape(part) for part in entry.split("*"))
    return any(re.fullmatch(pattern, part) for part in (name, *name.split(".")))


def _substring(entry: str, name: str) -> bool:
    return entry in name


_MATCHES: Mapping[str, tuple[Callable[[str, str], bool], ...]] = {
    "equal": (_equal,),
    "equal-or-regex": (_equal,),
    "suffix-or-regex": (_suffix,),
    "path": (_path,),
    "glob-or-substring": (_substring, _glob),
    "path-or-glob-of-part": (_path, _glob_of_part),
}
MATCHINGS = frozenset(_MATCHES)


def matches(entry: str, name: str, how: Matching) -> bool:
    """Whether an entry of a list means the module called ``name``, compared as ``how`` says (one of `MATCHINGS`).

    Raises UnclearPattern.
    """
    if entry.startswith("re:") and how.endswith("-or-regex"):
        return _regex(entry, name)
    return any(match(entry, name) for match in _MATCHES[how])


def renamed(value: Any, modules: Mapping[str, str]) -> Any:
    """A scheme's object in which every name of a module is the new one; ``modules``: old name to new name.

    Names stand in lists (``ignore``), as keys (``layer_quant_config``), whole, in part, with wildcards or in regular
    expressions (``re:``): the words that the renaming changes, such as ``midlayer``, are replaced in all of them.
    Returns None where an entry then means other modules than before, so that it cannot be rewritten with certainty.
    """
    words = {_changed(old, new) for old, new in modules.items() if old != new}
    words.discard(("", ""))
    pairs = [(old, new) for old, new in words if old and new]
    if not pairs:
        return value
    entries = set(_texts(value))
    new_names = {entry: _reworded(entry, pairs) for entry in entries}
    try:
        for entry in entries:
            if any(_is_meant(entry, old) != _is_meant(new_names[entry], new) for old, new in modules.items()):
                return None
    except UnclearPattern:
        return None
    return _mapped(value, new_names)


def _changed(old: str, new: str) -> tuple[str, str]:
    """What differs between two names after the parts at their ends that are the same."""
    left, right = old.split("."), new.split(".")
    while left and right and left[-1] == right[-1]:
        left.pop()
        right.pop()
    return ".".join(left), ".".join(right)


def _reworded(entry: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        for a, b in ((old, new), (re.escape(old), re.escape(new))):
            words = re.split(rf"(?<![A-Za-z0-9_]){re.escape(a)}(?![A-Za-z0-9_])", entry)
            entry = b.join(words)
    return entry


def _is_meant(entry: str, name: str) -> bool:
    if entry.startswith("re:"):
        return _regex(entry, name)
    return _path(entry, name) or _glob(entry, name)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _mapped(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return names[value]
    if isinstance(value, dict):
        return {names[key]: _mapped(inner, names) for key, inner in value.items()}
    return [_mapped(inner, names) for inner in value] if isinstance(value, list) else value
