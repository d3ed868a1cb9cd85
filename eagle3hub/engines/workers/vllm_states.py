"""Have vLLM answer prompts, or compute a target's hidden states over texts, in its own interpreter.

It imports only the standard library, vLLM and what vLLM brings. The request has ``llm`` (arguments of ``vllm.LLM``),
``device``, ``mode`` and ``jobs``:

- ``generate``: jobs with ``index`` and ``text``; ``sampling``, ``seed``, ``lookahead``, ``longest`` (tokens of a whole
  text) and ``chat_template``. Each is reported with its prompt, its answer, the tokens that the target adds after it,
  and above temperature 0 the log-probability of each token at that temperature.
- ``extract``: jobs with ``index``, ``tokens`` and maybe ``logprobs``; ``folder``, ``layers`` and ``hidden_size``. The
  states of each go into a file of ``folder``, all or nothing.
"""

from __future__ import annotations

import pathlib
import time

from protocol import Stage, serve

_BATCH = 32
"""Texts that vLLM gets at once: each batch is reported when it is done, and then survives an interruption."""


def _run(request, tell):
    started = time.monotonic()
    tell("stage", stage="import")
    with Stage("import"):
        import torch
        import vllm
        from vllm.platforms import current_platform
    from vllm_worker import _check_device

    with Stage("device"):
        _check_device(request["device"], current_platform, torch)
    tell("stage", stage="load")
    with Stage("load"):
        llm = vllm.LLM(**request["llm"])
    tell("ready", version=vllm.__version__, seconds=time.monotonic() - started)
    todo = request["jobs"]
    with Stage("generate"):
        for at in range(0, len(todo), _BATCH):
            {"generate": _generate, "extract": _extract}[request["mode"]](llm, request, todo[at : at + _BATCH], tell)


def _generate(llm, request, jobs, tell):
    import vllm

    sampling = [vllm.SamplingParams(**request["sampling"], seed=request["seed"] + job["index"]) for job in jobs]
    turns = [[{"role": "user", "content": job["text"]}] for job in jobs]
    answers = llm.chat(turns, sampling, use_tqdm=False, chat_template_kwargs=request["chat_template"])
    begun = [[*answer.prompt_token_ids, *answer.outputs[0].token_ids] for answer in answers]
    room = [min(request["lookahead"], request["longest"] - len(tokens)) for tokens in begun]
    wanted = [n for n, most in enumerate(room) if most > 0]
    after = {}
    if wanted:
        more = [
            vllm.SamplingParams(
                **{**request["sampling"], "max_tokens": room[n], "ignore_eos": True},
                seed=request["seed"] + jobs[n]["index"],
            )
            for n in wanted
        ]
        found = llm.generate([{"prompt_token_ids": begun[n]} for n in wanted], more, use_tqdm=False)
        after = {n: output.outputs[0] for n, output in zip(wanted, found, strict=True)}
    for n, (job, answer) in enumerate(zip(jobs, answers, strict=True)):
        parts = [answer.outputs[0], *([after[n]] if n in after else [])]
        tell(
            "text",
            index=job["index"],
            prompt=list(answer.prompt_token_ids),
            response=list(answer.outputs[0].token_ids),
            lookahead=list(after[n].token_ids) if n in after else [],
            logprobs=[value for part in parts for value in _logprobs(part)],
        )


def _logprobs(output):
    if output.logprobs is None:
        return []
    return [row[token].logprob for token, row in zip(output.token_ids, output.logprobs, strict=True)]


def _extract(llm, request, jobs, tell):
    import torch
    import vllm
    from safetensors.torch import save_file
    from vllm.distributed.kv_transfer.kv_connector.v1 import example_hidden_states_connector as connector

    one = vllm.SamplingParams(max_tokens=1, temperature=0.0)
    outputs = llm.generate([{"prompt_token_ids": job["tokens"]} for job in jobs], one, use_tqdm=False)
    for job, output in zip(jobs, outputs, strict=True):
        path = output.kv_transfer_params["hidden_states_path"]
        found = connector.load_hidden_states(path)
        states, count = found["hidden_states"], len(job["tokens"])
        wanted = (count, len(request["layers"]), request["hidden_size"])
        if found["token_ids"].tolist() != job["tokens"] or tuple(states.shape) != wanted:
            raise RuntimeError(f"the states of text {job['index']} are {list(states.shape)}, not {list(wanted)}")
        if not torch.isfinite(states).all():
            raise RuntimeError(f"the states of text {job['index']} are not finite")
        tensors = {"token_ids": found["token_ids"].long(), "aux_hidden_states": states.flatten(1).contiguous()}
        if job.get("logprobs") is not None:
            tensors["logprobs"] = torch.tensor(job["logprobs"], dtype=torch.float32)
        name = f"{job['index']:06d}.safetensors"
        temporary = pathlib.Path(request["folder"]) / f".{name}"
        save_file(tensors, temporary)
        temporary.replace(temporary.with_name(name))
        connector.cleanup_hidden_states(path)
        tell("states", index=job["index"])


if __name__ == "__main__":
    serve(_run)
