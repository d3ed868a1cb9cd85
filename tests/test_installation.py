"""How eagle3hub is installed: never by a name that anybody may hold, and each printed command as it is printed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.commands import blocks
from support.scripts import load_script

from eagle3hub._version import __version__
from eagle3hub.errors import UsageError
from eagle3hub.jobs.collect import Sealed
from eagle3hub.jobs.plan import Command, at_commit, check_requirement
from eagle3hub.system import installation
from eagle3hub.system.installation import Index

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
NOT_OURS = {".git", ".venv", ".hypothesis", "build", "dist", "__pycache__"}
INSTALLS = re.compile(
    r"\b(?:pip[\d.]*|pipx|conda|mamba|poetry|pdm|uv(?: +tool| +pip)?) +(?:install|download|wheel|add|run|inject)\b"
    r"(?P<rest>[^\n`]*)|\buvx +(?P<tool>[^\n`]*)"
)
BARE = re.compile(r"eagle3hub(?:\[[^\]]*\])?(?:[=<>~!;].*)?")
ELSEWHERE = re.compile(
    r"""\beagle3hub\[[\w, $-]*\](?!\ @\ |\ ?@\ ?\$)    # an extra of it, and no address
    |\beagle3hub\ *[=~<>!]=\ *[\w"'{$]                 # a version of it
    |^\s*-?\s*(?:package|default|name|requires?|packages):\s*["']?eagle3hub["']?\s*$   # what a workflow installs
    """,
    re.VERBOSE | re.MULTILINE,
)
OURSELVES = re.compile(r'^    "eagle3hub\[charts,publish,sign\]",$|--hash=sha256:[0-9a-f]{64}', re.MULTILINE)


def installs_by_name(text: str) -> list[str]:
    """The lines of a text that would take eagle3hub from a package index, whoever holds that name there."""
    text = re.sub(r"\\\n\s*", " ", text)
    found = []
    for line in text.splitlines():
        if OURSELVES.search(line):
            continue
        for match in INSTALLS.finditer(line):
            words = (match["rest"] or match["tool"] or "").replace('"', " ").replace("'", " ").split()
            if any(BARE.fullmatch(word) and words[i + 1 : i + 2] != ["@"] for i, word in enumerate(words)):
                found.append(line)
        if ELSEWHERE.search(line):
            found.append(line)
    return found


def texts() -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            f for f in folders if f not in NOT_OURS and not f.endswith("_cache") and not Path(folder, f).is_symlink()
        ]
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() or path == Path(__file__):
                continue
            try:
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


@pytest.mark.slow
def test_nothing_installs_by_a_name_that_anybody_may_hold():
    pages = dict(texts())
    assert {"action.yml", ".github/workflows/release.yml", "README.md", "eagle3hub/jobs/plan.py"} <= set(pages)
    assert {name: lines for name, text in pages.items() if (lines := installs_by_name(text))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "$ pip install eagle3hub               # no torch",
        "pip install 'eagle3hub[validate]'",
        "hint=\"pip install --upgrade 'eagle3hub[validate]'\"",
        "python -m pip install -U torch eagle3hub",
        "pip3 install eagle3hub==0.1.0",
        "pip install \\\n    eagle3hub",
        "uv pip install eagle3hub",
        "uv add eagle3hub",
        "uv tool install eagle3hub",
        "uvx eagle3hub inspect head",
        "pipx run eagle3hub",
        "pip download eagle3hub",
        "    default: eagle3hub",
        "      package: eagle3hub",
        'PACKAGE = f"eagle3hub[validate]=={__version__}"',
        "eagle3hub==0.1.0",
    ],
)
def test_a_line_that_does_is_found(line: str):
    assert installs_by_name(line)


@pytest.mark.parametrize(
    "line",
    [
        "pip install .",
        "pip install '.[validate]'",
        'python -m pip install "$GITHUB_ACTION_PATH[validate]"',
        'python -m pip install "eagle3hub[validate] @ $TOOL"',
        "pip install 'eagle3hub[sign] @ git+https://example.org/o/eagle3hub@c0ffee'",
        "pip install ./eagle3hub-0.1.0-py3-none-any.whl",
        f"echo 'eagle3hub==0.1.0 --hash=sha256:{64 * 'a'}' > eagle3hub.txt",
        "pip install torch  # then run eagle3hub",
    ],
)
def test_a_line_that_does_not_is_not(line: str):
    assert not installs_by_name(line.partition("  #")[0])


def test_every_workflow_installs_what_it_came_with():
    files = [*ROOT.glob(".github/workflows/*.yml"), *ROOT.glob("examples/actions/*.yml"), ROOT / "action.yml"]
    asked = {m[1].strip() for file in files for m in re.finditer(r"pip install (.*)", file.read_text())}
    assert asked == {
        '"eagle3hub @ $TOOL"',
        '"eagle3hub[charts,publish] @ $TOOL"',
        '"eagle3hub[validate] @ $TOOL"',
        "--require-hashes --only-binary=:all: --requirement=eagle3hub-tool/.github/locked/publish.txt",
        '--no-deps --no-build-isolation "eagle3hub$EXTRA @ $TOOL"',
        '"$GITHUB_ACTION_PATH[${ENGINE:+validate,}charts]"',
        '"${file[0]}"',
        "dist/*.whl",
        "--constraint constraints.txt .",  # of the workflow for releases of engines: eagle3hub from its own checkout
        '"$INSTALL"',  # and an engine's release, in an environment of its own
    }
    release = (ROOT / ".github/workflows/release.yml").read_text()
    tools = set(re.findall(r"TOOL: (.*)", release))
    assert tools == {"git+${{ github.server_url }}/${{ job.workflow_repository }}@${{ job.workflow_sha }}"}


def test_the_examples_say_what_to_put_for_the_commit(tmp_path: Path):
    """A file cannot hold the commit that it is part of: the examples hold none, and say how to fill it in."""
    for name in ("check-my-head.yml", "release-my-head.yml"):
        text = (ROOT / "examples/actions" / name).read_text()
        pins = re.findall(r"uses: eagle3hub/eagle3hub\S*@(\S+) # (.*)", text)
        assert pins == [(40 * "0", "not a commit: put yours")]
        assert "in place of the 40 zeros" in " ".join(text.replace("\n# ", " ").split())
    assert "git rev-parse HEAD" in text


def test_the_switch_turns_the_pages(tmp_path: Path):
    generate = load_script(ROOT / "docs/generate.py")
    page = (ROOT / "README.md").read_text()
    assert generate.filled_start(page) == page
    known = Index("1.2.3", 64 * "b")
    turned = generate.filled_start(page, known)
    assert f"eagle3hub==1.2.3 --hash=sha256:{64 * 'b'}" in turned
    assert "--require-hashes" in turned
    assert "pip install ." not in turned.replace("pip install ./", "")
    assert "no release" not in turned
    assert not installs_by_name(turned)
    assert generate.filled_start(page, Index("1.2.3")) == page, "a version without a digest is no release yet"


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["charts", "publish", "validate", "sign"])
def test_what_a_message_prints_for_an_extra_is_installed_here(extra: installation.Extra):
    command = installation.command_for_extra(extra)
    names = {re.split(r"[<>=]", word)[0] for word in shlex.split(command)[4:]}
    table = re.search(rf"^{extra} = \[(.*?)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert table is not None
    assert names == {re.split(r"[<>=]", word.strip('", '))[0] for word in re.findall(r'"[^"]+"', table[1])}
    for line in (command, installation.command_for_extra(extra, upgrade=True)):
        done = subprocess.run(
            ["sh", "-c", line], env={**os.environ, "PIP_NO_INDEX": "1"}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr


# What `pip install .` brings.

BASE = """
    annotated-doc anyio attrs certifi click defusedxml exceptiongroup filelock fsspec h11 hf-xet httpcore httpcore2
    httpx httpx2 huggingface-hub idna jinja2 jsonschema jsonschema-specifications latexcodec markdown-it-py markupsafe
    mdurl packaging pybtex pygments pyyaml referencing rich rpds-py safetensors shellingham tomli tqdm
    tree-sitter tree-sitter-bash truststore typer typing-extensions
"""


def brought_by(requirements: Iterable[str]) -> dict[str, str]:
    """Every distribution that these requirements bring here, and which one asks for it."""
    found: dict[str, str] = {}
    left = [("eagle3hub", line, frozenset[str]()) for line in requirements]
    seen = set()
    while left:
        who, line, extras = left.pop()
        wanted = Requirement(line)
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            continue
        name = canonicalize_name(wanted.name)
        found.setdefault(name, who)
        asked = (name, frozenset(wanted.extras))
        if asked not in seen:
            seen.add(asked)
            left += [(name, more, asked[1]) for more in requires(name) or ()]
    return found


def test_the_smallest_installation_brings_what_is_listed_here():
    """Each package costs everybody who installs eagle3hub room, and often time at every start."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = brought_by(project["dependencies"])
    assert {name: who for name, who in brought.items() if name not in BASE.split()} == {}
    assert {"safetensors", "typer", "rich"} <= set(brought)


# What pip makes of a checkout, and which eagle3hub a job is told to install then.

ADDRESS = "https://github.com/lab/eagle3hub"
ASK = """
from eagle3hub.errors import Eagle3HubError
from eagle3hub.jobs.plan import own_package
try:
    print(own_package())
except Eagle3HubError as e:
    print(e.code, e.message, e.hint)
"""


def git(folder: Path, *argv: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *argv], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as somebody has it who cloned the repository and pulled: what is here, less the example's weights."""
    folder = tmp_path_factory.mktemp("origin") / "eagle3hub"
    folder.mkdir()
    for name in ("eagle3hub", "templates", "schemas"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "examples").mkdir()
    shutil.copytree(ROOT / "examples/actions", folder / "examples/actions")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "As it is")
    git(folder, "remote", "add", "origin", f"{ADDRESS}.git")
    git(folder, "update-ref", "refs/remotes/origin/main", "HEAD")
    return folder


@pytest.fixture
def checkout(origin: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(origin, tmp_path / "eagle3hub"))


class Machine:
    """A machine with an environment of its own, a ``pip`` that installs into it, and what eagle3hub needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True, timeout=60)
        (self.site,) = (folder / "env/lib").glob("python*/site-packages")
        needed = folder / "needed"
        needed.mkdir()
        for place in (p for p in sys.path if p.endswith("site-packages")):
            for found in Path(place).iterdir():
                if not (
                    found.name.startswith(("eagle3hub", "__"))
                    or found.suffix == ".pth"
                    or (needed / found.name).exists()
                ):
                    (needed / found.name).symlink_to(found)
        (self.site / "needed.pth").write_text(f"{needed}\n")
        (folder / "bin").mkdir()
        (folder / "bin/pip").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@"\n')
        (folder / "bin/pip").chmod(0o755)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            "PATH": f"{folder / 'bin'}:{folder / 'env/bin'}:{os.environ['PATH']}",
            "PIP_PYTHON": str(folder / "env/bin/python"),
        }

    def __call__(self, line: str, at: Path, **env: str) -> str:
        """Run a line; returns what it prints."""
        done = subprocess.run(
            ["bash", "-c", line], cwd=at, env={**self.env, **env}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def own_package(self, **env: str) -> str:
        return self(f"python -c {shlex.quote(ASK)}", self.folder, **env)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "machine").mkdir()
    return Machine(tmp_path / "machine")


@pytest.mark.slow
def test_the_pages_commands_install_a_checkout(checkout: Path, machine: Machine):
    lines, again = (
        [c.line for block in blocks(ROOT / page) for c in block.commands if c.line.startswith("pip ")]
        for page in ("README.md", "docs/index.md")
    )
    assert lines == again
    assert len(lines) == 3
    for line in lines:
        machine(line, checkout)
        assert machine("eagle3hub --version", machine.folder) == f"eagle3hub {__version__}"
    assert (machine.site / "eagle3hub/_data/examples/actions/release.yaml").is_file()
    head = git(checkout, "rev-parse", "HEAD")
    wanted = f"eagle3hub[validate] @ {ADDRESS}/archive/{head}.zip"
    assert machine.own_package() == wanted
    (checkout / "eagle3hub/releasing/demo.py").write_text('"""Pulled meanwhile."""\n')
    git(checkout, "commit", "--quiet", "--all", "--message", "More")
    git(checkout, "update-ref", "refs/remotes/origin/main", "HEAD")
    assert "is not what it was installed from any more" in machine.own_package()


@pytest.mark.slow
def test_a_job_gets_the_commit_of_a_checkout(checkout: Path, machine: Machine):
    tree = {"PYTHONPATH": str(checkout)}
    head = git(checkout, "rev-parse", "HEAD")
    assert machine.own_package(**tree) == f"eagle3hub[validate] @ {ADDRESS}/archive/{head}.zip"
    (checkout / "eagle3hub/notes.txt").write_text("not known to git")
    assert machine.own_package(**tree).endswith(f"{head}.zip")
    (checkout / "eagle3hub/releasing/demo.py").write_text('"""Changed."""\n')
    assert "usage-jobs-package" in machine.own_package(**tree)
    assert "has changes that are in no commit" in machine.own_package(**tree)
    git(checkout, "commit", "--quiet", "--all", "--message", "More")
    assert "which was not pushed" in machine.own_package(**tree)
    git(checkout, "update-ref", "refs/remotes/origin/other", "HEAD")
    assert machine.own_package(**tree).endswith(f"{git(checkout, 'rev-parse', 'HEAD')}.zip")
    git(checkout, "remote", "set-url", "origin", str(checkout))
    assert "the job cannot reach its repository" in machine.own_package(**tree)
    shutil.rmtree(checkout / ".git")
    assert "is in no git repository" in machine.own_package(**tree)
    assert "--job-package 'eagle3hub[validate] @ git+https://" in machine.own_package(**tree)


@pytest.mark.slow
def test_a_job_gets_the_commit_that_pip_installed(origin: Path, machine: Machine):
    """The line of the release workflow, with the addresses that GitHub would put into it."""
    head = git(origin, "rev-parse", "HEAD")
    line = 'python -m pip install "eagle3hub @ $TOOL"'
    assert f"run: {line}\n" in (ROOT / ".github/workflows/release.yml").read_text()
    fetched = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{origin.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": ADDRESS,
    }
    machine(line.removeprefix("python -m "), machine.folder, TOOL=f"git+{ADDRESS}@{head}", **fetched)
    assert json.loads(next(machine.site.glob("eagle3hub-*.dist-info/direct_url.json")).read_text())["url"] == ADDRESS
    assert machine.own_package() == f"eagle3hub[validate] @ {ADDRESS}/archive/{head}.zip"


@pytest.mark.slow
def test_a_release_is_what_the_switch_says(origin: Path, machine: Machine):
    build = f"pip wheel --no-deps --wheel-dir wheels {shlex.quote(str(origin))}"
    machine(build, machine.folder, PIP_PYTHON=sys.executable)
    (wheel,) = (machine.folder / "wheels").glob("*.whl")
    machine(f"pip install {wheel}", machine.folder)
    assert f"it was installed from {wheel}, which the job cannot read" in machine.own_package()
    machine("pip install --force-reinstall --no-deps --no-index --find-links wheels eagle3hub", machine.folder)
    assert "installed from an index that has no release of it" in machine.own_package()
    switch = machine.site / "eagle3hub/system/installation.toml"
    made = switch.read_text().replace('version = ""', f'version = "{__version__}"')
    switch.write_text(made)
    assert machine.own_package() == f"eagle3hub[validate]=={__version__}"
    switch.write_text(made.replace('sha256 = ""', f'sha256 = "{64 * "c"}"'))
    assert machine.own_package() == f"eagle3hub=={__version__} --hash=sha256:{64 * 'c'}"
    # the pages' commands for it, and what a job does with it
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    machine("pip uninstall --yes eagle3hub", machine.folder)
    for line in installation.manual(Index(__version__, digest)):
        machine(line, machine.folder, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheel.parent))
    assert f"it was installed from {machine.folder / wheel.name}" in machine.own_package(), "it knows of no release"
    switch.write_text(made)
    assert machine.own_package() == f"eagle3hub=={__version__} --hash=sha256:{digest}"
    places = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent)}
    env = {k: v for k, v in machine.env.items() if k != "PIP_PYTHON"}
    env |= places | {"TMPDIR": str(machine.folder)}
    for sha256, works in ((digest, True), (64 * "0", False)):
        pinned = f"eagle3hub=={__version__} --hash=sha256:{sha256}"
        argv = Command("n0nce", pinned, "reference", ("inspect", str(ROOT / "examples/smollm2-135m/head"))).argv()
        with_pip = machine.folder / "bin/python3"
        with_pip.write_text(_python3(machine))
        with_pip.chmod(0o755)
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300)
        sealed = Sealed("n0nce")
        for line in done.stdout.splitlines():
            sealed.take(line)
        assert (done.returncode == 0) is sealed.complete is works, done.stdout + done.stderr
        assert works or "DO NOT MATCH THE HASHES" in done.stderr
    assert json.loads(sealed.document() if sealed.complete else b'{"layout": "specjax"}')["layout"] == "specjax"


def _python3(machine: Machine) -> str:
    """An interpreter whose environments see this one's packages, as those of a container do."""
    return f"""#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec "{sys.executable}" "$@"
for last; do :; done
"{sys.executable}" -m venv --without-pip "$last"
cp "{machine.site / "needed.pth"}" "$last"/lib/python*/site-packages/
"""


@pytest.mark.parametrize(
    ("remote", "wanted"),
    [
        ("https://github.com/lab/tool.git", "https://github.com/lab/tool/archive/c0ffee.zip"),
        ("https://me:secret@github.com/lab/tool", "https://github.com/lab/tool/archive/c0ffee.zip"),
        ("git@github.com:lab/tool.git", "https://github.com/lab/tool/archive/c0ffee.zip"),
        ("ssh://git@github.com:22/lab/tool.git", "https://github.com/lab/tool/archive/c0ffee.zip"),
        ("https://example.org/lab/tool.git", "git+https://example.org/lab/tool.git@c0ffee"),
    ],
)
def test_a_remote_is_named_so_that_a_job_can_reach_it(remote: str, wanted: str):
    assert at_commit(remote, "c0ffee") == f"eagle3hub[validate] @ {wanted}"


@pytest.mark.parametrize(
    "remote", ["/srv/tool.git", "../tool", "file:///srv/tool", "http://example.org/tool", "git://h/x"]
)
def test_a_remote_that_no_job_reaches_is_refused(remote: str):
    with pytest.raises(UsageError, match="the job cannot reach its repository"):
        at_commit(remote, "c0ffee")


@pytest.mark.parametrize(
    "package",
    [
        *("eagle3hub", "eagle3hub[validate]", "eagle3hub==0.1.0", " Eagle3Hub[validate] >= 0.1", "eagle3hub ~=0.1"),
        *("eagle3hub(==1)", "eagle3hub; python_version > '3'"),
    ],
)
def test_a_job_is_given_no_name_that_anybody_may_hold(package: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="whoever takes that name would run in the job"):
        check_requirement(package)
    monkeypatch.setattr(installation, "index", lambda: Index("0.1.0"))
    check_requirement(package)


@pytest.mark.parametrize("package", ["eagle3hub @ https://example.org/e.whl", f"eagle3hub @ git+{ADDRESS}@c0ffee"])
def test_an_address_is_taken(package: str):
    check_requirement(package)
