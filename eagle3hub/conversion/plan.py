"""Plan a conversion: the request, the head in its new layout, and every file to write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from eagle3hub.address import HubAddress, is_hub_id, parse_address
from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.checkpoint.source import CONFIG, INDEX, WEIGHTS, State, file_states
from eagle3hub.checkpoint.writer import OutTensor, Shard, described, encode_index, split
from eagle3hub.conversion.edits import Change, Transforms, apply_transforms, leave_out_targets, overrides
from eagle3hub.conversion.edits.settings import apply_settings
from eagle3hub.engines import engine_name
from eagle3hub.engines.preflight import (
    DTYPE_APART,
    TOLD_BY_RECIPES,
    PreflightVerdict,
    current_contracts,
    engines_apart,
    engines_serving,
    engines_unchecked,
    examine_written,
    pinned_contracts,
    preflight,
    preflight_all,
    told_layers,
)
from eagle3hub.engines.specs import engine_title
from eagle3hub.errors import Hint, InputError, Refusal, UsageError
from eagle3hub.head import Assumption, Head
from eagle3hub.head.target import TargetFacts, read_target
from eagle3hub.layouts import get_layout, open_head
from eagle3hub.layouts.aux_layers import AUX_SHIFTED
from eagle3hub.layouts.base import (
    AS_FOUND,
    LAYOUTS,
    Layout,
    LayoutFiles,
    ReadOptions,
    Tried,
    WriteOptions,
    alternatives,
    option_for,
    try_by,
)
from eagle3hub.system.documents import document_bytes
from eagle3hub.system.text import listed

UNCHANGED = Transforms()

# The options of a conversion, for the command line, a program and a manifest.


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert a head.

    Attributes:
        layout: the source's layout, to skip detection.
        target: target model (facts, a folder, or an address on the Hub) that settles what the source does not state.
        target_name: Hub id to record for a target given as a folder, or not given.
        speculative_tokens: number of draft tokens K to recommend; the speculators layout requires it.
        strict: refuse instead of assuming anything.
        read: what the user states about the source. transforms: what to change on the way.
        settings: fields of the written config, as (dotted key, value). max_shard_size: bytes per weights file.
        engines: names of the engines that a universal folder is made for; empty: all that can serve the target.
        force: replace a folder this tool wrote earlier. dry_run: plan and check only.
        verify: read the result back, compare it byte for byte, and return only when it is on the disk. Blocks that it
            shares with the source (on XFS and btrfs) are not compared. read_back: compare these too.
        digests: record the SHA-256 of every file of source and result, which takes about as long as verifying.

    Raises UsageError if ``target_name`` is not a Hub id.
    """

    layout: str | None = None
    target: TargetFacts | str | Path | None = None
    target_name: str | None = None
    speculative_tokens: int | None = None
    strict: bool = False
    read: ReadOptions = AS_FOUND
    transforms: Transforms = UNCHANGED
    settings: tuple[tuple[str, Any], ...] = ()
    max_shard_size: int | None = None
    engines: tuple[str, ...] = ()
    force: bool = False
    dry_run: bool = False
    verify: bool = True
    read_back: bool = False
    digests: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", tuple((key, value) for key, value in self.settings))
        object.__setattr__(self, "engines", tuple(dict.fromkeys(engine_name(name) for name in self.engines)))
        if self.target_name is not None and not is_hub_id(self.target_name):
            raise UsageError(f"--target-name {self.target_name!r} is not a Hub id", hint="write it as owner/name")

    def command(self, source: str | Path, to: str) -> list[str]:
        """Return the words of the command that makes the same files, as published; DEST stands for the destination."""
        read, transforms, include = self.read, self.transforms, self.transforms.include_embeddings
        options: list[tuple[str, Any]] = [
            ("--from", self.layout),
            ("--target", self._target_word()),
            ("--target-name", self.target_name if self.target is None else None),
            ("--speculative-tokens", self.speculative_tokens),
            ("--strict", self.strict),
            ("--aux-layers", ",".join(map(str, read.aux_layers or ()))),
            ("--aux-convention", read.aux_convention if read.aux_layers else None),
            ("--num-target-layers", read.num_target_layers),
            ("--norm-output", read.norm_output),
            ("--norm-before-residual", _word(read.norm_before_residual)),
            ("--mask-token-id", read.mask_token_id),
            ("--rope-theta", None if read.rope_theta is None else f"{read.rope_theta:.17g}"),
            *(("--drop", name) for name in read.drop),
            ("--allow-suspicious", read.allow_suspicious),
            *(("--repair", name) for name in transforms.repair),
            ("--d2t", None if transforms.d2t is None else public_name(transforms.d2t)),
            ("--resort-vocab", transforms.resort_vocab),
            ("--sort-aux", transforms.sort_aux),
            ("--drop-embeddings", transforms.drop_embeddings),
            ("--include-embeddings", None if include is None else public_name(include)),
            ("--dtype", transforms.dtype),
            *(("--set", f"{key}={json.dumps(value)}") for key, value in self.settings),
            ("--max-shard-size", self.max_shard_size),
            ("--engines", ",".join(self.engines)),
        ]
        words = ["eagle3hub", "convert", public_name(source), "DEST", "--to", to]
        for option, value in options:
            if value is True:
                words.append(option)
            elif value is not None and value is not False and value != "":
                words += [option, str(value)]
        return words

    def _target_word(self) -> str | None:
        if self.target is None:
            return None
        if isinstance(self.target, TargetFacts):
            return self.target.name
        return self.target_name or public_name(self.target)

    def public_target(self, head: Head) -> str | None:
        """Return the user's name for the target, unless that is a folder on this machine."""
        if self.target_name is not None or self.target is None:
            return self.target_name
        if isinstance(self.target, TargetFacts):
            is_local = self.target.is_local
        else:
            is_local = not isinstance(parse_address(self.target), HubAddress)
        return None if is_local else head.target_name


