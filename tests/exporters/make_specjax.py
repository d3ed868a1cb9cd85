"""Make SpecJAX fixtures with SpecJAX's own code on JAX CPU.

    python tests/exporters/make_specjax.py --cache CACHE --output DIR --checkout SPECJAX

``SPECJAX`` is a checkout of tails-mpt/SpecJAX at commit d047ed4.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import common

COMMIT = "d047ed4"


class Tokenizer:
    """Reads a text of numbers as the token ids they are."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [int(word) for word in text.split()]


def main(options: argparse.Namespace, scratch: Path) -> None:
    sys.path.insert(0, str(options.checkout.resolve()))
    import jax
    import jax.numpy as jnp
    import numpy as np
    from specjax.models.draft import eagle3
    from specjax.training.vocab import build_d2t_from_data

    config = eagle3.Eagle3Config(
        hidden_size=common.HIDDEN,
        intermediate_size=common.INTERMEDIATE,
        num_heads=common.HEADS,
        num_kv_heads=common.KV_HEADS,
        head_dim=common.HEAD_DIM,
        vocab_size=common.VOCAB,
        draft_vocab_size=common.DRAFT_VOCAB,
        rope_theta=common.ROPE_THETA,
        rms_norm_eps=common.EPS,
    )
    fresh = eagle3.init_eagle3_params(config, jax.random.PRNGKey(0))
    params = {k: jnp.asarray(common.values(k, v.shape), dtype=v.dtype) for k, v in fresh.items()}
    data = scratch / "data.jsonl"
    turn = {"conversations": [{"value": " ".join(map(str, common.draft_ids()))}]}
    data.write_text(json.dumps(turn) + "\n", encoding="utf-8")
    d2t = build_d2t_from_data(str(data), Tokenizer(), common.DRAFT_VOCAB)
    t2d = np.zeros(common.VOCAB, dtype=bool)
    t2d[d2t] = True
    # as train.py does: the buffers hold absolute ids in training, and saving makes them offsets
    buffers = {"d2t": jnp.asarray(d2t, dtype=jnp.int64), "t2d": jnp.asarray(t2d)}

    saved = scratch / "step_1"
    eagle3.save_eagle3_checkpoint(params, buffers, str(saved), cfg=config)
    golden = {**common.inputs(), **forward(saved, eagle3)}
    how = "init_eagle3_params, build_d2t_from_data, save_eagle3_checkpoint; logits by eagle3_forward in float32"
    about = {"exporter": "SpecJAX", "version": COMMIT}
    exported = unchanged_by_export(options.checkout, saved, scratch / "exported")
    facts = {**about, "unchanged_by_export_for_sglang": exported}
    common.write_fixture(options.output / "specjax-saved", saved, golden, **facts, how=how)

    # resuming: the buffers are loaded as the offsets they are on disk, and saving subtracts once more
    resumed_params, resumed_buffers, resumed_config = eagle3.load_eagle3_params(str(saved))
    resumed = scratch / "step_2"
    eagle3.save_eagle3_checkpoint(
        resumed_params,
        resumed_buffers,
        str(resumed),
        source_config_path=str(saved / "config.json"),
        cfg=resumed_config,
    )
    how = "load_eagle3_params of specjax-saved and save_eagle3_checkpoint: d2t is an offset of an offset"
    common.write_fixture(options.output / "specjax-resumed", resumed, golden, **about, how=how)


def forward(saved: Path, eagle3: Any) -> dict[str, Any]:
    """First-step logits and the hidden state that feeds the next step, as compute_ttt_loss runs them."""
    import jax.numpy as jnp
    import numpy as np

    params, _, config = eagle3.load_eagle3_params(str(saved))
    params = {k: v.astype(jnp.float32) for k, v in params.items()}
    batch = common.inputs()
    projected = jnp.asarray(batch["aux_hidden_states"]) @ params["fc.weight"].T
    logits, hidden, _, _ = eagle3.eagle3_forward(
        params, projected, jnp.asarray(batch["token_ids"]), jnp.asarray(batch["embed_tokens"]), config
    )
    return {"logits": np.asarray(logits), "feedback": np.asarray(hidden)}


def unchanged_by_export(checkout: Path, saved: Path, exported: Path) -> bool:
    """Whether the trainer's own export for sglang-jax leaves every byte as it was."""
    script = str(checkout.resolve() / "scripts" / "export_for_sglang.py")
    command = [sys.executable, script, str(saved), "--output", str(exported)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return all((exported / f.name).read_bytes() == f.read_bytes() for f in saved.iterdir())


if __name__ == "__main__":
    common.run_in("specjax", main, extra=["checkout"])
