"""Plan a validation as a Hugging Face Job: command, image, package, and the one head that the report may be about."""

from __future__ import annotations

import filecmp
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from eagle3hub._version import __version__
from eagle3hub.address import HubAddress, parse_address, parse_hub_address
from eagle3hub.checkpoint.digest import combined_digest, file_digest, head_files
from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.checkpoint.hub import download_file
from eagle3hub.checkpoint.source_tree import published_commit
from eagle3hub.engines import ENGINES
from eagle3hub.engines.options import engine_options
from eagle3hub.engines.specs import DEVICES, Device, default_version, version_data
from eagle3hub.errors import FoundWanting, ManifestError, SourceError, UnavailableError, UsageError
from eagle3hub.jobs import api
from eagle3hub.layouts import open_head
from eagle3hub.prompts import PACKAGED, datasets, load_prompts
from eagle3hub.publishing.remote import list_files_at
from eagle3hub.system import installation
from eagle3hub.system.progress import Progress, silent
from eagle3hub.validation.engine_runner import preflight_check, stops
from eagle3hub.validation.matrix import layout_names
from eagle3hub.validation.options import REFERENCE, ValidateOptions, engine_names
from eagle3hub.validation.target import Target, check_rendering

# The command that a Job's container runs.


# The engine's own interpreter keeps its packages: eagle3hub goes into an environment that sees them and hides some.
# Ensurepip is not used, because images of Debian and Ubuntu lack it; pip is the image's own.
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
"$home/bin/python" -m eagle3hub "$@" --json | "$home/bin/python" -m eagle3hub.jobs.collect "$nonce"
"""

_NAME = "eagle3hub"


@dataclass(frozen=True, slots=True)
class Command:
    """The container's command in parts.

    Attributes:
        nonce: marks the report's lines in the log. package: the requirement that pip installs.
        engine: the engine of the image; the reference needs no interpreter of its own.
        words: the validation, after ``eagle3hub``: ``validate``, the head's address, options.
    """

    nonce: str
    package: str
    engine: str
    words: tuple[str, ...]

    def argv(self) -> list[str]:
        """Return the command. Words that a user typed are arguments, never part of the script."""
        return ["sh", "-c", _SCRIPT, _NAME, self.nonce, self.package, self.engine, *self.words]


def parse_command(argv: Sequence[str]) -> Command | None:
    """Split a command that this tool made, in any version, into its parts; None for any other command."""
    match list(argv):
        case ["sh", "-c", _, name, nonce, package, engine, "validate", head, *rest] if name == _NAME:
            return Command(nonce, package, engine, ("validate", head, *rest))
    return None


# The container image of a Job: an engine's image is stated in ``engine.toml`` of its pinned version.


@dataclass(frozen=True, slots=True)
class Image:
    """A container image: its engine, address, devices, and default flavor.

    ``version`` is the engine's, as named in our data; None for the reference, which has this package's version.
    """

    engine: str
    address: str
    version: str | None
    devices: tuple[str, ...]
    flavor: str

    @property
    def by_digest(self) -> bool:
        """Whether the address is a digest, so that its bytes can never change."""
        return "@sha256:" in self.address


# Tag and digest as several public Dockerfiles of 2026 pin them; we have not run it.
_OF_THE_REFERENCE = Image(
    REFERENCE,
    "pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime"
    "@sha256:6acf597eeb8e376a96580dde4952f37cc017fef732bb40bfc73f28f25e3f64b4",
    None,
    ("cpu", "cuda"),
    "cpu-upgrade",
)


def image_for(engines: Sequence[str]) -> Image:
    """Return the image for these engines; ``reference`` runs in any image.

    Raises UsageError for two other engines, and UnavailableError if the engine has no image.
    """
    others = [name for name in engines if name != REFERENCE]
    if len(others) > 1:
        raise UsageError(
            f"a job runs in the image of one engine, not of {' and '.join(others)}",
            hint="start one job for each of them; the reference may come along with each",
            code="usage-jobs-engines",
        )
    engine = others[0] if others else REFERENCE
    if engine == REFERENCE:
        return _OF_THE_REFERENCE
    data = version_data(engine).image if engine in ENGINES else None
    if data is None:
        known = [REFERENCE, *(name for name in ENGINES if version_data(name).image is not None)]
        raise UnavailableError(
            f"there is no image of {engine} to run as a job",
            hint=f"engines with one: {', '.join(known)}",
            code="job-no-image",
        )
    return Image(engine, data.address, default_version(engine), data.devices, data.flavor)


# The eagle3hub that a Job installs: the one that runs here, from an address that the job can reach.


EXTRA = f"{installation.NAME}[validate]"
_HERE = installation.PACKAGE
_BY_NAME = re.compile(rf"{installation.NAME}\s*(?:\[[^\]]*\])?\s*(?:[=<>~!;(].*)?", re.IGNORECASE)
_SCP = re.compile(r"(?:[\w.-]+@)?(?P<host>[\w.-]+):/?(?P<path>[^@:]+)")
_COMMIT = "'eagle3hub[validate] @ git+https://HOST/OWNER/eagle3hub@COMMIT'"


def own_package() -> str:
    """Return a requirement for the eagle3hub that runs here, which pip can install anywhere.

    It is the release on the package index, if this is a release; otherwise the commit that this was installed from, or
    the commit of the checkout it runs in. Raises UsageError (``usage-jobs-package``) if no such commit is known.
    """
    if not (_HERE / "_data").exists():  # not installed from a wheel: the tree itself
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
    if digest and known.version == __version__:  # a release's wheel, wherever it was kept
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
    """Raise UsageError (``usage-jobs-package``) for a package that no job can install, or that may be a stranger's."""
    stripped = package.strip()
    path = "/" in stripped and "://" not in stripped
    if not stripped or path or stripped.startswith(("-", ".")) or "file:" in stripped:
        raise _no_requirement(f"pip cannot install --job-package {package!r} in the job")
    if _BY_NAME.fullmatch(stripped) and not installation.index().version:
        raise _no_requirement(
            f"--job-package {package!r} is a name on the package index, where there is no release of eagle3hub: "
            "whoever takes that name would run in the job"
        )


