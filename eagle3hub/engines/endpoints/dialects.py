"""Read the settings of an SGLang or vLLM server, and ask it for tokens and counters."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.engines.base import Method, RunSpec
from eagle3hub.engines.endpoints.http_client import HttpClient, HttpFault
from eagle3hub.engines.workers.sglang_counters import counters
from eagle3hub.engines.workers.vllm_counters import NAMES, difference
from eagle3hub.errors import Eagle3HubError, InputError
from eagle3hub.prompts import Prompt
from eagle3hub.system.reading import read_bytes

# Compare the settings that a server shows with those of the run


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_IN_HUB_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+?)(?:/|\Z)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings that a server shows; None for a setting that it does not show.

    Attributes:
        model: the target's name in requests.
        target, head: names or paths, as given to the server.
        method: the speculative algorithm, lower case.
        draft_tokens, topk, num_draft_tokens: as in `RunSpec`.
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


_METHODS: Mapping[str, Method] = {"eagle": "mtp", "nextn": "mtp"}
"""SGLang's name for drafting with the target's own MTP layers."""


def compare_settings(shown: ServerSettings, spec: RunSpec, title: str, *, here: bool) -> tuple[str, ...]:
    """Return, as phrases, what the server does not show about ``spec``.

    ``here`` says whether the server runs on this machine, so that its paths are valid here. Raises InputError
    (``endpoint-…``) for a setting that differs from ``spec``.
    """
    if shown.method is not None and spec.method not in (shown.method, _METHODS.get(shown.method)):
        does = "does not speculate" if shown.method == "none" else f"speculates with {shown.method}"
        wanted = {"none": "without speculation", "eagle3": "with EAGLE-3"}.get(spec.method, f"with {spec.method}")
        raise _other("method", f"{does}, and should run {wanted}", f"start {title} {wanted}")
    numbers: tuple[tuple[str, str, int | str | None, int | str], ...] = (
        ("dtype", "computes in {}, not in {}", shown.dtype, spec.dtype),
    )
    if spec.method != "none":
        numbers += (("draft-tokens", "drafts {} tokens per round, not {}", shown.draft_tokens, spec.draft_tokens),)
    if spec.method == "eagle3":
        numbers += (
            ("topk", "drafts with top-k {}, not {}", shown.topk, spec.topk),
            ("num-draft-tokens", "verifies {} tokens per round, not {}", shown.num_draft_tokens, spec.verified_tokens),
        )
    for option, says, served, asked in numbers:
        if served is not None and served != asked:
            raise _other(option, says.format(served, asked), f"ask for what it serves: --{option} {served}")
    named = [("target", shown.target, spec.target)]
    named += [] if spec.head is None else [("head", shown.head, str(spec.head))]
    open_points = [] if spec.head is None else ["which tensors of the head the server loaded"]
    for what, there, ours in named:
        same = None if there is None else _same(there, ours, what, here=here)
        if same is False:
            raise _other(
                what, f"serves the {what} {there!r}, not {ours!r}", f"name what it serves, or start {title} anew"
            )
        if same is None:
            open_points.append(f"whether it serves this {what}")
    open_points += [f"its {what}" for what in ("dtype", "device") if getattr(shown, what) is None]
    return tuple(open_points)


def _other(what: str, says: str, hint: str) -> InputError:
    return InputError(f"the server {says}", hint=hint, code=f"endpoint-{what}")


def _same(theirs: str, ours: str, what: str, *, here: bool) -> bool | None:
    """Whether two names or paths mean the same files; None if this machine cannot tell."""
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
        # A target may have hundreds of gigabytes, so only the config is compared: equal configs are no proof.
        return None if read_bytes(theirs / "config.json") == read_bytes(ours / "config.json") else False
    except (OSError, Eagle3HubError):
        return None


def _hub_id(text: str) -> str | None:
    """Return ``owner/name`` in lower case, from a Hub id or a folder of the Hub's cache; None for another path."""
    cached = _IN_HUB_CACHE.search(text)
    if cached:
        return f"{cached[1]}/{cached[2]}".lower()
    return text.lower() if _HUB_ID.fullmatch(text) and not Path(text).exists() else None


# What `Endpoint` needs from an engine's server


LARGEST_COUNT = 2**53
_LARGEST_ID = 2**31 - 1
_LONGEST_NAME = 1000


class UnexpectedAnswer(Exception):
    """The server answered, but not as its engine does, or not as we need; ``code`` is the code of the error."""

    def __init__(self, says: str, hint: str | None = None, code: str = "endpoint-protocol") -> None:
        super().__init__(says)
        self.says = says
        self.hint = hint
        self.code = code


