"""SGLang's server: it shows its whole configuration, and counts speculation request by request.

Names as SGLang 0.5.23 has them (``entrypoints/http_server.py``, ``managers/tokenizer_manager.py``). Other requests on
the server change nothing in the counters of ours.
"""

from __future__ import annotations

from typing import Any

from eagle3hub.engines.base import Job
from eagle3hub.engines.endpoints.dialect import Answer, Strange, base_model, chat_request, only_choice, token_ids
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
        dtype = info.get("dtype")
        return Shown(
            version=str(info.get("version", "unknown")),
            model=str(base_model(client, deadline)["id"]),
            target=info.get("model_path"),
            head=info.get("speculative_draft_model_path"),
            method=str(method).lower(),
            draft_tokens=info.get("speculative_num_steps"),
            topk=info.get("speculative_eagle_topk"),
            num_draft_tokens=info.get("speculative_num_draft_tokens"),
            dtype={"half": "float16", "float": "float32", "auto": None}.get(str(dtype), dtype),
            device=info.get("device"),
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
            counted = counters(meta, job.draft_tokens)
        except RuntimeError as error:
            raise Strange(str(error)) from error
        return Answer(len(token_ids(choice, "prompt_token_ids")), tokens, counted)


def _server_info(client: HttpClient, deadline: float) -> dict[str, Any]:
    try:
        return client.json("/server_info", deadline=deadline)
    except HttpFault as fault:
        if fault.status != 404:
            raise
    return client.json("/get_server_info", deadline=deadline)  # its earlier name
