"""Check quantized weights: whether an engine takes the same modules for quantized as the file stores quantized."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from eagle3hub.checkpoint.safetensors import FLOATS
from eagle3hub.engines.preflight.case import PreflightCase, PreflightFinding, lookup
from eagle3hub.engines.preflight.contracts import MethodReading
from eagle3hub.engines.preflight.files import packed_weights
from eagle3hub.head.quantization import PACKED, PACKED_VALUES, Scheme, UnclearPattern, left_out_of, matches

_SHARDS = {"qkv": ("q_proj", "k_proj", "v_proj"), "gate_up": ("gate_proj", "up_proj")}
_OF_LAYER = {
    **{f"self_attn.{name}": "qkv" for name in _SHARDS["qkv"]},
    **{f"mlp.{name}": "gate_up" for name in _SHARDS["gate_up"]},
    "self_attn.o_proj": "o",
    "mlp.down_proj": "down",
}
"""The module of an engine that holds a weight of a decoder layer."""
_WEIGHT = re.compile(
    rf"(?:model\.)?(?:(midlayer|layers)\.(?:(\d{{1,9}})\.)?)?(.+)\.(weight|{'|'.join(PACKED_VALUES)})"
)
_PLAIN = frozenset({"F16", "BF16", "F32"})
"""Types of tensors that vLLM takes for plain where it makes a list of a file's modules."""
_FAR = 10**6
"""The number of a decoder layer in names of modules where the target's depth is not known; no list names it."""


def quantization_findings(case: PreflightCase) -> Iterator[PreflightFinding]:
    """Check what the config says of quantization against the weights, and how the engine reads it."""
    told = case.files.says_quantized
    if not case.truth.quantized:
        if told is not None:
            scheme = case.files.scheme
            of_nothing = scheme is not None and scheme.method == "modelopt" and not scheme.fields.get("quant_algo")
            code = "quantized-config-null" if of_nothing else "quantized-config-alone"
            yield PreflightFinding(code, {"where": told})
        return
    yield PreflightFinding("quantized")
    if case.truth.kind != "mla" and packed_weights(case.files, of="fc.weight"):
        renamed = "fc.weight" not in {name.removeprefix("model.") for name in case.files.tensors}
        packed = "fc-renamed" if renamed else "fc-packed"
        yield PreflightFinding(packed if packed_weights(case.files, PACKED, "fc.weight") else "fc-quantized")
    scheme = case.files.scheme
    if told is None or scheme is None:
        yield PreflightFinding("packed-untold" if packed_weights(case.files, PACKED) else "quantized-untold")
        return
    try:
        yield from _read(case, scheme)
    except UnclearPattern as e:
        yield PreflightFinding("quantization-unread", {"what": f"the entry {e.args[0]!r:.80} of {scheme.place}"})


def _read(case: PreflightCase, scheme: Scheme) -> Iterator[PreflightFinding]:
    terms, facts = case.contract.quantization, {"method": scheme.method}
    reading = terms.read.get(scheme.method)
    if reading is None:
        known = not terms.methods or str(scheme.fields.get("quant_method", scheme.method)).lower() in terms.methods
        what = f"weights quantized by the method {scheme.method!r}"
        yield (
            PreflightFinding("quantization-unread", {"what": what})
            if known
            else PreflightFinding("quantization-method", facts)
        )
        return
    lacking = [keys for keys in reading.needs if all(lookup(scheme.fields, key) is None for key in keys.split("|"))]
    if lacking:
        yield PreflightFinding("quantization-incomplete", {"key": lacking[0].partition("|")[0], "where": scheme.place})
    form = scheme.form
    if lacking and form not in reading.forms:
        return
    if form in reading.forms_of_some_devices:
        yield PreflightFinding("quantization-device", {"form": form, **facts})
    elif form in ("", "mixed"):
        yield PreflightFinding("quantization-unread", {"what": f"a mixture of forms in {scheme.place}"})
        return
    elif form not in reading.forms:
        yield PreflightFinding("quantization-form", {"form": form, **facts})
        return
    settings = (("quantization-setting", reading.settings), ("quantization-float16", reading.any_precision))
    for code, served in settings:
        for key, values in served.items():
            if [key] not in [keys.split("|") for keys in lacking] and _setting(scheme, key) not in values:
                stated = f"{key}: {str(scheme.fields[key]).lower()}" if key in scheme.fields else f"no {key}"
                yield PreflightFinding(code, {"setting": stated, **facts})
                break
    if reading.whole_blocks and form == "FP8 in blocks" and scheme.block is not None:
        yield from _cut_blocks(case, scheme.block[0])
    yield from _modules(case, scheme, reading)


