"""Quantized weights: what a config says of them, the modules that it leaves out, and the tensors that hold them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint, read_tensor
from eagle3hub.checkpoint.safetensors import FLOATS, TensorRef, is_scale
from eagle3hub.errors import SourceError, TensorError
from eagle3hub.head import Head
from eagle3hub.system.documents import parse_json
from eagle3hub.system.reading import read_bytes

QUANT_CONFIG = "hf_quant_config.json"
"""How the weights are quantized, in a file of its own (up to ModelOpt 0.29 only there)."""

# What a config says.
#
# ``quantization_config`` is an object with ``quant_method`` (transformers); compressed-tensors once called it
# ``compression_config`` (vLLM ``transformers_utils/model_arch_config_convertor.py:263-303``). ModelOpt's
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
LEFT_OUT = "-:"
"""What begins a regular expression among the keys of GPTQ's ``dynamic`` that names modules left out."""
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
    fields: Mapping[str, object]

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
    def in_words(self) -> str:
        """The form and the method, such as ``FP8 (compressed-tensors)``; the method alone where no form is known."""
        return f"{self.form} ({self.method})" if self.form else self.method

    @property
    def bits(self) -> int | None:
        """Bits of a weight, where the config says so."""
        stated = (part.get(key) for part in self._weights for key in ("num_bits", "bits", "w_bit"))
        found = {n for n in stated if type(n) is int}
        named = {int(m[1]) for part in self._weights if (m := _DTYPE_BITS.search(str(part.get("dtype", ""))))}
        sizes = {n for n in found | named if n in (2, 3, 4, 8)}
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


def scheme_in(config: Mapping[str, object], beside: Mapping[str, object] | None = None) -> Scheme | None:
    """The scheme that config.json states, else the one of QUANT_CONFIG ``beside`` it; None if neither has one."""
    for place in QUANT_KEYS:
        found = config.get(place)
        if isinstance(found, dict) and found:
            return _scheme(found, place)
    return _scheme(beside, QUANT_CONFIG) if beside else None


def _scheme(found: Mapping[str, object], place: str) -> Scheme:
    inner = found.get("quantization")
    fields = {**found, **inner} if isinstance(inner, dict) else dict(found)
    stated = str(found.get("quant_method") or "").lower()
    if not stated:
        makers = (place == QUANT_CONFIG, isinstance(inner, dict), "quant_algo" in found)
        stated = "modelopt" if any(makers) else ""
    return Scheme(_SPELLINGS.get(stated, stated or UNSTATED), place, fields)


def _object(fields: Any, key: str) -> Mapping[str, object]:
    found = fields.get(key) if isinstance(fields, Mapping) else None
    return found if isinstance(found, dict) else {}


