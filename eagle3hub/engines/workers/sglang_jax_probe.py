"""Ask sglang-jax what it does with small draft heads; `probe_loop` has the protocol.

sglang-jax's own workers read the configs, pick the classes, load target and draft, share what they share, wire the aux
layers and lay out their pools. Its target then runs over a text, and the states that it hands on are the ``taps``. Its
draft class computes the logits, from the parameters that its server keeps: an array without numbers where nothing was
loaded. Operations run one by one, so that no model is compiled, and two things are not sglang-jax's:

- attention, which it computes with a kernel for TPU (`_Attention`);
- it rounds the draft's lm_head, and what the draft's attention gets, to bfloat16, whatever the dtype. That is left out
  (`_keep_dtype`): with it, nothing right would be as close to the reference as float32 allows.

Drafts are computed at the positions that heads are trained with. Where sglang-jax serves, it computes every draft
after the first one position too far (``drafts_wrongly`` in ``engine.toml``). It does so with every head; here, that
would hide what it does with this one.
"""

from __future__ import annotations

import os
import types

import probe_loop
from protocol import Stage, serve

_STEPS = 3
_TOKENS = 512


def _run(request, tell):
    tell("stage", stage="import")
    device = request["device"]
    os.environ |= {
        "JAX_PLATFORMS": device,
        "JAX_COMPILATION_CACHE_DIR": f"{request['result']}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "SGLANG_CI_SMALL_KV_SIZE": str(_TOKENS),  # the pools, in tokens
    }
    if device == "cpu":
        os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    with Stage("import"):
        import jax
        import sgl_jax
        import transformers
        from sgl_jax.srt.models import llama_eagle3
        from sgl_jax.srt.speculative import eagle_draft_worker  # noqa: F401 - every question's process has it then
    with Stage("device"):
        probe_loop.in_a_process(lambda: jax.devices(device))
    tell("ready", version=sgl_jax.__version__, jax=jax.__version__, transformers=transformers.__version__)
    _keep_dtype(llama_eagle3)
    with Stage("questions"):
        probe_loop.answer_all(request, tell, _answer)


def _keep_dtype(module):
    """Have the draft's ``module`` round nothing to bfloat16 that has another dtype."""
    own = module.ParallelLMHead
    module.jnp = _Unrounded(module.jnp)
    module.ParallelLMHead = lambda rows, width, dtype: own(rows, width, dtype=dtype, param_dtype=dtype)


class _Unrounded:
    """``jax.numpy`` for one module, in which `concatenate` keeps the dtype of its arrays."""

    def __init__(self, own):
        self._own = own

    def __getattr__(self, name):
        return getattr(self._own, name)

    def concatenate(self, arrays, axis=0, dtype=None):
        return self._own.concatenate(arrays, axis=axis)


def _answer(question, request, found):
    import jax
    from safetensors.numpy import load_file

    jax.config.update("jax_default_matmul_precision", "highest")
    ranks = question["settings"].get("tensor_parallel", 1)
    if request["device"] == "cpu":
        jax.config.update("jax_num_cpu_devices", ranks)
    elif len(jax.devices()) < ranks:
        raise probe_loop.NotAskedError(f"there are not {ranks} devices here")
    found.at("config")
    arguments = _configure(question, request)
    mesh = _read(arguments, found.facts)
    found.at("load")
    target, worker = _load(arguments, mesh, found.facts)
    draft, sizes = worker.draft_model_runner, target.model_config
    inputs = load_file(question["inputs"])
    found.at("taps")
    room = len(inputs["token_ids"]) + len(inputs["drafted"])
    _, captured = _forward(target, room, inputs["token_ids"])
    found.facts["taps"] = [
        probe_loop.layers_run(captured[:, at : at + sizes.hidden_size], sizes.num_hidden_layers)
        for at in range(0, captured.shape[1], sizes.hidden_size)
    ]
    found.at("forward")
    _forward(draft, room, inputs["token_ids"], captured)
    if captured.shape[1] != inputs["aux"].shape[1]:
        return {}  # it feeds the head other states than those it was trained on, and the taps say so
    return _draft(worker, room, inputs, sizes.vocab_size)


def _configure(question, request):
    """Return sglang-jax's server arguments, checked as by its launcher."""
    from sgl_jax.srt.server_args import ServerArgs

    settings = question["settings"]
    arguments = ServerArgs(
        model_path=request["targets"][question["target"]],
        device=request["device"],
        dtype=settings.get("dtype", "float32"),
        tp_size=settings.get("tensor_parallel", 1),
        skip_tokenizer_init=True,
        trust_remote_code=False,
        max_running_requests=1,
        max_prefill_tokens=_TOKENS,
        chunked_prefill_size=-1,
        disable_radix_cache=True,
        disable_precompile=True,
        page_size=1,
        random_seed=1,
        speculative_algorithm="EAGLE3",
        speculative_draft_model_path=question["folder"],
        speculative_num_steps=_STEPS,
        speculative_eagle_topk=1,
        speculative_num_draft_tokens=_STEPS + 1,
    )
    arguments.check_server_args()
    return arguments


