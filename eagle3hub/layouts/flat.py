"""What the flat layouts share: one folder, config fields at the top level, one weights file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.checkpoint.writer import OutTensor
from eagle3hub.errors import ConfigError, Hint, Problem, Refusal
from eagle3hub.head import OPEN_FEEDBACK, Assumption, AuxTaps, Carried, Head
from eagle3hub.head.aux_defaults import AUX_COUNT, AUX_IDS, AUX_LAYERS
from eagle3hub.head.fields import MASK_TOKENS, Fields
from eagle3hub.head.quantization import QUANT_KEYS, json_object, module_of, renamed
from eagle3hub.head.rope import ROPE_THETA, plain_scaling, unscaled
from eagle3hub.head.vocab import mask_as, of_maps
from eagle3hub.layouts.aux_layers import Taps, read_flat_taps, taps_from, taps_or_fault
from eagle3hub.layouts.base import (
    AS_FOUND,
    FEATURES,
    UNKNOWN_TRAINER,
    Contract,
    LayoutFiles,
    Match,
    ReadOptions,
    WriteOptions,
    assumed_depth,
    refuse_inexpressible,
)
from eagle3hub.layouts.hf_config import MLA_TYPES, SLIDING, attention_fields, parse_llama, rope_fields
from eagle3hub.layouts.interpret import (
    TIED,
    Interpret,
    Interpretation,
    build_head,
    earlier_files,
    interpreted,
    plain_semantics,
    rewritten,
    taps_of,
    torch_dtype,
)
from eagle3hub.layouts.tensors import MASK_HIDDEN, name_on_disk, names_on_disk, output_biases
from eagle3hub.system.documents import document_bytes

# The tensors of a head as one layout stores them: names, vocabulary buffers, header metadata.


TensorsToWrite = tuple[list[OutTensor], dict[str, str] | None, dict[str, str | None]]


def tensors_to_write(head: Head, name: str, contract: Contract, before: Carried | None) -> TensorsToWrite:
    """Tensors, header metadata and origin of each tensor for layout ``name``.

    Weights are renamed, never changed. Buffers are computed from the map, and biases of o that only the head's trainer
    does without are zeros. ``before``: how the head was stored in this layout earlier; its buffers, dtypes, outdated
    names and metadata are used again. Without it the layout's own are.
    """
    names = names_on_disk(head.tensors, contract.tensor_prefix) | _names_before(before)
    tensors: list[OutTensor] = []
    origin: dict[str, str | None] = {}
    for canonical, ref in head.tensors.items():
        on_disk = names[canonical]
        shape = (1, 1, ref.num_elements) if canonical == MASK_HIDDEN and head.layout != name else ref.shape
        tensors.append(OutTensor(on_disk, ref.dtype, shape, ref))
        origin[on_disk] = canonical
    for canonical, beside in output_biases(head).items():
        on_disk, width = name_on_disk(canonical, contract.tensor_prefix), head.dims.hidden_size
        data = bytes(width * beside.nbytes // beside.num_elements)
        tensors.append(OutTensor(on_disk, beside.dtype, (width,), data))
        origin[on_disk] = None
    dtypes, metadata = _buffers_to_write(head, name, contract, before)
    for buffer, dtype in dtypes.items():
        on_disk = names.get(buffer, buffer)
        tensors.append(_buffer(head, buffer, dtype, on_disk))
        origin[on_disk] = None
    return tensors, None if metadata is None else dict(metadata), origin


def _buffers_to_write(
    head: Head, name: str, contract: Contract, before: Carried | None
) -> tuple[dict[str, str], Mapping[str, str] | None]:
    """Dtype of each buffer to write, and the header metadata."""
    full = head.vocab_map is None
    known = of_maps(head.buffers)
    metadata: Mapping[str, str] | None = head.metadata
    if before is not None:
        known, metadata = dict(before.buffers), before.metadata
        if known.get("d2t") or (full and not known) or _mask_is_enough(head, known):
            return known, metadata
    elif head.layout != name:
        known, metadata = {}, contract.metadata
    elif full:
        return dict(known) if contract.identity_map else {}, metadata
    if full and not contract.identity_map:
        return {}, metadata
    wanted = {"d2t": known.get("d2t", contract.vocab_dtype)}
    return {**wanted, "t2d": known.get("t2d", "BOOL")} if contract.has_t2d else wanted, metadata


def _names_before(before: Carried | None) -> dict[str, str]:
    return {} if before is None else {name: on_disk for name, on_disk in before.names.items() if on_disk}


def _mask_is_enough(head: Head, known: Mapping[str, str]) -> bool:
    return "t2d" in known and (head.vocab_map is None or head.vocab_map.is_sorted)


def _buffer(head: Head, buffer: str, dtype: str, name: str) -> OutTensor:
    v, vd, vocab = head.dims.vocab_size, head.dims.draft_vocab_size, head.vocab_map
    if buffer == "t2d":
        mask = b"\x01" * v if vocab is None else vocab.t2d_bytes()
        return OutTensor(name, dtype, (v,), mask_as(mask, dtype))
    identity = bytes(vd * (4 if dtype == "I32" else 8))
    return OutTensor(name, dtype, (vd,), identity if vocab is None else vocab.d2t_bytes(dtype))


def with_quantization(files: LayoutFiles, head: Head) -> LayoutFiles:
    """The files of a quantized head with the source's word on how it is quantized; other files as they are.

    Where tensors are renamed, so are the modules that it names. Raises Refusal where that is not certain to be right.
    """
    if head.semantics.quantization is None:
        return files
    modules = {}
    for on_disk, canonical in files.origin.items():
        if canonical is not None:
            part = canonical[len(module_of(canonical)) :]
            modules[head.tensors[canonical].name.removesuffix(part)] = on_disk.removesuffix(part)
    stated = {key: head.config[key] for key in QUANT_KEYS if head.config.get(key)}
    config = files.config | {key: _renamed(found, modules, key) for key, found in stated.items()}
    side_files = {}
    for name, raw in head.side_files.items():
        before = json_object(raw)
        after = _renamed(before, modules, name)
        side_files[name] = raw if after == before else document_bytes(after)
    return replace(files, config=config, side_files=files.side_files | side_files)


def _renamed(found: Any, modules: Mapping[str, str], place: str) -> Any:
    after = renamed(found, modules)
    if after is None:
        raise Refusal(
            f"tensors get other names, and {place} names modules in a way that cannot be rewritten with certainty",
            hint="write the names of modules out in it, without regular expressions",
            code="refused-quantization-names",
        )
    return after


# The codec of layouts whose config is one flat Llama config (all but speculators).


PARALLEL_CLASSES = frozenset({"PEagleDraftModel", "PeagleLlamaForCausalLM", "PeagleQwen3ForCausalLM"})
"""The draft classes of P-EAGLE that vLLM registers (``models/registry.py:658``), for nested configs only."""
POST_NORM_OF_TRTLLM = "return_hidden_post_norm"
"""The key of post-norm feedback inside ``eagle_config`` for released TensorRT-LLM."""
_POST_NORM = ("norm_output", POST_NORM_OF_TRTLLM)
"""The keys of post-norm feedback: for vLLM and SGLang, and inside ``eagle_config`` for released TensorRT-LLM."""
_OPTION = {"norm_before_residual": Hint("give --norm-before-residual", "--norm-before-residual")}
_WRITTEN_ANEW = ("hidden_act", "num_hidden_layers", "tie_word_embeddings", "attention_bias", AUX_IDS)


Obeyed = tuple[dict[str, Any], list[Assumption], list[Problem]]
"""A config without the keys its trainer ignores, and the assumptions and problems that these cause."""


class FlatReader:
    """How flat layouts are read; each one adds its detection.

    Attributes:
        hard_coded_act: the activation, where the trainer knows only one.
        certain_theta: the RoPE base of a config that states none, where the trainer leaves no doubt.
        theta_by_library: whether the trainer takes it from transformers otherwise, which has 10000.
        one_layer: whether the trainer makes one layer even if num_hidden_layers says otherwise.
        order_ignored: whether the trainer captures aux layers in ascending order even if the list has another.
        inert: config keys that the trainer ignores; a config it copied may hold them.
    """

    name: str
    contract: Contract
    hard_coded_act: str | None = None
    certain_theta: float | None = None
    theta_by_library: bool = False
    one_layer: bool = True
    order_ignored: bool = False
    inert: frozenset[str] = frozenset()

    def contract_for(self, parallel_drafting: bool) -> Contract:
        """The layout's contract for an EAGLE-3 or a P-EAGLE head."""
        return self.contract

    def interpret(self, config: Mapping[str, Any], *, names: Collection[str] = ()) -> Interpretation:
        """The meaning of a config. Raises ConfigError.

        ``names``: the tensors beside it, by canonical name: mask_hidden makes a head a P-EAGLE head, and q_norm one
        with query and key norms, whatever its class is called.
        """
        whole = Fields(config)
        parallel = "parallel_drafting" in self.contract_for(True).expresses and (
            MASK_HIDDEN in names or self.is_parallel(whole)
        )
        contract = self.contract_for(parallel)
        kept, assumptions, problems = self._without_ignored(whole, contract)
        c = Fields(kept)
        eagle = c.section("eagle_config")
        flags = {
            "norm_before_residual": c.flag("norm_before_residual", default=False),
            "norm_before_fc": eagle.flag("norm_before_fc", default=c.flag("norm_before_fc", default=False)),
            "fc_norm": c.flag("fc_norm", default=False) or c.flag("use_aux_norm", default=False),
        }
        for flag, value in flags.items():
            if value and flag not in contract.expresses:
                raise ConfigError(
                    f"config.json says {flag}: true, which a {contract.title} head cannot have",
                    hint=Hint(
                        f"if the head was trained without it, remove {flag} from config.json; if another tool wrote "
                        "this folder, name its layout with --from",
                        "--from",
                    ),
                    code="config-layout",
                )
        uses_aux = eagle.flag("use_aux_hidden_state", default=True)
        if not uses_aux and "no_aux" not in contract.expresses:
            raise ConfigError(
                "config.json says use_aux_hidden_state: false: the head reads the final hidden state only and has "
                f"no fc, which a {contract.title} head cannot do",
                hint=Hint("if ModelOpt wrote this folder, say --from modelopt", "--from"),
                code="config-no-aux",
            )
        llama = parse_llama(
            c,
            hidden_act=self.hard_coded_act,
            rope_theta=self.certain_theta,
            theta_by_library=self.theta_by_library,
            sliding=False,
        )
        taps = taps_or_fault(lambda: self.read_taps(c)) if uses_aux else Taps(AuxTaps.final_norm("config"))
        changes: dict[str, Any] = {"num_layers": 1} if self.one_layer and not parallel else {}
        if "qk_norm" in contract.expresses and any(name.endswith(".q_norm.weight") for name in names):
            changes["qk_norm"] = True
        if "post_norm_feedback" in contract.expresses and c.flag("norm_output", default=False):
            changes["feedback"] = "post_norm"
        return Interpretation(
            llama=llama,
            semantics=plain_semantics(llama, **flags, uses_aux=uses_aux, parallel_drafting=parallel, **changes),
            **taps_of(taps),
            ignores_order=self.order_ignored,
            draft_vocab_size=c.number("draft_vocab_size", default=None),
            mask_token_id=_mask_token(c),
            assumptions=[*assumptions, *taps.assumptions],
            problems=[
                *problems,
                *taps.problems,
                *_post_norm_claim(c, contract),
                *_base_inside(c, llama.rope.theta),
                *_oddities(c, llama.num_hidden_layers, "num_layers" in changes),
            ],
        )

    def ignored_by(self, contract: Contract) -> frozenset[str]:
        """The config keys that the trainer ignores for this kind of head: `inert`, and a scaling it does not know."""
        return self.inert | ({"rope_scaling"} - contract.expresses)

    def is_parallel(self, config: Fields) -> bool:
        """Whether the config is that of a P-EAGLE head."""
        stated = config.get("architectures")
        named = isinstance(stated, list) and any(name in PARALLEL_CLASSES for name in stated if isinstance(name, str))
        return named or config.flag("parallel_drafting", default=False)

    def read_taps(self, config: Fields) -> Taps:
        """Aux layers the config names."""
        return read_flat_taps(config, order_ignored=self.order_ignored)

    def read(self, checkpoint: Checkpoint, options: ReadOptions = AS_FOUND) -> Head:
        """The head in the folder."""
        meaning = interpreted(lambda c: self.interpret(c, names=checkpoint.tensors), checkpoint.config, options)
        contract = self.contract_for(meaning.semantics.parallel_drafting)
        head = build_head(self.name, contract, checkpoint, meaning, options)
        if head.semantics.quantization is None and checkpoint.config.get("quantization_config"):
            message = (
                "config.json has a quantization_config, but no tensor is quantized: engines would look for scales "
                "that are not there"
            )
            hint = "eagle3hub convert leaves it out"
            head.problems.append(Problem("warning", "config-quantization-leftover", message, hint))
        return head

    def _without_ignored(self, config: Fields, contract: Contract) -> Obeyed:
        """The config without the keys that the trainer ignores, and the assumptions and problems they cause."""
        kept, assumptions, problems = dict(config.data), [], []
        limits = isinstance(kinds := kept.get("layer_types"), list) and "sliding_attention" in kinds
        for key in SLIDING:
            kept.pop(key, None)
        if limits:
            message = f"config.json limits the attention of the draft, but {contract.title} trains with full attention"
            problems.append(Problem("warning", "config-sliding-ignored", message, "convert leaves layer_types out"))
        unread: dict[str, list[str]] = {}
        inert = self.ignored_by(contract)
        for key in sorted(inert & set(kept)):
            value = kept.pop(key)
            if plain_scaling(value) if isinstance(value, dict) else value not in (None, False):
                unread[key] = [key]
        if "rope_scaling" in inert and isinstance(rope := kept.get("rope_parameters"), dict):
            kept["rope_parameters"] = unscaled(rope)
            if plain_scaling(rope):
                unread.setdefault("rope_scaling", []).append("rope_parameters")
        for name, keys in unread.items():
            value, what = (None, f"the scaling in {' and '.join(keys)}") if name == "rope_scaling" else (False, name)
            why = f"{contract.title} ignores {what} of config.json: the head was trained without it"
            settle = _OPTION.get(name, f"remove {what} from config.json")
            assumptions.append(Assumption(name, value, why, settle, doubtful=False))
        if "attention_bias" not in contract.expresses and kept.pop("attention_bias", None) is True:
            message = f"config.json says attention_bias: true, but {contract.title} makes no biases"
            problems.append(Problem("warning", "config-bias-ignored", message, "convert writes attention_bias: false"))
        return kept, assumptions, problems


