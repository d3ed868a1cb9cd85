"""Publish a folder to a repository on the Hub: gated, verified, resumable."""

from eagle3hub.publishing.files import whole_digest
from eagle3hub.publishing.gates import GATES
from eagle3hub.publishing.plan import PublishOptions, PublishPlan, made_for, plan_publication, sign_if_asked
from eagle3hub.publishing.signing import Identity
from eagle3hub.publishing.upload import Published, check_access, publish, upload
from eagle3hub.publishing.verify import Verified, VerifyOptions, verify_folder, verify_repository

__all__ = [
    "GATES",
    "Identity",
    "PublishOptions",
    "PublishPlan",
    "Published",
    "Verified",
    "VerifyOptions",
    "check_access",
    "made_for",
    "plan_publication",
    "publish",
    "sign_if_asked",
    "upload",
    "verify_folder",
    "verify_repository",
    "whole_digest",
]