def _read(arguments, facts):
    """Let sglang-jax read the draft's config and choose its class; return the devices that it divides models over."""
    from sgl_jax.srt.configs.model_config import ModelConfig
    from sgl_jax.srt.model_loader.arch import get_model_architecture
    from sgl_jax.srt.utils.mesh_utils import create_device_mesh

    draft = arguments.speculative_draft_model_path
    config = ModelConfig.from_server_args(arguments, model_path=draft, is_draft_model=True)
    chosen, architecture = get_model_architecture(config)
    facts |= {"architecture": [architecture], "class": chosen.__name__}
    return create_device_mesh([1, arguments.tp_size], [1, 1])


def _load(arguments, mesh, facts):
    """Return the target's runner and the draft's worker; what was loaded of the draft is noted in ``facts``."""
    import sglang_jax_worker
    from sgl_jax.srt.managers.tp_worker import ModelWorker
    from sgl_jax.srt.speculative.eagle_draft_worker import EagleDraftWorker

    seen = sglang_jax_worker.watch_draft(arguments.speculative_draft_model_path)
    target = ModelWorker(arguments, mesh)
    facts["context"] = target.model_config.context_len
    draft = EagleDraftWorker(arguments, target)
    facts |= {key: seen[key] for key in ("not_loaded", "ignored")}
    return target.model_runner, draft


class _Attention:
    """Causal attention over the whole sequence, in float32, in place of an attention backend with its pages."""

    def __init__(self, mesh):
        self.mesh = mesh

    def __call__(self, q, k, v, layer, _forward_batch, _token_to_kv_pool, **_options):
        """Attend over queries [n, heads, size], keys and values [n, KV heads, size]; return [n, heads * size]."""
        import numpy as np

        dtype = q.dtype
        q, k, v = (np.asarray(x, np.float32) for x in (q, k, v))
        k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
        at = np.arange(len(q))
        seen = at[None, :] <= at[:, None]
        if layer.sliding_window_size:
            seen &= at[:, None] - at[None, :] < layer.sliding_window_size
        scores = np.where(seen, np.einsum("thd,shd->hts", q, k) * layer.scaling, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("hts,shd->thd", weights, v).reshape(len(q), -1)
        return _placed(self.mesh, out.astype(dtype), "data", "tensor"), None


def _placed(mesh, array, *axes):
    """Return an array on the devices of ``mesh``, divided as sglang-jax divides it."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))


def _forward(runner, room, tokens, features=None):
    """Return logits [n, V] and the states that are handed on [n, …] of a runner's model, over a text of n tokens.

    It computes ``room`` tokens, whatever n is, so that each operation is compiled once. ``features`` [n, …]: what a
    draft gets of the target.
    """
    import jax
    import numpy as np
    from flax import nnx
    from sgl_jax.srt.layers.logits_processor import LogitsMetadata
    from sgl_jax.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardMode

    def padded(array, dtype):
        wide = np.zeros((room, *array.shape[1:]), dtype)
        wide[: len(array)] = array
        return wide

    told = None
    if features is not None:
        told = types.SimpleNamespace(hidden_states=_placed(runner.mesh, padded(features, runner.dtype), "data", None))
    batch = types.SimpleNamespace(
        input_ids=_placed(runner.mesh, padded(tokens, np.int32), "data"),
        positions=_placed(runner.mesh, np.arange(room, dtype=np.int32), "data"),
        attn_backend=_Attention(runner.mesh),
        spec_info=told,
    )
    every = LogitsMetadata(forward_mode=ForwardMode.DECODE, capture_hidden_mode=CaptureHiddenMode.FULL)
    state = jax.tree_util.tree_unflatten(runner._model_state_def, runner.model_state_leaves)
    with jax.set_mesh(runner.mesh):
        model = nnx.merge(runner._model_def, state)
        output, *_ = model(batch, types.SimpleNamespace(token_to_kv_pool=None), every)
    found = (np.asarray(x, np.float32)[: len(tokens)] for x in (output.next_token_logits, output.hidden_states))
    return tuple(found)


def _draft(worker, room, inputs, vocabulary):
    """See `probe_loop.draft`; logits are over the target's vocabulary."""
    import jax.numpy as jnp
    import numpy as np

    runner = worker.draft_model_runner

    def forward(tokens, _positions, features):
        logits, carried = _forward(runner, room, tokens, features)
        rows = jnp.arange(logits.shape[1])
        ids = np.asarray(rows if worker.hot_token_ids is None else worker._map_hot_token_ids(rows))
        inside = (ids >= 0) & (ids < vocabulary)
        wide = np.full((len(tokens), vocabulary), -np.inf, np.float32)
        wide[:, ids[inside]] = logits[:, inside]
        return wide, carried

    return probe_loop.draft(np, forward, inputs, _projected(runner, room, inputs))


def _projected(runner, room, inputs):
    """Return what the draft's decoder layer gets of the target's states; what a draft hands on goes there as it is."""
    import numpy as np
    from sgl_jax.srt.models import llama_eagle3

    seen, layer = [], llama_eagle3.LlamaDecoderLayer.__call__

    def watched(self, *given, **named):
        seen.append(np.asarray(named["hidden_states"], np.float32))
        return layer(self, *given, **named)

    llama_eagle3.LlamaDecoderLayer.__call__ = watched
    _forward(runner, room, inputs["token_ids"], inputs["aux"])
    llama_eagle3.LlamaDecoderLayer.__call__ = layer
    return seen[0][: len(inputs["token_ids"])]


if __name__ == "__main__":
    serve(_run)