def _groups(fields: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The config groups of compressed-tensors."""
    groups = _object(fields, "config_groups").values()
    return [group for group in groups if isinstance(group, dict)]


def _modelopt_forms(fields: Mapping[str, object]) -> Iterator[str]:
    algorithm = str(fields.get("quant_algo") or "").upper()
    if algorithm:
        yield "mixed" if algorithm == "MIXED_PRECISION" else algorithm


def _compressed_forms(fields: Mapping[str, object]) -> Iterator[str]:
    for group in _groups(fields):
        weights, inputs = _object(group, "weights"), _object(group, "input_activations")
        yield _form(
            kind=str(weights.get("type", "int")),
            bits=weights.get("num_bits"),
            group=weights.get("group_size"),
            inputs=inputs.get("num_bits") if inputs else None,
        )


def _quark_forms(fields: Mapping[str, object]) -> Iterator[str]:
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


def _fp8_forms(fields: Mapping[str, object]) -> Iterator[str]:
    yield "FP8 in blocks" if fields.get("weight_block_size") else "FP8"


def _integer_forms(fields: Mapping[str, object]) -> Iterator[str]:
    bits = fields.get("bits", fields.get("w_bit"))
    yield _form("int", bits, fields.get("group_size"), None)
    dynamic = _object(fields, "dynamic")
    if any(not key.startswith(LEFT_OUT) for key in dynamic):
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
    "substring": (_substring,),
    "glob-or-substring": (_substring, _glob),
    "path-or-glob-of-part": (_path, _glob_of_part),
}
MATCHINGS = frozenset(_MATCHES)


def left_out_of(fields: Mapping[str, object]) -> list[str]:
    """The expressions of GPTQ's ``dynamic`` that name modules left out, as entries for `matches`."""
    return [f"re:{key.removeprefix(LEFT_OUT)}" for key in _object(fields, "dynamic") if key.startswith(LEFT_OUT)]


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
    pattern = entry.startswith("re:")
    for old, new in pairs:
        b = re.escape(new) if pattern else new
        for a in dict.fromkeys((re.escape(old), old) if pattern else (old,)):
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


# The tensors of quantized weights: which hold one weight together, and whether their shapes agree.
#
# A weight of ``o`` outputs and ``i`` inputs is one tensor of values and tensors beside it:
#
# - ModelOpt (``export/quant_utils.py``, 0.47): ``weight`` in F8_E4M3 with ``weight_scale``, or two 4-bit values in
#   each byte of a U8 ``weight``, with an F8_E4M3 ``weight_scale`` for every 16 inputs and an F32 ``weight_scale_2``
#   (NVFP4); ``input_scale``, ``pre_quant_scale``, ``k_scale`` and ``v_scale`` where there are any.
# - Quark, compressed-tensors, FP8 checkpoints: ``weight`` in F8_E4M3 or I8 with ``weight_scale``, of one number, of
#   one for each output, group of inputs or block; DeepSeek's FP8 calls that of blocks ``weight_scale_inv``.
# - compressed-tensors, packed: ``weight_packed``, 32 bits of values in an I32 along the inputs (U8 for NVFP4, with
#   ``weight_global_scale``), ``weight_shape`` with the shape before packing, ``weight_zero_point``, ``weight_g_idx``.
# - GPTQ and AWQ: ``qweight`` with ``scales``, ``qzeros`` and ``g_idx``. GPTQ packs along the inputs, AWQ and Quark's
#   int4 along the outputs of the transposed weight (vLLM ``quantization/auto_gptq.py``, ``auto_awq.py``,
#   ``quark/schemes/quark_w4a16_int4.py``).


Shape = tuple[int, ...]

_MODULE = re.compile(r"((?:fc|lm_head|embed_tokens|layers\.\d{1,9}\.(?:self_attn|mlp)\.\w+_proj\w*))\.(.+)")
PACKED_VALUES = ("weight_packed", "qweight")
"""Last parts of the names of packed values, which stand for a ``weight``."""
PACKED = frozenset({"U8", "I32"})
"""Dtypes whose elements hold several weights each."""
EIGHT_BITS = frozenset({"F8_E4M3", "F8_E5M2", "I8"})
"""Dtypes whose elements hold a quantized weight each."""
_VALUES = ("weight", *PACKED_VALUES)
_SCALE_DTYPES = FLOATS | {"F8_E4M3", "F8_E8M0", "U8"}
_NVFP4_GROUP = 16
_MAX_SIDE_FILE = 8_000_000


def side_file(checkpoint: Checkpoint) -> dict[str, bytes]:
    """QUANT_CONFIG of the folder, by its name; empty where there is none. Raises SourceError."""
    path = checkpoint.folder / QUANT_CONFIG
    try:
        return {QUANT_CONFIG: read_bytes(path, _MAX_SIDE_FILE)}
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror}", code="source-unreadable") from e


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a folder by what they are.

    Attributes:
        values: by canonical name (``….weight``), the tensor that holds the values of each weight, or the plain tensor.
        beside: by module (``layers.0.mlp.up_proj``) and last part of the name, what lies beside the values.
        scheme: what the config says of them, or None.
    """

    values: dict[str, TensorRef]
    beside: dict[str, dict[str, TensorRef]]
    scheme: Scheme | None

    @property
    def method(self) -> str:
        """How the weights are quantized, as the config calls it."""
        return UNSTATED if self.scheme is None else self.scheme.method

    @property
    def readable(self) -> bool:
        """Whether the tensors of this method are understood."""
        return self.scheme is None or self.scheme.known

    def is_plain(self, name: str) -> bool:
        """Whether a weight is stored as it is."""
        known = self.readable or name.removesuffix(".weight") not in self.beside
        return known and name in self.values and self.values[name].dtype in FLOATS

    def formats(self, shapes: Mapping[str, Shape]) -> str:
        """The formats of the numbers, joined by ``+``: ``FP8``, ``INT8``, ``INT4``, ``NVFP4``, ``MXFP4`` …"""
        found = {self._format(name, ref, shapes.get(name)) for name, ref in self.values.items()}
        if self.scheme is not None and not self.scheme.known:
            return self.scheme.method
        return "+".join(sorted(found - {""})) or "scales only"

    def _format(self, name: str, ref: TensorRef, shape: Shape | None) -> str:
        if ref.dtype in FLOATS or shape is None or len(shape) != 2:
            return ""
        near = self.beside.get(name.removesuffix(".weight"), {})
        if ref.dtype in EIGHT_BITS:
            return {"I8": "INT8", "F8_E5M2": "FP8 (E5M2)"}.get(ref.dtype, "FP8")
        if ref.dtype == "U8":
            return "NVFP4" if near.keys() & {"weight_scale_2", "weight_global_scale"} else "MXFP4"
        return f"INT{_bits(ref, shape)}" if ref.dtype == "I32" else ref.dtype


def seem_quantized(tensors: Mapping[str, TensorRef]) -> bool:
    """Whether tensors (by canonical name) hold quantized weights: packed values, or anything beside a weight.

    The tensors decide: Megatron's exporter copies the quantization_config of another model into its configs.
    """
    parts = ((_parts(name)[1], ref) for name, ref in tensors.items())
    return any(part not in ("", "weight", "bias") or (part and ref.dtype not in FLOATS) for part, ref in parts)


def weights_in(tensors: Mapping[str, TensorRef], scheme: Scheme | None) -> Weights:
    """Sort the tensors of a folder (by canonical name) into values and what lies beside them."""
    values: dict[str, TensorRef] = {}
    beside: dict[str, dict[str, TensorRef]] = {}
    for name, ref in tensors.items():
        module, part = _parts(name)
        if not part or part == "bias":
            values[name] = ref
        elif part in _VALUES:
            values[f"{module}.weight"] = ref
        else:
            beside.setdefault(module, {})[part] = ref
    if scheme is not None and not scheme.known:
        for module, near in beside.items():  # where the values lie is not known: any part stands for them
            values.setdefault(f"{module}.weight", next(iter(near.values())))
    return Weights(values, beside, scheme)


def _parts(name: str) -> tuple[str, str]:
    """Module and last part of a tensor's name; the part is empty where the weight cannot be a quantized one."""
    match = _MODULE.fullmatch(name)
    if match:
        return match[1], match[2]
    return (name.rpartition(".")[0], name.rpartition(".")[2]) if is_scale(name) else (name, "")


