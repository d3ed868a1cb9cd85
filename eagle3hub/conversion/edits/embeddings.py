"""Add the target's token embeddings to a head, or remove the head's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eagle3hub.address import HubAddress, parse_address
from eagle3hub.checkpoint.folder import fetch_weights
from eagle3hub.checkpoint.safetensors import FLOATS, TensorRef, read_header
from eagle3hub.checkpoint.source import INDEX, WEIGHTS, parse_json_object, read_small
from eagle3hub.checkpoint.writer import OpenFiles, stream
from eagle3hub.conversion.edits.change import Change
from eagle3hub.errors import Hint, HubError, InputError, Refusal, SourceError, TensorError
from eagle3hub.head import Assumption, Head
from eagle3hub.layouts.torchspec import FOREIGN, NOT_FOREIGN

EMBEDDINGS = "embed_tokens.weight"
_NAMES = (
    EMBEDDINGS,
    f"model.{EMBEDDINGS}",
    f"language_model.model.{EMBEDDINGS}",
    f"model.language_model.{EMBEDDINGS}",
    "transformer.wte.weight",
)
"""Names of the embeddings in targets, both text-only and multimodal (transformers 5)."""
_LM_HEADS = ("lm_head.weight", "language_model.lm_head.weight", "output.weight")
_NORMS = (
    "model.norm.weight",
    "language_model.model.norm.weight",
    "model.language_model.norm.weight",
    "norm.weight",
)
_NAME_ONE = "name a safetensors file, a folder or a Hub id that holds the target's weights"


def include_embeddings(head: Head, source: str, *, cast: bool = False) -> tuple[Head, Change]:
    """Add the token embeddings found in ``source``: a safetensors file, a model's folder or a Hub id.

    ``cast`` says that all weights are cast to one dtype afterwards, so the embeddings' dtype may differ from the
    head's. Raises SourceError if there are no embeddings, TensorError if they do not fit the head, and Refusal if the
    head already has embeddings.
    """
    if EMBEDDINGS in head.tensors:
        raise Refusal(
            "--include-embeddings: the head has its own embed_tokens.weight",
            hint=Hint("leave the option out, or drop them first with --drop-embeddings", "--drop-embeddings"),
            code="refused-embeddings-present",
        )
    ref = find_embeddings(source)
    d = head.dims
    if ref.shape != (d.vocab_size, d.hidden_size):
        raise TensorError(
            f"{ref.name} of {source} is {list(ref.shape)}, but the head needs [{d.vocab_size}, {d.hidden_size}]",
            hint="name the target the head was trained for",
            code="tensor-embeddings-shape",
        )
    if ref.dtype != head.dtype and not (cast and ref.dtype in FLOATS):
        raise TensorError(
            f"{ref.name} of {source} is {ref.dtype}, but the head's weights are {head.dtype}",
            hint=Hint("add --dtype bf16, fp16 or fp32 to cast all of them", "--dtype")
            if ref.dtype in FLOATS
            else "name embeddings that are not quantized",
            code="tensor-embeddings-dtype",
        )
    what = f"the token embeddings of {Path(source).name} were added ({ref.nbytes:,} bytes)"
    change = Change(
        "include-embeddings", what, "they were asked for; engines that share them ignore them", [EMBEDDINGS]
    )
    return replace(head, tensors={**head.tensors, EMBEDDINGS: ref}), change


def drop_embeddings(head: Head, target: str | None) -> tuple[Head, Change]:
    """Remove embed_tokens.weight, so that engines use the target's.

    If ``target`` is a folder with weights, its embeddings must equal the head's, unless the head was trained with the
    target's; otherwise this is recorded as an assumption. Raises Refusal if the head needs its own embeddings, and
    TensorError if it has none.
    """
    own = head.tensors.get(EMBEDDINGS)
    d = head.dims
    if own is None:
        raise TensorError(
            "--drop-embeddings: the head has no embed_tokens.weight", hint="leave it out", code="tensor-no-embeddings"
        )
    if d.hidden_size != d.target_hidden_size:
        raise Refusal(
            f"--drop-embeddings: the head is {d.hidden_size} wide and its target {d.target_hidden_size}, so the "
            "target's embeddings do not fit it",
            hint="keep them",
            code="refused-embeddings-width",
        )
    assumptions = list(head.assumptions)
    if target is not None and Path(target).expanduser().is_dir() and _has_weights(Path(target).expanduser()):
        theirs = find_embeddings(target)
        if head.opened is not None:
            fetch_weights(head.opened)
        if _equal(own, theirs):
            evidence = f"they equal those of {Path(target).name}, byte for byte"
        elif head.copied_embeddings != "no":
            evidence = f"they are not those of {Path(target).name}, with which the trainer of this head trains"
        else:
            raise Refusal(
                f"--drop-embeddings: the head's embeddings differ from those of {Path(target).name}, so it would "
                "compute something else without them",
                hint="keep them, or name the target the head was trained for",
                code="refused-embeddings-differ",
            )
    else:
        evidence = "they were not compared with the target's"
        why = "the head's own embeddings were dropped and engines use the target's, which were not compared with them"
        settle = "give --target a folder that holds the target's weights"
        assumptions.append(Assumption("embed_tokens", "the target's", why, settle))
    return _without(head, evidence, assumptions)


def leave_out_targets(head: Head, target: str | None, *, download: bool) -> tuple[Head, Change] | None:
    """Remove embed_tokens.weight if it is the target's.

    It is if it equals, byte for byte, that of a target whose weights lie in a folder; where they cannot be compared,
    if the export copied it.

    ``download``: whether the weights of a head on the Hub may be downloaded to compare them. None if the head has
    no embeddings, if nothing says that they are the target's, or if they differ. Raises Refusal for embeddings that
    differ though the trainer uses the target's, where the export may have written others.
    """
    own, d = head.tensors.get(EMBEDDINGS), head.dims
    if own is None or d.hidden_size != d.target_hidden_size:
        return None
    theirs = _of_target(own, target, download)
    if theirs is None:
        copied = "its trainer uses the target's and never changes them; the two were not compared"
        return _without(head, copied, head.assumptions) if head.copied_embeddings == "yes" else None
    if head.opened is not None:
        fetch_weights(head.opened)
    if not _equal(own, theirs):
        if head.copied_embeddings == "unsure":
            raise Refusal(FOREIGN, hint=NOT_FOREIGN, code="refused-embeddings-foreign")
        return None
    return _without(head, f"they equal those of {Path(target or '').name}, byte for byte", head.assumptions)


def _of_target(own: TensorRef, target: str | None, download: bool) -> TensorRef | None:
    """The embeddings of a target whose weights lie in a folder, if the head's can be compared with them."""
    if target is None:
        return None
    folder = Path(target).expanduser()
    if not folder.is_dir() or not _has_weights(folder) or (own.remote is not None and not download):
        return None
    try:
        return find_embeddings(target)
    except InputError:
        return None


