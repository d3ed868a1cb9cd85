"""Save hidden states of a target to a folder, and read those of any producer."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from eagle3hub._version import __version__
from eagle3hub.address import HubAddress, target_address
from eagle3hub.checkpoint.folder import read_tensor
from eagle3hub.checkpoint.pickles import StridedRef
from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.checkpoint.source import parse_json_object, read_small
from eagle3hub.conversion.edits.embeddings import find_embeddings, find_final_norm, find_lm_head
from eagle3hub.errors import CheckpointError, HubError, InputError, OutputError, SourceError
from eagle3hub.head import FINAL_NORM, AuxTaps, Head
from eagle3hub.head.target import TargetFacts, read_target
from eagle3hub.prompts import Message, Prompt
from eagle3hub.reference.chat import ChatTokenizer, as_ids
from eagle3hub.reference.dumps import (
    EMBEDDINGS,
    LM_HEAD,
    Dump,
    Last,
    Opened,
    Record,
    StatesIndex,
    TextEntry,
    begin_folder,
    ids_digest,
    open_dump,
    states_file,
    tensor_ref,
    writing,
)
from eagle3hub.reference.loading import load_tokenizer
from eagle3hub.reference.model import StoredMatrix
from eagle3hub.reference.responses import Response, texts_of
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Batch, Text, batches, check_finite, check_fit, tap_name
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.reading import open_regular

EMBEDDING = "embed_tokens.weight"
_LM = "lm_head.weight"
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

# Save a target's states once, then replay heads from them anywhere, as often as you like.


def save_states(
    folder: str | Path,
    target: TargetModel,
    texts: Sequence[Text],
    taps: AuxTaps,
    *,
    question_ids: Sequence[int | str] | None = None,
    temperature: float | None = None,
    progress: Progress = silent,
) -> None:
    """Save the target's hidden states over some texts, its embeddings, and log-probabilities at a ``temperature``.

    Files that an earlier call for the same texts finished are kept, so a run that was stopped continues. Raises
    InputError if there are no texts, OutputError if the folder holds something else or cannot be written, and whatever
    `TargetModel.read` raises.
    """
    folder = Path(folder)
    ids = list(range(len(texts))) if question_ids is None else question_ids
    if not texts:
        raise InputError("there are no texts to save hidden states of", code="states-no-text")
    index = StatesIndex(
        target_name=target.name,
        config_sha256=target.config_sha256,
        hidden_size=target.hidden_size,
        vocab_size=target.vocab_size,
        num_hidden_layers=target.num_hidden_layers,
        taps=taps,
        dtype=_DTYPE_NAMES[target.dtype],
        temperature=temperature,
        texts=tuple(
            TextEntry(i, len(t.token_ids), t.prompt_length, t.response_length, ids_digest(t.token_ids))
            for i, t in zip(ids, texts, strict=True)
        ),
        producer=("eagle3hub", __version__),
    )
    begin_folder(folder, index)
    if not (folder / EMBEDDINGS).exists():
        save_tensors(folder / EMBEDDINGS, {EMBEDDING: target.embeddings[: target.vocab_size]})
    if target.lm_head.data_ptr() != target.embeddings.data_ptr() and not (folder / LM_HEAD).exists():
        save_tensors(folder / LM_HEAD, {_LM: target.lm_head[: target.vocab_size]})
    todo = [i for i in range(len(texts)) if not states_file(folder, i).exists()]
    done = len(texts) - len(todo)
    for batch in target.read([texts[i] for i in todo], taps, temperature=temperature):
        for row, (place, text) in enumerate(zip(batch.index, batch.texts, strict=True)):
            n = len(text.token_ids)
            tensors = {"token_ids": torch.tensor(text.token_ids), "aux_hidden_states": batch.aux[row, :n]}
            if batch.logprobs is not None:
                tensors["logprobs"] = batch.logprobs[row, :n]
            save_tensors(states_file(folder, todo[place]), tensors)
            done += 1
        progress("saving hidden states", done / len(texts))


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a file, all or nothing. Raises OutputError."""
    temporary = path.with_name(f".{path.name}")
    with writing(path):
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary)
        except SafetensorError as e:
            raise OutputError(f"cannot write {path}: {e}", code="output-unwritable") from e
        temporary.replace(path)


