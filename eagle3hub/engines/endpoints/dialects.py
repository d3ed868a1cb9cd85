"""What the servers of SGLang and vLLM say of themselves, and how each is asked for tokens and counters."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.engines.base import Job
from eagle3hub.engines.endpoints.http_client import HttpClient, HttpFault
from eagle3hub.engines.workers.sglang_counters import counters
from eagle3hub.engines.workers.vllm_counters import NAMES, difference
from eagle3hub.errors import Eagle3HubError, InputError
from eagle3hub.system.reading import read_bytes

# What a server shows of its own configuration, held against what was asked for.


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_IN_HUB_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+?)(?:/|\Z)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shown:
    """A server as it describes itself; None for what it does not show.

    Attributes:
        model: what requests call the target.
        target, head: names or paths, as they were given to the server.
        method: the speculative algorithm, lower case.
        draft_tokens, topk, num_draft_tokens: as in `Job`.
    """

    version: str
    model: str
    target: str | None = None
    head: str | None = None
    method: str | None = None
    draft_tokens: int | None = None
    topk: int | None = None
    num_draft_tokens: int | None = None
    dtype: str | None = None
    device: str | None = None


def unchecked(shown: Shown, job: Job, title: str, *, here: bool) -> tuple[str, ...]:
    """What of ``job`` the server does not show, as phrases, its loading first.

    ``here`` says whether the server runs on this machine, so that its paths mean something.

    Raises InputError (``endpoint-…``) for what it shows otherwise than the job has it.
    """
    if shown.method is not None and shown.method != "eagle3":
        raise _other("method", f"speculates with {shown.method}, not with eagle3", f"start {title} with EAGLE-3")
    numbers = (
        ("draft-tokens", "drafts {} tokens per round, not {}", shown.draft_tokens, job.draft_tokens),
        ("topk", "drafts with top-k {}, not {}", shown.topk, job.topk),
        ("num-draft-tokens", "verifies {} tokens per round, not {}", shown.num_draft_tokens, job.verified_tokens),
        ("dtype", "computes in {}, not in {}", shown.dtype, job.dtype),
    )
    for option, says, served, asked in numbers:
        if served is not None and served != asked:
            raise _other(option, says.format(served, asked), f"ask for what it serves: --{option} {served}")
    open_points = ["which tensors of the head the server loaded"]
    for what, theirs, ours in (("target", shown.target, job.target), ("head", shown.head, str(job.head))):
        same = None if theirs is None else _same(theirs, ours, what, here=here)
        if same is False:
            raise _other(
                what, f"serves the {what} {theirs!r}, not {ours!r}", f"name what it serves, or start {title} anew"
            )
        if same is None:
            open_points.append(f"whether it serves this {what}")
    open_points += [f"its {what}" for what in ("dtype", "device") if getattr(shown, what) is None]
    return tuple(open_points)


def _other(what: str, says: str, hint: str) -> InputError:
    return InputError(f"the server {says}", hint=hint, code=f"endpoint-{what}")


def _same(theirs: str, ours: str, what: str, *, here: bool) -> bool | None:
    """Whether two names or paths mean the same files; None where that cannot be told from here."""
    if here and Path(theirs).is_dir() and Path(ours).is_dir():
        return _same_folders(Path(theirs), Path(ours), what)
    names = _hub_id(theirs), _hub_id(ours)
    if None in names:
        return None
    return names[0] == names[1]


def _same_folders(theirs: Path, ours: Path, what: str) -> bool | None:
    if theirs.samefile(ours):
        return True
    try:
        if what == "head":
            return folder_digest(theirs)[0] == folder_digest(ours)[0]
        # A target's weights may be hundreds of gigabytes: another config is another target, the same proves nothing.
        return None if read_bytes(theirs / "config.json") == read_bytes(ours / "config.json") else False
    except (OSError, Eagle3HubError):
        return None


def _hub_id(text: str) -> str | None:
    """``owner/name`` in lower case, from itself or from a folder of the Hub's cache; None for another path."""
    cached = _IN_HUB_CACHE.search(text)
    if cached:
        return f"{cached[1]}/{cached[2]}".lower()
    return text.lower() if _HUB_ID.fullmatch(text) and not Path(text).exists() else None


