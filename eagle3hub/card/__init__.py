"""Model cards: from release.yaml, reports and head to README.md."""

from eagle3hub.card.context import Shown
from eagle3hub.card.manifest import Manifest, load_manifest
from eagle3hub.card.render import render_text
from eagle3hub.card.reports import find_reports

__all__ = ["Manifest", "Shown", "find_reports", "load_manifest", "render_text"]