def public_name(place: str | Path) -> str:
    """Return the name of a place for published files: a Hub name unchanged, of a folder only the last part.

    The name is always valid text: bytes of the folder's name that are not UTF-8 are replaced.
    """
    at = parse_address(place)
    if isinstance(at, HubAddress) or not at.path.exists():
        return str(place)
    return os.fsencode(at.path.resolve().name).decode("utf-8", "replace")


def _word(flag: bool | None) -> str | None:
    return None if flag is None else str(flag).lower()


# The plan of a conversion: which bytes go where, before anything is written.


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """A conversion that can be carried out.

    Attributes:
        head: the head after every requested change; its tensors say where their bytes come from.
        to: the layout. written: config and tensors as that layout writes them.
        options: what was asked for. command: the command that makes the same files, with only the last part of each
            folder's path.
        speculative_tokens: K that is recommended, or None. source_name: what the provenance file calls the source.
        changes: the requested changes, in order. shards: the weights files.
        small_files: the bytes of the other files, by name; only the provenance file is missing.
        source: the source as it was opened. seen: every file of which bytes are taken, as it was when it was opened.
    """

    head: Head
    to: str
    written: LayoutFiles
    options: ConvertOptions
    command: list[str]
    speculative_tokens: int | None
    source_name: str
    source: Checkpoint
    seen: Mapping[Path, State]
    changes: list[Change]
    shards: list[Shard]
    small_files: Mapping[str, bytes]

    @property
    def tensors(self) -> list[OutTensor]:
        """The tensors in their order in the files."""
        return [t for shard in self.shards for t in shard.tensors]

    @property
    def described(self) -> list[dict[str, Any]]:
        """Those tensors as the provenance file lists them."""
        return described(self.tensors)

    @property
    def assumptions(self) -> list[Assumption]:
        """Facts that the result depends on but the source does not state."""
        return [*self.head.assumptions, *self.written.assumptions]

    @property
    def nbytes(self) -> int:
        """Size of the weights in bytes."""
        return sum(shard.nbytes for shard in self.shards)