def _cut_blocks(case: PreflightCase, block: int) -> Iterator[PreflightFinding]:
    """Find the first weight of a fused module that ends within a block of outputs."""
    for name, (_, shape) in case.files.tensors.items():
        match = _WEIGHT.fullmatch(name)
        fused = match is not None and _OF_LAYER.get(match[3]) in _SHARDS
        if fused and len(shape) == 2 and shape[0] % block:
            yield PreflightFinding("quantization-blocks", {"name": name, "rows": shape[0], "block": block})
            return


def _setting(scheme: Scheme, key: str) -> float | str | None:
    """The value of a key, None for a list or a mapping; an order of activations within one group of all is none."""
    value = scheme.fields.get(key)
    if key == "desc_act" and scheme.fields.get("group_size") == -1:
        return 0
    return value if isinstance(value, (int, float, str)) else None


def _modules(case: PreflightCase, scheme: Scheme, reading: MethodReading) -> Iterator[PreflightFinding]:
    """Compare, module by module, what the engine builds for quantized weights with what the file stores."""
    plain: dict[str, str] = {}
    packed: set[str] = set()
    own: dict[str, list[str]] = {"plain": [], "quantized": []}
    for name, (module, stored) in _stored(case).items():
        engines_name = case.contract.quantization.modules.get(module.partition("@")[0])
        if engines_name is None:
            continue
        full = engines_name.format(n=_layer_number(case, module))
        built = _built(case, scheme, reading, full, module.partition("@")[0], name.rpartition(".")[2])
        own[stored].append(full.rpartition(".")[2])
        if built is None:
            yield PreflightFinding("quantization-target", {"module": full, "where": scheme.place})
            return
        if built and stored == "plain":
            plain[name] = full
        elif not built and stored != "plain":
            packed.add(name)
    if plain:
        code = "packed-where-plain" if packed_weights(case.files, PACKED) else "quantized-where-plain"
        if any(name.endswith(".weight") and dtype in PACKED for name, (dtype, _) in case.files.tensors.items()):
            code = "packed-shape-where-plain"  # the method packs values under the name of plain ones
        first = next(iter(plain))
        entry = _entry(reading, first.rpartition(".")[2], plain[first])
        yield PreflightFinding(
            code,
            {
                "names": _several(plain),
                "form": scheme.form,
                "module": plain[first],
                "why": f"{'the list' if reading.includes else 'no exception'} in {scheme.place} fits",
                "remedy": _remedy(reading, own) or f"add {entry} to the exceptions in {scheme.place}",
            },
        )
    if packed:
        remedy = _remedy(reading, own) or f"remove what fits these names from the exceptions in {scheme.place}"
        facts = {"names": _several(packed), "where": scheme.place, "remedy": remedy}
        yield PreflightFinding("plain-where-quantized", facts)


def _remedy(reading: MethodReading, own: Mapping[str, Sequence[str]]) -> str | None:
    """Return the whole list to write, in the engine's own names, if it makes one where there is none; else None."""
    if reading.lm_head == "never" and "lm_head" in own["quantized"]:
        return "export the head with an lm_head that is not quantized"
    if not reading.unlisted:
        return None
    key, names = (reading.includes[0], own["quantized"]) if reading.includes else (reading.excludes[0], own["plain"])
    listed = '", "'.join(dict.fromkeys(name for name in names if name != "lm_head"))
    return f'write "{key}": ["{listed}"] into the quantization config: the names as the engine has them'