def mapped(ref: TensorRef) -> torch.Tensor:
    """A tensor whose bytes the system reads when they are used. Raises CheckpointError if the file is too short."""
    dtype = _DTYPES[ref.dtype]
    if ref.remote is not None:
        return _shaped(torch.frombuffer(bytearray(read_tensor(ref)), dtype=dtype), ref)
    try:
        fd = open_regular(ref.path)
        try:
            space = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
        finally:
            os.close(fd)
    except (OSError, ValueError) as e:  # an empty file cannot be mapped
        raise CheckpointError(f"cannot read {ref.path}: {e}", code="checkpoint-unreadable") from e
    if len(space) < ref.offset + ref.nbytes:
        raise CheckpointError(
            f"{ref.path} became shorter while it was read", hint="copy the file again", code="checkpoint-truncated"
        )
    count = ref.nbytes // dtype.itemsize
    return _shaped(torch.frombuffer(space, dtype=dtype, count=count, offset=ref.offset), ref)


def _shaped(flat: torch.Tensor, ref: TensorRef) -> torch.Tensor:
    return flat.as_strided(ref.shape, ref.stride) if isinstance(ref, StridedRef) else flat.view(ref.shape)


# Read states that somebody saved.


_BATCH_BYTES = 64 << 20
"""Most bytes of one batch's states in float32, so that memory does not grow with the target."""
_BATCH_TOKENS = 4096
_SLICE_BYTES = 64 << 20
_CHECKED = 2 * 10**11
"""Most multiplications for finding out whether the texts are the target's own."""
_SHARE, _WORST, _FEW = 0.97, 0.75, 8
_TOLERANCE = {"F32": 1e-3, "BF16": 2.0**-6, "F16": 2.0**-8}
"""How far below the largest logit, as a share of it, a token may be and still be the arg max of another kernel."""
_DEVIATIONS = 6.0
_UNIT = 0.05
"""How far from 1 the mean square of a normed state may lie; that of a state before the norm lies far from it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which texts a run wants of a dump.

    Attributes:
        prompts: the questions, in order. own: whether they are the dump's own texts.
        max_new_tokens: most tokens of a response. lookahead: tokens it needs after one.
        temperature: at which the target wrote them.
        responses: what was given as the target's answers. stated: whether the user says that the texts are its own.
        template: arguments of the chat template.
    """

    prompts: Sequence[Prompt]
    own: bool
    max_new_tokens: int
    lookahead: int
    temperature: float = 0.0
    responses: Sequence[Response] | None = None
    stated: bool = False
    template: Mapping[str, object] | None = None