def _without(head: Head, evidence: str, assumptions: list[Assumption]) -> tuple[Head, Change]:
    left = {n: t for n, t in head.tensors.items() if n != EMBEDDINGS}
    change = Change(
        "drop-embeddings", "the head's own token embeddings were left out", evidence, [head.tensors[EMBEDDINGS].name]
    )
    return replace(head, tensors=left, assumptions=assumptions), change


def find_embeddings(source: str) -> TensorRef:
    """Find the token embeddings in a safetensors file, a model's folder or a Hub repository.

    From the Hub, only the shard that holds them is fetched.

    Raises SourceError, CheckpointError or HubError.
    """
    found = _find(source, _NAMES)
    if found is None:
        raise SourceError(
            f"there are no token embeddings in {source}",
            hint=f"they are looked for under {', '.join(_NAMES[:2])} and similar names",
            code="source-no-embeddings",
        )
    return found


def find_lm_head(source: str) -> TensorRef | None:
    """Find a target's lm_head as `find_embeddings` does; None if it has none, since it is then its embeddings."""
    return _find(source, _LM_HEADS)


def find_final_norm(source: str) -> TensorRef | None:
    """Find the weight of a target's final norm as `find_embeddings` does; None if it has none of a known name."""
    return _find(source, _NORMS)


def _find(source: str, names: Sequence[str]) -> TensorRef | None:
    """A tensor with the first of some names that a model has."""
    at = parse_address(source)
    if isinstance(at, HubAddress):
        file = _downloaded(source, at, names)
    elif at.path.is_file():
        file = at.path
    elif at.path.is_dir():
        file = _shard(source, at.path, names)
    else:
        raise SourceError(f"{source} does not exist", hint=_NAME_ONE, code="source-missing")
    tensors = {} if file is None else read_header(file).tensors
    return next((tensors[name] for name in names if name in tensors), None)


def _shard(source: str, folder: Path, names: Sequence[str]) -> Path | None:
    index = folder / INDEX
    if not index.is_file():
        if (folder / WEIGHTS).is_file():
            return folder / WEIGHTS
        raise SourceError(
            f"there is no safetensors file in {source}",
            hint=_NAME_ONE,
            code="source-no-weights",
        )
    shard = _in_index(parse_json_object(read_small(index) or b"", index), names)
    if shard is not None and not (folder / shard).is_file():
        raise SourceError(f"{index} names {shard}, which is not there", code="source-no-weights")
    return None if shard is None else folder / shard


def _downloaded(source: str, at: HubAddress, names: Sequence[str]) -> Path | None:
    from eagle3hub.checkpoint.hub import download_file, no_repository
    from eagle3hub.checkpoint.remote import download_weights

    try:
        index = download_file(at.repo_id, at.file(INDEX), at.revision)
    except HubError as e:
        if at.bare and no_repository(e):
            message = f"{source} is neither a file nor a folder here, nor a model on the Hub that can be read"
            raise HubError(message, hint=e.hint, code=e.code) from e
        if e.code != "hub-no-file":
            raise
        return download_weights(at.repo_id, at.file(WEIGHTS), at.revision)
    shard = _in_index(parse_json_object(read_small(index) or b"", index), names)
    return None if shard is None else download_weights(at.repo_id, at.file(shard), at.revision)


def _in_index(index: Mapping[str, object], names: Sequence[str]) -> str | None:
    weight_map = index.get("weight_map")
    shards = [weight_map.get(name) for name in names] if isinstance(weight_map, dict) else []
    return next((s for s in shards if isinstance(s, str) and Path(s).name == s), None)


def _has_weights(folder: Path) -> bool:
    return (folder / INDEX).is_file() or (folder / WEIGHTS).is_file()


def _equal(a: TensorRef, b: TensorRef) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    with OpenFiles() as files:
        return all(bytes(x) == y for x, y in zip(stream(a, files), stream(b, files), strict=True))
