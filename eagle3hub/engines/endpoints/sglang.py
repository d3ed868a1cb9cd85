"""SGLang's server: it shows its whole configuration, and counts speculation request by request.

Names as SGLang has them (``entrypoints/http_server.py``, ``managers/tokenizer_manager.py``). Other requests on
the server change nothing in the counters of ours.
"""

from __future__ import annotations

from typing import Any

from eagle3hub.engines.base import Job
from eagle3hub.engines.endpoints.dialect import (
    Answer,
    Strange,
    base_model,
    chat_request,
    count,
    number,
    only_choice,
    token_ids,
    words,
)
from eagle3hub.engines.endpoints.shown import Shown
from eagle3hub.engines.http_client import HttpClient, HttpFault
from eagle3hub.engines.workers.sglang_counters import counters


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
