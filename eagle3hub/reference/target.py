"""The target model: its hidden states, its probabilities, its responses."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from eagle3hub.address import HubAddress, parse_address, target_address
from eagle3hub.checkpoint.remote import local_copy
from eagle3hub.errors import InputError, SourceError, UsageError
from eagle3hub.head import AuxTaps, Head
from eagle3hub.prompts import Message, Prompt
from eagle3hub.reference.chat import ChatTokenizer, as_ids
from eagle3hub.reference.generate import Wanted, generate
from eagle3hub.reference.images import ImageInputs, ImagePrompts, alone
from eagle3hub.reference.layers import Prefix, Session, captured, dissect, shared_length, skipping_decoder, with_cache
from eagle3hub.reference.loading import as_device, as_dtype, enough_memory, load_model, load_tokenizer, target_config
from eagle3hub.reference.text import Asked, Batch, Text, batches, check_finite, check_fit
from eagle3hub.system.progress import Progress, silent

_LOGIT_BYTES = 64 << 20
_BATCH_TOKENS = {"cpu": 2048, "cuda": 8192}


class TargetModel:
    """A causal language model of transformers that a head drafts for. Make one with `load`.

    Attributes:
        source: the given folder or Hub id. name: its name in a report. revision: commit or branch asked for, or None.
        config_sha256: digest of its config.json, in hex.
        model: the transformers model, in evaluation mode.
        device: of results. dtype: of weights and hidden states.
        hidden_size, num_hidden_layers, vocab_size: sizes from (the text part of) its config.
        context: longest sequence in tokens (``max_position_embeddings``), or None if the config does not say.
        batch_tokens: most tokens of one forward pass, padding included. A response's KV cache takes up to 8 times as
            many.
    """

    def __init__(
        self,
        model: Any,
        *,
        source: str,
        name: str,
        revision: str | None,
        folder: Path | None,
        config_sha256: str,
        device: torch.device,
        batch_tokens: int | None = None,
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        self.source, self.name, self.revision = source, name, revision
        self.config_sha256 = config_sha256
        self.model = model
        self.device = device
        self.dtype: torch.dtype = model.dtype
        self.hidden_size: int = config.hidden_size
        self.num_hidden_layers: int = config.num_hidden_layers
        self.vocab_size: int = config.vocab_size
        context = getattr(config, "max_position_embeddings", None)
        self.context: int | None = context if isinstance(context, int) and context > 0 else None
        self.batch_tokens = batch_tokens or _BATCH_TOKENS[device.type]
        self._folder = folder
        self._anatomy = dissect(model, source)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        device_map: str | Mapping[str, str | int] | None = None,
        batch_tokens: int | None = None,
    ) -> TargetModel:
        """Load a target from a folder or the Hub; code from a repository is never run.

        Args:
            source: see `target_address`. name: its name in a report, by default the folder's name or the Hub id.
            revision: commit, tag or branch on the Hub, if ``source`` names none.
            device: ``cpu``, ``cuda`` or ``cuda:N``; ignored with ``device_map``.
            dtype: ``float32``, ``bfloat16`` or ``float16``.
            device_map: accelerate's placement: ``auto`` shards over GPUs and offloads the rest to CPU and disk.
            batch_tokens: most tokens of one forward pass; default 2048 on CPU, 8192 on CUDA.

        Raises SourceError, ConfigError, CheckpointError, TensorError or InputError if the target cannot be loaded,
        UsageError for an unknown device or dtype, UnavailableError for a missing device, too little memory or a
        missing package, and HubError.
        """
        torch_dtype, where = as_dtype(dtype), as_device("cpu" if device_map else device)
        at = target_address(source)
        if isinstance(at, HubAddress):
            source, revision = at.repo_id, at.revision or revision
            at = replace(at, revision=revision)
            if at.is_hidden:
                name = name or source
                at = parse_address(local_copy(at)[0])
                source = str(at)
        source = str(source)
        folder, config, raw = target_config(at)
        options: dict[str, object] = {"dtype": torch_dtype}
        if device_map is not None:
            options["device_map"] = device_map if isinstance(device_map, str) else dict(device_map)
        model: Any = load_model(source, folder, config, revision, **options)
        if device_map is None:
            with enough_memory(f"moving {source} to {where}"):
                model = model.to(where)
        else:
            where = _execution_device(model)
        return cls(
            model,
            source=source,
            name=name or (folder.name if folder is not None else source),
            revision=revision,
            folder=folder,
            config_sha256=hashlib.sha256(raw).hexdigest(),
            device=where,
            batch_tokens=batch_tokens,
        )

    @cached_property
    def embeddings(self) -> torch.Tensor:
        """Token embeddings [rows, hidden size] as stored; Gemma's scaling by sqrt(hidden size) is *not* applied.

        There are at least `vocab_size` rows; some checkpoints pad them to more.
        """
        return self._weight(self.model.get_input_embeddings())

    @cached_property
    def lm_head(self) -> torch.Tensor:
        """Output embeddings [rows, hidden size] as stored, without any scaling or softcapping of logits."""
        return self._weight(self.model.get_output_embeddings())

    @cached_property
    def tokenizer(self) -> ChatTokenizer:
        """The target's tokenizer. Raises InputError, SourceError or HubError."""
        return ChatTokenizer(load_tokenizer(self.source, self._folder, self.revision), self.name)

    @cached_property
    def image_prompts(self) -> ImagePrompts:
        """What makes prompts with images ready. Raises InputError, SourceError, UnavailableError or HubError."""
        return ImagePrompts(self.source, self._folder, self.revision, self.name)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a response: those in generation_config.json (or config.json) and the tokenizer's own."""
        ids = as_ids(getattr(self.model.generation_config, "eos_token_id", None))
        try:
            return ids | self.tokenizer.eos_ids
        except (InputError, SourceError):
            return ids

    def fit(self, head: Head) -> None:
        """Raise InputError (``reference-target-mismatch``) if the head was made for a target of other sizes."""
        check_fit(
            head,
            self.name,
            hidden_size=self.hidden_size,
            vocab_size=self.vocab_size,
            num_hidden_layers=self.num_hidden_layers,
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; no special tokens are added."""
        return self.tokenizer.encode(text)

    def chat(
        self, text: str, *, before: Sequence[Message] = (), template_options: Mapping[str, object] | None = None
    ) -> list[int]:
        """Return the prompt ids of a user's turn, as `ChatTokenizer.chat` does."""
        return self.tokenizer.chat(text, before=before, template_options=template_options)

    def prompt(self, prompt: Prompt, template_options: Mapping[str, object] | None = None) -> Asked:
        """Return a prompt as this target reads it, images included.

        Raises what `ChatTokenizer.chat` and `ImagePrompts.prompt` raise.
        """
        if prompt.images:
            ids, images = self.image_prompts.prompt(prompt, template_options or {})
            return Asked(tuple(ids), images)
        return Asked(tuple(self.chat(prompt.text, before=prompt.before, template_options=template_options)))

    def read(
        self, texts: Sequence[Text], taps: AuxTaps, *, temperature: float | None = None, lookahead: bool = True
    ) -> Iterator[Batch]:
        """Yield hidden states of the texts, and log-probabilities for a ``temperature`` > 0, the longest texts first.

        A prefix that all texts share is computed once, if the model's KV cache allows it. A text with images is read
        by itself. Without ``lookahead``, positions from the response's last token on are left out, since no draft
        begins there. Batches hold at most ``batch_tokens`` tokens, padding included. Aux states have the model's
        dtype. Without log-probabilities, the pass ends after the highest tap.

        Raises InputError for a text that is empty, longer than the context or has ids outside the vocabulary, and for
        hidden states that are not finite (it names layer and text); UnavailableError if memory is too small.
        """
        if temperature is not None and not 0 < temperature < float("inf"):
            raise UsageError(f"log-probabilities need a temperature above 0, not {temperature}")
        for number, text in enumerate(texts):
            self.check_ids(text.token_ids, f"text {number}")
            _check_answer(text, number)
        whole = lookahead or temperature is not None
        known = [t.token_ids if whole else t.token_ids[: t.last_start] for t in texts]
        plain = temperature is None and all(text.images is None for text in texts)
        shared = shared_length(self.model, known) if plain else 0
        prefix = None
        if shared:
            with torch.no_grad(), enough_memory("reading what the texts begin with"):
                prefix = Prefix(self.model, self._anatomy, known[0][:shared], taps, self.device)
        together = batches([len(ids) - shared for ids in known], self.batch_tokens)
        for index in alone([text.images for text in texts], together):
            rows = tuple(texts[i] for i in index)
            longest = len(known[index[0]])
            padded = [[*known[i], *[known[i][-1]] * (longest - len(known[i]))][shared:] for i in index]
            with torch.no_grad(), enough_memory(f"reading {len(rows)} texts of up to {longest} tokens"):
                ids = torch.tensor(padded, device=self.device)
                images = rows[0].images
                more = {} if images is None else images.arguments(longest, self.device, self.dtype)
                cache = None if prefix is None else prefix.cache(len(rows))
                with captured(self._anatomy, taps.taps, final=temperature is not None) as found:
                    self.model(input_ids=ids, **with_cache(self.model, cache), use_cache=cache is not None, **more)
                aux = found.aux(taps.taps, self.device)
                if prefix is not None:
                    aux = torch.cat([prefix.aux.expand(len(rows), -1, -1), aux], dim=1)
                check_finite(aux, taps, index, rows)
                logprobs = None if temperature is None else self._logprobs(found.output, ids, rows, temperature)
            yield Batch(tuple(index), rows, aux, logprobs)

    def check_ids(self, ids: Sequence[int], what: str) -> None:
        """Raise InputError if ``ids`` are empty, too many for the context, or not ids of the vocabulary."""
        if not ids:
            raise InputError(f"{what} is empty", code="reference-empty-text")
        if self.context is not None and len(ids) > self.context:
            raise InputError(
                f"{what} has {len(ids)} tokens, but the context of {self.name} is {self.context}",
                hint="leave it out, or cut it",
                code="reference-context",
            )
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise InputError(
                f"{what} has token id {wrong}, outside the vocabulary of {self.vocab_size} of {self.name}",
                code="reference-token-id",
            )

    def respond(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        lookahead: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        images: Sequence[ImageInputs | None] | None = None,
        on_text: Callable[[int, Text], None] | None = None,
        progress: Progress = silent,
    ) -> list[Text]:
        """Generate the target's responses.

        A response ends with an end-of-sequence token, after ``max_new_tokens``, or at the context length. Then
        ``lookahead`` more tokens follow (fewer if the context ends), and end-of-sequence is ignored. Decoding is
        greedy at temperature 0; above, tokens are drawn from softmax(logits / temperature). Each prompt has its own
        random generator, so neither batch size nor the other prompts change its response.

        Args:
            prompts: token ids of each, 1 or more.
            seed, numbers: together they seed a prompt's generator; ``numbers`` are the prompts' places in a larger
                set, by default 0, 1, 2 …
            images: what the images of each prompt need; None where all are text alone.
            on_text: called with the index in ``prompts`` and the text, as soon as the text is complete.

        Raises InputError, naming the prompt, for one that is empty, has unknown ids, or leaves no room in the context.
        """
        numbers = range(len(prompts)) if numbers is None else numbers
        shown = [None] * len(prompts) if images is None else images
        wanted = []
        for i, (ids, number, seen) in enumerate(zip(prompts, numbers, shown, strict=True)):
            self.check_ids(ids, f"prompt {i}")
            room = max_new_tokens + lookahead if self.context is None else self.context - len(ids)
            if room < 1:
                raise InputError(
                    f"prompt {i} has {len(ids)} tokens and leaves no room for a response in the context of "
                    f"{self.name}, {self.context}",
                    hint="leave it out, or cut it",
                    code="reference-context",
                )
            most = min(max_new_tokens, room)
            wanted.append(Wanted(tuple(ids), len(ids), most, lookahead, room, f"{seed}/{number}", images=seen))
        return self._generate(wanted, self.eos_ids, temperature, on_text, progress, "generating responses")

    def extend(
        self,
        texts: Sequence[Text],
        lookahead: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        progress: Progress = silent,
    ) -> list[Text]:
        """Return the texts with at least ``lookahead`` tokens after the response, as far as the context allows.

        Raises InputError for a text that is empty, too long or has unknown ids.
        """
        numbers = range(len(texts)) if numbers is None else numbers
        out = list(texts)
        short: list[int] = []
        wanted = []
        for i, (text, number) in enumerate(zip(texts, numbers, strict=True)):
            self.check_ids(text.token_ids, f"text {i}")
            lacking = lookahead - text.lookahead
            room = lacking if self.context is None else min(lacking, self.context - len(text.token_ids))
            if room > 0:
                start = f"{seed}/{number}/{len(text.token_ids)}"
                short.append(i)
                known = (text.token_ids, text.prompt_length)
                wanted.append(Wanted(*known, 0, room, room, start, text.response_length, text.images))
        longer = self._generate(wanted, frozenset(), temperature, None, progress, "extending texts")
        for i, text in zip(short, longer, strict=True):
            out[i] = text
        return out

    def next_logits(self, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return the logits after each sequence of token ids, float32 [V] on CPU, one forward pass for each.

        Raises InputError for a sequence that is empty, longer than the context or has unknown ids.
        """
        last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(self.model.forward).parameters else {}
        out = []
        for number, ids in enumerate(sequences):
            self.check_ids(ids, f"sequence {number}")
            with torch.no_grad(), enough_memory(f"reading {len(ids)} tokens"):
                tokens = torch.tensor([list(ids)], device=self.device)
                logits = self.model(input_ids=tokens, use_cache=False, **last).logits
            out.append(logits[0, -1].to("cpu", torch.float32))
        return out

    def session(self) -> Session:
        """Start one sequence with a KV cache that grows and shrinks token by token."""
        return Session(self.model, self._anatomy, self.device)

    def _generate(
        self,
        wanted: list[Wanted],
        eos: frozenset[int],
        temperature: float,
        on_text: Callable[[int, Text], None] | None,
        progress: Progress,
        doing: str,
    ) -> list[Text]:
        with torch.no_grad(), enough_memory(doing):
            return generate(
                self.model,
                wanted,
                eos,
                device=self.device,
                batch_tokens=self.batch_tokens,
                temperature=temperature,
                on_text=on_text,
                report=partial(progress, doing),
            )

    def _logprobs(self, output: Any, ids: torch.Tensor, rows: Sequence[Text], temperature: float) -> torch.Tensor:
        """Compute the log-probability of each token given those before it, [B, T], a slice of positions at a time."""
        hidden = output.last_hidden_state
        out = torch.zeros(ids.shape, dtype=torch.float32, device=self.device)
        places = torch.cat([torch.arange(len(t.token_ids) - 1) + n * ids.shape[1] for n, t in enumerate(rows)])
        flat, tokens = hidden.reshape(-1, hidden.shape[-1]), ids.reshape(-1)
        step = max(1, _LOGIT_BYTES // (4 * self.vocab_size))
        for start in range(0, len(places), step):
            at = places[start : start + step].to(self.device)
            with skipping_decoder(self._anatomy, output, flat[at.to(flat.device)].unsqueeze(0)):
                logits = self.model(input_ids=tokens[at].unsqueeze(0), use_cache=False).logits[0]
            logits = logits.to(self.device, torch.float32) / temperature
            chosen = logits.gather(1, tokens[at + 1].unsqueeze(1)).squeeze(1)
            out.view(-1)[at + 1] = chosen - logits.logsumexp(dim=1)
        return out

    def _weight(self, module: Any) -> torch.Tensor:
        weight: torch.Tensor = module.weight
        if weight.is_meta:  # accelerate offloads this module
            weight = module._hf_hook.weights_map["weight"]
        return weight.detach()


def _check_answer(text: Text, number: int) -> None:
    """Raise InputError (``reference-images``) for an answer with the token that stands for an image in prompts."""
    images = text.images
    if images is not None and images.mark in text.token_ids[images.length :]:
        raise InputError(
            f"the target answers text {number} with the token that stands for an image ({images.mark}), and no image "
            "goes with it",
            hint="leave this prompt out",
            code="reference-images",
        )


def _execution_device(model: Any) -> torch.device:
    places = [place for place in model.hf_device_map.values() if place not in {"cpu", "disk"}]
    if not places:
        return torch.device("cpu")
    return torch.device("cuda", places[0]) if isinstance(places[0], int) else torch.device(places[0])
