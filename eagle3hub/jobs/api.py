"""Call the Jobs API through huggingface_hub; every failure becomes one sentence.

Source: huggingface_hub 2.4.0 (``HfApi.run_job`` and related methods). The access token is the client's own.
"""

from __future__ import annotations

import inspect as introspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eagle3hub._version import __version__
from eagle3hub.checkpoint.hub import endpoint, hub_errors, patiently
from eagle3hub.errors import HubError, UnavailableError
from eagle3hub.network import bounds, names
from eagle3hub.network.bounds import Exceeded, Operation
from eagle3hub.system.installation import command_for

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PER_HOUR = {"second": 3600, "minute": 60, "hour": 1}
_MOST_MICRO_USD = 10**12
_LONGEST_TEXT = 100
_LOG_BYTES = 256 << 20
_LOG_PATIENCE = 2.5
"""How long a log may stay silent, as a multiple of the longest wait for any other answer."""
_ENDED = ("COMPLETED", "CANCELED", "ERROR", "DELETED")


@dataclass(frozen=True, slots=True)
class Flavor:
    """Hardware that a Job can run on. ``accelerator`` names it and its memory; None if there is none.

    ``accelerators`` is how many there are; 0 also where the Hub states no number.
    """

    name: str
    cpu: str
    memory: str
    accelerator: str | None
    usd_per_hour: float
    accelerators: int = 0

    @property
    def device(self) -> str:
        """The device that a validation on it computes on: cpu or cuda."""
        return "cuda" if self.accelerator else "cpu"


@dataclass(frozen=True, slots=True)
class Job:
    """A Job as the Hub sees it. ``stage`` is a JobStage of huggingface_hub; ``command`` is what the Job runs."""

    id: str
    owner: str
    url: str
    stage: str
    message: str | None
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name that commands use: ``owner/id``."""
        return f"{self.owner}/{self.id}"

    @property
    def ended(self) -> bool:
        """Whether it has ended for good."""
        return self.stage in _ENDED


def account() -> str:
    """Return the name of the account that owns the access token in use. Raises HubError."""
    with _errors("ask for the account"):
        return names.word(patiently(lambda: _api().whoami())["name"], "name of the account")


def flavors() -> dict[str, Flavor]:
    """Return the hardware on offer by name, with its current price. Raises HubError."""
    with _errors("ask for the hardware of jobs"):
        return {f.name: f for f in map(_flavor, patiently(lambda: _api().list_jobs_hardware()))}


def needs_token(repo_id: str) -> bool:
    """Return whether reading a model needs an access token. Raises HubError."""
    with hub_errors(repo_id, repo_id, doing="look at"):
        info = patiently(lambda: _api().model_info(repo_id))
        if not isinstance(info.private, bool) or info.gated not in (None, False, "auto", "manual"):
            raise Exceeded("strange", "it does not say who may read the model")
        return info.private or bool(info.gated)


def start(
    *,
    image: str,
    command: Sequence[str],
    flavor: str,
    seconds: int,
    namespace: str,
    labels: Mapping[str, str],
    pass_token: bool,
) -> Job:
    """Start a job, with a single request: a second one might start, and cost, a second job.

    Args:
        pass_token: give the job the client's access token as its secret HF_TOKEN.

    Raises HubError.
    """
    import huggingface_hub

    secrets = {"HF_TOKEN": huggingface_hub.get_token()} if pass_token else None
    with _errors("start the job", namespace):
        return _job(
            _api().run_job(
                image=image,
                command=list(command),
                flavor=flavor,
                timeout=seconds,
                namespace=namespace,
                labels=dict(labels),
                secrets=secrets,
            )
        )


def inspect(name: str) -> Job:
    """Return a job's current state. Raises HubError."""
    owner, _, job_id = name.partition("/")
    with _errors(f"look at the job {name}", owner):
        return _job(patiently(lambda: _api().inspect_job(job_id=job_id, namespace=owner)))


def cancel(name: str) -> None:
    """Stop a job for good. Raises HubError."""
    owner, _, job_id = name.partition("/")
    with _errors(f"cancel the job {name}", owner):
        patiently(lambda: _api().cancel_job(job_id=job_id, namespace=owner))


