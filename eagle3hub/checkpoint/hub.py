"""Reading from the Hub, through huggingface_hub."""

from __future__ import annotations

from pathlib import Path

from eagle3hub._version import __version__
from eagle3hub.errors import HubError


def download_file(repo_id: str, filename: str, revision: str | None = None) -> Path:
    """Download one file of a model repository into the Hub cache and return where it is.

    Raises HubError (no such repository or file, no access, no network).
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"{filename} of {repo_id}" + (f" at {revision}" if revision else "")
    try:
        return Path(
            hf_hub_download(
                repo_id, filename, revision=revision, library_name="eagle3hub", library_version=__version__
            )
        )
    except GatedRepoError as e:
        raise HubError(
            f"{repo_id} is gated and this account has no access to it",
            hint="ask for access on its page, then run `hf auth login`",
            code="hub-gated",
        ) from e
    except RepositoryNotFoundError as e:
        raise HubError(
            f"there is no model {repo_id} on the Hub, or it is private",
            hint="check the name; for a private model run `hf auth login`",
            code="hub-not-found",
        ) from e
    except RevisionNotFoundError as e:
        raise HubError(f"{repo_id} has no revision {revision}", code="hub-not-found") from e
    except LocalEntryNotFoundError as e:
        raise HubError(
            f"cannot download {what}: the Hub cannot be reached and the file is not in the cache",
            hint="check the network, or name a local folder",
            code="hub-offline",
        ) from e
    except EntryNotFoundError as e:
        raise HubError(f"there is no {what}", code="hub-not-found") from e
    except (HfHubHTTPError, OSError, ValueError) as e:
        raise HubError(f"cannot download {what}: {type(e).__name__}", code="hub-network") from e