def module_of(name: str) -> str:
    """The module of a tensor, by its canonical name: ``layers.0.mlp.up_proj`` of its weight and its scales."""
    module, part = _parts(name)
    return module if part else name.rpartition(".")[0]


def scheme_of(checkpoint: Checkpoint) -> Scheme | None:
    """The scheme that the folder states, in config.json or beside it. Raises SourceError."""
    return scheme_in(checkpoint.config) or scheme_in({}, stated_beside(checkpoint))


def stated_beside(checkpoint: Checkpoint) -> dict[str, object]:
    """The object in QUANT_CONFIG; empty where there is no such file or it holds no JSON object. Raises SourceError."""
    return json_object(side_file(checkpoint).get(QUANT_CONFIG))


def json_object(raw: bytes | None) -> dict[str, object]:
    """The object that JSON holds; empty for anything else."""
    try:
        found = parse_json(raw or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# How many weights a tensor holds, and whether its shape is that of a weight.


def count_values(ref: TensorRef, scheme: Scheme | None) -> int:
    """Number of weights that a tensor of values holds; I32 and U8 hold several in each element."""
    if ref.dtype in ("I32", "U8"):
        bits = (scheme.bits if scheme is not None else None) or 4
        return ref.nbytes * 8 // bits if ref.dtype == "I32" or bits == 4 else ref.num_elements
    return ref.num_elements


def inputs_of(head: Head, module: str) -> int | None:
    """Number of inputs of a matrix of the head; None where it has none, or its method is not understood."""
    ref = next((head.tensors[n] for part in _VALUES if (n := f"{module}.{part}") in head.tensors), None)
    if ref is None or len(ref.shape) != 2:
        return None
    if head.semantics.quantization is None:
        return ref.shape[1]
    scheme = scheme_in(head.config, json_object(head.side_files.get(QUANT_CONFIG)))
    return count_values(ref, scheme) // head.dims.hidden_size if scheme is None or scheme.known else None


def _bits(ref: TensorRef, shape: Shape) -> int:
    """Bits of a weight in a packed tensor, from its size and the shape of the weight."""
    return max(1, round(ref.nbytes * 8 / max(1, shape[0] * shape[1])))


def _packings(shape: Shape, per: int, bits: int) -> set[Shape]:
    """Shapes on disk of a weight whose values fill elements of ``per`` bits, along either dimension, or transposed."""
    o, i = shape

    def packed(n: int) -> int:
        return -(-n * bits // per)

    return {(o, packed(i)), (packed(o), i), (i, packed(o)), (packed(i), o)}


def _holds(ref: TensorRef, shape: Shape, scheme: Scheme | None) -> bool:
    """Whether a tensor of values has a shape that a weight of ``shape`` can have."""
    if ref.dtype in EIGHT_BITS:
        return ref.shape == shape
    stated = scheme.bits if scheme is not None else None
    if ref.dtype == "U8":
        return ref.shape == (shape[0], shape[1] // 2) or (stated == 8 and ref.shape == shape)
    return any(ref.shape in _packings(shape, 32, bits) for bits in ((stated,) if stated else (4, 8, 2)))


def check_weights(w: Weights, shapes: Mapping[str, Shape]) -> None:
    """Hold every quantized weight against what its scheme says. Raises TensorError.

    The weights of an unknown method are not checked.
    """
    if w.scheme is not None and not w.scheme.known:
        return
    for name, ref in w.values.items():
        if ref.dtype not in FLOATS:
            _check_values(w, name, ref, shapes.get(name, ()))
    for module, near in w.beside.items():
        shape, values = shapes.get(f"{module}.weight"), w.values.get(f"{module}.weight")
        for part, ref in near.items():
            if shape is None or len(shape) != 2 or values is None:
                if not (part in ("k_scale", "v_scale", "q_scale") and module.endswith(".self_attn")):
                    raise TensorError(f"{ref.name} is a scale of nothing this head has", code="tensor-unknown")
            elif not _fits(ref, part, shape, values, w.scheme):
                raise TensorError(
                    f"{ref.name} is {ref.dtype} {list(ref.shape)}, which is no {part} of a weight {list(shape)}",
                    code="tensor-shape",
                )


def _check_values(w: Weights, name: str, ref: TensorRef, shape: Shape) -> None:
    if len(shape) != 2 or ref.dtype not in EIGHT_BITS | PACKED:
        raise TensorError(f"{ref.name} is {ref.dtype}, which is neither FP8 nor NVFP4", code="tensor-dtype")
    if not _holds(ref, shape, w.scheme):
        raise TensorError(
            f"{ref.name} is {ref.dtype} {list(ref.shape)}, which is no packing of a weight {list(shape)}",
            hint="config.json and weights are from different heads, or one of them was edited",
            code="tensor-shape",
        )
    near = w.beside.get(name.removesuffix(".weight"), {})
    for choice in _needed(ref, near, w.scheme):
        if not near.keys() & set(choice):
            raise TensorError(
                f"{ref.name} is quantized ({ref.dtype}) but its {choice[0]} is missing",
                hint="export the head again: without its scales the packed values mean nothing",
                code="tensor-missing",
            )


def _needed(ref: TensorRef, near: Mapping[str, TensorRef], scheme: Scheme | None) -> Iterator[tuple[str, ...]]:
    """What must lie beside values: of each tuple one."""
    if ref.name.endswith("qweight"):
        yield ("scales",)
        yield ("qzeros",)
        return
    yield "weight_scale", "weight_scale_inv"
    if ref.dtype == "U8" and "weight_scale" in near and near["weight_scale"].dtype == "F8_E4M3":
        yield "weight_scale_2", "weight_global_scale"
    if scheme is not None and scheme.static_inputs:
        yield "input_scale", "input_global_scale"
    if scheme is not None and scheme.asymmetric:
        yield ("weight_zero_point",)


def _fits(ref: TensorRef, part: str, shape: Shape, values: TensorRef, scheme: Scheme | None) -> bool:
    o, i = shape
    if part == "weight_scale" and values.dtype == "U8" and ref.dtype == "F8_E4M3":
        return ref.shape == (o, i // _NVFP4_GROUP)
    if part in ("weight_scale", "weight_scale_inv"):
        return ref.dtype in _SCALE_DTYPES and ref.shape in _scale_shapes(shape, scheme)
    if part == "scales":
        return ref.dtype in FLOATS and ref.shape in _scale_shapes(shape, scheme)
    if part == "pre_quant_scale":
        return ref.dtype in FLOATS and ref.shape == (i,)
    if part in ("g_idx", "weight_g_idx"):
        return ref.shape == (i,)
    if part == "weight_shape":
        return ref.shape == (2,) and ref.dtype in ("I64", "I32") and _stated_shape(ref) == shape
    if part in ("qzeros", "weight_zero_point"):
        return ref.dtype not in ("BOOL", "F64") and len(ref.shape) <= 2 and ref.num_elements <= o * i
    if part in ("k_scale", "v_scale", "q_scale", "output_scale"):
        return ref.dtype in FLOATS and (ref.num_elements == 1 or (len(ref.shape) == 1 and o % ref.shape[0] == 0))
    return ref.dtype in FLOATS and ref.num_elements == 1 and is_scale(f".{part}")


def _stated_shape(ref: TensorRef) -> Shape:
    data, width = read_tensor(ref), ref.nbytes // 2
    return tuple(int.from_bytes(data[at : at + width], "little", signed=True) for at in (0, width))


def _scale_shapes(shape: Shape, scheme: Scheme | None) -> set[Shape]:
    """Shapes of scales: of one number, one for each output, each group of inputs, or each block."""
    o, i = shape
    shapes: set[Shape] = {(), (1,), (1, 1), (o,), (o, 1), (1, o)}
    sizes = [scheme.group_size] if scheme is not None and scheme.group_size else [1 << n for n in range(3, 13)]
    blocks = [scheme.block] if scheme is not None and scheme.block else [(n, n) for n in sizes if n]
    for size in sizes:
        if size:
            shapes |= {(o, -(-i // size)), (-(-i // size), o)}
    for rows, columns in (block for block in blocks if block):
        shapes.add((-(-o // rows), -(-i // columns)))
    return shapes
