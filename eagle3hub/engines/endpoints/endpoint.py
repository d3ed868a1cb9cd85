"""Use a running server as an engine: start nothing, and check its settings as far as it shows them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eagle3hub.engines import get_engine
from eagle3hub.engines.base import (
    NO_SETTINGS,
    EngineFailure,
    EngineRun,
    EngineSettings,
    LoadReport,
    PromptResult,
    Recipe,
    RunSpec,
)
from eagle3hub.engines.endpoints.dialects import (
    PER_REQUEST,
    Dialect,
    Piece,
    ServerBusy,
    ServerSettings,
    SGLangDialect,
    Streamed,
    UnexpectedAnswer,
    VLLMDialect,
    compare_settings,
    sampling_parameters,
)
from eagle3hub.engines.endpoints.http_client import HttpClient, HttpFault
from eagle3hub.engines.options import ENDPOINT_KEY
from eagle3hub.engines.specs import engine_title
from eagle3hub.errors import InputError, UnavailableError
from eagle3hub.metrics import Counts
from eagle3hub.prompts import Prompt
from eagle3hub.system.progress import Progress

_LOOK_SECONDS = 30.0
_DIALECTS: Mapping[str, type[Dialect]] = {"vllm": VLLMDialect, "sglang": SGLangDialect}


class Endpoint:
    """A running server of one engine. ``version`` is the version that the server reports."""

    runs_alone = False

    def __init__(self, engine: str, client: HttpClient, dialect: Dialect, shown: ServerSettings) -> None:
        self.name = engine
        self.version = shown.version
        self.device = shown.device
        self._title = engine_title(engine)
        self._client = client
        self._dialect = dialect
        self._shown = shown

    def recipe(
        self,
        target: str,
        head: str,
        *,
        draft_tokens: int,
        dtype: str | None = None,
        parallel_drafting: bool = False,
        settings: EngineSettings = NO_SETTINGS,
    ) -> Recipe:
        """Return how to start the engine for this head; the server's own command is not known."""
        engine = get_engine(self.name, self.version)
        return engine.recipe(
            target,
            head,
            draft_tokens=draft_tokens,
            dtype=dtype,
            parallel_drafting=parallel_drafting,
            settings=settings.of_run([]),
        )

    def unable(self, spec: RunSpec) -> str | None:
        """See `Engine.unable`. A device that the server does not show is taken as CUDA, which has no limits."""
        device: Any = self.device or "cuda"
        return get_engine(self.name, self.version).unable(replace(spec, device=device))

    def flags(self, spec: RunSpec) -> dict[str, object]:
        """Return the settings that the server shows, and the sampling of the requests, without addresses or paths."""
        shown = {
            key: value
            for key in ("method", "draft_tokens", "topk", "num_draft_tokens", "dtype", "device")
            if (value := getattr(self._shown, key)) is not None
        }
        return {"endpoint": shown, "sampling": {**sampling_parameters(spec), "max_tokens": spec.max_new_tokens}}

    def compare_settings(self, spec: RunSpec) -> tuple[str, ...]:
        """Return what the server does not show about ``spec``. Raises InputError for a setting that differs."""
        return compare_settings(self._shown, spec, self._title, here=self._client.is_here)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._client.url

    def streamed_request(self, spec: RunSpec, prompt: Prompt) -> dict[str, object]:
        """Return the chat request whose answer `read_stream` reads."""
        return self._dialect.streamed_request(self._shown, spec, prompt)

    def read_stream(self, pieces: Sequence[Piece], draft_tokens: int) -> Streamed:
        """Read a streamed answer. Raises UnexpectedAnswer if it is not complete."""
        return self._dialect.read_stream(pieces, draft_tokens)

    def run(self, spec: RunSpec, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Send the prompts one by one; see `Engine.run`. ``python`` is ignored."""
        deadline = time.monotonic() + timeout
        open_points = self.compare_settings(spec)
        results: list[PromptResult] = []
        count = len(spec.prompts.prompts)
        for number, prompt in enumerate(spec.prompts.prompts, 1):
            begun = time.monotonic()
            try:
                answer = self._dialect.ask(self._client, self._shown, spec, prompt, deadline=deadline)
                counts = Counts.from_json(answer.counters)
            except ServerBusy as busy:
                return EngineFailure(
                    f"the counters of {self._title}'s server do not fit prompt {number}: {busy}; "
                    "other requests reach it, or several servers answer at this address"
                    + (f"; started with {PER_REQUEST} summary, it counts each request" if self.name == "vllm" else ""),
                    "inconclusive",
                )
            except HttpFault as fault:
                late = f" within {timeout:g} seconds" if time.monotonic() >= deadline else ""
                return EngineFailure(f"{self._title}'s server gave no answer to prompt {number}{late}: {fault.says}")
            except (UnexpectedAnswer, InputError) as fault:
                says = fault.says if isinstance(fault, UnexpectedAnswer) else fault.message
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


def attach(engine: str, url: str, *, drafts: bool = True) -> Endpoint:
    """Attach to the server of ``engine`` at ``url``; its API key comes from the environment (`ENDPOINT_KEY`).

    ``drafts`` says whether it must speculate. Raises UnavailableError if no server answers, it fails, or it wants
    another key. Raises InputError if the server cannot be measured: it belongs to another engine, does not speculate,
    or gives answers that make no sense.
    """
    title = engine_title(engine)
    client, dialect = HttpClient(url, os.environ.get(ENDPOINT_KEY)), _DIALECTS[engine]()
    try:
        shown = dialect.look(client, deadline=time.monotonic() + _LOOK_SECONDS, drafts=drafts)
        return Endpoint(engine, client, dialect, shown)
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
    except UnexpectedAnswer as strange:
        raise InputError(
            f"the server at {url} cannot be measured: {strange.says}",
            hint=strange.hint or f"see whether this is {title}'s own server, and no proxy that answers in its place",
            code=strange.code,
        ) from strange