DEFAULTS = ConvertOptions()


def plan_conversion(source: str | Path | Checkpoint, to: str, options: ConvertOptions = DEFAULTS) -> ConversionPlan:
    """Read the source and work out its files in layout ``to``, without writing anything.

    ``source`` is an address, or what `open_checkpoint` opened.

    Raises InputError if the source is unreadable or wrong, and Refusal if the layout cannot keep what the source has,
    or (``strict``) if something would have to be assumed.
    """
    read, transforms, target = options.read, options.transforms, options.target
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source, headers_only=True)
    named = checkpoint.source if isinstance(source, Checkpoint) else source
    facts = target if isinstance(target, TargetFacts | None) else read_target(target)
    head = open_head(checkpoint, layout=options.layout, target=facts, target_name=options.target_name, options=read)
    engines = _made_for(head, to, options.engines, facts)
    head.made_for = engines.serving
    folder = None if isinstance(target, TargetFacts | None) else str(target)
    head, changes = apply_transforms(head, transforms, folder)
    copied = head.copied_embeddings != "no"
    if (copied or not _keeps_embeddings(to, head)) and transforms.include_embeddings is None:
        head, left_out = leave_out_targets(head, folder, download=not options.dry_run) or (head, None)
        changes += [] if left_out is None else [left_out]
    head.raise_for_errors()
    return _for_engines(
        head, engines, lambda made, serving: _planned(named, checkpoint, made, to, options, changes, serving)
    )


def _planned(
    source: str | Path,
    checkpoint: Checkpoint,
    head: Head,
    to: str,
    options: ConvertOptions,
    changes: list[Change],
    engines: _Engines,
) -> ConversionPlan:
    """Plan the conversion of a head that is as it shall be written, for the engines that it is made for."""
    codec, transforms, read = get_layout(to), options.transforms, options.read
    try:
        written = codec.write(head, WriteOptions(options.speculative_tokens, options.public_target(head)))
    except Refusal as e:
        if e.code != "refused-embed-tokens" or transforms.include_embeddings is None:
            raise
        raise Refusal(
            f"--include-embeddings: with them {e.message}",
            hint=partial(alternatives, head, to, "embed_tokens", remedy="leave the option out"),
            code=e.code,
        ) from e
    written.notes.extend(engines.notes)
    head, written, done = apply_settings(head, written, to, options.settings)
    shards = split(written.tensors, written.metadata, options.max_shard_size)
    index = {INDEX: encode_index(shards)} if len(shards) > 1 else {}
    given = {ref.path for ref in head.tensors.values()} - checkpoint.seen.keys()
    plan = ConversionPlan(
        head=head,
        to=to,
        written=written,
        options=options,
        command=options.command(source, to),
        speculative_tokens=options.speculative_tokens or head.speculative_tokens,
        source_name=public_name(head.source),
        source=checkpoint,
        seen={**checkpoint.seen, **file_states(given)},
        changes=[*overrides(read), *changes, *done],
        shards=shards,
        small_files={CONFIG: document_bytes(written.config), **index, **written.side_files},
    )
    _refuse_shards(plan)
    if head.made_for:
        _hold_to_engines(head, to, written, [shard.name for shard in shards])
    written.notes.extend(_said_by_engines(head, to, written, [shard.name for shard in shards]))
    if options.strict:
        _refuse_assumptions(plan)
    return plan


def _keeps_embeddings(to: str, head: Head) -> bool:
    """Whether the layout has a place for embeddings of the head's own, in a folder for the engines it is made for."""
    return "embed_tokens" in get_layout(to).contract.for_engines(head.made_for).expresses


