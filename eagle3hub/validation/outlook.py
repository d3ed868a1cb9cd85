"""What an engine will do with a head's files, decided before it is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from eagle3hub.engines.specs import preflight_version
from eagle3hub.preflight import Verdict, examine, preflight, target_embeddings
from eagle3hub.target import read_target

if TYPE_CHECKING:
    from eagle3hub.checkpoint.folder import Checkpoint
    from eagle3hub.engines.base import Device
    from eagle3hub.head import Head

_SAYS = {"refuses": "will refuse these files", "silently_wrong": "would serve these files silently wrong"}


Outlook = Callable[[str, str, "Device"], Verdict]
"""The preflight's verdict by engine, version and device."""


def outlook(checkpoint: Checkpoint, head: Head, target: str) -> Outlook:
    """Look at a head's folder once, for any number of engines. ``target`` is a folder or a Hub id."""
    facts = read_target(target)
    subject = examine(checkpoint, head, target_embeddings(head, target))

    def on(engine: str, version: str, device: Device) -> Verdict:
        return preflight(subject, engine, preflight_version(engine, version, device), facts)

    return on


def stops(verdict: Verdict) -> str | None:
    """Why an engine need not be started, naming the finding's code; None where it may load the files right."""
    if verdict.kind not in _SAYS:
        return None
    deciding = [reason for reason in verdict.reasons if reason.effect == verdict.kind]
    told = "; ".join(f"{reason.sentence} ({reason.code})" for reason in deciding[:2])
    more = f"; and {len(deciding) - 2} more" if len(deciding) > 2 else ""
    return f"preflight, engine not started: {verdict.title} {_SAYS[verdict.kind]}: {told}{more}"
