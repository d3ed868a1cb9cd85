"""Attach to a server that is already running, and measure a head on it."""

from __future__ import annotations

from eagle3hub.engines.endpoints.endpoint import Endpoint, attach

__all__ = ["Endpoint", "attach"]