class FlatLayout(FlatReader, ABC):
    """What the flat layouts that are written have in common; each one adds its own config fields."""

    def write(self, head: Head, options: WriteOptions) -> LayoutFiles:
        """The files of the head in this layout. Raises Refusal."""
        contract = self.contract_for(head.semantics.parallel_drafting)
        refuse_inexpressible(head, self.name, contract)
        notes: list[str] = []
        before = earlier_files(head, self.name, self._interpreter(head))
        if before is not None:
            config = dict(before.config)
            notes.append(f"config.json is that of the {contract.title} folder this head came from, as it was")
            notes += [p.message for p in self._interpreter(head)(config).problems]
        elif head.layout == self.name:
            config = self._completed_config(head)
        else:
            config = self.new_config(head)
        tensors, metadata, origin = tensors_to_write(head, self.name, contract, before)
        assumptions = [] if contract.aux_ids is not None else assumed_depth(head, contract.title)
        return with_quantization(LayoutFiles(config, tensors, metadata, origin, assumptions, notes), head)

    def noting_base(self, files: LayoutFiles, head: Head) -> LayoutFiles:
        """The files with a note that this layout's trainer ignores the RoPE base, unless the base is doubtful."""
        if head.layout == self.name or any(a.field == "rope_theta" for a in head.assumptions):
            return files
        note = (
            f"{self.contract.title}'s trainer always has a RoPE base of 10000, not the one of this head's training, "
            f"which is {head.semantics.rope.theta:.15g}: engines obey config.json, but training on would not"
        )
        return replace(files, notes=[*files.notes, note])

    @abstractmethod
    def new_config(self, head: Head) -> dict[str, Any]:
        """config.json from the head alone."""

    def _interpreter(self, head: Head) -> Interpret:
        """How a config of this head is read."""
        return partial(self.interpret, names=head.tensors)

    def _completed_config(self, head: Head) -> dict[str, Any]:
        """The config of a head that is in this layout already: its own, completed, without what misleads engines."""
        fresh = self.new_config(head)
        config = {k: v for k, v in rewritten(head, fresh, self._interpreter(head)).items() if v is not None}
        for key in _WRITTEN_ANEW:
            if key in fresh and key in config:
                config[key] = fresh[key]
        if fresh.get("model_type") in MLA_TYPES:  # what engines know an MLA head by
            config["architectures"] = fresh["architectures"]
            if config.get("model_type") not in MLA_TYPES:
                config["model_type"] = fresh["model_type"]
        nested = config.get("eagle_config")
        if isinstance(nested, dict):
            ids = {k: v for k, v in fresh.get("eagle_config", {}).items() if k == AUX_IDS}
            kept = {k: v for k, v in nested.items() if v not in (None, []) and not _claims(k, v)}
            config["eagle_config"] = kept | ids
        limits = isinstance(kinds := config.get("layer_types"), list) and "sliding_attention" in kinds
        rope = config.get("rope_parameters")
        inert = self.ignored_by(self.contract_for(head.semantics.parallel_drafting))
        if "rope_scaling" in inert and isinstance(rope, dict) and plain_scaling(rope):
            config |= {"rope_parameters": rope_fields(head.semantics.rope)["rope_parameters"]}
        unwanted = {*inert, *(SLIDING if limits else ())}
        unwanted |= {key for key in MASK_TOKENS if config.get(key) != head.mask_token_id}
        if head.semantics.quantization is None:
            unwanted.add("quantization_config")
        if head.dims.mla is None:
            unwanted.add("kv_lora_rank")  # TensorRT-LLM builds MLA for it
        kept = {k: v for k, v in config.items() if k in fresh or not (k in unwanted or _claims(k, v))}
        return kept if "lm_head.weight" in head.tensors else kept | {"draft_vocab_size": None}


