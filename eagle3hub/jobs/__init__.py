"""A validation as a Job on Hugging Face's machines: planned, priced, followed, and its report brought home."""

from __future__ import annotations