def _stored(case: PreflightCase) -> dict[str, tuple[str, str]]:
    """By the weight's name, the engine's module (``qkv@0``) and whether the file has it ``plain`` or ``quantized``."""
    beside = {n.rpartition(".")[0] for n in case.files.tensors if n.rpartition(".")[2].startswith("weight_scale")}
    found: dict[str, tuple[str, str]] = {}
    for name, (dtype, shape) in case.files.tensors.items():
        match = _WEIGHT.fullmatch(name)
        if match is None or len(shape) != 2:
            continue
        word, index, rest, part = match.groups()
        module = f"{_OF_LAYER[rest]}@{index or 0}" if word and rest in _OF_LAYER else rest if not word else None
        if module is None:
            continue
        stem = name.removesuffix(f".{part}")
        plain = dtype in FLOATS and part == "weight" and stem not in beside
        found[stem] = (module, "plain" if plain else "quantized")
    return found


def _layer_number(case: PreflightCase, module: str) -> int:
    """The number of a draft layer in the names of the engine's modules: the target's layers come first."""
    depth = case.target.num_hidden_layers if case.target is not None else _FAR
    return depth + int(module.partition("@")[2] or 0)


def _built(
    case: PreflightCase, scheme: Scheme, reading: MethodReading, full: str, module: str, weight: str
) -> bool | None:
    """Whether the engine builds a module for quantized weights; None where it stops because no target names it."""
    asked = reading.lm_head == "if asked" and scheme.fields.get("lm_head") is True
    if module == "lm_head" and reading.lm_head != "as others" and not asked:
        return False
    if reading.dynamic and any(matches(entry, full, "equal-or-regex") for entry in left_out_of(scheme.fields)):
        return False
    names = [full]
    if module in reading.by_shards:
        names.append(f"{full.rpartition('.')[0]}.{weight}")
    excluded = _listed(case, scheme, reading, reading.excludes, plain=True)
    if any(matches(entry, name, reading.matching) for entry in excluded for name in names):
        return False
    included = _listed(case, scheme, reading, reading.includes, plain=False)
    if included:
        return any(matches(entry, name, reading.matching) for entry in included for name in names)
    if not reading.targeted:
        return True
    targets = _targets(scheme.fields)
    if any(matches(target, full, reading.matching) for target in targets):
        return True
    if module == "lm_head":
        return False
    if any(target.lower() == "linear" for target in targets):
        return True
    return None if reading.untargeted == "refuses" else False


def _listed(
    case: PreflightCase, scheme: Scheme, reading: MethodReading, keys: Iterable[str], *, plain: bool
) -> list[str]:
    """Return the names under the first key that has any; else the file's modules, if the engine lists these.

    ``plain``: whether these are the modules without, or with, a tensor of another type than a plain float.
    """
    if not keys:
        return []
    stated = next((found for key in keys if (found := _texts(_flat(lookup(scheme.fields, key))))), [])
    if stated or not reading.unlisted:
        return stated
    every = {name.rpartition(".")[0] or name: False for name in case.files.tensors}
    for name, (dtype, _) in case.files.tensors.items():
        every[name.rpartition(".")[0] or name] |= dtype not in _PLAIN
    return [name for name, quantized in every.items() if quantized != plain]


def _flat(listed: Any) -> Any:
    """A list of lists as one list."""
    if isinstance(listed, list) and listed and all(isinstance(part, list) for part in listed):
        return [entry for part in listed for entry in part]
    return listed


def _targets(fields: Mapping[str, object]) -> list[str]:
    groups = lookup(fields, "config_groups")
    every = groups.values() if isinstance(groups, dict) else ()
    return [target for group in every if isinstance(group, dict) for target in _texts(group.get("targets"))]


def _texts(listed: Any) -> list[str]:
    return [entry for entry in listed if isinstance(entry, str)] if isinstance(listed, list) else []


def _entry(reading: MethodReading, weight: str, full: str) -> str:
    """Return the entry by which the engine leaves this module out."""
    last = full.rpartition(".")[2]
    for entry in (f"re:.*{last}.*", last, full, weight):
        if (not entry.startswith("re:") or reading.matching.endswith("-or-regex")) and matches(
            entry, full, reading.matching
        ):
            return entry
    return full


def _several(stems: Iterable[str]) -> str:
    first, *more = sorted(stems)
    return f"{first}.weight" + (f" and {len(more)} more" if more else "")