class Log:
    """The log of a job: each line once, however often the connection breaks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._owner, _, self._id = name.partition("/")
        self._seen = 0

    def follow(self, take: Callable[[str], object]) -> None:
        """Pass on every new line until the job ends, the stream ends, or nothing is written for a while.

        Raises HubError.
        """

        def read() -> None:
            for i, line in enumerate(self._lines()):
                if i >= self._seen:
                    self._seen = i + 1
                    take(line)

        limits = Operation(seconds=_LOG_PATIENCE * bounds.seconds(), follow=True, small=_LOG_BYTES)
        with _errors(f"read the log of the job {self._name}", self._owner, limits):
            try:
                patiently(read)
            except Exceeded as e:
                if e.kind != "time" or not limits.answered:
                    raise
                # The job writes nothing now: the caller checks the job, and calls again.

    def again(self, take: Callable[[str], object]) -> None:
        """Pass on every line from the beginning. Raises HubError."""
        self._seen = 0
        self.follow(take)

    def _lines(self) -> Iterator[str]:
        for event in _api().fetch_job_logs(job_id=self._id, namespace=self._owner, follow=True):
            yield from event.splitlines() or [""]


def _api() -> HfApi:
    from huggingface_hub import HfApi

    api = HfApi(library_name="eagle3hub", library_version=__version__)
    if (
        not hasattr(api, "list_jobs_hardware")
        or "labels" not in introspect.signature(api.run_job).parameters
        or "follow" not in introspect.signature(api.fetch_job_logs).parameters
    ):
        raise UnavailableError(
            "this huggingface_hub is too old to run jobs",
            hint=command_for("huggingface_hub", upgrade=True),
            code="job-client-too-old",
        )
    return api


@contextmanager
def _errors(doing: str, owner: str | None = None, limits: Operation | None = None) -> Iterator[None]:
    """Within the block, turn errors into those of `hub_errors`, with their meaning for jobs."""
    verb, _, what = doing.partition(" ")
    try:
        with hub_errors(what, what, doing=verb, limits=limits):
            yield
    except HubError as error:
        if error.code == "hub-forbidden":
            raise HubError(
                f"the access token may not {doing}" + (f" for {owner}" if owner else ""),
                hint="give it the permission to run jobs (job.write) for that account, or take another",
                code="hub-forbidden",
            ) from error
        if error.code in {"hub-no-file", "hub-not-found"}:
            raise HubError(
                f"the Hub knows nothing of it: cannot {doing}", hint="check the name", code="job-not-found"
            ) from error
        raise


def _flavor(hardware: Any) -> Flavor:
    factor = _PER_HOUR.get(str(hardware.unit_label)[:_LONGEST_TEXT].lower())
    if factor is None:
        raise HubError(f"the Hub states a price per {hardware.unit_label}, which is unknown", code="hub-protocol")
    a = hardware.accelerator
    cost = hardware.unit_cost_micro_usd
    if type(cost) not in (int, float) or not 0 <= cost < _MOST_MICRO_USD:
        raise Exceeded("strange", "it states an impossible price")
    return Flavor(
        name=names.word(hardware.name, "name of hardware"),
        cpu=_text(hardware.cpu),
        memory=_text(hardware.ram),
        accelerator=f"{_text(a.quantity)} x {_text(a.model)} ({_text(a.vram)})" if a else None,
        usd_per_hour=cost * factor / 1e6,
        accelerators=int(a.quantity) if a and str(a.quantity).isdecimal() else 0,
    )


def _text(value: object) -> str:
    """Return a few words to show. Raises Exceeded for any other value."""
    text = str(value) if isinstance(value, str | int) else ""
    if not text.isprintable() or not 0 < len(text) <= _LONGEST_TEXT:
        raise Exceeded("name", f"it describes hardware as {names.quoted(value)}")
    return text


def _job(info: Any) -> Job:
    stage = info.status.stage
    message, command = info.status.message, info.command or []
    words = isinstance(command, list) and all(isinstance(part, str) for part in command)
    if not isinstance(message, str | None) or not words:
        raise Exceeded("strange", "it describes a job in an unknown form")
    return Job(
        id=names.word(info.id, "id of a job"),
        owner=names.word(info.owner.name, "owner of a job"),
        url=names.address(info.url, endpoint()),
        stage=names.word(getattr(stage, "value", stage), "stage of a job"),
        message=message or None,
        command=tuple(command),
    )
