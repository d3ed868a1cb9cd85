"""Findings as SARIF 2.1.0, the format code-scanning services and editors read."""

from __future__ import annotations

from typing import Any

from eagle3hub._version import __version__
from eagle3hub.card.lint.registry import RULES, Rule
from eagle3hub.card.lint.source import Checked
from eagle3hub.errors import Severity

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVEL: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}


def to_sarif(checked: Checked) -> dict[str, Any]:
    """One run with every rule and every finding."""
    order = list(RULES)
    results = [
        {
            "ruleId": f.code,
            "ruleIndex": order.index(f.code),
            "level": _LEVEL[f.severity],
            "message": {"text": f"{f.message}. {f.fix}"},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": checked.uri},
                        "region": {"startLine": f.line},
                    }
                }
            ],
        }
        for f in checked.findings
    ]
    driver = {"name": "eagle3hub", "version": __version__, "rules": [_rule(rule) for rule in RULES.values()]}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": _LEVEL[rule.severity]},
        "properties": {"tags": [rule.family]},
    }
