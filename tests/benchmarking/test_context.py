"""Acceptance over the length of prompts: how they are made long, what holds a head to it, and what shows it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from benchmarking.recorded import AS_TRAINED, Recorded, measured, plan
from support import heads, targets

from eagle3hub.benchmarking import BenchOptions, Cell, CellResult, PromptCounts, Results, bench
from eagle3hub.benchmarking.chart import charts, to_csv, to_markdown
from eagle3hub.benchmarking.plan import refuse_uneven
from eagle3hub.benchmarking.table import conditions, tables
from eagle3hub.errors import InputError, ManifestError, UsageError
from eagle3hub.metrics import Counts
from eagle3hub.prompts import Context, Prompt, PromptSet, contexts_of, lengthened
from eagle3hub.prompts.sets import context_name
from eagle3hub.validation.gates import over_context
from eagle3hub.validation.options import ReferenceOptions, ValidateOptions
from eagle3hub.validation.target import identify_target, load_prompts_for

Cli = Callable[..., tuple[int, str, str]]


# Long prompts.


@dataclass
class Words:
    """A tokenizer of words in a chat template of three tokens; ``merge``: two words after a cut can become one."""

    merge: bool = False

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def length(self, prompt: Prompt) -> int:
        words = [w for m in prompt.messages for w in m["content"].split()]
        merged = sum(1 for a, b in pairwise(words) if a == "7" and b == "9") if self.merge else 0
        return len(words) + 3 - merged


def numbered(*texts: str, turns: Sequence[str] = ()) -> PromptSet:
    return PromptSet("own", tuple(Prompt(i, "c", text, tuple(turns)) for i, text in enumerate(texts)))


def test_prompts_are_made_long_with_the_text_that_follows_them() -> None:
    whole = numbered("1 1", "2 2", "3 3", turns=["8"])
    short, long = lengthened(whole, [5, 9], Words())
    assert [p.text for p in short.prompts] == ["1 1", "2 2", "3 3"]
    assert [p.text for p in long.prompts] == ["2 2 8 3\n\n1 1", "3 3 8 1\n\n2 2", "1 1 8 2\n\n3 3"]
    assert [Words().length(p) for p in long.prompts] == [9, 9, 9]
    assert (long.name, long.context) == ("own@9", Context(9, "own", 0))
    assert [p.question_id for p in long.prompts] == [0, 1, 2]
    assert long.sha256 != short.sha256 == whole.sha256
    assert lengthened(whole, [9], Words())[0].sha256 == long.sha256


def test_a_cut_that_changes_the_tokens_gives_the_longest_that_fits() -> None:
    (found,) = lengthened(numbered("9 1", "7 7 7 7", "5 5 5 5"), [8], Words(merge=True))
    assert [Words(merge=True).length(p) for p in found.prompts] == [8, 8, 8]
    assert found.prompts[0].text == "7 7 7 7\n\n9 1", "7 and 9 are one token there"


def test_every_length_has_the_same_prompts() -> None:
    whole = numbered("1", "2 2 2 2 2 2 2 2", "3", "4")
    short, long = lengthened(whole, [6, 12], Words(), 2)
    assert [p.question_id for p in short.prompts] == [p.question_id for p in long.prompts] == [0, 2]
    assert short.context is not None and short.context.left_out == 1
    with pytest.raises(UsageError, match="asks for 4 prompts, but 3 of own fit into 6 tokens"):
        lengthened(whole, [6, 12], Words(), 4)


def test_what_cannot_be_made_is_said() -> None:
    with pytest.raises(InputError, match="no prompt of own fits into a context of 4 tokens: the shortest has 5") as e:
        lengthened(numbered("1 1", "2 2 2"), [4, 100], Words())
    assert e.value.code == "prompts-context-empty"
    with pytest.raises(InputError, match="own has about 8 tokens of text, too few for prompts of 100") as e:
        lengthened(numbered("1 1", "2 2 2"), [10, 100][1:], Words())
    assert e.value.code == "prompts-context-text"


@pytest.mark.parametrize(
    ("text", "tokens"), [("1k,4k", [1024, 4096]), ("4K, 500", [500, 4096]), ("128", [128]), ("2k,2048", [2048])]
)
def test_lengths_are_read_as_people_write_them(text: str, tokens: list[int]) -> None:
    assert contexts_of(text) == tokens
    assert contexts_of(",".join(map(context_name, tokens))) == tokens


@pytest.mark.parametrize("text", ["", "1k,", "k", "-1", "1.5k", "0", "1m", "٣", "9" * 12])
def test_other_lengths_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as e:
        contexts_of(text)
    assert e.value.code == "usage-context"


def test_a_system_prompt_counts_and_is_part_of_the_hash() -> None:
    whole = numbered("1 1", "2 2", "3 3")
    said = whole.with_system("6 6")
    assert said.prompts[0].messages == [
        {"role": "system", "content": "6 6"},
        {"role": "user", "content": "1 1"},
    ]
    assert said.sha256 != whole.sha256 == whole.with_system(None).sha256
    (long,) = lengthened(said, [9], Words())
    assert [Words().length(p) for p in long.prompts] == [9, 9, 9]
    assert long.prompts[0].messages[0]["content"] == "6 6"


def test_the_targets_own_tokenizer_and_template_count(tmp_path: Path) -> None:
    target = identify_target(targets.save(tmp_path / "target", tokenizer=True))
    short, long = load_prompts_for(target, "smoke", contexts=[160, 230], num_prompts=4, new_tokens=10)
    from eagle3hub.reference.target import TargetModel

    model = TargetModel.load(target.source)
    for found, tokens in ((short, 160), (long, 230)):
        assert [len(model.chat(p.text)) for p in found.prompts] == [tokens] * 4
    with pytest.raises(InputError) as e:
        load_prompts_for(target, "smoke", contexts=[160, 250], new_tokens=10)
    assert e.value.code == "context-target"
    assert "prompts of 250 tokens with 10 after them do not fit into the context of target, 256" in e.value.message


# The gate.


def counters(rate: float, seed: int, prompts: int = 24) -> list[Counts]:
    """Counters of a chain of three, with this chance for each draft, for prompts that differ a little."""
    out = []
    for n in range(prompts):
        rng = random.Random(f"{seed} {n}")
        accepted, rounds = [0, 0, 0], 40
        for _ in range(rounds):
            for i in range(3):
                if rng.random() > rate + 0.05 * (n % 3 - 1):
                    break
                accepted[i] += 1
        out.append(Counts(rounds, 3 * rounds, sum(accepted), tuple(accepted)))
    return out


@pytest.mark.parametrize(
    ("long", "verdict"),
    [(0.6, "pass"), (0.52, "pass"), (0.37, "inconclusive"), (0.2, "fail"), (0.08, "fail")],
)
def test_a_head_that_loses_its_drafts_with_length_fails(long: float, verdict: str) -> None:
    found = over_context({1024: counters(0.6, 1), 16384: counters(long, 2)})
    assert (found.name, found.verdict) == ("context", verdict), found.reason
    assert "at 16,384 tokens" in found.reason
    assert found.evidence is not None and found.evidence["tokens"] == 16384


def test_the_worst_length_decides() -> None:
    good, bad = counters(0.6, 1), counters(0.1, 2)
    assert over_context({1024: good, 4096: bad, 16384: good}).verdict == "fail"
    assert over_context({1024: good, 4096: good}).reason.endswith("of the drafts")
    few = over_context({1024: good[:4], 4096: bad[:4]})
    assert (few.verdict, "too few" in few.reason) == ("inconclusive", True)
    assert "hardly drafts" in over_context({1024: counters(0.02, 1), 4096: counters(0.02, 2)}).reason
    none = [Counts(0, 0, 0, (0, 0, 0))] * 24
    assert "no round at 4,096" in over_context({1024: good, 4096: none}).reason


# Results, tables, charts.


class Fading(Recorded):
    """A head that accepts less with every doubling of the prompts."""

    def measure(self, cell: Cell) -> CellResult:
        context = cell.prompts.context
        rate = {None: 0.6, 1024: 0.6, 4096: 0.3, 16384: 0.12}[context and context.tokens]
        rows = counters(rate, cell.draft_tokens, len(cell.prompts.prompts))
        found = tuple(PromptCounts(context.tokens if context else 10, c.emitted, c) for c in rows)
        return CellResult("pass", "as it should be", found, {}, None, 1.0)


def at(tokens: int) -> PromptSet:
    return PromptSet(
        f"sum@{context_name(tokens)}",
        tuple(Prompt(i, "one", f"{tokens} {i}") for i in range(24)),
        context=Context(tokens, "sum", 3),
    )


@pytest.fixture
def fading() -> Results:
    short = replace(AS_TRAINED, context=2048)
    return measured(plan(heads=(short,), datasets=(at(1024), at(4096), at(16384))), Fading())


@pytest.mark.slow
def test_a_benchmark_over_lengths_says_what_becomes_of_the_head(fading: Results) -> None:
    (curve,) = fading.contexts
    assert curve.lengths == (1024, 4096, 16384)
    assert curve.gate.verdict == "fail"
    assert fading.verdict == "fail", "every cell passes"
    (table,) = [one for one in tables(fading) if "by length" in one.title]
    assert [" ".join(column.heading) for column in table.columns][4:] == ["1k", "4k", "16k", "kept", "verdict"]
    assert table.rows[0][-1] == "fail"
    assert table.rows[0][-2].removesuffix(" %").isdigit() and int(table.rows[0][-2].removesuffix(" %")) < 20
    said = "\n".join(conditions(fading))
    assert "each 4,096 tokens long: the text of the prompts of sum" in said
    assert "3 prompts are longer and left out" in said
    one = replace(fading.cells[0].prompts, context=Context(1024, "sum", 1))
    short = replace(fading, cells=(replace(fading.cells[0], prompts=one),))
    assert "; 1 prompt is longer and left out" in "\n".join(conditions(short))
    assert "Head as-trained states a context of 2,048 tokens, and prompts go up to 16,384." in said
    assert "Fail: as-trained over the length of prompts" in said
    drawn = charts(fading)["tau-by-context-reference-T0"]
    assert "16k" in drawn.alt
    assert "tau-by-context-reference-T0.svg" in to_markdown(fading, charts(fading))
    assert "sum@16k" in to_csv(fading)


def test_what_a_file_states_of_lengths_is_computed_again(fading: Results) -> None:
    document = fading.to_json()
    assert Results.from_json(copy.deepcopy(document)).to_json() == document
    assert "contexts" not in measured(plan()).to_json()
    for edit in (
        lambda d: d["contexts"][0]["gate"].update(verdict="pass"),
        lambda d: d["contexts"][0]["points"][2].update(mean_acceptance_length=2.0),
        lambda d: d.pop("contexts"),
    ):
        forged = json.loads(json.dumps(document))
        edit(forged)
        with pytest.raises(ManifestError, match="the contexts do not follow from the cells") as e:
            Results.from_json(forged)
        assert e.value.code == "bench-numbers"


def test_lengths_of_other_prompts_make_no_curve() -> None:
    other = replace(at(4096), prompts=at(4096).prompts[:20])
    assert measured(plan(datasets=(at(1024), other)), Fading()).contexts == []


# Real runs.


def test_a_target_or_a_set_that_is_too_short_is_said_before_anything_runs(cli: Cli, tmp_path: Path) -> None:
    head, target = heads.specjax(tmp_path / "head"), heads.target(tmp_path / "target")
    words = ("bench", head, "--target", target, "--datasets", "smoke")
    status, _, err = cli(*words, "--context", "1k,1000k")
    assert status == 3
    assert "do not fit into the context of target" in err
    status, _, err = cli(*words, "--context", "4q")
    assert status == 2
    status, _, err = cli("validate", head, "--target", target, "--context", "1k,4k")
    assert status == 2
    assert "a validation has one" in err


SHORT: dict[str, Any] = {"datasets": "smoke", "num_prompts": 8, "context": "64,256", "max_new_tokens": 16}


@pytest.mark.slow
def test_the_reference_measures_lengths(smollm2_target: Path, example_head: Path) -> None:
    options = BenchOptions(**{**SHORT, "system_prompt": "You are brief."})
    found = bench([str(example_head)], str(smollm2_target), options)
    short, long = found.cells
    assert {row.prompt_tokens for row in short.per_prompt} <= set(range(60, 65))
    assert {row.prompt_tokens for row in long.per_prompt} <= set(range(250, 257))
    assert short.settings.system_prompt == "You are brief."
    (curve,) = found.contexts
    assert curve.lengths == (64, 256)


@pytest.mark.slow
@pytest.mark.engine
def test_vllm_runs_the_rounds_of_the_reference_at_length(
    smollm2_target: Path, example_head: Path, vllm_python: Path
) -> None:
    """With a system prompt before each prompt, too."""
    options = BenchOptions(
        **{**SHORT, "context": "256", "engine": "reference,vllm", "system_prompt": "You are brief."},
        engine_python={"vllm": vllm_python},
    )
    ours, theirs = bench([str(example_head)], str(smollm2_target), options).cells
    lengths = [row.prompt_tokens for row in theirs.per_prompt]
    assert max(lengths) == 256 and min(lengths) > 250  # a cut between two tokens cannot give every length
    assert ours.counts == theirs.counts
    assert sum(one.rounds for one in ours.counts) > 60


@pytest.mark.parametrize("changed", [{"context": "1k"}, {"system_prompt": "Be brief."}])
def test_texts_of_hidden_states_stay_as_they_are(changed: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="as they are") as e:
        ValidateOptions(prompts="hidden-states", reference=ReferenceOptions(hidden_states=tmp_path), **changed)
    assert e.value.code == "usage-hidden-states"


def test_lengths_that_an_array_would_measure_on_other_prompts_are_refused() -> None:
    refuse_uneven(plan(datasets=(replace(at(1024), context=Context(1024, "sum")),)))
    refuse_uneven(plan())
    with pytest.raises(UsageError, match="prompts of sum that do not fit") as e:
        refuse_uneven(plan(datasets=(at(1024), at(4096))))
    assert e.value.code == "usage-context"
