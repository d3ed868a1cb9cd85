"""Run a validation as a Job on Hugging Face's machines: plan it, price it, follow it, collect its report."""

from __future__ import annotations
