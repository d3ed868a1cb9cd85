"""Quantized weights: which tensors hold one weight together, and whether their shapes agree.

A weight of ``o`` outputs and ``i`` inputs is one tensor of values and tensors beside it:

- ModelOpt (``export/quant_utils.py``, 0.47): ``weight`` in F8_E4M3 with ``weight_scale``, or two 4-bit values in each
  byte of a U8 ``weight``, with an F8_E4M3 ``weight_scale`` for every 16 inputs and an F32 ``weight_scale_2`` (NVFP4);
  ``input_scale``, ``pre_quant_scale``, ``k_scale`` and ``v_scale`` where there are any.
- Quark, compressed-tensors, FP8 checkpoints: ``weight`` in F8_E4M3 or I8 with ``weight_scale``, of one number, of one
  for each output, group of inputs or block; DeepSeek's FP8 calls that of blocks ``weight_scale_inv``.
- compressed-tensors, packed: ``weight_packed``, 32 bits of values in an I32 along the inputs (U8 for NVFP4, with
  ``weight_global_scale``), ``weight_shape`` with the shape before packing, ``weight_zero_point``, ``weight_g_idx``.
- GPTQ and AWQ: ``qweight`` with ``scales``, ``qzeros`` and ``g_idx``. GPTQ packs along the inputs, AWQ and Quark's
  int4 along the outputs of the transposed weight (vLLM 0.32.0 ``quantization/auto_gptq.py``, ``auto_awq.py``,
  ``quark/schemes/quark_w4a16_int4.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from eagle3hub.checkpoint.folder import Checkpoint, read_tensor
from eagle3hub.checkpoint.safetensors import FLOATS, TensorRef, is_scale
from eagle3hub.errors import SourceError, TensorError
from eagle3hub.head import Head
from eagle3hub.head.quantization import QUANT_CONFIG, UNSTATED, Scheme, scheme_in
from eagle3hub.system.documents import parse_json
from eagle3hub.system.reading import read_bytes

Shape = tuple[int, ...]

_MODULE = re.compile(r"((?:fc|lm_head|embed_tokens|layers\.\d{1,9}\.(?:self_attn|mlp)\.\w+_proj\w*))\.(.+)")
_VALUES = ("weight", "weight_packed", "qweight")
_INTEGERS = frozenset({"I8", "U8", "I32"})
_EIGHT_BITS = frozenset({"F8_E4M3", "F8_E5M2", "I8"})
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
        return self.values[name].dtype in FLOATS and known

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
        if ref.dtype in _EIGHT_BITS:
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
    except ValueError:
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
    if ref.dtype in _EIGHT_BITS:
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
    if len(shape) != 2 or ref.dtype not in _EIGHT_BITS | _INTEGERS:
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