def made_for(layout: str, engines: Sequence[str]) -> tuple[str, ...]:
    """Return the engines for the option ``engines`` of a conversion; none where a layout is not made for engines."""
    return tuple(engines) if get_layout(layout).contract.held_for else ()


@dataclass(frozen=True, slots=True)
class _Engines:
    """Engines that a folder has to serve, and why others do not count.

    Attributes:
        serving: the engines. unserved: engines that cannot draft for the target, with the reason.
        unchecked: those of ``serving`` that may not draft for the target, which was not checked, with that sentence.
    """

    serving: tuple[str, ...] = ()
    unserved: Mapping[str, str] = field(default_factory=dict)
    unchecked: Mapping[str, str] = field(default_factory=dict)

    @property
    def without_unchecked(self) -> _Engines:
        """The same without the engines that may not serve the target."""
        serving = tuple(engine for engine in self.serving if engine not in self.unchecked)
        return _Engines(serving, {**self.unserved, **self.unchecked})

    @property
    def notes(self) -> list[str]:
        """A note for each engine that does not count."""
        return [f"not made for {engine_title(engine)}, which {reason}" for engine, reason in self.unserved.items()]


def _made_for(head: Head, to: str, asked: tuple[str, ...], target: TargetFacts | None) -> _Engines:
    """The engines a folder has to serve, which are those that are asked for, or all that can serve the target.

    Of engines that no one folder can serve, because some stop without a d2t for a full vocabulary and others with one,
    those that stop without are left out, unless engines are asked for.

    Raises UsageError for engines asked for another layout, and Refusal for one that cannot serve this target.
    """
    contract = get_layout(to).contract
    if not contract.held_for:
        if asked:
            raise UsageError(
                f"--engines is for layouts that are made for engines, and {to} is one trainer's layout",
                hint="leave it out, or choose --to universal",
                code="usage-engines",
            )
        return _Engines()
    why = engines_serving(asked or contract.engines, target)
    if not asked and head.dims.draft_vocab_size == head.dims.vocab_size:
        apart = engines_apart(tuple(engine for engine, reason in why.items() if reason is None))
        why = {engine: reason or apart.get(engine) for engine, reason in why.items()}
    unserved = {engine: reason for engine, reason in why.items() if reason is not None}
    if unserved and (asked or len(unserved) == len(why)):
        engine, reason = next(iter(unserved.items()))
        able = [e for e, no in engines_serving(contract.engines, target).items() if no is None]
        may = "may" if engines_unchecked(able, target).keys() >= set(able) else "can"
        raise Refusal(
            f"{pinned_contracts(engine)[0].title} {reason}",
            hint=Hint(f"--engines {','.join(able)} names those that {may} serve this target", "--engines")
            if able
            else "no engine of this layout can serve this target; eagle3hub inspect says of every engine what it does",
            code="refused-engine-target",
        )
    serving = tuple(engine for engine, reason in why.items() if reason is None)
    return _Engines(serving, unserved, {} if asked else engines_unchecked(serving, target))


_T = TypeVar("_T")


def _for_engines(head: Head, engines: _Engines, plan: Callable[[Head, _Engines], _T]) -> _T:
    """Plan for these engines; if that is refused, for those that are certain to serve the target.

    An engine that may not serve the target at all is no reason to refuse. Raises the first Refusal if both plans do.
    """
    try:
        return plan(replace(head, made_for=engines.serving), engines)
    except Refusal as refusal:
        certain = engines.without_unchecked
        if not engines.unchecked or not certain.serving:
            raise
        try:
            return plan(replace(head, made_for=certain.serving), certain)
        except Refusal:
            raise refusal from None


