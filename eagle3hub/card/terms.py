"""What the licenses of targets ask of a model that was made from one: what can be looked up, as data.

A draft head is trained on its target's hidden states and tokens. Whether that makes it a derivative is a question of
law that is not answered here: this says what the license, as stated, asks of such a model, so that a release can be
held against it. It is no legal advice, and the texts say more than these fields.

Sources, read in November 2026: the community licenses of Llama 2 (section 1.b), 3, 3.1, 3.2, 3.3 and 4 (1.b.i,
1.b.iii); the Gemma Terms of Use (1.1(e), 3.1); the OpenRAIL-M licenses (definition of derivatives, paragraph 4);
Creative Commons' legal codes and the GPL family for what their letters stand for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_META = "Copyright © Meta Platforms, Inc. All Rights Reserved."


@dataclass(frozen=True, slots=True)
class Terms:
    """What one license asks.

    Attributes:
        prefix: what the name of a model trained with it must begin with; empty: anything.
        phrases: sentences that must be displayed with it or be in a notice file.
        limits: what a license of the new model would have to pass on: ``non-commercial``, ``share-alike``,
            ``use-based restrictions``, ``no derivatives``.
    """

    prefix: str = ""
    phrases: tuple[str, ...] = ()
    limits: frozenset[str] = frozenset()


def _llama(version: str) -> Terms:
    name = f"Llama {version}"
    notice = f"{name} is licensed under the {name} Community License, {_META}"
    return Terms("Llama", ("Built with Llama", notice))


_GEMMA = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
_SPECIAL = {
    "llama2": Terms(phrases=(f"Llama 2 is licensed under the LLAMA 2 Community License, {_META}",)),
    "llama3": Terms(
        "Llama 3",
        ("Built with Meta Llama 3", f"Meta Llama 3 is licensed under the Meta Llama 3 Community License, {_META}"),
    ),
    **{f"llama{v}": _llama(v) for v in ("3.1", "3.2", "3.3", "4")},
    "gemma": Terms(phrases=(_GEMMA,), limits=frozenset({"use-based restrictions"})),
}
_LIMITS = {
    "non-commercial": r"cc-by-nc-.*|fair-noncommercial-research-license|apple-amlr",
    "no derivatives": r"cc-by(-nc)?-nd-.*",
    "share-alike": r"cc-by(-nc)?-sa-.*|a?gpl.*|cdla-sharing-.*|odbl|osl-3.0",
    "use-based restrictions": r"openrail.*|.*-openrail-m|bigscience-bloom-rail-1.0",
}


def terms(license_id: str) -> Terms:
    """What a license asks, by its Hub id; nothing where this does not know."""
    if license_id in _SPECIAL:
        return _SPECIAL[license_id]
    return Terms(limits=frozenset(limit for limit, ids in _LIMITS.items() if re.fullmatch(ids, license_id)))