def at_commit(url: str, commit: str) -> str:
    """Return the requirement for a commit of a repository; on GitHub it is an archive, which needs no git.

    Raises UsageError for an address that only this machine can reach.
    """
    if url.startswith("ssh://"):
        parts = urlsplit(url)
        url = f"https://{parts.hostname}{parts.path}"
    elif "://" not in url and (match := _SCP.fullmatch(url)) is not None:
        url = f"https://{match['host']}/{match['path']}"
    if not url.startswith("https://"):
        raise _unknown(f"the job cannot reach its repository, {url}")
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
    """Return whether every module and data file of the installed package equals the checkout's."""
    ours = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    ours = {path for path in ours if path.parts[0] != "_data" and "__pycache__" not in path.parts}
    return all((checkout / p).is_file() and filecmp.cmp(installed / p, checkout / p, shallow=False) for p in ours)


def _without_user(url: str) -> str:
    """Return an address without its user name and password, which must not be shown."""
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


# Check that the report of a job is about the head that the job was given.


@dataclass(frozen=True, slots=True)
class Expected:
    """The head and target that the report of a job must be about.

    Attributes:
        nonce: marks the report's lines in the log.
        head: the head's address at a commit. digest: the digest of its files. target: the target's name in the report.
    """

    nonce: str
    head: str
    digest: str
    target: str


def expected_digest(checkpoint: Checkpoint) -> str:
    """Return the digest that a report must state for a head on the Hub.

    It is computed from the Hub's own digests, so no weights are downloaded.

    ``checkpoint`` is a source on the Hub, opened with ``headers_only``. Raises HubError.
    """
    at = parse_hub_address(checkpoint.source)
    commit = at.revision or ""
    small = {path.name for path in head_files(checkpoint.folder) if path.suffix == ".json"}
    stored = list_files_at(at.repo_id, commit)
    found: dict[str, str] = {}
    for name in small | {path.name for path in checkpoint.weights}:
        path = at.file(name)
        large = stored[path].sha256 if path in stored else None
        found[name] = large or file_digest(download_file(at.repo_id, path, commit))["sha256"]
    return combined_digest(found)


def check_bound(document: Mapping[str, Any], expected: Expected) -> None:
    """Raise ManifestError unless a report or a matrix is about this head and this target."""
    for what, stated, wanted in (
        ("head", document["head"]["source"], expected.head),
        ("digest", document["head"]["digest"], expected.digest),
        ("target", document["target"]["name"], expected.target),
    ):
        if stated != wanted:
            raise ManifestError(
                f"the report of the job is of another head or target: its {what} is {stated}, not {wanted}",
                hint="discard it, and look at the log of the job",
                code="job-report-foreign",
            )


