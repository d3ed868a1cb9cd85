"""Servers that run already: attach to one, and let it measure as an engine does."""

from __future__ import annotations

from eagle3hub.engines.endpoints.endpoint import Endpoint, attach

__all__ = ["Endpoint", "attach"]
