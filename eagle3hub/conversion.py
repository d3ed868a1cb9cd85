"""Convert a head from any layout to any layout: read, plan, write, verify.

The plan says which bytes go where before anything is written; the result is verified by reading it back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.checkpoint.digest import FileDigest, file_digest, head_files
from eagle3hub.checkpoint.folder import CONFIG, PROVENANCE, WEIGHTS, open_checkpoint
from eagle3hub.checkpoint.source import HUB
from eagle3hub.checkpoint.writer import OutTensor, encode_header, in_file_order, write_safetensors
from eagle3hub.errors import Refusal
from eagle3hub.head import Assumption, Head
from eagle3hub.layouts import get_layout, open_head, provenance
from eagle3hub.layouts.base import Spelled, WriteOptions
from eagle3hub.progress import Progress, silent
from eagle3hub.staging import check_destination, require_space, staged_folder, write_file
from eagle3hub.target import TargetFacts
from eagle3hub.verify import verify_folder


@dataclass(frozen=True, slots=True)
class Plan:
    """What a conversion will do: the head, and its spelling in the layout asked for."""

    head: Head
    to: str
    spelled: Spelled
    command: list[str]
    speculative_tokens: int | None

    @property
    def tensors(self) -> list[OutTensor]:
        """The tensors in the order they will lie in the file."""
        return in_file_order(self.spelled.tensors)

    @property
    def assumptions(self) -> list[Assumption]:
        """What the result depends on and the source does not say."""
        return [*self.head.assumptions, *self.spelled.assumptions]

    @property
    def nbytes(self) -> int:
        """Size of the weights in bytes."""
        return sum(t.nbytes for t in self.spelled.tensors)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was (or, in a dry run, would be) done.

    Attributes:
        destination: the folder. plan: what it was made from.
        files: every file with size and SHA-256; empty in a dry run or without verification.
        verified: whether the result was read back and held against the source.
    """

    destination: Path
    plan: Plan
    files: list[FileDigest] = field(default_factory=list)
    verified: bool = False
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """The document ``convert --json`` prints."""
        plan = self.plan
        return {
            "source": plan.head.source,
            "from": plan.head.layout,
            "to": plan.to,
            "destination": str(self.destination),
            "dry_run": self.dry_run,
            "verified": self.verified,
            "bytes": plan.nbytes,
            "tensors": _mapping(plan),
            "files": self.files,
            "assumptions": [a.to_json() for a in plan.assumptions],
            "problems": [p.to_json() for p in plan.head.problems],
            "notes": plan.spelled.notes,
        }


def make_plan(
    source: str | Path,
    to: str,
    *,
    layout: str | None = None,
    target: TargetFacts | str | None = None,
    target_name: str | None = None,
    speculative_tokens: int | None = None,
    strict: bool = False,
) -> Plan:
    """Read the source and work out its spelling in layout ``to``, without writing anything.

    Raises InputError where the source is unreadable or wrong, Refusal where the layout cannot keep what it has or
    (``strict``) where something would have to be assumed.
    """
    codec = get_layout(to)
    head = open_head(open_checkpoint(source, headers_only=True), layout=layout, target=target, target_name=target_name)
    head.raise_for_errors()
    spelled = codec.write(head, WriteOptions(speculative_tokens=speculative_tokens))
    words = ["eagle3hub", "convert", public_name(source), "DEST", "--to", to]
    words += ["--from", layout] if layout else []
    words += ["--target", _target_word(target, target_name)] if target else []
    words += ["--speculative-tokens", str(speculative_tokens)] if speculative_tokens else []
    words += ["--strict"] if strict else []
    plan = Plan(head, to, spelled, words, speculative_tokens or head.speculative_tokens)
    if strict and plan.assumptions:
        first = plan.assumptions[0]
        more = f" (and {len(plan.assumptions) - 1} more)" if len(plan.assumptions) > 1 else ""
        raise Refusal(
            f"--strict: {first.field} would have to be assumed{more}: {first.why}",
            hint=first.settle,
            code="refused-assumption",
        )
    return plan


