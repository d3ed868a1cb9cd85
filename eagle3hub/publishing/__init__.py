"""One gated, verified, resumable way from a folder to a repository on the Hub."""

from eagle3hub.publishing.files import whole_digest
from eagle3hub.publishing.gates import GATES
from eagle3hub.publishing.plan import Plan, Settings, made_for, make_plan, sign
from eagle3hub.publishing.signing import Identity
from eagle3hub.publishing.upload import Published, check_access, upload
from eagle3hub.publishing.verify import Verified, verify_folder, verify_repository

__all__ = [
    "GATES",
    "Identity",
    "Plan",
    "Published",
    "Settings",
    "Verified",
    "check_access",
    "made_for",
    "make_plan",
    "sign",
    "upload",
    "verify_folder",
    "verify_repository",
    "whole_digest",
]
