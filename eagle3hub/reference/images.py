"""Prompts with images, for a target of transformers: the ids of the prompt, and what its forward needs beside them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from eagle3hub.errors import InputError
from eagle3hub.prompts import Message, Prompt
from eagle3hub.reference.chat import ChatTokenizer
from eagle3hub.reference.loading import load_processor

_IDS = frozenset({"input_ids", "attention_mask"})
_MARKS = ("image_token", "boi_token")
"""Where a processor or its tokenizer names the token that stands in a prompt for an image: LLaVA and Qwen; Gemma 3."""


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """What a target's forward needs beside a prompt's token ids, for the images of the prompt.

    Attributes:
        key: SHA-256 (hex) of the images and of what made the tensors; those with the same key are the same.
        length: tokens of the prompt.
        mark: id of the token that stands for an image.
        tensors: by the name of the argument, on CPU; one whose second size is ``length`` has an entry for each token.
    """

    key: str
    length: int = field(compare=False)
    mark: int = field(compare=False)
    tensors: Mapping[str, torch.Tensor] = field(compare=False, repr=False)

    def arguments(self, tokens: int, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Return the arguments for a forward over the prompt and what follows it, ``tokens`` in all.

        What has an entry for each token gets zeros for those after the prompt: they belong to no image.
        """
        out = {}
        for name, tensor in self.tensors.items():
            if tensor.ndim == 2 and tensor.shape == (1, self.length):
                tensor = torch.nn.functional.pad(tensor, (0, tokens - self.length))
            out[name] = tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        return out


class ImagePrompts:
    """Makes prompts with images ready for a target, with the processor that its folder or repository has."""

    def __init__(self, source: str, folder: Path | None, revision: str | None, name: str) -> None:
        self._name = name
        self._processor = load_processor(source, folder, revision)
        tokenizer = getattr(self._processor, "tokenizer", None)
        marks = (getattr(owner, mark, None) for mark in _MARKS for owner in (self._processor, tokenizer))
        self._mark = next((mark for mark in marks if isinstance(mark, str) and mark), None)
        if tokenizer is None or self._mark is None:
            raise InputError(
                f"the processor of {name} ({type(self._processor).__name__}) does not say which token stands for an "
                "image",
                hint="measure it on an engine that takes images: --engine vllm",
                code="reference-images",
            )
        self._mark_id = int(tokenizer.convert_tokens_to_ids(self._mark))
        self._chat = ChatTokenizer(tokenizer, name)
        if not tokenizer.chat_template:  # transformers keeps it with the processor where both have one
            tokenizer.chat_template = getattr(self._processor, "chat_template", None)

    def prompt(self, prompt: Prompt, template_options: Mapping[str, object]) -> tuple[list[int], ImageInputs]:
        """Return the ids of a prompt, each image taking as many as it has for the target, and the inputs of images.

        Templates that loop over parts get parts, others text with one mark for each image on a line before it, as
        vLLM renders them.

        Raises InputError (``reference-images``) where the template or the processor cannot take the images, and what
        `ChatTokenizer.rendered` raises.
        """
        from PIL import Image  # which the processor needed to be loaded

        text = self._rendered(prompt, template_options)
        try:
            images = [Image.open(io.BytesIO(one.data)).convert("RGB") for one in prompt.images]
            found = self._processor(text=text, images=images, return_tensors="pt", add_special_tokens=False)
        except (OSError, ValueError, TypeError, RuntimeError, Image.DecompressionBombError) as error:
            raise InputError(
                f"the processor of {self._name} cannot take the images of question {prompt.question_id!r}: {error}",
                code="reference-images",
            ) from error
        ids = [int(one) for one in found["input_ids"][0]]
        tensors = {
            name: value for name, value in found.items() if name not in _IDS and isinstance(value, torch.Tensor)
        }
        parts = [self._name, transformers.__version__, *(image.sha256 for image in prompt.images)]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return ids, ImageInputs(key, len(ids), self._mark_id, tensors)

    def _rendered(self, prompt: Prompt, options: Mapping[str, object]) -> str:
        assert self._mark is not None
        parts: list[Message] = [*({"type": "image"} for _ in prompt.images), {"type": "text", "text": prompt.text}]
        lines = "\n".join([self._mark] * len(prompt.images) + [prompt.text])
        written = [self._mark] * len(prompt.images)
        before = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in prompt.before]
        for earlier, content in ((before, parts), (prompt.before, lines)):
            try:
                text = self._chat.rendered([*earlier, {"role": "user", "content": content}], options)
            except InputError:
                if content is lines:
                    raise
                continue
            if text.count(self._mark) == len(written) + prompt.text.count(self._mark):
                return text
        raise InputError(
            f"the chat template of {self._name} does not put {self._mark!r} where an image stands",
            hint="measure it on an engine that takes images: --engine vllm",
            code="reference-images",
        )


def alone(keys: Sequence[object], batches: Sequence[Sequence[int]]) -> list[list[int]]:
    """Split batches so that a sequence with images (its key is not None) is in a batch by itself."""
    out: list[list[int]] = []
    for batch in batches:
        plain = [i for i in batch if keys[i] is None]
        out += [plain] if plain else []
        out += [[i] for i in batch if keys[i] is not None]
    return out