def _try(head: Head, layout: Layout) -> Tried:
    """Plan the files of a head in a layout. Raises the InputError that a conversion would end with."""
    engines = _made_for(head, layout.name, made_for(layout.name, head.made_for), head.target)
    known = replace(head, speculative_tokens=head.speculative_tokens or 1)
    try:
        made, written, asks = _for_engines(known, engines, partial(_trial, layout))
    except InputError as e:
        if not (asked := option_for(e, layout)):
            raise
        return Tried((asked,))
    return Tried(tuple(asks), any(_judged(made, layout.name, written, head.target).rank))


try_by(_try)


@dataclass(frozen=True, slots=True)
class ServedWay:
    """A conversion whose folder some engine gets right, or may get right.

    Attributes:
        how: its options, such as ``--to universal --engines vllm``.
        right: names of the engines that get the folder right, with a condition or without; ``may``: of those of which
            something is not known. Both with what a recipe tells them, in some version and runner.
    """

    how: str
    right: tuple[str, ...]
    may: tuple[str, ...]

    @property
    def rank(self) -> tuple[int, int]:
        """The key that ways are compared by."""
        return len(self.right), len(self.may)


def served_ways(head: Head, target: TargetFacts | None) -> list[ServedWay]:
    """Try every layout, and return those whose folder some engine may serve, the best one first."""
    names = sorted(LAYOUTS, key=lambda name: not LAYOUTS[name].contract.held_for)  # of equal ways, the one for engines
    found = [
        _judged(made, how, written, target)
        for name in names
        for made, how, written in _written_for_engines(replace(head, made_for=()), name, target)
    ]
    return sorted((way for way in found if any(way.rank)), key=lambda way: way.rank, reverse=True)


_FILLED: Mapping[str, Callable[[Head], Head]] = {
    "--speculative-tokens": lambda head: replace(head, speculative_tokens=1),
    "--target": lambda head: replace(head, target_name="owner/target"),
    "--mask-token-id": lambda head: replace(head, mask_token_id=0),
}
"""What stands in a trial for what only the user can give, and no engine's verdict rests on."""


def _written_for_engines(head: Head, name: str, target: TargetFacts | None) -> Iterator[tuple[Head, str, LayoutFiles]]:
    """Yield the files of a head in a layout: for all engines that it can be made for, or else for some of them."""
    layout, how = LAYOUTS[name], f"--to {name}"

    def written_for(engines: _Engines) -> tuple[Head, LayoutFiles, list[str]]:
        return _for_engines(head, engines, partial(_trial, layout))

    with suppress(InputError):
        made, written, asks = written_for(_made_for(head, name, (), target))
        yield made, f"{how} (with {' and '.join(asks)})" if asks else how, written
        return
    able = []
    for engine in layout.contract.engines if layout.contract.held_for else ():
        with suppress(InputError):
            written_for(_made_for(head, name, (engine,), target))
            able.append(engine)
    with suppress(InputError):
        if able:
            made, written, _ = written_for(_made_for(head, name, tuple(able), target))
            yield made, f"{how} --engines {','.join(able)}", written


def _trial(layout: Layout, made: Head, _: _Engines) -> tuple[Head, LayoutFiles, list[str]]:
    """The files of a head, and the options that a user has to give for them. Raises InputError where none help."""
    asks: list[str] = []
    while True:
        try:
            written = layout.write(made, WriteOptions(speculative_tokens=made.speculative_tokens))
        except InputError as e:
            asked = option_for(e, layout)
            if asked not in _FILLED or asked in asks:
                raise
            asks.append(asked)
            made = _FILLED[asked](made)
            continue
        if made.made_for:
            _hold_to_engines(made, layout.name, written, [WEIGHTS])
        return made, written, asks


def _judged(head: Head, how: str, written: LayoutFiles, target: TargetFacts | None) -> ServedWay:
    subject = examine_written(head, written, [WEIGHTS])
    kinds: dict[str, set[str]] = {}
    for verdict in preflight_all(subject, target):
        kinds.setdefault(verdict.engine, set()).add(verdict.with_settings(TOLD_BY_RECIPES).kind)
    right = tuple(engine for engine, found in kinds.items() if found & {"right", "depends"})
    return ServedWay(how, right, tuple(e for e, found in kinds.items() if e not in right and "unknown" in found))


