"""The gate that holds a release against what the target's license, as the manifest states it, asks.

It reads names and identifiers, not contracts: what it finds is something to look at, and nothing it does not find is
thereby allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from eagle3hub.card.manifest import License, Target
from eagle3hub.card.terms import terms

_UNJUDGED = {"other", "unknown"}


def departures(repo_id: str, target: Target, stated: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(what, what to do) for everything the target's license asks for that is not there.

    Args:
        stated: license ids of the head's card. texts: the card and every notice.
    """
    asked, name = terms(target.license.id), _print(target.license)
    if target.license.id == "unknown":
        yield (
            f"the license of {target.id} is not stated, so nothing can be said about what it asks",
            "state it: target.license in the manifest",
        )
    if asked.prefix and not repo_id.rpartition("/")[2].lower().replace("-", " ").startswith(asked.prefix.lower()):
        yield (
            f"{target.id} is under {name}, which asks for names that begin with {asked.prefix!r}",
            f"call the repository {asked.prefix.replace(' ', '-')}-…",
        )
    everything = [_plain(text) for text in texts]
    for phrase in asked.phrases:
        if not any(_plain(phrase) in text for text in everything):
            yield (
                f"{target.id} is under {name}, which asks for the words “{phrase}”",
                "eagle3hub card writes them under License; templates of your own must too",
            )
    if "no derivatives" in asked.limits:
        yield (
            f"{target.id} is under {name}, which does not let adaptations be shared",
            "settle with its owner whether the head is one, then waive this",
        )
    for id_ in stated:
        lost = sorted(asked.limits - terms(id_).limits - {"no derivatives"})
        if lost and id_ not in _UNJUDGED and id_ != target.license.id:
            yield (
                f"{target.id} is under {name} ({', '.join(lost)}), and the head is stated to be under {id_}, "
                "which is without that",
                "state a license for the head that passes it on, or waive this with a permission",
            )


def _print(license_: License) -> str:
    return license_.name or license_.id


def _plain(text: str) -> str:
    return re.sub(r"[\s*_`\\]+", " ", text).replace("(c)", "©").casefold()