# What `Endpoint` needs of an engine's server.


LARGEST_COUNT = 2**53
_LARGEST_ID = 2**31 - 1
_LONGEST_NAME = 1000


class Strange(Exception):
    """A server that answers, but not as its engine does or not as a measurement needs; ``code`` is an error's."""

    def __init__(self, says: str, hint: str | None = None, code: str = "endpoint-protocol") -> None:
        super().__init__(says)
        self.says = says
        self.hint = hint
        self.code = code


class Busy(Exception):
    """Counters that do not fit the answers: somebody else uses the server. The message says how it is known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: number of prompt tokens, ids of the new ones, counters as a worker reports them."""

    prompt_tokens: int
    tokens: tuple[int, ...]
    counters: Mapping[str, Any]


class Dialect(Protocol):
    """How to talk to one engine's server. Every method raises HttpFault, and Strange for an answer of another kind."""

    def look(self, client: HttpClient, *, deadline: float) -> Shown:
        """What the server shows of itself. Raises Strange for one that does not speculate or does not count."""

    def ask(self, client: HttpClient, shown: Shown, job: Job, text: str, *, deadline: float) -> Answer:
        """Let it answer one user message. Raises Busy."""


def chat_request(shown: Shown, job: Job, text: str) -> dict[str, Any]:
    """A chat completion of one user message. What a model's own generation settings would change is said."""
    request: dict[str, Any] = {
        "model": shown.model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": job.max_new_tokens,
        **sampling(job),
        "stream": False,
        "return_token_ids": True,
    }
    return request


