"""Open a folder that holds a checkpoint: config.json and one or more safetensors files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.header import Header, read_header
from eagle3hub.errors import CheckpointError, ConfigError, SourceError
from eagle3hub.head import TensorRef

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PROVENANCE = "eagle3hub.json"
_MAX_JSON_BYTES = 32_000_000
_PICKLES = ("pytorch_model.bin", "training_state.pt", "model.pt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint folder.

    Attributes:
        source: what the user typed.
        folder: where the files are.
        config: config.json, parsed. config_sha256: digest of its bytes, in hex.
        tensors: every tensor of every weights file.
        metadata: header metadata of the first weights file, or None.
        weights: the weights files. header_sha256: their header digests, in the same order.
        provenance: the parsed eagle3hub.json beside them, or None.
    """

    source: str
    folder: Path
    config: dict[str, Any]
    config_sha256: str
    tensors: dict[str, TensorRef]
    metadata: dict[str, str] | None
    weights: tuple[Path, ...]
    header_sha256: tuple[str, ...]
    provenance: dict[str, Any] | None


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Open a local folder. Raises SourceError, ConfigError or CheckpointError."""
    text = str(source)
    if text.startswith("hf://"):
        raise SourceError(
            f"{text} is on the Hub, and this version reads local folders only",
            hint=f"hf download {text.removeprefix('hf://')} --local-dir DIR, then name DIR",
            code="source-hub",
        )
    folder = Path(text).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise SourceError(f"{text} {what}", hint="name the folder that holds config.json", code="source-missing")
    config_bytes = _read_small(folder / CONFIG)
    if config_bytes is None:
        raise SourceError(
            f"there is no {CONFIG} in {text}",
            hint="name the folder the trainer or exporter wrote; weights alone do not say what the head computes",
            code="source-no-config",
        )
    weights = _weights(folder, text)
    headers = [read_header(path) for path in weights]
    raw_provenance = _read_small(folder / PROVENANCE)
    return Checkpoint(
        source=text,
        folder=folder,
        config=parse_json_object(config_bytes, folder / CONFIG),
        config_sha256=sha256(config_bytes).hexdigest(),
        tensors=_merge(weights, headers),
        metadata=headers[0].metadata,
        weights=tuple(weights),
        header_sha256=tuple(h.digest for h in headers),
        provenance=None if raw_provenance is None else parse_json_object(raw_provenance, folder / PROVENANCE),
    )


def read_tensor(ref: TensorRef) -> bytes:
    """The bytes of one (small) tensor."""
    with ref.path.open("rb") as f:
        f.seek(ref.offset)
        data = f.read(ref.nbytes)
    if len(data) != ref.nbytes:
        raise CheckpointError(f"{ref.path} ended inside tensor {ref.name!r}", code="checkpoint-truncated")
    return data


def parse_json_object(raw: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object. Raises ConfigError naming the file and the place."""
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not UTF-8 text (byte {e.start})", code="config-json") from e
    except json.JSONDecodeError as e:
        raise ConfigError(f"{path} is not valid JSON: line {e.lineno}: {e.msg}", code="config-json") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path} is not usable JSON: {e}", code="config-json") from e
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object", code="config-json")
    return value


def _read_small(path: Path) -> bytes | None:
    try:
        with path.open("rb") as f:
            raw = f.read(_MAX_JSON_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror}", code="source-unreadable") from e
    if len(raw) > _MAX_JSON_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_JSON_BYTES} bytes", code="config-json")
    return raw


def _weights(folder: Path, text: str) -> list[Path]:
    index = _read_small(folder / INDEX)
    if index is not None:
        return _indexed(folder, parse_json_object(index, folder / INDEX))
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        raise SourceError(
            f"{text} holds {pickles[0]}, a torch pickle; this version reads safetensors only",
            hint="export the head as safetensors first",
            code="source-pickle",
        )
    raise SourceError(f"there is no safetensors file in {text}", code="source-no-weights")


def _indexed(folder: Path, index: dict[str, Any]) -> list[Path]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise ConfigError(f"{folder / INDEX} has no weight_map from tensors to files", code="config-index")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or name in {".", ".."}:
            raise ConfigError(f"{folder / INDEX} points outside its folder: {name!r}", code="config-index")
        if not (folder / name).is_file():
            raise SourceError(f"{folder / INDEX} names {name}, which is not there", code="source-no-weights")
    return [folder / name for name in names]


def _merge(weights: Sequence[Path], headers: Sequence[Header]) -> dict[str, TensorRef]:
    merged: dict[str, TensorRef] = {}
    for path, header in zip(weights, headers, strict=True):
        for name, ref in header.tensors.items():
            if name in merged:
                raise CheckpointError(
                    f"tensor {name!r} is in both {merged[name].path.name} and {path.name}", code="checkpoint-duplicate"
                )
            merged[name] = ref
    return merged
