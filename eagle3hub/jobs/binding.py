"""Whether a report that came home is of the head that was sent out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eagle3hub.checkpoint.digest import combined_digest, file_digest, head_files
from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.checkpoint.hub import download_file
from eagle3hub.checkpoint.remote import parse_address
from eagle3hub.errors import ManifestError
from eagle3hub.publishing.remote import tree


@dataclass(frozen=True, slots=True)
class Expected:
    """What the report of a job must be of.

    Attributes:
        nonce: marks the report's lines in the log.
        head: the head's address, pinned to a commit. digest: of its files. target: what the report calls the target.
    """

    nonce: str
    head: str
    digest: str
    target: str


def expected_digest(checkpoint: Checkpoint) -> str:
    """The digest a report must state for a head on the Hub, from the Hub's own digests: no weights are downloaded.

    ``checkpoint`` is a Hub source, opened with ``headers_only``. Raises HubError.
    """
    at = parse_address(checkpoint.source)
    commit = at.revision or ""
    small = {path.name for path in head_files(checkpoint.folder) if path.suffix == ".json"}
    stored = tree(at.repo_id, commit)
    found: dict[str, str] = {}
    for name in small | {path.name for path in checkpoint.weights}:
        path = at.path(name)
        large = stored[path].sha256 if path in stored else None
        found[name] = large or file_digest(download_file(at.repo_id, path, commit))["sha256"]
    return combined_digest(found)


def check_bound(document: Mapping[str, Any], expected: Expected) -> None:
    """Raise ManifestError unless a report or a matrix is of this head and this target."""
    for what, stated, wanted in (
        ("head", document["head"]["source"], expected.head),
        ("digest", document["head"]["digest"], expected.digest),
        ("target", document["target"]["name"], expected.target),
    ):
        if stated != wanted:
            raise ManifestError(
                f"what the job reports is of another head or target: its {what} is {stated}, not {wanted}",
                hint="discard it, and look at the log of the job",
                code="job-report-foreign",
            )
