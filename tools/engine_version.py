"""Make the folder of a new engine version, based on the pinned version.

    python tools/engine_version.py ENGINE VERSION [--python PATH]

Writes ``eagle3hub/engines/data/ENGINE/VERSION``: ``engine.toml`` and ``contract.toml`` that build on those of the
pinned version, and its requirements with the new version of the engine. With ``--python``, the interpreter of an
environment that has the new version, it also writes ``interface.json`` as the package reports it. At the end it prints
the steps that you must do by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from eagle3hub.engines import ENGINES
from eagle3hub.engines.specs import DATA, default_version, version_data, versions_with

WORKER = DATA.parent / "workers" / "interface_worker.py"
_OWN = re.compile(r"^\[(?:environments|image)\b.*?(?=^\s*#|^\[(?!environments|image)|\Z)", re.DOTALL | re.MULTILINE)


def engine_toml(engine: str, old: str, new: str) -> str:
    """Return ``engine.toml`` of ``new``, which builds on that of ``old`` and has its own environments and image."""
    tables = _OWN.findall((DATA / engine / old / "engine.toml").read_text())
    own = "".join(f"{table.strip()}\n\n" for table in tables).replace(old, new)
    said = f"# Environments and image are those of {old} under the new number: not tried.\n\n" if tables else ""
    return f'builds_on = "{old}"\n\n{said}{own}'.rstrip() + "\n"


def interface(engine: str, python: Path, version: str) -> str:
    """Return ``interface.json`` as the package in ``python`` reports it. Raises SystemExit for another version."""
    command = [str(python), "-s", str(WORKER), "--dump", engine]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    text = told[told.index("{") :]
    found = json.loads(text)["version"]
    if found != version:
        raise SystemExit(f"{python} has {engine} {found}, not {version}")
    return text


def make(engine: str, version: str, python: Path | None) -> list[str]:
    """Write the folder, and return the steps to do by hand. Raises SystemExit if the folder exists already."""
    old = default_version(engine)
    folder = DATA / engine / version
    if folder.exists():
        raise SystemExit(f"{folder} is there already")
    told = None if python is None else interface(engine, python, version)
    folder.mkdir()
    (folder / "engine.toml").write_text(engine_toml(engine, old, version))
    if old in versions_with(engine, "contract.toml"):
        (folder / "contract.toml").write_text(f'builds_on = "{old}"\n')
    for file in sorted((DATA / engine / old).glob("requirements-*.txt")):
        text = file.read_text()
        for one in version_data(engine).environments.values():
            text = text.replace(f"{one.distribution}=={old}", f"{one.distribution}=={version}")
        (folder / file.name).write_text(text)
    if told is not None:
        (folder / "interface.json").write_text(told)
    return [
        f"freeze {folder.name}/requirements-*.txt anew from an environment that has {version}",
        *([] if told else [f"run this again with --python for {folder.name}/interface.json, or write it by hand"]),
        f"read what {version} does with a head, and state in {folder.name}/contract.toml what differs from {old}",
        f'set pinned = "{version}" in data/{engine}/common.toml; run python docs/generate.py',
    ]


def main() -> None:
    """Parse the command line, and make the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("version")
    parser.add_argument("--python", type=Path, help="interpreter that has the new version (vllm, sglang)")
    given = parser.parse_args()
    for line in make(given.engine, given.version, given.python):
        sys.stdout.write(f"- {line}\n")


if __name__ == "__main__":
    main()
