"""Any two layouts, any changes: what is written is what was asked for, computed independently with torch."""

from __future__ import annotations

import json

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import heads
from support.folders import load
from support.sampling import examples

from eagle3hub.conversion.edits import Transforms
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.layouts import LAYOUTS, open_head
from eagle3hub.layouts.base import ReadOptions

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TARGETS = [name for name in LAYOUTS if name != "universal"]


@settings(max_examples=examples(0.25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    to=st.sampled_from(TARGETS),
    unsorted=st.booleans(),
    order=st.permutations([1, 14, 26]),
    dtype=st.sampled_from([None, *DTYPES]),
    theta=st.sampled_from([None, 10000.0, 5e6]),
    shard=st.sampled_from([None, 300, 10**9]),
)
def test_changes_compose(tmp_path_factory, to, unsorted, order, dtype, theta, shard):
    work = tmp_path_factory.mktemp("pair")
    ids = {"eagle_aux_hidden_state_layer_ids": list(order), "use_aux_hidden_state": True}
    source = heads.specforge(work / "head", eagle_config=ids)
    old = load(source)
    if unsorted:
        flipped = heads.sorted_ids(heads.dims()).flip(0) - torch.arange(10)
        save_file({**old, "d2t": flipped}, source / "model.safetensors", metadata={"format": "pt"})
    asked = Transforms(resort_vocab=unsorted, sort_aux=order != [1, 14, 26], dtype=dtype)
    one_file = LAYOUTS[to].contract.single_file
    done = convert(
        source,
        work / "out",
        to,
        ConvertOptions(
            target=str(heads.target(work / "target")),
            speculative_tokens=3,
            read=ReadOptions(rope_theta=theta),
            transforms=asked,
            max_shard_size=None if one_file else shard,
        ),
    )
    new = load(work / "out")
    back = open_head(work / "out", layout=to)
    blocks = old["fc.weight"].reshape(8, 3, 8)
    wanted = {
        **old,
        "fc.weight": torch.cat([blocks[:, order.index(k)] for k in sorted(order)], dim=1),
        "lm_head.weight": old["lm_head.weight"].flip(0) if unsorted else old["lm_head.weight"],
    }
    for canonical, ref in back.tensors.items():
        name = canonical.replace("layers.0.", "midlayer.")
        expected = wanted[name] if asked.dtype is None else wanted[name].to(DTYPES[asked.dtype])
        assert torch.equal(new[ref.name], expected), canonical
        assert new[ref.name].dtype == expected.dtype
    assert back.vocab_map is not None
    assert back.vocab_map.target_id.tolist() == heads.sorted_ids(heads.dims()).tolist()
    assert back.semantics == done.plan.head.semantics
    if theta is not None:
        assert back.semantics.rope.theta == theta
    assert back.aux is None or back.aux.after_layer == [1, 14, 26]
    names = [c.name.split(":")[0] for c in done.plan.changes]
    assert ("resort-vocab" in names, "sort-aux" in names) == (unsorted, asked.sort_aux)
    record = json.loads((work / "out/eagle3hub.json").read_text())
    assert len(record["repairs"]) == len(names)
