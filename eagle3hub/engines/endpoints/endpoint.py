"""A running server as an engine: nothing is started, and nothing of its own configuration is taken on trust."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from eagle3hub.engines import get_engine
from eagle3hub.engines.base import EngineFailure, EngineRun, Job, LoadReport, PromptResult, Recipe
from eagle3hub.engines.endpoints.dialects import (
    Busy,
    Dialect,
    SGLangDialect,
    Shown,
    Strange,
    VLLMDialect,
    sampling,
    unchecked,
)
from eagle3hub.engines.endpoints.http_client import HttpClient, HttpFault
from eagle3hub.engines.options import ENDPOINT_KEY
from eagle3hub.engines.specs import engine_title
from eagle3hub.errors import InputError, UnavailableError
from eagle3hub.metrics import Counts
from eagle3hub.system.progress import Progress

_LOOK_SECONDS = 30.0
_DIALECTS: Mapping[str, type[Dialect]] = {"vllm": VLLMDialect, "sglang": SGLangDialect}


class Endpoint:
    """A server of one engine, attached to. ``version`` is the server's own."""

    runs_alone = False

    def __init__(self, engine: str, client: HttpClient, dialect: Dialect, shown: Shown) -> None:
        self.name = engine
        self.version = shown.version
        self.device = shown.device
        self._title = engine_title(engine)
        self._client = client
        self._dialect = dialect
        self._shown = shown

    def recipe(self, target: str, head: str, *, draft_tokens: int, dtype: str | None = None) -> Recipe:
        """How the engine would be started to serve this; the server's own command is not known."""
        return get_engine(self.name).recipe(target, head, draft_tokens=draft_tokens, dtype=dtype)

    def unable(self, job: Job) -> str | None:
        """See `Engine.unable`. A device that is not shown is taken for one without limits of its own."""
        device: Any = self.device or "cuda"
        return get_engine(self.name).unable(replace(job, device=device))

    def flags(self, job: Job) -> dict[str, Any]:
        """What the server shows of its settings, and the sampling that requests ask for. No address, no path."""
        shown = {
            key: value
            for key in ("method", "draft_tokens", "topk", "num_draft_tokens", "dtype", "device")
            if (value := getattr(self._shown, key)) is not None
        }
        return {"endpoint": shown, "sampling": {**sampling(job), "max_tokens": job.max_new_tokens}}

    def hold_against(self, job: Job) -> tuple[str, ...]:
        """What of ``job`` the server does not show. Raises InputError for what it shows otherwise."""
        return unchecked(self._shown, job, self._title, here=self._client.is_here)

    def run(self, job: Job, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Send the prompts one by one; see `Engine.run`. ``python`` is not used."""
        deadline = time.monotonic() + timeout
        open_points = self.hold_against(job)
        results: list[PromptResult] = []
        count = len(job.prompts.prompts)
        for number, prompt in enumerate(job.prompts.prompts, 1):
            begun = time.monotonic()
            try:
                answer = self._dialect.ask(self._client, self._shown, job, prompt.text, deadline=deadline)
                counts = Counts.from_json(answer.counters)
            except Busy as busy:
                return EngineFailure(
                    f"the counters of {self._title}'s server do not fit prompt {number}: {busy}; "
                    "other requests reach it, or several servers answer at this address",
                    "inconclusive",
                )
            except HttpFault as fault:
                late = f" within {timeout:g} seconds" if time.monotonic() >= deadline else ""
                return EngineFailure(f"{self._title}'s server gave no answer to prompt {number}{late}: {fault.says}")
            except (Strange, InputError) as fault:
                says = fault.says if isinstance(fault, Strange) else fault.message
                return EngineFailure(f"the answer of {self._title}'s server to prompt {number} cannot be used: {says}")
            results.append(PromptResult(answer.prompt_tokens, answer.tokens, counts, time.monotonic() - begun))
            progress(f"{self._title}'s server: generating", number / count)
        return EngineRun(
            prompts=tuple(results),
            load=LoadReport(checked=False),
            version=self.version,
            environment={},
            start_seconds=0.0,
            generate_seconds=sum(result.seconds for result in results),
            unchecked=open_points,
        )


def attach(engine: str, url: str) -> Endpoint:
    """Look at the server of ``engine`` at ``url``; a key for it is taken from the environment (`ENDPOINT_KEY`).

    Raises UnavailableError where there is no server, or it fails or wants another key; InputError where a server is
    there and cannot be measured: another engine's, one that does not speculate, or one whose answers make no sense.
    """
    title = engine_title(engine)
    client, dialect = HttpClient(url, os.environ.get(ENDPOINT_KEY)), _DIALECTS[engine]()
    try:
        return Endpoint(engine, client, dialect, dialect.look(client, deadline=time.monotonic() + _LOOK_SECONDS))
    except HttpFault as fault:
        if fault.status in (401, 403):
            raise UnavailableError(
                f"the server at {url} does not let us in: {fault.says}",
                hint=f"put its API key into the environment variable {ENDPOINT_KEY}",
                code="endpoint-key",
            ) from fault
        if not fault.answered or (fault.status or 0) >= 500:
            raise UnavailableError(
                f"no {title} server answers at {url}: {fault.says}",
                hint="check the address, and whether the server has finished starting",
                code="endpoint-unreachable",
            ) from fault
        raise InputError(
            f"the server at {url} does not answer as {title} does: {fault.says}",
            hint=f"give the address of {title}'s own server, as http://host:port",
            code="endpoint-protocol",
        ) from fault
    except Strange as strange:
        raise InputError(
            f"the server at {url} cannot be measured: {strange.says}",
            hint=strange.hint or f"see whether this is {title}'s own server, and no proxy that answers in its place",
            code=strange.code,
        ) from strange