class ServerBusy(Exception):
    """The counters do not fit the answers, because somebody else uses the server; the message says how we know."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: number of prompt tokens, ids of the new tokens, and counters in the form of a worker's report."""

    prompt_tokens: int
    tokens: tuple[int, ...]
    counters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer that came piece by piece.

    Attributes:
        prompt_tokens: number of tokens of the prompt. tokens: ids of the new tokens.
        first, last: when the first and the last new token came, in seconds of the clock of the pieces.
        counters: in the form of a worker's report; None if the server does not count each request.
    """

    prompt_tokens: int
    tokens: tuple[int, ...]
    first: float
    last: float
    counters: Mapping[str, Any] | None


Piece = tuple[float, Mapping[str, Any]]
"""A piece of a streamed answer: when it came, in seconds, and what it holds."""


class Dialect(Protocol):
    """How to talk to one engine's server. Every method raises HttpFault and UnexpectedAnswer."""

    def look(self, client: HttpClient, *, deadline: float, drafts: bool = True) -> ServerSettings:
        """Read the server's settings.

        Raises UnexpectedAnswer if it does not speculate or does not count, unless it need not (``drafts`` is false).
        """

    def streamed_request(self, shown: ServerSettings, spec: RunSpec, prompt: Prompt) -> dict[str, Any]:
        """Return the chat request whose answer `read_stream` reads."""

    def read_stream(self, pieces: Sequence[Piece], draft_tokens: int) -> Streamed:
        """Read a streamed answer. Raises UnexpectedAnswer if it is not complete."""

    def ask(
        self, client: HttpClient, shown: ServerSettings, spec: RunSpec, prompt: Prompt, *, deadline: float
    ) -> Answer:
        """Let the server answer one prompt. Raises ServerBusy."""


def chat_request(shown: ServerSettings, spec: RunSpec, prompt: Prompt) -> dict[str, Any]:
    """Return a chat request with one prompt; it overrides the model's own generation settings."""
    request: dict[str, Any] = {
        "model": shown.model,
        "messages": prompt.messages,
        "max_tokens": spec.max_new_tokens,
        **sampling_parameters(spec),
        "stream": False,
        "return_token_ids": True,
    }
    if spec.engine_settings.chat_template:
        request["chat_template_kwargs"] = dict(spec.engine_settings.chat_template)
    return request


