"""List the releases of engines that the package index has and the data of this project do not know.

    python tools/engine_releases.py [--json] [--proposed FILE]

An engine's ``common.toml`` says as which distributions it is released (``released_as``). Of each, pip is asked for the
newest release; candidates do not count. A release is news if it is newer than every version that the data know, or if
it is the distribution that an environment is made from and the newest known version has no such environment yet. FILE
is what ``gh pr list --state all --json headRefName`` printed: a release whose branch was proposed before is left out.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from eagle3hub.engines import ENGINES
from eagle3hub.engines.specs import engine_data, known_version, recipe_versions, version_data

PYTHON = "3.12"
"""The Python that a release is looked for: sglang-jax has none for an older one."""


@dataclass(frozen=True, slots=True)
class News:
    """A release to add: ``install`` is what pip installs for CPU, or empty; ``branch`` is the branch to propose."""

    engine: str
    version: str
    install: str
    branch: str


def newest(distribution: str) -> str | None:
    """Return the newest release on the package index, or None if there is none."""
    command = [sys.executable, "-m", "pip", "index", "versions", distribution, "--python-version", PYTHON]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(rf"^{re.escape(distribution)} \(([\w.!+]+)\)$", done.stdout, re.MULTILINE)
    if done.returncode == 0 and found:
        return found[1]
    if "No matching distribution" in done.stderr:
        return None
    raise SystemExit(f"pip does not tell the versions of {distribution}: {done.stderr.strip()}")


def news(ask: Callable[[str], str | None], proposed: Collection[str] = ()) -> Iterator[News]:
    """Yield what is new; ``ask`` returns the newest release of a distribution, ``proposed`` are branches."""
    for engine in ENGINES:
        found = {name: version for name in engine_data(engine).released_as if (version := ask(name)) is not None}
        for version in dict.fromkeys(found.values()):
            made_from = _for_cpu(engine)
            install = f"{made_from}=={version}" if made_from and found.get(made_from) == version else ""
            branch = f"engines/{engine}-{version}{'-cpu' if install else ''}"
            if branch not in proposed and _is_new(engine, version, install):
                yield News(engine, version, install, branch)


def _is_new(engine: str, version: str, install: str) -> bool:
    known = known_version(engine, version)
    if known.warning is not None:
        return known.newer
    is_newest = known.version == recipe_versions(engine)[-1]
    return bool(install) and is_newest and "cpu" not in version_data(engine, version).environments


def _for_cpu(engine: str) -> str | None:
    """Return the distribution that the pinned version's environment for CPU is made from."""
    found = version_data(engine).environments.get("cpu")
    return None if found is None else found.distribution


def main() -> None:
    """Parse the command line, ask pip, and print what is new."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--proposed", type=Path, help="branches that were proposed, as gh prints them")
    given = parser.parse_args()
    proposed = [] if given.proposed is None else [one["headRefName"] for one in json.loads(given.proposed.read_text())]
    found = list(news(newest, proposed))
    if given.json:
        sys.stdout.write(json.dumps([asdict(one) for one in found]) + "\n")
        return
    for one in found:
        sys.stdout.write(f"{one.engine} {one.version}{f' (pip install {one.install})' if one.install else ''}\n")
    if not found:
        sys.stdout.write("the data know the newest release of every engine\n")


if __name__ == "__main__":
    main()