# What a Job will run, on which hardware, and its highest cost: all known before it starts.


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How to run a validation as a Job.

    Attributes:
        flavor: hardware; None takes the image's default. minutes: time limit, in minutes.
        namespace: account that pays; None is the user's own.
        package: requirement that pip installs in the job; None is the eagle3hub that runs here.
        pass_token: give the job the access token as a secret.
    """

    flavor: str | None = None
    minutes: float = 60.0
    namespace: str | None = None
    package: str | None = None
    pass_token: bool = False


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A Job that is ready to start.

    Attributes:
        layout: the head's layout. target: Hub id. namespace: the account that pays. package: what pip installs.
        words: the command inside, after ``eagle3hub``; the head's address in it is pinned to a commit.
        expected: what the report must be about.
    """

    layout: str
    target: str
    image: Image
    flavor: api.Flavor
    namespace: str
    package: str
    options: JobOptions
    words: tuple[str, ...]
    expected: Expected

    @property
    def most_usd(self) -> float:
        """The cost of the Job in US dollars if it runs until its time limit."""
        return self.flavor.usd_per_hour * self.options.minutes / 60

    @property
    def command(self) -> list[str]:
        """The command that the container runs."""
        return Command(self.expected.nonce, self.package, self.image.engine, self.words).argv()

    @property
    def labels(self) -> dict[str, str]:
        """The labels by which the Job is found among others."""
        name = parse_hub_address(self.expected.head).name
        return {"name": re.sub(r"[^A-Za-z0-9_-]", "-", f"eagle3hub-validate-{name}"), "eagle3hub": "validate"}

    def start(self) -> api.Job:
        """Start the job. Raises HubError."""
        return api.start(
            image=self.image.address,
            command=self.command,
            flavor=self.flavor.name,
            seconds=round(self.options.minutes * 60),
            namespace=self.namespace,
            labels=self.labels,
            pass_token=self.options.pass_token,
        )


def plan_job(
    head: str,
    target: str,
    options: Mapping[str, Any],
    job: JobOptions,
    *,
    run_anyway: bool = False,
    progress: Progress = silent,
) -> JobPlan:
    """Plan a validation as a Job, and check everything that can be known before it costs money.

    Args:
        head, target: their addresses on the Hub (`parse_address`).
        options: the options of the command ``validate`` by name. An option that is None is left out of the job's
            command; a ``device`` of None becomes the flavor's.
        run_anyway: also start an engine that will refuse the files or read them wrong.

    Raises:
        UsageError: a local head or target, two engines, an unknown flavor, a device that the flavor lacks, a missing
            token, and options that `validate` would refuse.
        InputError, HubError: the head or the target cannot be read, or the Hub fails.
        FoundWanting: the engine would refuse the files or serve them silently wrong, and ``run_anyway`` is not set.
        UnavailableError: the engine has no image.
    """
    package = _check_job(job)
    at = _on_the_hub(head, target)
    target = at.model_id
    engines = _check_options(options)
    image = image_for(engines)
    progress("reading the head")
    try:
        checkpoint = open_checkpoint(head, headers_only=True, progress=progress)
    except SourceError as e:
        if e.code != "source-missing":
            raise
        raise _local_head(head) from e
    opened = open_head(checkpoint, target=target)
    opened.raise_for_errors()
    progress("asking the Hub for hardware and access")
    flavor = _flavor(job.flavor or image.flavor)
    device = _device(options["device"], flavor, image)
    devices = options["engine_settings"].tensor_parallel
    if device == "cuda" and flavor.accelerators < devices:
        raise UsageError(
            f"--tensor-parallel {devices} needs {devices} GPUs, and {flavor.name} has {flavor.accelerators}",
            hint="choose another --flavor",
            code="usage-jobs-device",
        )
    check_rendering(Target(target, at.repo_id, None, None, None), options["engine_settings"].chat_template)
    if image.version is not None and options["layouts"] is None and not run_anyway:
        reason = stops(preflight_check(checkpoint, opened, target, devices)(image.engine, image.version, device))
        if reason is not None:
            raise FoundWanting(
                f"no job was started: {reason}",
                hint="fix the head, or run it anyway: --run-anyway",
                code="job-foreseen",
            )
    original = options["reference_head"]
    heads = [checkpoint, *([] if original is None else [open_checkpoint(original, headers_only=True)])]
    if not job.pass_token:
        _open_to_all(at.repo_id, *(parse_hub_address(one.source).repo_id for one in heads))
    pinned = {"engine": ",".join(engines), "device": device, "reference_head": original and heads[-1].source}
    started = engine_options(options["engine_settings"])
    plain = {name: value for name, value in options.items() if name != "engine_settings"}
    words = _words({"target": target, **plain, **pinned, **started})
    return JobPlan(
        layout=opened.layout,
        target=target,
        image=image,
        flavor=flavor,
        namespace=job.namespace or api.account(),
        package=package,
        options=job,
        words=("validate", checkpoint.source, *words, *(["--run-anyway"] if run_anyway else [])),
        expected=Expected(
            nonce=secrets.token_hex(8),
            head=checkpoint.source,
            digest=expected_digest(checkpoint),
            target=options["target_name"] or at.repo_id,
        ),
    )


