"""What a Job's container runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# The engine's own interpreter keeps its packages: eagle3hub goes into an environment that sees them and hides some.
# Without ensurepip, which images of Debian and Ubuntu lack; pip is the image's.
_SCRIPT = """\
set -eu
nonce=$1 package=$2 engine=$3
shift 3
home=$(mktemp -d)
python3 -m venv --without-pip --system-site-packages "$home"
case "$package" in
*" --hash="*)  # a release: the bytes it is pinned to, and then what they need
    echo "$package" > "$home/release.txt"
    "$home/bin/python" -m pip download --quiet --no-input --disable-pip-version-check --no-deps --only-binary :all: \\
        --require-hashes --dest "$home/release" --requirement "$home/release.txt"
    package="$(echo "$home"/release/*.whl)[validate]" ;;
esac
"$home/bin/python" -m pip install --quiet --no-input --disable-pip-version-check "$package"
if [ "$engine" != reference ]; then
    set -- "$@" --engine-python "$engine=$(command -v python3)"
fi
"$home/bin/python" -m eagle3hub "$@" --json | "$home/bin/python" -m eagle3hub.jobs.seal "$nonce"
"""

_NAME = "eagle3hub"


@dataclass(frozen=True, slots=True)
class Command:
    """The container's command in parts.

    Attributes:
        nonce: marks the report's lines in the log. package: the requirement that pip installs.
        engine: whose image it is; the reference needs no interpreter of its own.
        words: the validation, after ``eagle3hub``: ``validate``, the head's address, options.
    """

    nonce: str
    package: str
    engine: str
    words: tuple[str, ...]

    def argv(self) -> list[str]:
        """The command. What a user typed is an argument, never part of the script."""
        return ["sh", "-c", _SCRIPT, _NAME, self.nonce, self.package, self.engine, *self.words]


def parse_command(argv: Sequence[str]) -> Command | None:
    """The parts of a command that this tool made, of whatever version; None for any other."""
    match list(argv):
        case ["sh", "-c", _, name, nonce, package, engine, "validate", head, *rest] if name == _NAME:
            return Command(nonce, package, engine, ("validate", head, *rest))
    return None
