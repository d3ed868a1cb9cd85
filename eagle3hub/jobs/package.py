"""Which eagle3hub a Job installs: the one that runs here, from an address that the job can reach."""

from __future__ import annotations

import filecmp
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from eagle3hub import installation
from eagle3hub._version import __version__
from eagle3hub.errors import UsageError
from eagle3hub.source_tree import published_commit

EXTRA = f"{installation.NAME}[validate]"
_HERE = installation.SWITCH.parent
_BY_NAME = re.compile(rf"{installation.NAME}\s*(?:\[[^\]]*\])?\s*(?:[=<>~!;(].*)?", re.IGNORECASE)
_SCP = re.compile(r"(?:[\w.-]+@)?(?P<host>[\w.-]+):/?(?P<path>[^@:]+)")
_COMMIT = "'eagle3hub[validate] @ git+https://HOST/OWNER/eagle3hub@COMMIT'"


def own_package() -> str:
    """A requirement for the eagle3hub that runs here; pip takes it in any place.

    That is the release of the package index where this is one, otherwise the commit that this was installed from, or
    that the checkout it runs in is at. Raises UsageError (``usage-jobs-package``) where no such commit can be told.
    """
    if not (_HERE / "_data").exists():  # no wheel: the tree itself
        return _of_checkout(_HERE.parent)
    known, address = installation.index(), installation.direct_url()
    if address is None:
        if known.version != __version__:
            raise _unknown("it was installed from an index that has no release of it as far as this version knows")
        return known.requirement if known.released else f"{EXTRA}=={__version__}"
    url = str(address["url"])
    vcs, archive = address.get("vcs_info"), address.get("archive_info")
    digest = (archive or {}).get("hashes", {}).get("sha256")
    if vcs is not None:
        return at_commit(url, str(vcs["commit_id"]))
    if digest and known.version == __version__:  # a release's wheel, wherever it lay
        return installation.Index(__version__, digest).requirement
    if url.startswith("file:"):
        folder = Path(unquote(urlsplit(url).path))
        if archive is not None or not (folder / "pyproject.toml").is_file():
            raise _unknown(f"it was installed from {folder}, which the job cannot read")
        if not _same_files(_HERE, folder / "eagle3hub"):
            raise _unknown(f"{folder} is not what it was installed from any more")
        return _of_checkout(folder)
    return f"{EXTRA} @ {_without_user(url)}" + (f"#sha256={digest}" if digest else "")


def check_requirement(package: str) -> None:
    """Raise UsageError (``usage-jobs-package``) for what no job can install, or what may be somebody else's."""
    stripped = package.strip()
    path = "/" in stripped and "://" not in stripped
    if not stripped or path or stripped.startswith(("-", ".")) or "file:" in stripped:
        raise _no_requirement(f"--job-package {package!r} is nothing that pip can install in the job")
    if _BY_NAME.fullmatch(stripped) and not installation.index().version:
        raise _no_requirement(
            f"--job-package {package!r} is a name on the package index, where there is no release of eagle3hub: "
            "whoever takes that name would run in the job"
        )


def at_commit(url: str, commit: str) -> str:
    """The requirement for a commit of a repository; GitHub hands it out as an archive, which needs no git.

    Raises UsageError for an address that only this machine can reach.
    """
    if url.startswith("ssh://"):
        parts = urlsplit(url)
        url = f"https://{parts.hostname}{parts.path}"
    elif "://" not in url and (match := _SCP.fullmatch(url)) is not None:
        url = f"https://{match['host']}/{match['path']}"
    if not url.startswith("https://"):
        raise _unknown(f"its repository, {url}, is none that the job can reach")
    url = _without_user(url).removesuffix("/")
    if urlsplit(url).hostname == "github.com":
        return f"{EXTRA} @ {url.removesuffix('.git')}/archive/{commit}.zip"
    return f"{EXTRA} @ git+{url}@{commit}"


def _of_checkout(folder: Path) -> str:
    found = published_commit(folder)
    if isinstance(found, str):
        raise _unknown(f"the checkout {folder} {found}")
    return at_commit(found.remote, found.commit)


def _same_files(installed: Path, checkout: Path) -> bool:
    """Whether every module and data file of the installed package is the checkout's."""
    ours = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    ours = {path for path in ours if path.parts[0] != "_data" and "__pycache__" not in path.parts}
    return all((checkout / p).is_file() and filecmp.cmp(installed / p, checkout / p, shallow=False) for p in ours)


def _without_user(url: str) -> str:
    """An address without the name and the password, which are nobody's business."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _unknown(why: str) -> UsageError:
    return UsageError(
        f"nothing says which eagle3hub the job is to install: {why}",
        hint=f"commit and push it, or say what to install: --job-package {_COMMIT}",
        code="usage-jobs-package",
    )


def _no_requirement(said: str) -> UsageError:
    return UsageError(said, hint=f"name a commit of its repository: {_COMMIT}", code="usage-jobs-package")