def convert(
    source: str | Path,
    destination: str | Path,
    to: str,
    *,
    layout: str | None = None,
    target: TargetFacts | str | None = None,
    target_name: str | None = None,
    speculative_tokens: int | None = None,
    strict: bool = False,
    force: bool = False,
    dry_run: bool = False,
    verify: bool = True,
    progress: Progress = silent,
) -> Conversion:
    """Convert the head in ``source`` to layout ``to`` in the new folder ``destination``.

    Args:
        source: a folder, or ``hf://owner/name[@revision][/subfolder]``; weights on the Hub are downloaded once
            everything else has been checked.
        layout: the source's layout, where detection shall not decide.
        target: target model (facts, folder or Hub id) that settles what the source leaves open.
        target_name: Hub id to record for a target given as a folder.
        speculative_tokens: number of draft tokens K to recommend, required by speculators.
        strict: refuse instead of assuming. force: replace a folder this tool wrote earlier.
        dry_run: plan and check only. verify: read the result back and compare it byte for byte.

    The destination is absent or complete at every moment, and weights are copied by the kernel, never changed.
    Raises InputError, OutputError, UsageError or HubError; nothing is left behind then.
    """
    plan = make_plan(
        source,
        to,
        layout=layout,
        target=target,
        target_name=target_name,
        speculative_tokens=speculative_tokens,
        strict=strict,
    )
    dest = Path(destination).expanduser()
    check_destination(dest, force=force, keep_out=Path(source).expanduser())
    require_space(dest, plan.nbytes)
    if dry_run:
        return Conversion(dest, plan, dry_run=True)
    if plan.head.source.startswith(HUB):
        open_checkpoint(plan.head.source, progress=progress)  # puts the weights where the plan expects them
    with staged_folder(dest, force=force) as staged:
        stage = staged.path
        config = (json.dumps(plan.spelled.config, indent=2, ensure_ascii=False) + "\n").encode()
        write_file(stage / CONFIG, config)
        for name, data in plan.spelled.files.items():
            write_file(stage / name, data)
        write_safetensors(stage / WEIGHTS, plan.spelled.tensors, plan.spelled.metadata, progress)
        files: list[FileDigest] = []
        if verify:
            files = verify_folder(stage, plan.head, to, plan.spelled.origin, progress)
        record = _record(plan, config, files, verified=verify)
        write_file(stage / PROVENANCE, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
        if verify:
            files = [*files, file_digest(stage / PROVENANCE)]
    return Conversion(dest, plan, files, verified=verify)


def public_name(path: str | Path) -> str:
    """What a path is called in files that get published: Hub names as they are, folders by their last component."""
    text = str(path)
    return (
        text if text.startswith("hf://") else Path(text).expanduser().resolve().name if Path(text).exists() else text
    )


def _target_word(target: TargetFacts | str, name: str | None) -> str:
    return target.name if isinstance(target, TargetFacts) else name or public_name(target)


def _record(plan: Plan, config: bytes, files: Sequence[FileDigest], *, verified: bool) -> dict[str, Any]:
    """The provenance file (schema ``provenance``): the same inputs give the same bytes."""
    head = plan.head
    source = open_checkpoint(head.source)
    header = encode_header(plan.tensors, plan.spelled.metadata)
    return {
        "schema": provenance.SCHEMA,
        "tool": {"name": "eagle3hub", "version": __version__},
        "command": plan.command,
        "layout": plan.to,
        "verified": verified,
        "source": {
            "name": public_name(head.source),
            "layout": head.layout,
            "files": [file_digest(p) for p in head_files(source.folder)] if verified else [],
        },
        "fingerprint": {
            "config_sha256": sha256(config).hexdigest(),
            "header_sha256": {WEIGHTS: sha256(header).hexdigest()},
        },
        "files": list(files),
        "tensors": _mapping(plan),
        "assumptions": [a.to_json() for a in plan.assumptions],
        "repairs": [],
        "facts": {**provenance.facts_of(head), "speculative_tokens": plan.speculative_tokens},
        "carried": provenance.spellings_after(head),
    }


def _mapping(plan: Plan) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for t in plan.tensors:
        canonical = plan.spelled.origin[t.name]
        came = None if canonical is None else plan.head.tensors[canonical].name
        out.append({"name": t.name, "from": came, "dtype": t.dtype, "shape": list(t.shape)})
    return out