# The codec of flat folders that bear no trainer's marks: read as engines read them, and written in another layout.
#
# A flat Llama config and ``midlayer.*`` or ``layers.{i}.*`` names are common to many trainers, and so are conversions
# by hand: the P-EAGLE heads of the method's authors, heads with a draft class that only vLLM registers, maps without
# t2d. What another layout knows of its trainer (which layers it taps where a config names none, how it numbers them)
# is not known here, so it is an assumption.


class UnknownTrainer(FlatReader):
    """Reader of flat folders of an unknown trainer."""

    name = UNKNOWN_TRAINER
    one_layer = False
    contract = Contract(
        title="flat, trainer unknown",
        tensor_prefix="layers.0.",
        forms=frozenset({"layers", "midlayer", "midlayers"}),
        expresses=frozenset(feature.name for feature in FEATURES),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=False,
        metadata=None,
        aux_ids="eagle_config (after-layer) and top level (boundary)",
        full_title="flat (trainer unknown)",
        trainer_sorts=False,
        reads=("flat folders without a trainer's marks", "P-EAGLE of the method's authors"),
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Names and a flat config that every engine knows; any sign of a trainer weighs more."""
        tensors, config = checkpoint.tensors, checkpoint.config
        style = next((s for s in ("midlayer.", "layers.0.") if any(n.startswith(s) for n in tensors)), None)
        if style is None or "speculators_model_type" in config or "hidden_size" not in config:
            return None
        if not any(n == "fc.weight" or n.endswith("hidden_norm.weight") for n in tensors):
            return None
        return Match(0.0, (f"{style}* names", "no trainer's marks"))

    def read_taps(self, config: Fields) -> Taps:
        """Aux layers the config names, under DeepSpec's key too."""
        taps, others = super().read_taps(config), config.layer_ids(AUX_LAYERS)
        return taps if taps.aux or others is None else taps_from(others, "after", "config", where=config.where)

    def interpret(self, config: Mapping[str, object], *, names: Collection[str] = ()) -> Interpretation:
        """As every flat config; what depends on the trainer is an assumption."""
        meaning = super().interpret(config, names=names)
        c = Fields(config)
        if meaning.aux is None or not meaning.aux.numbered or c.layer_ids(AUX_IDS) is not None:
            return meaning
        place = "eagle_config" if c.section("eagle_config").layer_ids(AUX_IDS) else AUX_LAYERS
        why = (
            f"the ids stand in {place}, and no mark says which trainer wrote them: they are taken for after-layer ids,"
            " as trainers and engines number them there"
        )
        listed = ",".join(map(str, meaning.aux.after_layer))
        settle = Hint(f"give --aux-layers {listed} if these are the layers, or others", "--aux-layers")
        doubt = Assumption(AUX_IDS, meaning.aux.after_layer, why, settle)
        return replace(meaning, assumptions=[*meaning.assumptions, doubt])


def common_config(head: Head, architecture: str) -> dict[str, object]:
    """The fields that all flat configs share; every engine can read them.

    Layer ids are written twice on purpose: boundary ids at top level, which vLLM looks at first, and after-layer
    ids inside ``eagle_config``, the only place SGLang and the trainers look (vLLM
    ``v1/worker/gpu_model_runner.py``; SGLang ``spec_aux_hidden_state.py``). RoPE is written in both
    forms; an engine would read a null as a value, so absent fields are left out.
    """
    d, s = head.dims, head.semantics
    numbered = head.aux is not None and head.aux.numbered
    flags = {"norm_before_fc": s.norm_before_fc, "fc_norm": s.fc_norm, "norm_output": s.feedback == "post_norm"}
    return {
        "architectures": [architecture],
        **attention_fields(s, d),
        "draft_vocab_size": d.draft_vocab_size if "lm_head.weight" in head.tensors else None,  # null: the target's
        **({"target_hidden_size": d.target_hidden_size} if d.target_hidden_size != d.hidden_size else {}),
        **({"max_position_embeddings": head.max_position_embeddings} if head.max_position_embeddings else {}),
        **head.token_ids,
        **rope_fields(s.rope),
        "torch_dtype": torch_dtype(head),
        "tie_word_embeddings": False,
        "norm_before_residual": s.norm_before_residual,
        **{flag: True for flag, value in flags.items() if value},
        **({"mask_token_id": head.mask_token_id} if s.parallel_drafting and head.mask_token_id is not None else {}),
        **({AUX_IDS: head.aux.boundary} if head.aux is not None and numbered else {}),
        **({AUX_COUNT: len(head.aux)} if head.aux is not None and numbered and len(head.aux) != 3 else {}),
    }


def _claims(key: str, value: Any) -> bool:
    return key in _POST_NORM and value is True


def _post_norm_claim(config: Fields, contract: Contract) -> list[Problem]:
    """The error that a config asks for post-norm feedback, if the layout's trainer has none or the config is open."""
    nested = config.section("eagle_config")
    places = zip(_POST_NORM, (config, nested), strict=True)
    claimed = [f"{key}: true" for key, place in places if place.flag(key, default=False)]
    stated = "post_norm_feedback" in contract.expresses and config.flag("norm_output", default=False)
    if not claimed or stated:
        return []
    message = (
        f"config.json says {' and '.join(claimed)}, which {contract.title} does not train with: engines would "
        "still feed back the hidden state after the final norm"
    )
    hint = Hint(
        "say how the head was trained: --norm-output pre, and convert leaves the flag out, or --norm-output post, "
        "which --to speculators can hold",
        "--norm-output",
    )
    return [Problem("error", OPEN_FEEDBACK, message, hint)]


def _base_inside(config: Fields, theta: float) -> list[Problem]:
    """A note that only readers of transformers 5's generation find the RoPE base, where it is another than 10000."""
    if config.get("rope_theta") is not None or theta == ROPE_THETA:
        return []
    places = [key for key in ("rope_scaling", "rope_parameters") if (config.mapping(key) or {}).get("rope_theta")]
    if not places:
        return []
    message = (
        f"the RoPE base {theta:.15g} stands inside {places[0]} only: engines that read the top level, as released "
        "TensorRT-LLM and sglang-jax do, rotate with 10000"
    )
    return [Problem("info", "config-rope-inside", message, "eagle3hub convert writes it at top level, too")]


def _oddities(config: Fields, layers: int, made_one: bool) -> list[Problem]:
    problems: list[Problem] = []
    if config.flag("tie_word_embeddings", default=False):
        problems.append(
            Problem(
                "warning",
                TIED,
                "config.json says tie_word_embeddings: true although the head has its own lm_head: SGLang would take "
                "the embeddings for it",
                "eagle3hub convert writes false",
            )
        )
    if made_one and layers != 1:
        problems.append(
            Problem(
                "warning",
                "config-layers",
                f"config.json says num_hidden_layers: {layers}, but the trainer makes one decoder layer: vLLM would "
                "make them all",
                "eagle3hub convert writes 1",
            )
        )
    return problems


def _mask_token(config: Fields) -> int | None:
    """The token of positions not drafted yet: the first that is stated, as vLLM takes it."""
    values = (config.token_ids(name) for name in MASK_TOKENS)
    return next((value for value in values if isinstance(value, int)), None)
