"""Say how eagle3hub is installed: the commands that messages and pages print, and the packages of a job.

The file ``installation.toml`` beside this one switches between a checkout and the package index.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from eagle3hub.system.resources import read_toml

NAME = "eagle3hub"
PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of this package: in a checkout, or where it was installed."""
SWITCH = PACKAGE / "system" / "installation.toml"
Extra = Literal["charts", "publish", "validate", "sign"]


@dataclass(frozen=True, slots=True)
class Index:
    """A release on the package index: its version, and the SHA-256 of its wheel in hexadecimal digits.

    A release with a version and no digest is being made.
    """

    version: str = ""
    sha256: str = ""

    @property
    def released(self) -> bool:
        """Whether it can be installed by name, which needs the wheel's digest."""
        return bool(self.version and self.sha256)

    @property
    def requirement(self) -> str:
        """The line of a requirements file that accepts only this wheel."""
        return f"{NAME}=={self.version} --hash=sha256:{self.sha256}"


@cache
def index() -> Index:
    """Return the release that ``installation.toml`` names."""
    return Index(**read_toml(SWITCH)["index"])


def manual(known: Index) -> list[str]:
    """Return the commands that install eagle3hub, without torch and with it, for the documentation."""
    if not known.released:
        return [
            "pip install .                    # in a checkout: inspect, convert, diff, recipe, card --check",
            "pip install '.[charts,publish]'  # the same, with charts on cards and reports, publishing; no torch",
            "pip install '.[validate]'        # all that, with torch and transformers: the reference",
        ]
    wheel = f"./{NAME}-{known.version}-py3-none-any.whl"
    return [
        f"echo '{known.requirement}' > {NAME}.txt",
        f"pip download --no-deps --only-binary :all: --require-hashes --requirement {NAME}.txt",
        f"pip install {wheel}                    # inspect, convert, diff, recipe, card --check",
        f"pip install '{wheel}[charts,publish]'  # the same, with charts on cards and reports, publishing; no torch",
        f"pip install '{wheel}[validate]'        # all that, with torch and transformers: the reference",
    ]


def command_for_extra(extra: Extra, *, upgrade: bool = False) -> str:
    """Return the command that adds the packages of an extra to the environment this runs in.

    The command names those packages and not eagle3hub, so it works however eagle3hub was installed.
    """
    from importlib import metadata

    wanted = re.compile(rf"([^;]+);.*\bextra == ['\"]{extra}['\"]")
    try:
        found = [match[1].strip() for line in metadata.requires(NAME) or () if (match := wanted.fullmatch(line))]
    except metadata.PackageNotFoundError:
        found = []
    return command_for(*(found or [f"{PACKAGE.parent}[{extra}]"]), upgrade=upgrade)


def command_for(*packages: str, upgrade: bool = False) -> str:
    """Return the command that installs packages into the environment this runs in."""
    from importlib.util import find_spec

    python = shlex.quote(sys.executable)
    pip = f"{python} -m pip install"
    if find_spec("pip") is None and shutil.which("uv"):
        pip = f"uv pip install --python {python}"
    return f"{pip} {'--upgrade ' * upgrade}{shlex.join(packages)}"


def direct_url() -> dict[str, Any] | None:
    """Return what pip recorded about the address that eagle3hub was installed from (PEP 610).

    Returns None if eagle3hub came from an index or is not installed.
    """
    from importlib import metadata

    try:
        text = metadata.distribution(NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    document: dict[str, Any] | None = json.loads(text) if text else None
    return document
