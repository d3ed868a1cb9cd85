"""The configs, with the fields that the documentation of 1.2.1 and of 1.3.0rc28 lists, and ``LLM``."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
import transformers
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from tensorrt_llm._torch.models.modeling_speculative import Eagle3ForCausalLM
from tensorrt_llm._torch.speculative.eagle3 import Eagle3OneModelSpecMetadata, Eagle3OneModelWorker, Memory

CANDIDATE = not os.environ["TENSORRT_LLM_STAND_IN"].startswith("1.2")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class KvCacheConfig(_Strict):
    enable_block_reuse: bool = True
    free_gpu_memory_fraction: float = 0.9


class _Drafting(_Strict):
    """What 1.2.1 and 1.3.0rc28 both know of a draft."""

    max_draft_len: int | None = None
    max_total_draft_tokens: int | None = None
    speculative_model: str | Path | None = Field(
        default=None, validation_alias=AliasChoices("speculative_model", "speculative_model_dir")
    )
    max_concurrency: int | None = None
    draft_len_schedule: dict[int, int] | None = None
    load_format: str | None = None
    allow_advanced_sampling: bool = False
    use_dynamic_tree: bool | None = False
    dynamic_tree_max_topK: int | None = None
    num_eagle_layers: int | None = None
    max_non_leaves_per_layer: int | None = None
    eagle3_layers_to_capture: set[int] | None = None
    eagle3_model_arch: Literal["llama3", "mistral_large3"] = "llama3"

    @model_validator(mode="after")
    def _complete(self) -> "_Drafting":
        if not self.max_draft_len:
            raise ValueError("max_draft_len must be > 0 for Eagle")
        if self.speculative_model is None:
            raise ValueError("Draft model must be provided for EAGLE")
        return self

    @property
    def num_capture_layers(self) -> int:
        return 3 if self.eagle3_layers_to_capture is None else len(self.eagle3_layers_to_capture)


class EagleDecodingConfig(_Drafting):
    eagle_choices: list[list[int]] | None = None
    greedy_sampling: bool | None = True
    posterior_threshold: float | None = None
    eagle3_one_model: bool | None = True
    acceptance_window: int | None = None
    acceptance_length_threshold: float | None = None


if CANDIDATE:

    class Eagle3DecodingConfig(_Drafting):
        decoding_type: Literal["Eagle3"] = "Eagle3"
        acceptance_rate_threshold: float | None = None
        acceptance_rate_window_size: int | None = None
        advanced_sampling_mode: Any = None
        enable_penalty: bool = False
        moe_backend: str | None = None
        sa_config: Any = None
        use_rejection_sampling: bool = False


class SamplingParams(_Strict):
    temperature: float | None = None
    max_tokens: int = 32
    seed: int | None = None
    end_id: int | None = None


class _Arguments(_Strict):
    """The arguments of ``LLM`` that are used here; the real class knows many more."""

    model: str
    dtype: str = "auto"
    max_batch_size: int = 1
    max_seq_len: int | None = None
    trust_remote_code: bool = False
    enable_iter_perf_stats: bool = False
    cuda_graph_config: dict[str, Any] | None = None
    disable_overlap_scheduler: bool = False
    skip_tokenizer_init: bool = False
    kv_cache_config: KvCacheConfig = KvCacheConfig()
    speculative_config: _Drafting | None = None


class LLM:
    """One sequence at a time, greedily, without paging: the target runs over everything again in each iteration."""

    def __init__(self, **given: Any) -> None:
        if os.environ.get("TLLM_WORKER_USE_SINGLE_PROCESS") != "1":
            raise RuntimeError("the stand-in has no executor in another process")
        self.args = _Arguments(**given)
        dtype = getattr(torch, self.args.dtype)
        target = transformers.AutoModelForCausalLM.from_pretrained(self.args.model, dtype=dtype).eval()
        self._target, self._stats, self._draft = target, [], None
        draft = self.args.speculative_config
        if draft is None:
            return
        config = transformers.AutoConfig.from_pretrained(draft.speculative_model)
        self._draft = Eagle3ForCausalLM(config, draft, lenient=CANDIDATE)
        self._draft.load_weights(weights=_weights(Path(draft.speculative_model)), weight_mapper=None)
        self._draft.load_weights_from_target_model(target)
        self._meta = Eagle3OneModelSpecMetadata(
            num_layers=target.config.num_hidden_layers,
            layers_to_capture=draft.eagle3_layers_to_capture,
            hidden_size=target.config.hidden_size,
            max_num_tokens=self.args.max_seq_len or 2048,
            dtype=dtype,
        )
        self._worker = Eagle3OneModelWorker(draft)

    def generate(self, ids: list[int], sampling: SamplingParams) -> SimpleNamespace:
        """Return the tokens that the target alone would give; each iteration but the first verifies a draft."""
        end = self._target.generation_config.eos_token_id if sampling.end_id is None else sampling.end_id
        ends = set(end if isinstance(end, list) else [end])
        tokens, drafts, memory = list(ids), [], Memory()
        limit = len(ids) + sampling.max_tokens
        while len(tokens) < limit and not (len(tokens) > len(ids) and tokens[-1] in ends):
            best, states = self._read(tokens + drafts)
            known = len(tokens)
            accepted = next((i for i, d in enumerate(drafts) if best[known - 1 + i] != d), len(drafts))
            new = [*drafts[:accepted], int(best[known - 1 + accepted])]
            if drafts:
                self._count(len(drafts), accepted)
            tokens += new
            if self._draft is not None:
                drafts = self._worker(tokens, states, self._meta, self._draft, memory)
        cut = tokens[:limit]
        stop = next((i for i, token in enumerate(cut) if i >= len(ids) and token in ends), len(cut))
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=cut[len(ids) : stop + 1])])

    def get_stats(self, timeout: float = 2) -> list[dict[str, Any]]:
        """Return the statistics of the iterations since the last call."""
        given, self._stats = self._stats, []
        return given

    def _read(self, tokens: list[int]) -> tuple[list[int], list[torch.Tensor]]:
        with torch.no_grad():
            out = self._target(torch.tensor([tokens]), output_hidden_states=True)
        return out.logits[0].argmax(-1).tolist(), [state[0] for state in out.hidden_states]

    def _count(self, drafted: int, accepted: int) -> None:
        counts = {"numDraftTokens": drafted, "numAcceptedTokens": accepted, "numRequestsWithDraftTokens": 1}
        self._stats.append(
            {"iter": len(self._stats), "specDecodingStats": {**counts, "acceptanceLength": accepted + 1}}
        )


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}
