"""Does a head work? Check its files, replay it, run it on engines, and report what each of them counted."""

from __future__ import annotations

from eagle3hub.validation.matrix import validate_layouts
from eagle3hub.validation.options import ReferenceOptions, ValidateOptions
from eagle3hub.validation.run import validate

__all__ = ["ReferenceOptions", "ValidateOptions", "validate", "validate_layouts"]