def _hold_to_engines(head: Head, to: str, written: LayoutFiles, weights: Sequence[str]) -> None:
    """Raise Refusal if an engine that planned files are made for would not get them right."""
    subject = examine_written(head, written, weights)
    wrong: dict[str, PreflightVerdict] = {}
    for engine in head.made_for:
        capture = told_layers(head, engine)
        for terms in pinned_contracts(engine):
            verdict = preflight(subject, engine, terms.version, head.target, capture).on_files
            if verdict.kind in ("silently_wrong", "refuses"):
                wrong.setdefault(engine, verdict)
    if not wrong:
        return
    first, able = next(iter(wrong.values())), [engine for engine in head.made_for if engine not in wrong]
    fewer = Hint(f"--engines {','.join(able)} makes the folder for the others", "--engines") if able else None
    judged = preflight_all(subject, head.target)
    taken = [v.title for v in judged if v.engine == first.engine and v.kind in ("right", "depends")]
    beside = [f"{listed(taken)} would get it right"] if taken else []
    raise Refusal(
        f"{first.title}, given this folder, {first.reasons[0].sentence}",
        hint=Hint.join([*beside, fewer]) if fewer else partial(alternatives, head, to, remedy=first.reasons[0].hint),
        code="refused-engine",
    )


def _said_by_engines(head: Head, to: str, written: LayoutFiles, weights: Sequence[str]) -> Iterator[str]:
    """What engines that read the layout do with the files: what they must be told, and who stops or goes wrong.

    The second is said only of an engine of which no version and no runner gets the files right. Files that are made
    for engines are held to them already (`_hold_to_engines`). The target and its dtype are no matter of the files.
    """
    subject = examine_written(head, written, weights)
    engines = head.made_for or get_layout(to).contract.engines
    for engine in (name for name, never in engines_serving(engines, head.target).items() if never is None):
        capture = told_layers(head, engine)
        versions = [terms.version for terms in current_contracts() if terms.engine == engine]
        found = {version: preflight(subject, engine, version, head.target, capture) for version in versions}
        for terms in pinned_contracts(engine) if head.target is not None else ():
            verdict = found[terms.version]
            apart = next((reason for reason in verdict.reasons if reason.code == DTYPE_APART), None)
            if apart is not None:
                yield f"{verdict.title} {apart.sentence}: {apart.hint}"
        on_files = [verdict.on_files.with_settings(TOLD_BY_RECIPES) for verdict in found.values()]
        if all(verdict.kind in ("silently_wrong", "refuses") for verdict in on_files):
            worst = on_files[0].reasons[0]
            ways = alternatives(head, to, remedy=worst.hint)
            yield f"{on_files[0].title}, given this folder, {worst.sentence} ({ways})"


def _refuse_shards(plan: ConversionPlan) -> None:
    contract = LAYOUTS[plan.to].contract
    if contract.single_file and len(plan.shards) > 1:
        raise Refusal(
            f"--max-shard-size: {contract.title} reads a single model.safetensors, and this would "
            f"be {len(plan.shards)} files",
            hint="leave the option out, or choose another layout",
            code="refused-shards",
        )


def _refuse_assumptions(plan: ConversionPlan) -> None:
    shifted = next((p for p in plan.head.problems if p.code == AUX_SHIFTED), None)
    if shifted is not None:
        raise Refusal(f"--strict: {shifted.message}", hint=shifted.hint, code="refused-assumption")
    if plan.assumptions:
        first, more = plan.assumptions[0], len(plan.assumptions) - 1
        others = f" (and {more} more)" if more else ""
        raise Refusal(
            f"--strict: {first.field} would have to be assumed{others}: {first.why}",
            hint=first.settle,
            code="refused-assumption",
        )
