"""Weights files that lie beside those that count, and whether they hold the same head.

Engines differ in what they read: vLLM and SGLang load every ``*.safetensors`` of a folder that has no
index, one after the other (``model_loader/default_loader.py``, ``model_loader/loader.py``), SafeAILab's own loader
takes ``pytorch_model.bin`` before ``model.safetensors`` (``eagle/model/ea_model.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from eagle3hub.checkpoint.header import Header
from eagle3hub.checkpoint.reader import open_local
from eagle3hub.errors import Eagle3HubError, Problem
from eagle3hub.head import TensorRef

DUPLICATE = "checkpoint-duplicate"
"""Code of the problem that engines would load other contents over those that count."""
_PROBED = 4096
_OF_A_HEAD = re.compile(
    r"(model\.)?(midlayer|layers|fc|fc_norm|input_norm|hidden_norm|norm|lm_head|embed_tokens|mask_hidden|d2t|t2d)(\.|$)"
)


def look_beside(
    names: Sequence[str],
    tensors: Mapping[str, TensorRef],
    others: Sequence[str],
    pickles: Sequence[str],
    read: Callable[[str], Header],
) -> tuple[Problem, ...]:
    """What is to be said of weights files that do not count.

    Args:
        names: the files that count, safetensors; tensors: what they hold.
        others: further safetensors that engines would load all the same. pickles: torch pickles.
        read: reads the header of a file.

    A tensor in two files is compared by dtype, shape and its first bytes: a copy of the same weights goes without a
    word, as does a file that cannot be read. Of pickles on the Hub, which are often there, no bytes are fetched.
    """
    found: list[Problem] = []
    apart: list[str] = []
    for name in others:
        theirs = _tensors(read, name)
        differs = _first_difference(tensors, theirs)
        if differs is not None:
            message = (
                f"tensor {differs!r} is in both {names[0]} and {name}, with other contents: without an index vLLM and "
                "SGLang load both files and keep what they read last"
            )
            hint = "remove the file that is left from another export"
            found.append(Problem("error", DUPLICATE, message, hint))
        elif more := [n for n in theirs if n not in tensors and _OF_A_HEAD.match(n)]:
            message = (
                f"tensor {more[0]!r} is in {name} only, beside {names[0]}: without an index nothing says that it is "
                "the head's, and vLLM and SGLang load it all the same"
            )
            hint = "write model.safetensors.index.json if it is, or move the file out of the folder"
            found.append(Problem("error", "checkpoint-unindexed", message, hint))
        elif theirs.keys() - tensors.keys():
            apart.append(name)
    if apart:
        message = (
            f"{', '.join(apart)} beside {names[0]} is left out, with tensors that are not in {names[0]}: without an "
            "index vLLM and SGLang would load them too"
        )
        found.append(Problem("warning", "checkpoint-beside", message, "move it out of the folder before serving that"))
    for name in pickles:
        differs = _first_difference(tensors, _tensors(read, name), fetch=False)
        if differs is not None:
            message = (
                f"{name} beside {names[0]} holds another {differs!r}: {names[0]} is read, as engines do, but "
                "SafeAILab's own code would take the other"
            )
            found.append(Problem("warning", "checkpoint-beside", message, "remove the one that is not the head"))
            break
    return tuple(found)


def _tensors(read: Callable[[str], Header], name: str) -> Mapping[str, TensorRef]:
    try:
        return read(name).tensors
    except Eagle3HubError:
        return {}


def _first_difference(
    ours: Mapping[str, TensorRef], theirs: Mapping[str, TensorRef], *, fetch: bool = True
) -> str | None:
    """The first tensor of both that is not the same; bytes that are not on this machine are fetched if ``fetch``."""
    for name, ref in ours.items():
        other = theirs.get(name)
        if other is None:
            continue
        look = fetch or (ref.remote is None and other.remote is None)
        if (ref.dtype, ref.shape) != (other.dtype, other.shape) or (look and _start(ref) != _start(other)):
            return name
    return None


def _start(ref: TensorRef) -> bytes:
    count = min(_PROBED, ref.nbytes)
    if ref.remote is not None:
        return ref.remote(ref.offset, count)
    with open_local(ref.path) as reader:
        return reader.read(ref.offset, count)