class SavedStates:
    """Hidden states in files: an `AuxSource` without a model.

    Attributes:
        dump: what the folder holds.
        texts: the texts of a folder of our own, in the order in which they were saved; else those last asked for.
        batch_tokens: most tokens of one batch, padding included.
        device: where batches and embeddings are put.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        target: str | None = None,
        device: torch.device | str = "cpu",
        layers: AuxTaps | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        """Open a folder and check every file's description.

        Args:
            target: folder or Hub id of the target: its config.json, and where the folder does not have them its
                embeddings, lm_head and final norm; nothing else of it is read. Only a folder of our own does without.
            device: where batches and embeddings are put.
            layers: what the states' columns are, where the files do not say.

        Raises what `open_dump` raises.
        """
        self.folder = Path(folder)
        self._facts: TargetFacts | None = None if target is None else read_target(target)
        self.dump: Dump = open_dump(self.folder, self._facts, layers)
        room = _BATCH_BYTES // (4 * len(self.dump.columns) * self.dump.hidden_size)
        self.batch_tokens = batch_tokens or max(1, min(_BATCH_TOKENS, room))
        self.device, self._target = torch.device(device), target
        self._last: Last | None = self.dump.last
        if self._last == "open":
            self._settle_last()
        self._place: dict[tuple[int, ...], int] = {}
        self.texts: tuple[Text, ...] = ()
        if self.dump.says_its_texts:
            self.texts = tuple(_entered(record) for record in self.dump.records)
            self._place = {text.token_ids: i for i, text in enumerate(self.texts)}

    # The target's own tensors.

    @cached_property
    def embeddings(self) -> torch.Tensor | StoredMatrix:
        """The target's token embeddings [vocabulary, hidden size], without any scaling, as stored.

        Raises SourceError if neither the folder nor the target has them, and InputError for a wrong size.
        """
        own = self.folder / EMBEDDINGS
        if own.is_file():
            return self._fitting(tensor_ref(own, EMBEDDING, None), str(own))
        if self._target is not None:
            return self._fitting(find_embeddings(self._target), self._target)
        raise SourceError(
            f"there is no {EMBEDDINGS} in {self.folder}",
            hint="name the target's folder with --target; only its embeddings are read",
            code="source-no-embeddings",
        )

    @cached_property
    def lm_head(self) -> torch.Tensor | StoredMatrix:
        """The target's lm_head [vocabulary, hidden size], as stored; its embeddings where it has none of its own.

        Raises InputError (``states-lm-head``) if neither the folder nor the target has it.
        """
        own = self.folder / LM_HEAD
        if own.is_file():
            return self._fitting(tensor_ref(own, _LM, None), str(own))
        if self._facts is not None and self._facts.ties_embeddings:
            return self.embeddings
        try:
            if self._target is not None:
                found = find_lm_head(self._target)
                return self.embeddings if found is None else self._fitting(found, self._target)
        except SourceError:  # a folder without weights
            pass
        raise InputError(
            f"the target's lm_head is needed, and neither {self.folder} nor the target's folder holds it",
            hint="name the target with its weights, --target; of them only its embeddings, lm_head and norm are read",
            code="states-lm-head",
        )

    @cached_property
    def _norm(self) -> torch.Tensor | None:
        """The weight of the target's final RMSNorm, float32, or None where it is not there to be read."""
        if self._facts is None or self._target is None or "rms_norm_eps" not in self._facts.fields:
            return None
        try:
            found = find_final_norm(self._target)
        except (SourceError, HubError):
            return None
        if found is None or found.dtype not in _DTYPES:
            return None
        weight = mapped(found).float()
        return 1 + weight if self._facts.model_type.startswith("gemma") else weight

    def _fitting(self, ref: TensorRef, where: str) -> torch.Tensor | StoredMatrix:
        wanted = (self.dump.vocab_size, self.dump.hidden_size)
        if ref.dtype not in _DTYPES or len(ref.shape) != 2 or ref.shape[0] < wanted[0] or ref.shape[1] != wanted[1]:
            raise InputError(
                f"{ref.name} in {where} is {ref.dtype} {list(ref.shape)}, but the states are of a target with "
                f"{list(wanted)}",
                hint="name the target the states were saved from",
                code="states-embeddings",
            )
        if self.device.type == "cpu" and StoredMatrix.may_hold(ref):
            return StoredMatrix(ref, _DTYPES[ref.dtype]).first(wanted[0])
        return mapped(ref)[: wanted[0]].to(self.device)

    # Which texts there are.

    def answers(self, asked: Asked) -> tuple[list[Text], list[str]]:
        """The texts for some prompts, and what a report must say about them.

        Raises InputError: ``states-question`` for prompts without a text, ``states-texts-unknown`` where nothing shows
        that the target wrote the texts, ``states-not-own-text`` where its last states show that it did not,
        ``states-boundary`` where nothing says where its answers begin, ``states-too-short`` for a text too short for
        the draft tokens, and what `texts_of` raises for responses.
        """
        notes = list(self.dump.assumed)
        if self.dump.says_its_texts:
            return self._saved(asked), notes
        if asked.responses is not None:
            texts, more = texts_of(asked.responses, self._tokenizing, asked.prompts, asked.template)
            for prompt, text in zip(asked.prompts, texts, strict=True):
                self._match(text, prompt)
            notes += more
        else:
            texts, cut = self._bounded(asked)
            if cut:
                notes.append(
                    f"of {cut} of {len(texts)} texts the last {asked.lookahead} tokens are not judged: the files end "
                    "with the answer, and its last drafts need tokens after it"
                )
        self.texts = tuple(texts)
        notes += self._own(texts, asked)
        return texts, notes

    def _saved(self, asked: Asked) -> list[Text]:
        written = self.dump.temperature or 0.0
        if written != asked.temperature:
            raise InputError(
                f"the texts in {self.folder} were written at temperature {written:g}, not {asked.temperature:g}",
                hint=f"--temperature {written:g}, or save the states of texts at {asked.temperature:g}",
                code="states-temperature",
            )
        known = {r.question_id: text for r, text in zip(self.dump.records, self.texts, strict=True)}
        missing = [p.question_id for p in asked.prompts if p.question_id not in known]
        if missing:
            raise InputError(
                f"{self.folder} holds no hidden states for question {missing[0]!r}",
                hint="give the prompts they were saved for with --prompts, or --prompts hidden-states for all of them",
                code="states-question",
            )
        return [known[p.question_id] for p in asked.prompts]

    @cached_property
    def _sorted(self) -> list[tuple[tuple[int, ...], int]]:
        return sorted((record.token_ids, i) for i, record in enumerate(self.dump.records))

    def _beginning(self, ids: tuple[int, ...]) -> list[int]:
        """Places of the records whose tokens begin with ``ids``."""
        at = bisect_left(self._sorted, (ids, -1))
        out = []
        while at < len(self._sorted) and self._sorted[at][0][: len(ids)] == ids:
            out.append(self._sorted[at][1])
            at += 1
        return out

    def _match(self, text: Text, prompt: Prompt) -> None:
        """Remember which file has a given response's states."""
        for place in self._beginning(text.token_ids[: text.last_start]):
            tokens = self.dump.records[place].token_ids
            shared = min(len(tokens), len(text.token_ids))
            if tokens[:shared] == text.token_ids[:shared]:
                self._place[text.token_ids] = place
                return
        raise InputError(
            f"{self.folder} holds no hidden states of the response to question {prompt.question_id!r}",
            hint="give the responses that the states were computed over",
            code="states-question",
        )

    def _bounded(self, asked: Asked) -> tuple[list[Text], int]:
        """A text for each prompt, cut where the answer or its lookahead ends; and how many lack a lookahead."""
        eos = self._eos_ids
        texts, cut = [], 0
        for prompt, place in zip(asked.prompts, self._chosen(asked), strict=True):
            record = self.dump.records[place[0]]
            begin, ids = place[1], record.token_ids
            end = len(ids) if record.mask is None else max(i for i, on in enumerate(record.mask) if on) + 1
            stop = next((i + 1 for i in range(begin, end) if ids[i] in eos), end)
            length = min(asked.max_new_tokens, stop - begin - asked.lookahead)
            if length < 1:
                raise InputError(
                    f"the answer of text {prompt.question_id!r} in {self.folder} has {max(0, stop - begin)} tokens, "
                    f"too few for K = {asked.lookahead + 1}",
                    hint="use a smaller K, or leave the text out",
                    code="states-too-short",
                )
            cut += length < asked.max_new_tokens
            text = Text(ids[: begin + length + asked.lookahead], begin, length)
            self._place[text.token_ids] = place[0]
            texts.append(text)
        return texts, cut if asked.lookahead else 0

    def _chosen(self, asked: Asked) -> list[tuple[int, int]]:
        """For each prompt the place of its record, and where the answer begins in it."""
        if asked.own:
            return [(i, self._boundary(self.dump.records[i])) for i in range(len(asked.prompts))]
        out = []
        for prompt in asked.prompts:
            ids = tuple(self._tokenizing.chat(prompt.text, template_options=asked.template))
            found = self._beginning(ids)
            if not found:
                raise InputError(
                    f"no text in {self.folder} begins with question {prompt.question_id!r}, as the target's chat "
                    "template writes it",
                    hint="give the prompts that were answered with --prompts, or --prompts hidden-states for the "
                    "texts as they are",
                    code="states-question",
                )
            out.append((found[0], len(ids)))
        return out

    def _boundary(self, record: Record) -> int:
        """Return where the last answer of a text begins, by the mask of the tokens that are trained on."""
        mask = record.mask
        if mask is None or all(mask) or not any(mask):
            raise InputError(
                f"nothing says where the answer of text {record.question_id!r} in {self.folder} begins: "
                + ("its loss_mask is the same everywhere" if mask is not None else "there is no loss_mask"),
                hint="give the prompts with --prompts, or the answers with --responses",
                code="states-boundary",
            )
        last = max(i for i, on in enumerate(mask) if on)
        begin = next((i for i in range(last, -1, -1) if not mask[i]), -1) + 1
        if begin == 0:
            raise InputError(
                f"the answer of text {record.question_id!r} in {self.folder} begins with its first token: there is no "
                "prompt",
                hint="give the prompts with --prompts, or the answers with --responses",
                code="states-boundary",
            )
        return begin

    @cached_property
    def _tokenizing(self) -> _Tokenizing:
        assert self._target is not None  # `open_dump` asks for it
        return _Tokenizing(self._target, self.dump.vocab_size)

    @cached_property
    def _eos_ids(self) -> frozenset[int]:
        assert self._facts is not None and self._target is not None
        ids = as_ids(self._facts.token_ids.get("eos_token_id"))
        at = target_address(self._target)
        path = None if isinstance(at, HubAddress) else at.path / "generation_config.json"
        raw = None if path is None else read_small(path)
        if path is not None and raw is not None:
            stated = parse_json_object(raw, path).get("eos_token_id")
            ids |= as_ids(stated) if isinstance(stated, int | list) else frozenset()
        return ids

    # Whether the target wrote them, and how likely it found their tokens.

    def _own(self, texts: Sequence[Text], asked: Asked) -> list[str]:
        """Return notes on whether the target wrote the texts. Raises InputError if nothing shows it, or it did not."""
        unasked = asked.stated and self._on_hub  # weights are not fetched for what was said already
        found = None if unasked else self._judged(texts, asked.temperature)
        if found is not None:
            return [found]
        if asked.responses is not None:
            return ["that the texts are the target's own is stated by the file of responses"]
        if asked.stated:
            return ["that the texts are the target's own is stated by --own-texts; nothing shows it"]
        raise InputError(
            f"nothing shows that the target wrote the texts in {self.folder}, and only on its own text acceptance "
            "means anything",
            hint="name the target with its lm_head and final norm, so that they are checked against its last states; "
            "or give its answers with --responses; or say that they are its own with --own-texts",
            code="states-texts-unknown",
        )

    def _judged(self, texts: Sequence[Text], temperature: float) -> str | None:
        """Check the texts against the target's last states; None if these or its lm_head are missing."""
        kind = self._last_kind
        if kind is None:
            return None
        try:
            weights = self.lm_head
        except InputError:  # a target without weights
            return None
        budget = max(256, _CHECKED // (weights.shape[0] * weights.shape[1]))
        each = max(_FEW, budget // len(texts))
        scores = [self._scores(text, _spread(text, each), kind, temperature or 1.0) for text in texts]
        count = sum(len(s.own) for s in scores)
        share = sum(int(s.own.sum()) for s in scores) / max(1, count)
        if temperature == 0:
            worst = min(range(len(scores)), key=lambda i: scores[i].share)
            if share < _SHARE or (len(scores[worst].own) >= _FEW and scores[worst].share < _WORST):
                raise self._foreign(
                    worst,
                    f"of its tokens {scores[worst].share:.0%} are the target's likeliest by these states, not all",
                )
            return (
                f"{round(share * count)} of {count} tokens that were looked at are the target's likeliest by its "
                "saved last states, so the texts are its own"
            )
        far = [s.deviations for s in scores]
        worst = max(range(len(far)), key=lambda i: abs(far[i]))
        if abs(far[worst]) > _DEVIATIONS:
            raise self._foreign(
                worst,
                f"its tokens lie {far[worst]:+.0f} standard deviations from what sampling at {temperature:g} gives",
            )
        return f"the texts are as likely by the target's saved last states as sampling at {temperature:g} makes them"

    @property
    def _on_hub(self) -> bool:
        return self._target is not None and isinstance(target_address(self._target), HubAddress)

    def _foreign(self, number: int, why: str) -> InputError:
        record = self.dump.records[self._place[self.texts[number].token_ids]]
        return InputError(
            f"text {record.question_id!r} in {self.folder} is not the target's own: {why}",
            hint="only text that the target wrote can be replayed; look also whether --target and --temperature are "
            "those of the states",
            code="states-not-own-text",
        )

    def _settle_last(self) -> None:
        """Find out whether an ``open`` last state comes after the final norm.

        If so, its mean square is 1 once it is divided by the norm's weight.

        Raises InputError (``states-layers-unknown``) for the vLLM script of ModelOpt, which counts layers as vLLM does
        and has no default.
        """
        if self._norm is None:
            return
        opened = self.dump.open(self.dump.records[0])
        assert opened.last is not None  # of its format
        plain = mapped(opened.last).reshape(-1, self.dump.hidden_size).float() / self._norm
        square = plain[:, self._norm != 0].pow(2).mean(-1).nanmedian()
        self._last = "post_norm" if abs(float(square) - 1) < _UNIT else "pre_norm"
        if self._last == "pre_norm" and self.dump.columns.origin == "default":
            raise InputError(
                f"the last states in {self.folder} come before the target's final norm, so ModelOpt's script for vLLM "
                "wrote them, which has no default layers",
                hint="--states-layers with the numbers that were its --aux-layers, and --states-convention boundary: "
                "vLLM took them so",
                code="states-layers-unknown",
            )

    @property
    def _last_kind(self) -> Last | None:
        """Return what the files' last state of the target is; None if there is none that can be used."""
        if FINAL_NORM in self.dump.columns.taps or self._last == "post_norm":
            return "post_norm"
        before = self._last == "pre_norm" or self.dump.num_hidden_layers - 1 in self.dump.columns.taps
        return "pre_norm" if before and self._norm is not None else None

    def _last_states(self, opened: Opened, at: torch.Tensor | slice, kind: Last) -> torch.Tensor:
        """The target's last states after its norm, float32 [N, hidden size], at some positions."""
        size, taps = self.dump.hidden_size, self.dump.columns.taps
        if opened.last is not None:
            found = mapped(opened.last).reshape(-1, size)[at]
        else:
            place = taps.index(FINAL_NORM if FINAL_NORM in taps else self.dump.num_hidden_layers - 1)
            found = _columns(opened, size, [place], at)
        found = found.float()
        if kind == "pre_norm":
            assert self._norm is not None and self._facts is not None
            scale = (found.pow(2).mean(-1, keepdim=True) + float(self._facts.fields["rms_norm_eps"])).rsqrt()
            found = found * scale * self._norm
        return found

    def _scores(self, text: Text, at: Sequence[int], kind: Last, temperature: float) -> _Scores:
        """How the target saw the tokens at positions ``at`` (each 1 or more) of a text."""
        opened = self.dump.open(self.dump.records[self._place[text.token_ids]])
        index = torch.tensor([i for i in at if i - 1 < len(opened.token_ids)], dtype=torch.int64)
        hidden = self._last_states(opened, index - 1, kind)
        tokens = torch.tensor(text.token_ids)[index]
        return self._likelihoods(hidden, tokens, temperature)

    def _likelihoods(self, hidden: torch.Tensor, tokens: torch.Tensor, temperature: float) -> _Scores:
        """Compute logits a part of the vocabulary at a time, so that memory does not grow with it."""
        weights, fields = self.lm_head, {} if self._facts is None else self._facts.fields
        cap, scaled = fields.get("final_logit_softcapping"), fields.get("logit_scale", 1.0)
        divided = fields.get("logits_scaling", 1.0)
        top = torch.full((len(hidden),), -torch.inf)
        sums = torch.zeros(3, len(hidden), dtype=torch.float64)  # of e^(x - top), x e^(x - top), x² e^(x - top)
        chosen = torch.zeros(len(hidden))
        for begin, rows in weights.parts() if isinstance(weights, StoredMatrix) else _parts(weights):
            logits = hidden @ rows.cpu().float().T * scaled / divided
            if cap:
                logits = torch.tanh(logits / cap) * cap
            logits = logits / temperature
            here = (tokens >= begin) & (tokens < begin + logits.shape[1])
            chosen[here] = logits[here, tokens[here] - begin]
            new = torch.maximum(top, logits.max(1).values)
            sums = sums * (top - new).exp().double()
            power = (logits - new[:, None]).exp().double()
            sums += torch.stack([power.sum(1), (power * logits).sum(1), (power * logits * logits).sum(1)])
            top = new
        mean, square = sums[1] / sums[0], sums[2] / sums[0]
        total = top.double() + sums[0].log()
        near = chosen >= top - _TOLERANCE[self.dump.dtype] * top.abs()
        variance = (square - mean * mean).clamp(min=0)
        return _Scores((chosen.double() - total).float(), near, mean - total, variance)

    # Reading.

    def fit(self, head: Head) -> None:
        """Raise InputError if the head was made for a target of other sizes, or reads other layers."""
        check_fit(
            head,
            f"the target of {self.folder}",
            hidden_size=self.dump.hidden_size,
            vocab_size=self.dump.vocab_size,
            num_hidden_layers=self.dump.num_hidden_layers,
        )
        if head.aux is not None:
            self._places(head.aux)

    def read(
        self, texts: Sequence[Text], taps: AuxTaps, *, temperature: float | None = None, lookahead: bool = True
    ) -> Iterator[Batch]:
        """Yield saved states of some of `texts`, the longest first; ``taps`` may be fewer than were saved.

        A file's states are read when their batch is. Raises InputError for a text or a tap that was not saved,
        log-probabilities that cannot be had at ``temperature``, and states that are not finite; CheckpointError for a
        file that cannot be read.
        """
        columns, width = self._places(taps), self.dump.hidden_size
        if temperature is not None and temperature != self.dump.temperature:
            self._can_score(temperature)
        places = [self._find(i, text) for i, text in enumerate(texts)]
        known = [len(t.token_ids) if lookahead else t.last_start for t in texts]
        for index in batches(known, self.batch_tokens):
            rows = tuple(texts[i] for i in index)
            longest = known[index[0]]
            aux = torch.zeros(len(rows), longest, len(taps) * width, dtype=_DTYPES[self.dump.dtype])
            logprobs = None
            if temperature is not None:
                logprobs = torch.zeros(len(rows), max(len(t.token_ids) for t in rows))
            for row, i in enumerate(index):
                opened = self.dump.open(self.dump.records[places[i]])
                n = min(known[i], len(opened.token_ids))
                if columns is None:
                    aux[row, :n] = self._last_states(opened, slice(n), self._last_kind or "post_norm")
                else:
                    aux[row, :n] = _columns(opened, width, columns, slice(n))
                if logprobs is not None and temperature is not None:
                    self._fill(logprobs[row], opened, texts[i], temperature)
            check_finite(aux, taps, [self.dump.records[places[i]].question_id for i in index], rows)
            yield Batch(
                tuple(index),
                rows,
                aux.to(self.device),
                None if logprobs is None else logprobs.to(self.device),
            )

    def _fill(self, row: torch.Tensor, opened: Opened, text: Text, temperature: float) -> None:
        if opened.logprobs is not None and temperature == self.dump.temperature:
            row[: len(opened.token_ids)] = mapped(opened.logprobs)
            return
        kind = self._last_kind
        assert kind is not None  # `_can_score`
        at = list(range(text.prompt_length, min(len(text.token_ids), len(opened.token_ids) + 1)))
        row[at] = self._scores(text, at, kind, temperature).logprob

    def _can_score(self, temperature: float) -> None:
        """Raise InputError where log-probabilities at a temperature cannot be computed."""
        if self._last_kind is not None:
            _ = self.lm_head
            return
        own = self.dump.temperature
        has = "no log-probabilities" if own is None else f"those at temperature {own}"
        raise InputError(
            f"log-probabilities at temperature {temperature} are needed, but {self.folder} has {has}",
            hint=f"save the states again with --temperature {temperature}, or with the target's last state",
            code="states-temperature",
        )

    def _places(self, taps: AuxTaps) -> list[int] | None:
        """Return which block of the saved states each tap is; None for a last state that is computed from one."""
        held = self.dump.columns.taps
        if taps.taps == (FINAL_NORM,) and FINAL_NORM not in held and self._last_kind is not None:
            return None
        if any(tap not in held for tap in taps.taps):
            raise InputError(
                f"the head reads the target after {_all(taps)}, but {self.folder} holds its states after "
                f"{_all(self.dump.columns)}",
                hint="save the states this head reads",
                code="states-taps",
            )
        return [held.index(tap) for tap in taps.taps]

    def _find(self, number: int, text: Text) -> int:
        if text.token_ids not in self._place:
            raise InputError(
                f"text {number} ({len(text.token_ids)} tokens) is not among the {len(self.dump.records)} whose states "
                f"are in {self.folder}",
                hint="replay the texts the states were saved for",
                code="states-no-text",
            )
        return self._place[text.token_ids]


@dataclass(frozen=True, slots=True)
class _Scores:
    """How a target saw some tokens of a text.

    Attributes:
        logprob: natural log of each token's probability, float32 [N]. own: whether it is the likeliest, up to the
            rounding of other kernels, bool [N].
        expected, variance: mean and variance of the log-probability of a token sampled there, float64 [N].
    """

    logprob: torch.Tensor
    own: torch.Tensor
    expected: torch.Tensor
    variance: torch.Tensor

    @property
    def share(self) -> float:
        """The share of the tokens that are the likeliest; 1 if there are no tokens."""
        return float(self.own.double().mean()) if len(self.own) else 1.0

    @property
    def deviations(self) -> float:
        """How far the text's log-probability lies from what sampling gives, in standard deviations."""
        spread = float(self.variance.sum().sqrt())
        off = float((self.logprob.double() - self.expected).sum())
        return off / max(spread, 1e-6 * max(1, len(self.own)))


class _Tokenizing:
    """A target's tokenizer, loaded when it is needed."""

    def __init__(self, target: str, vocab_size: int) -> None:
        self._target, self._vocab_size = target, vocab_size

    @cached_property
    def _tokenizer(self) -> ChatTokenizer:
        at = target_address(self._target)
        if isinstance(at, HubAddress):
            return ChatTokenizer(load_tokenizer(at.repo_id, None, at.revision), at.repo_id)
        return ChatTokenizer(load_tokenizer(self._target, at.path.resolve(), None), at.path.name)

    def chat(
        self, text: str, *, before: Sequence[Message] = (), template_options: Mapping[str, object] | None = None
    ) -> list[int]:
        """Return the prompt ids of a user's turn."""
        return self._tokenizer.chat(text, before=before, template_options=template_options)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; no special tokens are added."""
        return self._tokenizer.encode(text)

    def check_ids(self, ids: Sequence[int], what: str) -> None:
        """Raise InputError if ids are not those of the vocabulary."""
        wrong = next((i for i in ids if not 0 <= i < self._vocab_size), None)
        if wrong is not None:
            raise InputError(
                f"{what} has token id {wrong}, outside the target's vocabulary of {self._vocab_size}",
                code="states-target",
            )


def _entered(record: Record) -> Text:
    assert record.entry is not None
    return Text(record.token_ids, record.entry.prompt_length, record.entry.response_length)


def _columns(opened: Opened, size: int, columns: Sequence[int], at: torch.Tensor | slice) -> torch.Tensor:
    """Blocks ``columns`` of the states at some positions, [N, columns * size], in the dtype of the file."""
    count = len(opened.token_ids)
    parts = [mapped(ref).reshape(count, -1, size) for ref in opened.states]  # a view, of views too
    if len(parts) == 1:
        chosen = parts[0][at][:, list(columns)]
        return chosen.flatten(1)
    blocks = [part[:, j] for part in parts for j in range(part.shape[1])]
    return torch.cat([blocks[j][at] for j in columns], dim=1)


def _spread(text: Text, most: int) -> list[int]:
    """At most so many positions of a response, evenly spread over it."""
    begin, count = text.prompt_length, text.response_length
    step = max(1, -(-count // most))
    return list(range(begin, begin + count, step))


def _parts(weights: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Rows of a matrix in parts of limited size, each with the number of its first row."""
    step = max(1, _SLICE_BYTES // (4 * weights.shape[1]))
    return ((begin, weights[begin : begin + step]) for begin in range(0, len(weights), step))


def _all(taps: AuxTaps) -> str:
    return ", ".join(tap_name(tap) for tap in taps.taps)
