"""Load a target model and its tokenizer through transformers, with this package's own error messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging as chatter

from eagle3hub.address import Address, HubAddress
from eagle3hub.checkpoint.hub import download_file
from eagle3hub.checkpoint.source import CONFIG, parse_json_object
from eagle3hub.errors import (
    CheckpointError,
    ConfigError,
    HubError,
    InputError,
    SourceError,
    TensorError,
    UnavailableError,
    UsageError,
)
from eagle3hub.head.target import require_files, require_weights
from eagle3hub.system.installation import command_for, command_for_extra
from eagle3hub.system.reading import read_bytes

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "tiktoken.model")
"""Files a tokenizer needs one of: without any, transformers makes an empty tokenizer."""


def as_dtype(name: str) -> torch.dtype:
    """Return the torch dtype called ``name``. Raises UsageError."""
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}", hint=f"one of {', '.join(DTYPES)}", code="usage-dtype")
    return DTYPES[name]


def as_device(name: str) -> torch.device:
    """Return the device called ``name`` (``cpu``, ``cuda``, ``cuda:1``). Raises UsageError, UnavailableError."""
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise UsageError(f"unknown device {name!r}", hint="one of cpu, cuda, cuda:1 …", code="usage-device") from e
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(f"device {name!r} is not supported", hint="one of cpu, cuda, cuda:1 …", code="usage-device")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UnavailableError(
                f"PyTorch sees {count or 'no'} CUDA device{'s' if count > 1 else ''} here, so {name} cannot be used",
                hint="use --device cpu, or install a PyTorch build for CUDA",
                code="unavailable-cuda",
            )
    return device


@contextmanager
def enough_memory(doing: str) -> Iterator[None]:
    """Within the block, turn running out of memory into an UnavailableError that says what to lower."""
    try:
        yield
    except torch.OutOfMemoryError as e:
        where = "the CUDA device"
        cause: Exception = e
    except MemoryError as e:
        where, cause = "this machine", e
    except RuntimeError as e:
        if "DefaultCPUAllocator" not in str(e):
            raise
        where, cause = "this machine", e
    else:
        return
    raise UnavailableError(
        f"{where} ran out of memory while {doing}",
        hint="lower --batch-tokens, use --dtype bfloat16, or spread the target with --device-map auto",
        code="unavailable-memory",
    ) from cause


def target_config(at: Address) -> tuple[Path | None, dict[str, object], bytes]:
    """Return a target's folder (None on the Hub), its parsed config.json, and the bytes of that file.

    Raises SourceError, ConfigError or HubError.
    """
    if isinstance(at, HubAddress):
        path = download_file(at.repo_id, CONFIG, at.revision)
    else:
        require_files(at)
        path = at.path / CONFIG
        if not path.is_file():
            raise SourceError(f"there is no {CONFIG} in the target folder {at}", code="source-no-config")
    try:
        raw = read_bytes(path)
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror}", code="source-unreadable") from e
    folder = None if isinstance(at, HubAddress) else at.path.resolve()
    return folder, parse_json_object(raw, path), raw


def load_model(
    source: str, folder: Path | None, config: dict[str, object], revision: str | None, **options: Any
) -> transformers.PreTrainedModel:
    """Load the model in evaluation mode, without gradients. All its tensors come from the checkpoint.

    Raises InputError if this transformers does not know the architecture, or if the model needs code from its
    repository; CheckpointError, TensorError or SourceError for wrong weights; UnavailableError if memory is too small;
    HubError.
    """
    auto = _auto_class(source, config)
    require_weights(source)
    where = str(folder) if folder is not None else source
    with _quiet(), enough_memory(f"loading {source}"), _in_our_words(source, folder is not None):
        model, info = auto.from_pretrained(
            where,
            revision=revision or "main",
            trust_remote_code=False,
            local_files_only=folder is not None,
            weights_only=True,
            output_loading_info=True,
            **options,
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise TensorError(
            f"the weights of {source} lack {len(missing)} tensors that {type(model).__name__} needs, such as "
            f"{missing[0]}",
            hint="download the target again; nothing is initialised at random here",
            code="tensor-target-missing",
        )
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def load_tokenizer(source: str, folder: Path | None, revision: str | None) -> Any:
    """Load the tokenizer of a target. Raises InputError, SourceError or HubError."""
    if folder is not None:
        require_files(source)
    if folder is not None and not any((folder / name).is_file() for name in _TOKENIZERS):
        raise SourceError(
            f"there is no tokenizer in the target folder {source}",
            hint=f"it needs one of {', '.join(_TOKENIZERS)}",
            code="source-no-tokenizer",
        )
    where = str(folder) if folder is not None else source
    with _quiet(), _in_our_words(f"the tokenizer of {source}", folder is not None):
        return transformers.AutoTokenizer.from_pretrained(
            where, revision=revision or "main", trust_remote_code=False, local_files_only=folder is not None
        )


def load_processor(source: str, folder: Path | None, revision: str | None) -> Any:
    """Load what turns a target's images into its inputs, computed with Pillow, which needs no torchvision.

    Raises InputError, SourceError, UnavailableError or HubError.
    """
    where = str(folder) if folder is not None else source
    with _quiet(), _in_our_words(f"the processor of {source}", folder is not None):
        return transformers.AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            where,
            revision=revision or "main",
            trust_remote_code=False,
            local_files_only=folder is not None,
            backend="pil",
        )


def _auto_class(source: str, config: dict[str, object]) -> Any:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ConfigError(f"{CONFIG} of {source} states no model_type", code="config-model-type")
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return transformers.AutoModelForCausalLM
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return transformers.AutoModelForImageTextToText
    hint = "save its hidden states with the code that can run it, and give the files instead"
    if kind in CONFIG_MAPPING:
        raise InputError(
            f"{source} is a {kind}, which transformers does not know as a language model",
            hint=hint,
            code="reference-target-unsupported",
        )
    if config.get("auto_map"):
        raise InputError(
            f"{source} ({kind}) needs code from its own repository, which is never run here",
            hint=hint,
            code="reference-target-remote-code",
        )
    raise InputError(
        f"transformers {transformers.__version__} does not know the model_type {kind!r} of {source}",
        hint=f"{command_for('transformers', upgrade=True)}; or {hint}",
        code="reference-target-unsupported",
    )


@contextmanager
def _in_our_words(what: str, local: bool) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except UnpicklingError as e:
        raise CheckpointError(
            f"the weights of {what} are a torch pickle that holds more than tensors, which is never run here",
            hint="convert them to safetensors where you trust them",
            code="checkpoint-pickle",
        ) from e
    except SafetensorError as e:
        raise CheckpointError(
            f"the weights of {what} cannot be read: {_first_line(e)}", code="checkpoint-unreadable"
        ) from e
    except ImportError as e:
        raise UnavailableError(
            f"loading {what} needs a package that is not installed: {_first_line(e)}",
            hint=f"{command_for_extra('validate')}, and what the message names",
            code="unavailable-validate-extra",
        ) from e
    except OSError as e:
        if local:
            raise SourceError(f"cannot load {what}: {_first_line(e)}", code="source-unreadable") from e
        raise HubError(f"cannot load {what} from the Hub: {_first_line(e)}", code="hub-target") from e
    except RuntimeError as e:
        if "DefaultCPUAllocator" in str(e):
            raise
        _unloadable(what, e)
    except (ValueError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as e:
        _unloadable(what, e)


def _unloadable(what: str, e: Exception) -> NoReturn:
    raise InputError(
        f"transformers {transformers.__version__} cannot load {what}: {type(e).__name__}: {_first_line(e)}",
        hint="look whether config.json and weights belong together, and whether transformers is new enough",
        code="reference-target-unreadable",
    ) from e


def _first_line(e: Exception) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, keep transformers' log and progress bars off the terminal."""
    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    chatter.set_verbosity(logging.CRITICAL)
    chatter.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()  # type: ignore[no-untyped-call]
