from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarking.recorded import AS_TRAINED, LARGE, SECOND, SMOKE, TARGET, plan, prompts
from support import targets

from eagle3hub.benchmarking import BenchOptions, Settings, bench_plan
from eagle3hub.benchmarking.plan import CellSettings
from eagle3hub.engines.base import EngineSettings
from eagle3hub.errors import InputError, UsageError

SPLIT = EngineSettings(2, {"vllm": {"kv_cache_dtype": "fp8"}})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"heads": ()}, "HEAD is empty"),
        ({"heads": (AS_TRAINED, replace(SECOND, name="as-trained"))}, "HEAD has as-trained twice"),
        ({"datasets": ()}, "--datasets is empty"),
        ({"datasets": (SMOKE, prompts("smoke"))}, "--datasets has smoke twice"),
        ({"draft_tokens": (3, 5, 3)}, "--draft-tokens has 3 twice"),
        ({"draft_tokens": (0,)}, "--draft-tokens 0 is not between 1 and 16"),
        ({"draft_tokens": (17,)}, "17 is not between"),
        ({"temperatures": (-0.1,)}, "--temperature -0.1"),
        ({"temperatures": (math.nan,)}, "--temperature nan"),
        ({"temperatures": (math.inf,)}, "--temperature inf"),
        ({"temperatures": (1.0, 1)}, "--temperature has 1 twice"),
        ({"engines": ("vlm",)}, "--engine 'vlm' is not known; did you mean 'vllm'"),
        ({"engines": ("reference", "reference")}, "--engine has reference twice"),
        ({"base": "second"}, "--base 'second' is none of the heads"),
        ({"settings": Settings(max_new_tokens=0)}, "--max-new-tokens must be 1"),
        ({"settings": Settings(dtype="float64")}, "--dtype 'float64'"),
        ({"settings": Settings(device="npu")}, "--device 'npu'"),
        ({"settings": Settings(drafting="lazy")}, "--drafting 'lazy'"),
        ({"settings": Settings(topk=4)}, "nothing says how many of its tokens are verified"),
        ({"settings": Settings(topk=0, num_draft_tokens=8)}, "--topk must be 1"),
        ({"settings": Settings(attached=("vllm",)), "draft_tokens": (3, 5)}, "one head at one K"),
        ({"settings": Settings(min_acceptance_length=4.5)}, "lies between 1 and 4"),
    ],
)
def test_a_plan_that_cannot_be(changed: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says) as error:
        plan(**changed)
    assert error.value.code in ("usage-bench", "usage-tree", "usage-endpoint")


def test_groups_share_engine_prompts_and_temperature_and_cover_everything_once() -> None:
    groups = list(LARGE.groups())
    assert len(groups) == 5 * 2
    cells = [cell for group in groups for cell in group.cells]
    assert len(cells) == LARGE.size == 3 * 5 * 3 * 2
    assert len({cell.key("1") for cell in cells}) == LARGE.size
    for group in groups:
        shared = {(c.engine, c.target, c.prompts, c.temperature) for c in group.cells}
        assert shared == {(group.engine, TARGET, group.prompts, group.temperature)}
        assert group.longest_draft == 7
        assert [c.head.name for c in group.cells] == sorted((c.head.name for c in group.cells), key=_order)


def _order(name: str) -> int:
    return [head.name for head in LARGE.heads].index(name)


def test_the_key_is_of_all_that_the_result_depends_on_and_of_nothing_else() -> None:
    (group,) = plan().groups()
    (cell,) = group.cells
    key = cell.key("1.0")
    renamed = replace(cell, head=replace(AS_TRAINED, name="x", source="/y", layout="z"))
    assert renamed.key("1.0") == key
    changes = [
        replace(cell, head=replace(AS_TRAINED, digest=SECOND.digest)),
        replace(cell, target=replace(TARGET, config_sha256="1" * 64)),
        replace(cell, prompts=load_part()),
        replace(cell, draft_tokens=4),
        replace(cell, temperature=1.0),
        replace(cell, engine="vllm"),
        replace(cell, common=Settings(max_new_tokens=65)),
        replace(cell, common=Settings(max_new_tokens=64, seed=1)),
        replace(cell, common=Settings(max_new_tokens=64, drafting="probabilistic")),
        replace(cell, common=Settings(max_new_tokens=64, topk=2, num_draft_tokens=6)),
        replace(cell, common=Settings(max_new_tokens=64, engine_settings=EngineSettings(chat_template={"a": 1}))),
        replace(cell, engine="vllm", common=Settings(max_new_tokens=64, engine_settings=SPLIT)),
        replace(cell, engine="sglang", common=Settings(max_new_tokens=64, engine_settings=SPLIT)),
    ]
    assert len({key, cell.key("1.1"), *(change.key("1.0") for change in changes)}) == 2 + len(changes)


def test_a_cell_states_the_engine_settings_that_reach_it() -> None:
    (group,) = plan(settings=Settings(engine_settings=SPLIT, attached=("sglang",))).groups()
    (cell,) = group.cells
    stated = {name: replace(cell, engine=name).settings for name in ("vllm", "sglang", "reference")}
    assert stated["vllm"].engine_settings == SPLIT
    assert stated["sglang"].engine_settings == stated["reference"].engine_settings == EngineSettings()
    for settings in stated.values():
        assert CellSettings.from_json(settings.to_json()) == settings
        hash(settings)
    assert "engine_settings" not in stated["reference"].to_json()


def test_engine_settings_of_a_benchmark_are_checked_before_it_runs(tmp_path: Path) -> None:
    target = targets.save(tmp_path / "target", tokenizer=True)
    for settings, error, says in (
        (EngineSettings(arguments={"vllm": {"max_modle_len": 1}}), UsageError, "has no keyword max_modle_len"),
        (EngineSettings(chat_template={"thnik": True}), InputError, "did you mean 'think'"),
    ):
        with pytest.raises(error, match=says):
            bench_plan([], str(target), BenchOptions(datasets="smoke", engine="vllm", engine_settings=settings))


def load_part() -> object:
    return replace(SMOKE, prompts=SMOKE.prompts[:15])
