"""A validation as a Job on Hugging Face's machines: planned, priced, followed, and its report collected."""

from __future__ import annotations