def sampling(job: Job) -> dict[str, Any]:
    """The sampling parameters of a request."""
    parameters: dict[str, Any] = {
        "temperature": job.temperature,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    return parameters if job.temperature == 0 else {**parameters, "seed": job.seed}


def only_choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one choice of a chat completion; Strange if there is not one."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Strange("its chat completion has not one choice")
    return choices[0]


def token_ids(holder: Mapping[str, Any], field: str) -> tuple[int, ...]:
    """A list of token ids; Strange where there is none, as with versions that do not return them."""
    found = holder.get(field)
    if not isinstance(found, list) or not all(type(token) is int for token in found):
        raise Strange(f"its chat completion has no {field}", "a version is needed that returns token ids on request")
    if not all(0 <= token <= _LARGEST_ID for token in found):
        raise Strange(f"its chat completion has {field} that no tokenizer has")
    return tuple(found)


def count(value: Any, what: str, code: str = "endpoint-protocol") -> int:
    """A number of things, counted by a server; Strange for anything but a whole number from 0 to 2**53."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_COUNT:
        value = int(value)
    if type(value) is not int or not 0 <= value <= LARGEST_COUNT:
        said = f"{value:g}" if isinstance(value, float) else type(value).__name__
        raise Strange(f"its {what} is no number of things ({said})", code=code)
    return value


def words(value: Any, what: str) -> str | None:
    """Something a server calls by a name or a path, None where it does not; Strange for what is neither."""
    if value is None or (isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()):
        return value
    raise Strange(f"its {what} is no name that can be shown")


def number(value: Any, what: str) -> int | None:
    """As `count`, or None where a server shows none."""
    return None if value is None else count(value, what)


def base_model(client: HttpClient, deadline: float) -> Mapping[str, Any]:
    """The entry of ``/v1/models`` that is no adapter of another."""
    entries = client.json("/v1/models", deadline=deadline).get("data")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and words(entry.get("id"), "model's id") and not entry.get("parent"):
            return entry
    raise Strange("it lists no model")


# SGLang's server: it shows its whole configuration, and counts speculation request by request.
#
# Names as SGLang has them (``entrypoints/http_server.py``, ``managers/tokenizer_manager.py``). Other requests
# on the server change nothing in the counters of ours.


class SGLangDialect:
    """See `Dialect`."""

    def look(self, client: HttpClient, *, deadline: float) -> Shown:
        """Everything, from ``/server_info``. Of what else that holds (keys, paths) nothing is kept."""
        info = _server_info(client, deadline)
        method = info.get("speculative_algorithm")
        if not method:
            raise Strange(
                "its configuration has no speculative algorithm: it serves the target alone",
                "start it with --speculative-algorithm EAGLE3 and --speculative-draft-model-path",
                "endpoint-no-speculation",
            )
        dtype = words(info.get("dtype"), "dtype")
        return Shown(
            version=words(info.get("version"), "version") or "unknown",
            model=str(base_model(client, deadline)["id"]),
            target=words(info.get("model_path"), "target"),
            head=words(info.get("speculative_draft_model_path"), "head"),
            method=str(words(method, "speculative algorithm")).lower(),
            draft_tokens=number(info.get("speculative_num_steps"), "number of draft steps"),
            topk=number(info.get("speculative_eagle_topk"), "top-k"),
            num_draft_tokens=number(info.get("speculative_num_draft_tokens"), "number of draft tokens"),
            dtype={"half": "float16", "float": "float32", "auto": None}.get(str(dtype), dtype),
            device=words(info.get("device"), "device"),
        )

    def ask(self, client: HttpClient, shown: Shown, job: Job, text: str, *, deadline: float) -> Answer:
        """One request, which brings its counters along."""
        request = {**chat_request(shown, job, text), "return_meta_info": True}
        choice = only_choice(client.json("/v1/chat/completions", request, deadline=deadline))
        meta = choice.get("meta_info")
        if not isinstance(meta, dict):
            raise Strange("its chat completion has no meta_info", "a version is needed that returns it on request")
        tokens = token_ids(choice, "response_token_ids")
        try:
            counted = counters(_counted(meta), job.draft_tokens)
        except RuntimeError as error:
            raise Strange(str(error)) from error
        return Answer(len(token_ids(choice, "prompt_token_ids")), tokens, counted)


def _counted(meta: dict[str, Any]) -> dict[str, Any]:
    """The counters in ``meta_info``, each of them a number; Strange where one is none."""
    found: dict[str, Any] = {
        name: count(meta[name], name)
        for name in ("spec_verify_ct", "spec_num_correct_drafts")
        if meta.get(name) is not None
    }
    histogram = meta.get("spec_correct_drafts_histogram") or []
    if not isinstance(histogram, list):
        raise Strange("its histogram of accepted drafts is no list")
    return {**found, "spec_correct_drafts_histogram": [count(n, "histogram of accepted drafts") for n in histogram]}


def _server_info(client: HttpClient, deadline: float) -> dict[str, Any]:
    try:
        return client.json("/server_info", deadline=deadline)
    except HttpFault as fault:
        if fault.status != 404:
            raise
    return client.json("/get_server_info", deadline=deadline)  # its earlier name


# vLLM's server: per-prompt counters are the growth of its metrics around one request.
#
# Names as vLLM has them (``v1/spec_decode/metrics.py``, ``v1/metrics/loggers.py``). The metrics of a request
# are written after it is answered, so they are read until all its tokens are counted.


_SAMPLE = re.compile(r"(?P<name>vllm:\w+)(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>\S+)(?:[ \t]+-?\d+)?[ \t]*", re.ASCII)
_NUMBER = re.compile(r"\+?[0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)
_POSITION = re.compile(r'(?:^|,)position="(\d{1,4})"', re.ASCII)
_READ = {*NAMES, "vllm:generation_tokens", "vllm:request_success", "vllm:num_requests_running"}
_READ |= {"vllm:num_requests_waiting"}
_SETTLE_SECONDS = 10.0
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Reading:
    """Metrics at one moment, summed over engines: counters, tokens and requests done, requests under way."""

    counters: dict[str, Any]
    tokens: int
    requests: int
    active: int


class VLLMDialect:
    """See `Dialect`."""

    def look(self, client: HttpClient, *, deadline: float) -> Shown:
        """The model, K from the metrics, and head, method and dtype where its development mode shows them."""
        model = base_model(client, deadline)
        version = words(client.json("/version", deadline=deadline).get("version"), "version") or "unknown"
        positions = len(self._read(client, deadline).counters["accepted_per_position"])
        shown = {
            "target": words(model.get("root"), "target"),
            "draft_tokens": positions,
            "topk": 1,
            **_own_config(client, deadline),
        }
        return Shown(version=version, model=model["id"], **shown)

    def ask(self, client: HttpClient, shown: Shown, job: Job, text: str, *, deadline: float) -> Answer:
        """One request between two readings of the metrics, alone on the server."""
        before = self._read(client, deadline)
        if before.active:
            raise Busy(f"{before.active} other requests are under way")
        answer = client.json("/v1/chat/completions", chat_request(shown, job, text), deadline=deadline)
        tokens = token_ids(only_choice(answer), "token_ids")
        prompt = token_ids(answer, "prompt_token_ids")
        until = min(deadline, time.monotonic() + _SETTLE_SECONDS)
        while True:
            after = self._read(client, deadline)
            counted, requests = after.tokens - before.tokens, after.requests - before.requests
            if (counted >= len(tokens) and requests >= 1) or time.monotonic() > until:
                break
            time.sleep(_PAUSE_SECONDS)
        if (counted, requests, after.active) != (len(tokens), 1, 0):
            raise Busy(
                f"it answered one request with {len(tokens)} tokens, and counted {requests} requests and "
                f"{counted} tokens"
            )
        grown = difference(before.counters, after.counters)
        assert grown is not None
        return Answer(len(prompt), tokens, grown)

    def _read(self, client: HttpClient, deadline: float) -> Reading:
        sums: dict[str, int] = {}
        positions: dict[int, int] = {}
        for name, labels, value in _samples(client.text("/metrics", deadline=deadline)):
            position = _POSITION.search(labels)
            if position and NAMES.get(name) == "accepted_per_position":
                positions[int(position[1])] = positions.get(int(position[1]), 0) + value
            else:
                sums[name] = sums.get(name, 0) + value
        if "vllm:generation_tokens" not in sums:
            raise Strange(
                "its /metrics has no metrics of vLLM", "start it without --disable-log-stats", "endpoint-metrics"
            )
        counters: dict[str, Any] = {NAMES[name]: value for name, value in sums.items() if name in NAMES}
        if len(counters) != len(NAMES) - 1 or sorted(positions) != list(range(len(positions))) or not positions:
            raise Strange(
                "its metrics have no counters of speculative decoding: it serves the target alone",
                "start it with --speculative-config",
                "endpoint-no-speculation",
            )
        return Reading(
            counters={**counters, "accepted_per_position": [positions[i] for i in sorted(positions)]},
            tokens=sums["vllm:generation_tokens"],
            requests=sums.get("vllm:request_success", 0),
            active=sums.get("vllm:num_requests_running", 0) + sums.get("vllm:num_requests_waiting", 0),
        )


def _samples(text: str) -> Iterator[tuple[str, str, int]]:
    """Name (without ``_total``), labels and value of each sample that is used, in Prometheus's text format.

    Raises Strange (``endpoint-metrics``) for a value that counts nothing, and for a sample that is there twice.
    """
    seen: set[tuple[str, str]] = set()
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line) if line.startswith("vllm:") else None
        if match is None or (name := match["name"].removesuffix("_total")) not in _READ:
            continue
        labels = match["labels"] or ""
        value = float(match["value"]) if _NUMBER.fullmatch(match["value"]) else match["value"]
        if (name, labels) in seen:
            raise Strange(f"its /metrics has {name} twice for the same labels", code="endpoint-metrics")
        seen.add((name, labels))
        yield name, labels, count(value, f"metric {name}", "endpoint-metrics")


def _own_config(client: HttpClient, deadline: float) -> dict[str, Any]:
    """What ``/server_info`` tells, which is there with ``VLLM_SERVER_DEV_MODE=1`` only."""
    try:
        config = client.json("/server_info?config_format=json", deadline=deadline).get("vllm_config")
    except HttpFault as fault:
        if fault.status is None:
            raise
        return {}
    if not isinstance(config, dict):
        return {}
    model, draft, on = (_part(config, f"{key}_config") for key in ("model", "speculative", "device"))
    device = on.get("device")
    found = {
        "head": words(draft.get("model"), "head"),
        "method": words(draft.get("method"), "speculative method"),
        "dtype": (words(model.get("dtype"), "dtype") or "").removeprefix("torch.") or None,
        "device": device if isinstance(device, str) and device.isprintable() else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _part(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of a configuration, empty where there is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}
