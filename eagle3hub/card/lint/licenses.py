"""Licenses as the Hub spells them, and as cards print them."""

from __future__ import annotations

import re

_LIST = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community
    h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openmdw-1.1 openrail openrail++ osl-3.0 other
    pddl postgresql unknown unlicense wtfpl zlib
"""
HUB_IDS = frozenset(_LIST.split())
"""The ids of the Hub's documentation page on licenses (hub-docs, August 2026)."""

_PRINTED = (
    (r"apache(?:[ -]license)?[, -]*(?:version |v\.? ?)?2(?:\.0)?\b", "apache-2.0"),
    (r"\bMIT\b", "mit"),
    (r"\bCC[ -]BY[ -]NC[ -]SA[ -](?P<v>\d\.\d)", "cc-by-nc-sa-"),
    (r"\bCC[ -]BY[ -]NC[ -](?P<v>\d\.\d)", "cc-by-nc-"),
    (r"\bCC[ -]BY[ -]SA[ -](?P<v>\d\.\d)", "cc-by-sa-"),
    (r"\bCC[ -]BY[ -](?P<v>\d\.\d)", "cc-by-"),
    (r"\bBSD[ -]3[ -]clause\b", "bsd-3-clause"),
    (r"\bllama[ -]?(?P<v>2|3|3\.1|3\.2|3\.3|4) community", "llama"),
    (r"\bgemma (?:terms|license)", "gemma"),
)


def printed(text: str) -> set[str]:
    """The Hub ids of the licenses a text names, in whichever of the usual spellings."""
    found = {id_ + (m.groupdict().get("v") or "") for p, id_ in _PRINTED for m in re.finditer(p, text, re.I)}
    return found | {word for word in re.findall(r"[\w.+-]+", text.lower()) if word.strip(".") in HUB_IDS - _WORDS}


_WORDS = frozenset({"other", "unknown", "cc", "bsd", "gpl", "lgpl", "isc", "gemma", "mit"})
"""Ids that are words of their own in prose."""
