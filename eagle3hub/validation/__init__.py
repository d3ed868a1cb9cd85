"""Does a head work? Static checks, a load check, an acceptance check on a real engine, and the report of them."""

from __future__ import annotations

from eagle3hub.validation.matrix import validate_layouts
from eagle3hub.validation.run import validate

__all__ = ["validate", "validate_layouts"]
