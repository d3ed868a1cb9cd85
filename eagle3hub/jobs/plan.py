"""What a Job will run, on what, and what it can cost at most: settled before it is started."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.remote import parse_address
from eagle3hub.checkpoint.source import HUB
from eagle3hub.engines.base import DEVICES, Device
from eagle3hub.errors import FoundWanting, UsageError
from eagle3hub.jobs import api
from eagle3hub.jobs.binding import Expected, expected_digest
from eagle3hub.jobs.command import Command
from eagle3hub.jobs.images import Image, image_for
from eagle3hub.jobs.package import check_requirement, own_package
from eagle3hub.layouts import open_head
from eagle3hub.progress import Progress, silent
from eagle3hub.prompts import PACKAGED, datasets, load_prompts
from eagle3hub.validation.matrix import layout_names
from eagle3hub.validation.options import check_options, check_original, check_tree, engine_names
from eagle3hub.validation.outlook import outlook, stops


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked of a Job.

    ``flavor`` None: the image's; ``minutes``: its time limit; ``namespace`` None: own; ``package``: what pip installs,
    None: the eagle3hub that runs here.
    """

    flavor: str | None = None
    minutes: float = 60.0
    namespace: str | None = None
    package: str | None = None
    pass_token: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A Job that may be started.

    Attributes:
        layout: of the head. target: Hub id. namespace: the account that pays. package: what pip installs.
        words: the command inside, after ``eagle3hub``; the head's address in it is pinned to a commit.
        expected: what the report must be of.
    """

    layout: str
    target: str
    image: Image
    flavor: api.Flavor
    namespace: str
    package: str
    wanted: Wanted
    words: tuple[str, ...]
    expected: Expected

    @property
    def most_usd(self) -> float:
        """What the Job costs if it runs until its time limit, in US dollars."""
        return self.flavor.usd_per_hour * self.wanted.minutes / 60

    @property
    def command(self) -> list[str]:
        """What the container runs."""
        return Command(self.expected.nonce, self.package, self.image.engine, self.words).argv()

    @property
    def labels(self) -> dict[str, str]:
        """How the Job is found again among others."""
        name = parse_address(self.expected.head).repo_id.split("/")[1]
        return {"name": re.sub(r"[^A-Za-z0-9_-]", "-", f"eagle3hub-validate-{name}"), "eagle3hub": "validate"}

    def start(self) -> api.Job:
        """Start it. Raises HubError."""
        return api.start(
            image=self.image.address,
            command=self.command,
            flavor=self.flavor.name,
            seconds=round(self.wanted.minutes * 60),
            namespace=self.namespace,
            labels=self.labels,
            pass_token=self.wanted.pass_token,
        )


def make_plan(
    head: str,
    target: str,
    options: Mapping[str, Any],
    wanted: Wanted,
    *,
    run_anyway: bool = False,
    progress: Progress = silent,
) -> Plan:
    """Look at everything that can be known before a Job costs money.

    Args:
        head: ``hf://owner/name[@revision]``. target: a Hub id.
        options: the options of the command ``validate`` by name; None leaves one out of the job's command, and takes
            what the flavor has for ``device``.
        run_anyway: start also an engine that will not get the files right.

    Raises:
        UsageError: a local head or target, two engines, an unknown flavor, a device that it lacks, a missing token,
            and options that `validate` would not take.
        InputError, HubError: the head or the target cannot be read, or the Hub fails.
        FoundWanting: the engine would refuse the files or serve them silently wrong, and ``run_anyway`` is not set.
        UnavailableError: no image of that engine.
    """
    package = _check_wanted(wanted)
    _on_the_hub(head, target)
    engines = _check_options(options)
    image = image_for(engines)
    progress("reading the head")
    checkpoint = open_checkpoint(head, headers_only=True, progress=progress)
    opened = open_head(checkpoint, target=target)
    opened.raise_for_errors()
    progress("asking the Hub for hardware and access")
    flavor = _flavor(wanted.flavor or image.flavor)
    device = _device(options["device"], flavor, image)
    if image.version is not None and options["layouts"] is None and not run_anyway:
        reason = stops(outlook(checkpoint, opened, target)(image.engine, image.version, device))
        if reason is not None:
            raise FoundWanting(
                f"no job was started: {reason}",
                hint="mend the head, or have it run all the same: --run-anyway",
                code="job-foreseen",
            )
    original = options["reference_head"]
    heads = [checkpoint, *([] if original is None else [open_checkpoint(original, headers_only=True)])]
    if not wanted.pass_token:
        _open_to_all(target, *(parse_address(one.source).repo_id for one in heads))
    pinned = {"engine": ",".join(engines), "device": device, "reference_head": original and heads[-1].source}
    words = _words({"target": target, **options, **pinned})
    return Plan(
        layout=opened.layout,
        target=target,
        image=image,
        flavor=flavor,
        namespace=wanted.namespace or api.account(),
        package=package,
        wanted=wanted,
        words=("validate", checkpoint.source, *words, *(["--run-anyway"] if run_anyway else [])),
        expected=Expected(
            nonce=secrets.token_hex(8),
            head=checkpoint.source,
            digest=expected_digest(checkpoint),
            target=options["target_name"] or target,
        ),
    )


def refuse_local_files(options: Mapping[str, Any]) -> None:
    """UsageError for the first of these options that is given: they name files of this machine."""
    for name, value in options.items():
        if value:
            raise UsageError(
                f"--{_long(name)} names a file of this machine, which the job does not have",
                hint="leave it out, or validate here",
                code="usage-jobs-local-file",
            )


def _check_options(options: Mapping[str, Any]) -> list[str]:
    """What `validate` would say of them once the job is paid for; returns the engines."""
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
    if original is not None and not original.startswith(HUB):
        refuse_local_files({"reference_head": original})
    check_original(engines, original)
    if options["layouts"] is not None:
        layout_names(options["layouts"])
    check_options(
        options["device"] or DEVICES[0],
        options["dtype"],
        options["max_new_tokens"],
        options["draft_tokens"],
        options["temperature"],
        options["min_acceptance_length"],
        options["timeout"],
    )
    check_tree(options["draft_tokens"], options["topk"], options["num_draft_tokens"])
    return engines


def _check_wanted(wanted: Wanted) -> str:
    """Raise UsageError for what no job can be; returns what pip installs."""
    if not 1 <= wanted.minutes <= 24 * 60:
        raise UsageError(f"--time-limit is 1 to 1440 minutes, not {wanted.minutes:g}", code="usage-jobs-limit")
    if wanted.package is None:
        return own_package()
    check_requirement(wanted.package)
    return wanted.package.strip()


def _on_the_hub(head: str, target: str) -> None:
    if not head.startswith(HUB):
        raise UsageError(
            f"the job cannot read {head!r}: a head to validate there is on the Hub",
            hint="publish it with `eagle3hub publish DIR --repo OWNER/NAME --private`, then name hf://OWNER/NAME",
            code="usage-jobs-local-head",
        )
    if Path(target).expanduser().exists() or target.count("/") != 1:
        raise UsageError(
            f"the job cannot read the target {target!r}", hint="give its Hub id: owner/name", code="usage-jobs-target"
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
    return [word for name, value in options.items() if value is not None for word in (f"--{_long(name)}", str(value))]


def _long(name: str) -> str:
    return name.replace("_", "-")