def sampling_parameters(spec: RunSpec) -> dict[str, Any]:
    """Return the sampling parameters of a request."""
    parameters: dict[str, Any] = {
        "temperature": spec.temperature,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    return parameters if spec.temperature == 0 else {**parameters, "seed": spec.seed}


def _streamed(request: dict[str, Any], **more: bool) -> dict[str, Any]:
    return {**request, "stream": True, "stream_options": {"include_usage": True}, **more}


def _complete(choices: Sequence[Mapping[str, Any]], tokens: Sequence[int], usage: Mapping[str, Any] | None) -> None:
    """Raise UnexpectedAnswer unless a streamed answer has its end, and all the tokens that the server counts."""
    if not any(choice.get("finish_reason") for choice in choices) or usage is None:
        raise UnexpectedAnswer("its answer broke off before the end")
    counted = checked_count(usage.get("completion_tokens"), "number of new tokens")
    if len(tokens) != counted or not tokens:
        raise UnexpectedAnswer(f"its answer holds {len(tokens)} tokens, and it counts {counted}")


def _choices(piece: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = piece.get("choices")
    return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []


def _usage(pieces: Sequence[Piece]) -> Mapping[str, Any] | None:
    return next((usage for _, piece in pieces if isinstance(usage := piece.get("usage"), dict)), None)


def only_choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the only choice of a chat completion. Raises UnexpectedAnswer if there is not exactly one."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise UnexpectedAnswer("its chat completion has not one choice")
    return choices[0]


def token_ids(holder: Mapping[str, Any], field: str) -> tuple[int, ...]:
    """Return a list of token ids. Raises UnexpectedAnswer if there is none: older versions do not return them."""
    found = holder.get(field)
    if not isinstance(found, list) or not all(type(token) is int for token in found):
        raise UnexpectedAnswer(
            f"its chat completion has no {field}", "a version is needed that returns token ids on request"
        )
    if not all(0 <= token <= _LARGEST_ID for token in found):
        raise UnexpectedAnswer(f"its chat completion has {field} that no tokenizer has")
    return tuple(found)


def checked_count(value: Any, what: str, code: str = "endpoint-protocol") -> int:
    """Return a count from a server. Raises UnexpectedAnswer unless it is a whole number from 0 to 2**53."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_COUNT:
        value = int(value)
    if type(value) is not int or not 0 <= value <= LARGEST_COUNT:
        said = f"{value:g}" if isinstance(value, float) else type(value).__name__
        raise UnexpectedAnswer(f"its {what} is not a count ({said})", code=code)
    return value


def shown_name(value: Any, what: str) -> str | None:
    """Return a name or path that a server shows, or None. Raises UnexpectedAnswer for anything else."""
    if value is None or (isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()):
        return value
    raise UnexpectedAnswer(f"its {what} is not a printable name")


def optional_count(value: Any, what: str) -> int | None:
    """Return a count from a server, or None if it shows none; see `checked_count`."""
    return None if value is None else checked_count(value, what)


def served_model(client: HttpClient, deadline: float) -> Mapping[str, Any]:
    """Return the first entry of ``/v1/models`` that is not an adapter. Raises UnexpectedAnswer if there is none."""
    entries = client.json("/v1/models", deadline=deadline).get("data")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and shown_name(entry.get("id"), "model's id") and not entry.get("parent"):
            return entry
    raise UnexpectedAnswer("it lists no model")


# SGLang's server: it shows its whole configuration, and counts the drafts of each request
#
# The names are SGLang's (``entrypoints/http_server.py``, ``managers/tokenizer_manager.py``). Other requests on the
# server do not change the counters of ours.


class SGLangDialect:
    """See `Dialect`."""

    def look(self, client: HttpClient, *, deadline: float, drafts: bool = True) -> ServerSettings:
        """Read all settings from ``/server_info``; keys and paths that it also holds are not kept."""
        info = _server_info(client, deadline)
        method = info.get("speculative_algorithm")
        if not method and drafts:
            raise UnexpectedAnswer(
                "its configuration has no speculative algorithm: it serves the target alone",
                "start it with --speculative-algorithm EAGLE3 and --speculative-draft-model-path",
                "endpoint-no-speculation",
            )
        dtype = shown_name(info.get("dtype"), "dtype")
        return ServerSettings(
            version=shown_name(info.get("version"), "version") or "unknown",
            model=str(served_model(client, deadline)["id"]),
            target=shown_name(info.get("model_path"), "target"),
            head=shown_name(info.get("speculative_draft_model_path"), "head"),
            method=str(shown_name(method, "speculative algorithm")).lower() if method else "none",
            draft_tokens=optional_count(info.get("speculative_num_steps"), "number of draft steps"),
            topk=optional_count(info.get("speculative_eagle_topk"), "top-k"),
            num_draft_tokens=optional_count(info.get("speculative_num_draft_tokens"), "number of draft tokens"),
            dtype={"half": "float16", "float": "float32", "auto": None}.get(str(dtype), dtype),
            device=shown_name(info.get("device"), "device"),
        )

    def ask(
        self, client: HttpClient, shown: ServerSettings, spec: RunSpec, prompt: Prompt, *, deadline: float
    ) -> Answer:
        """Send one request; the answer holds its counters."""
        request = {**chat_request(shown, spec, prompt), "return_meta_info": True}
        choice = only_choice(client.json("/v1/chat/completions", request, deadline=deadline))
        meta = choice.get("meta_info")
        if not isinstance(meta, dict):
            raise UnexpectedAnswer(
                "its chat completion has no meta_info", "a version is needed that returns it on request"
            )
        tokens = token_ids(choice, "response_token_ids")
        try:
            counted = counters(_counted(meta), spec.draft_tokens)
        except RuntimeError as error:
            raise UnexpectedAnswer(str(error)) from error
        return Answer(len(token_ids(choice, "prompt_token_ids")), tokens, counted)

    def streamed_request(self, shown: ServerSettings, spec: RunSpec, prompt: Prompt) -> dict[str, Any]:
        """See `Dialect.streamed_request`."""
        request = {k: v for k, v in chat_request(shown, spec, prompt).items() if k != "return_token_ids"}
        return _streamed(
            request,
            return_spec_tokens_details=True,
            return_input_ids_in_sglext=True,
            return_output_ids_in_sglext=True,
        )

    def read_stream(self, pieces: Sequence[Piece], draft_tokens: int) -> Streamed:
        """See `Dialect.read_stream`. Token ids and counters come in ``sglext`` at the end."""
        choices = [(when, choice) for when, piece in pieces for choice in _choices(piece)]
        told = [when for when, choice in choices if _says_something(choice)]
        ext: dict[str, Any] = {}
        for _, piece in pieces:
            ext |= {k: v for k, v in (piece.get("sglext") or {}).items() if v is not None}
        every = ext.get("output_ids")
        tokens = token_ids({"output_ids": every[0] if isinstance(every, list) and every else None}, "output_ids")
        prompt = token_ids(ext, "input_ids")
        _complete([choice for _, choice in choices], tokens, _usage(pieces))
        if not told:
            raise UnexpectedAnswer("its answer has no text")
        details = ext.get("spec_tokens_details")
        try:
            counted = counters(_counted(details), draft_tokens) if isinstance(details, dict) else None
        except RuntimeError as error:
            raise UnexpectedAnswer(str(error)) from error
        return Streamed(len(prompt), tokens, told[0], told[-1], counted)


def _says_something(choice: Mapping[str, Any]) -> bool:
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(delta.get(key) for key in ("content", "reasoning_content"))


def _counted(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the counters in ``meta_info``. Raises UnexpectedAnswer if one is not a count."""
    found: dict[str, Any] = {
        name: checked_count(meta[name], name)
        for name in ("spec_verify_ct", "spec_num_correct_drafts")
        if meta.get(name) is not None
    }
    histogram = meta.get("spec_correct_drafts_histogram") or []
    if not isinstance(histogram, list):
        raise UnexpectedAnswer("its histogram of accepted drafts is no list")
    return {
        **found,
        "spec_correct_drafts_histogram": [checked_count(n, "histogram of accepted drafts") for n in histogram],
    }


def _server_info(client: HttpClient, deadline: float) -> dict[str, Any]:
    try:
        return client.json("/server_info", deadline=deadline)
    except HttpFault as fault:
        if fault.status != 404:
            raise
    return client.json("/get_server_info", deadline=deadline)  # its earlier name


# vLLM's server: the answer holds the counters of its request if the server was started with
# ``--per-request-spec-decode-metrics``; else the growth of the metrics meanwhile gives them
#
# The names are vLLM's (``v1/metrics/stats.py``, ``v1/spec_decode/metrics.py``, ``v1/metrics/loggers.py``). vLLM
# updates the metrics after its answer, so we read them until all tokens of the request are counted.


PER_REQUEST = "--per-request-spec-decode-metrics"
"""The option of vLLM's server that puts each request's counters into its answer."""


_SAMPLE = re.compile(r"(?P<name>vllm:\w+)(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>\S+)(?:[ \t]+-?\d+)?[ \t]*", re.ASCII)
_NUMBER = re.compile(r"\+?[0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)
_POSITION = re.compile(r'(?:^|,)position="(\d{1,4})"', re.ASCII)
_READ = {*NAMES, "vllm:generation_tokens", "vllm:request_success", "vllm:num_requests_running"}
_READ |= {"vllm:num_requests_waiting"}
_SETTLE_SECONDS = 10.0
_PAUSE_SECONDS = 0.05
_MOST_BUCKETS = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """The metrics at one moment, summed over engines: counters, finished tokens and requests, running requests."""

    counters: dict[str, Any]
    tokens: int
    requests: int
    active: int


class VLLMDialect:
    """See `Dialect`."""

    def look(self, client: HttpClient, *, deadline: float, drafts: bool = True) -> ServerSettings:
        """Read the model, K from the metrics, and head, method and dtype if the development mode shows them."""
        model = served_model(client, deadline)
        version = shown_name(client.json("/version", deadline=deadline).get("version"), "version") or "unknown"
        shown: dict[str, Any] = {"target": shown_name(model.get("root"), "target")}
        try:
            positions = len(self._read(client, deadline).counters["accepted_per_position"])
            shown |= {"draft_tokens": positions, "topk": 1}
        except UnexpectedAnswer as strange:
            if drafts or strange.code != "endpoint-no-speculation":
                raise
            shown["method"] = "none"
        shown |= _own_config(client, deadline)
        return ServerSettings(version=version, model=model["id"], **shown)

    def ask(
        self, client: HttpClient, shown: ServerSettings, spec: RunSpec, prompt: Prompt, *, deadline: float
    ) -> Answer:
        """Send one request, and take the counters from its answer, or else from the growth of the metrics.

        While the metrics are needed, nobody else may use the server.
        """
        before = self._read(client, deadline)
        answer = client.json("/v1/chat/completions", chat_request(shown, spec, prompt), deadline=deadline)
        tokens = token_ids(only_choice(answer), "token_ids")
        prompt_tokens = len(token_ids(answer, "prompt_token_ids"))
        own = own_counters(answer)
        if own is not None:
            return Answer(prompt_tokens, tokens, own)
        if before.active:
            raise ServerBusy(f"{before.active} other requests are under way")
        until = min(deadline, time.monotonic() + _SETTLE_SECONDS)
        while True:
            after = self._read(client, deadline)
            counted, requests = after.tokens - before.tokens, after.requests - before.requests
            if (counted >= len(tokens) and requests >= 1) or time.monotonic() > until:
                break
            time.sleep(_PAUSE_SECONDS)
        if (counted, requests, after.active) != (len(tokens), 1, 0):
            raise ServerBusy(
                f"it answered one request with {len(tokens)} tokens, and counted {requests} requests and "
                f"{counted} tokens"
            )
        grown = difference(before.counters, after.counters)
        assert grown is not None
        return Answer(prompt_tokens, tokens, grown)

    def streamed_request(self, shown: ServerSettings, spec: RunSpec, prompt: Prompt) -> dict[str, Any]:
        """See `Dialect.streamed_request`."""
        return _streamed(chat_request(shown, spec, prompt))

    def read_stream(self, pieces: Sequence[Piece], draft_tokens: int) -> Streamed:
        """See `Dialect.read_stream`. Each piece holds its token ids; the last one holds the counters."""
        tokens: list[int] = []
        times = []
        for when, piece in pieces:
            for choice in _choices(piece):
                if choice.get("token_ids"):
                    tokens += token_ids(choice, "token_ids")
                    times.append(when)
        prompts = [piece for _, piece in pieces if piece.get("prompt_token_ids") is not None]
        prompt = token_ids(prompts[0] if prompts else {}, "prompt_token_ids")
        _complete([choice for _, piece in pieces for choice in _choices(piece)], tokens, _usage(pieces))
        own = next((found for _, piece in pieces if (found := own_counters(piece)) is not None), None)
        return Streamed(len(prompt), tuple(tokens), times[0], times[-1], own)

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
            raise UnexpectedAnswer(
                "its /metrics has no metrics of vLLM", "start it without --disable-log-stats", "endpoint-metrics"
            )
        counters: dict[str, Any] = {NAMES[name]: value for name, value in sums.items() if name in NAMES}
        if len(counters) != len(NAMES) - 1 or sorted(positions) != list(range(len(positions))) or not positions:
            raise UnexpectedAnswer(
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


def own_counters(answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the counters of its request that an answer of vLLM's server holds, or None if it holds none.

    They are ``metrics.speculative_decoding``: a histogram of the rounds by accepted drafts, and the tokens drafted.
    Raises UnexpectedAnswer for counters that are no counts.
    """
    metrics = answer.get("metrics")
    found = metrics.get("speculative_decoding") if isinstance(metrics, dict) else None
    if found is None:
        return None
    histogram = found.get("acceptance_histogram") if isinstance(found, dict) else None
    if not isinstance(histogram, list) or not 2 <= len(histogram) <= _MOST_BUCKETS:
        raise UnexpectedAnswer("the counters in its answer have no histogram of accepted drafts")
    rounds = [checked_count(number, "histogram of accepted drafts") for number in histogram]
    reached = [sum(rounds[depth:]) for depth in range(1, len(rounds))]
    drafted = checked_count(found.get("num_draft_tokens"), "number of drafted tokens")
    return {"rounds": sum(rounds), "drafted": drafted, "accepted": sum(reached), "accepted_per_position": reached}


def _samples(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield name (without ``_total``), labels and value of each sample we use, from Prometheus's text format.

    Raises UnexpectedAnswer (``endpoint-metrics``) for a value that is not a count, and for a repeated sample.
    """
    seen: set[tuple[str, str]] = set()
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line) if line.startswith("vllm:") else None
        if match is None or (name := match["name"].removesuffix("_total")) not in _READ:
            continue
        labels = match["labels"] or ""
        value = float(match["value"]) if _NUMBER.fullmatch(match["value"]) else match["value"]
        if (name, labels) in seen:
            raise UnexpectedAnswer(f"its /metrics has {name} twice for the same labels", code="endpoint-metrics")
        seen.add((name, labels))
        yield name, labels, checked_count(value, f"metric {name}", "endpoint-metrics")


def _own_config(client: HttpClient, deadline: float) -> dict[str, Any]:
    """Read ``/server_info``, which exists only with ``VLLM_SERVER_DEV_MODE=1``; empty without it."""
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
        "head": shown_name(draft.get("model"), "head"),
        "method": shown_name(draft.get("method"), "speculative method"),
        "dtype": (shown_name(model.get("dtype"), "dtype") or "").removeprefix("torch.") or None,
        "device": device if isinstance(device, str) and device.isprintable() else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _part(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a section of a configuration; empty if it is absent."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}
