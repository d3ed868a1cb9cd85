"""One gated, verified, resumable way from a folder to a repository on the Hub."""

from eagle3hub.publishing.gates import GATES
from eagle3hub.publishing.plan import Plan, Settings, make_plan, sign
from eagle3hub.publishing.upload import Published, check_access, upload
from eagle3hub.publishing.verify import Verified, verify_repository

__all__ = [
    "GATES",
    "Plan",
    "Published",
    "Settings",
    "Verified",
    "check_access",
    "make_plan",
    "sign",
    "upload",
    "verify_repository",
]