def refuse_local_files(options: Mapping[str, Any]) -> None:
    """Raise UsageError for the first of these options that is given, since they name files of this machine."""
    for name, value in options.items():
        if value:
            raise UsageError(
                f"--{_long(name)} names a file of this machine, which the job does not have",
                hint="leave it out, or validate here",
                code="usage-jobs-local-file",
            )


def _check_options(options: Mapping[str, Any]) -> list[str]:
    """Raise now what `validate` would raise after the job is paid for; return the engines."""
    known = [*PACKAGED, *datasets()]
    if options["prompts"] not in known:
        raise UsageError(
            f"the job has no prompts {options['prompts']!r}",
            hint=f"give a set by name: {', '.join(known)}",
            code="usage-jobs-prompts",
        )
    if options["prompts"] in PACKAGED:
        load_prompts(options["prompts"], options["num_prompts"])
    engines, original = engine_names(options["engine"]), options["reference_head"]
    if original is not None and not isinstance(parse_address(original), HubAddress):
        refuse_local_files({"reference_head": original})
    if options["layouts"] is not None:
        layout_names(options["layouts"])
    names = {field.name for field in fields(ValidateOptions)}
    stated = {name: value for name, value in options.items() if name in names and name != "device"}
    ValidateOptions(**stated, device=options["device"] or DEVICES[0])
    return engines


def _check_job(options: JobOptions) -> str:
    """Raise UsageError for options that no job can have; return what pip installs."""
    if not 1 <= options.minutes <= 24 * 60:
        raise UsageError(f"--time-limit is 1 to 1440 minutes, not {options.minutes:g}", code="usage-jobs-limit")
    if options.package is None:
        return own_package()
    check_requirement(options.package)
    return options.package.strip()


def _on_the_hub(head: str, target: str) -> HubAddress:
    """Raise UsageError for a head or a target that the job cannot read; return the target's address."""
    if not isinstance(parse_address(head), HubAddress):
        raise _local_head(head)
    try:
        at = parse_address(target)
    except SourceError:
        at = None
    if not isinstance(at, HubAddress) or at.folder:
        raise UsageError(
            f"the job cannot read the target {target!r}", hint="give its Hub id: owner/name", code="usage-jobs-target"
        )
    return at


def _local_head(head: str) -> UsageError:
    return UsageError(
        f"the job cannot read {head!r}: a head to validate there is on the Hub",
        hint="publish it with `eagle3hub publish DIR --repo OWNER/NAME --private`, then name hf://OWNER/NAME",
        code="usage-jobs-local-head",
    )


def _flavor(name: str) -> api.Flavor:
    known = api.flavors()
    if name not in known:
        raise UsageError(
            f"no hardware of jobs is called {name!r}", hint=f"flavors: {', '.join(known)}", code="usage-jobs-flavor"
        )
    return known[name]


def _device(asked: str | None, flavor: api.Flavor, image: Image) -> Device:
    device = next(d for d in DEVICES if d == (asked or flavor.device))
    if device == "cuda" and flavor.accelerator is None:
        raise UsageError(f"{flavor.name} has no GPU", hint="choose another --flavor", code="usage-jobs-device")
    if device not in image.devices:
        raise UsageError(
            f"the image of {image.engine} computes on {' and '.join(image.devices)}, not on {device}",
            hint="choose a --flavor with a GPU" if flavor.accelerator is None else f"--device {image.devices[0]}",
            code="usage-jobs-device",
        )
    return device


def _open_to_all(*repos: str) -> None:
    for repo in repos:
        if api.needs_token(repo):
            raise UsageError(
                f"{repo} is private or gated, and the job has no access token",
                hint="--pass-token gives the job yours as a secret; a token that may only read these is safer",
                code="usage-jobs-token",
            )


def _words(options: Mapping[str, Any]) -> list[str]:
    """Return options as words; one that is a list is given once for each of its items."""
    given = {name: value if isinstance(value, list) else [value] for name, value in options.items()}
    return [
        word
        for name, values in given.items()
        for v in values
        if v is not None
        for word in (f"--{_long(name)}", str(v))
    ]


def _long(name: str) -> str:
    return name.replace("_", "-")
