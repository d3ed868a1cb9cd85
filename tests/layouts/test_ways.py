"""What `inspect` says of a head or a target that no engine serves, and whether what it names helps."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import heads
from support.variants import Has, config_of, edit, modelopt, renamed, replace, specforge, speculators

from eagle3hub import InspectOptions, inspect
from eagle3hub.errors import Problem
from eagle3hub.inspection import Inspection

Cli = Callable[..., tuple[int, str, str]]
PT = {"format": "pt"}
PLAIN = {"max_position_embeddings": 8192}


def of(folder: Path, kind: str, head: Path) -> Inspection:
    target = heads.target(folder / f"target-{kind}", model_type=kind)
    return inspect(str(head), InspectOptions(target=str(target)))


def note(found: Inspection, code: str) -> Problem | None:
    return next((p for p in found.problems if p.code == code), None)


def plain(folder: Path) -> Path:
    return specforge(folder, eagle_config={}, **PLAIN)


def peagle(folder: Path, **config: object) -> Path:
    return specforge(folder, has=Has(layers=2, mask_hidden=True), eagle_config={}, **PLAIN, **config)


@pytest.mark.parametrize(("kind", "says"), [("falcon_h1", "SGLang and sglang-jax cannot"), ("unheard_of", "vLLM,")])
def test_a_target_that_no_engine_is_known_to_draft_for_is_said_so(tmp_path: Path, kind: str, says: str):
    alone = "eagle3hub validate computes the head without an engine"
    more = r"run eagle3hub convert --to universal: it makes a folder that .*TensorRT-LLM and llama.cpp may serve"
    for name, make, hint in (("flat", plain, alone), ("nested", lambda at: speculators(at, has=Has()), more)):
        told = note(of(tmp_path / name, kind, make(tmp_path / name)), "target-no-engine")
        assert told is not None and f"no engine is known to draft for targets of type {kind}" in told.message
        assert says in told.message and "nobody checked" in told.message
        assert told.hint is not None and re.fullmatch(hint, told.hint), (name, told.hint)


def test_a_target_that_an_engine_serves_is_no_news(tmp_path: Path):
    found = of(tmp_path, "llama", plain(tmp_path))
    assert note(found, "target-no-engine") is None and note(found, "head-no-engine") is None


def test_the_conversion_that_a_hint_names_makes_the_head_right(tmp_path: Path, cli: Cli):
    target = heads.target(tmp_path / "target", model_type="llama")
    for name, token in (("told", {"mask_token_id": 5}), ("untold", {})):
        source = peagle(tmp_path / name, **token)
        found = inspect(str(source), InspectOptions(target=str(target)))
        told = note(found, "head-no-engine")
        assert told is not None and told.hint is not None
        makes = r"run eagle3hub (convert --to \w+)(?: \(with ([^)]*)\))?: it makes a folder that vLLM gets right"
        match = re.fullmatch(makes, told.hint)
        assert match is not None, told.hint
        given = {"--speculative-tokens": "3", "--mask-token-id": "7", "--target": "owner/name"}
        asked = [] if match[2] is None else match[2].split(" and ")
        assert ("--mask-token-id" in asked) == (not token)
        options = [word for option in asked for word in (option, given[option]) if option != "--target"]
        name_it = ["--target-name", "owner/name"]
        to = shlex.split(match[1])[1:]
        status, out, err = cli(
            "convert", source, tmp_path / f"out-{name}", *to, "--target", target, *name_it, *options
        )
        assert status == 0, out + err
        after = inspect(str(tmp_path / f"out-{name}"), InspectOptions(target=str(target)))
        assert note(after, "head-no-engine") is None


def test_no_conversion_is_named_beside_an_error(tmp_path: Path):
    source = edit(peagle(tmp_path), partial_rotary_factor=0.5)
    assert config_of(source)["partial_rotary_factor"] == 0.5
    told = note(of(tmp_path, "llama", source), "head-no-engine")
    assert told is None or told.hint is None


def test_a_head_that_no_layout_makes_right_is_said_to_be_one(tmp_path: Path):
    source = modelopt(tmp_path, has=Has(uses_aux=False, joins=False), mlp_bias="DELETE", bos_token_id="DELETE")
    told = note(of(tmp_path, "llama", source), "head-no-engine")
    assert told is not None
    assert (
        told.hint
        == "no conversion of this version would change that; eagle3hub validate computes the head without an engine"
    )


def test_assumptions_are_printed_in_words(tmp_path: Path, cli: Cli):
    source = plain(tmp_path)
    status, out, _ = cli("inspect", source)
    assert status == 0
    assert "None" not in out
    assert "assumed the default aux layers: the files name none: engines then tap 1, L//2-1, L-4" in out
    target = heads.target(tmp_path / "target", model_type="llama")
    _, out, _ = cli("inspect", source, "--target", target)
    assert re.search(r"assumed aux layers after [\d, ]+: the files name none: SpecForge taps 1, L//2-1, L-4", out)


def test_an_engine_is_refused_with_those_that_serve_the_target(tmp_path: Path, cli: Cli):
    target = heads.target(tmp_path / "target", model_type="falcon_h1")
    to = ("--to", "universal", "--target", target, "--dry-run")
    status, _, err = cli("convert", plain(tmp_path), tmp_path / "out", *to, "--engines", "vllm")
    assert status == 3, err
    assert "cannot draft for targets of type falcon_h1" in err
    match = re.search(r"--engines (\S+) names those that may serve this target", err)
    assert match is not None, err
    assert cli("convert", tmp_path / "head", tmp_path / "out", *to, "--engines", match[1])[0] == 0


def test_ids_that_end_with_the_depth_of_a_gpt_oss_target_are_boundary_ids_and_nothing_else(tmp_path: Path):
    target = heads.target(tmp_path / "target", model_type="gpt_oss")
    ids = {"eagle_aux_hidden_state_layer_ids": [20, 25, 30]}  # of a target of 30 layers
    for name, eagle in (("marked", {"next_layer_regular": True}), ("unmarked", {})):
        source = specforge(tmp_path / name, eagle_config={**ids, **eagle}, **PLAIN)
        renamed(source, lambda n: n.replace("midlayer.", "layers.0."), PT)
        found = inspect(str(source), InspectOptions(target=str(target)))
        assert found.head.aux is not None and found.head.aux.boundary == [20, 25, 30]
        assert not [a for a in found.assumptions if a.field in ("aux", "eagle_aux_hidden_state_layer_ids")], name
        (v1,) = [v for v in found.engines if v.title.startswith("vLLM") and "V1" in v.title][:1]
        assert (v1.kind, v1.reasons[0].code) == ("right", "aux-agree")


def test_what_is_wrong_with_a_map_is_said_once_and_in_words(tmp_path: Path, cli: Cli):
    target = heads.target(tmp_path / "target", model_type="llama")
    unset = {"d2t": torch.zeros(10, dtype=torch.long), "t2d": torch.zeros(40, dtype=torch.bool)}
    source = replace(plain(tmp_path / "unset"), PT, **unset)
    _, out, _ = cli("inspect", source, "--target", target)
    assert "map wrong: t2d marks another number of tokens than lm_head has rows" in out
    assert "d2t is wrong: it is all zeros" in out, "whatever t2d says, this map was never filled in"
    deep = replace(plain(tmp_path / "deep"), PT, d2t=torch.zeros(10, 1, dtype=torch.long))
    _, out, _ = cli("inspect", deep, "--target", target)
    assert "has 10 rows of lm_head to map, and d2t has the shape [10, 1]" in out
    assert "hint: export it as one, or give the map with --d2t FILE" in out


def test_a_mask_of_another_length_is_made_anew(tmp_path: Path, cli: Cli):
    short = replace(plain(tmp_path), PT, t2d=torch.zeros(36, dtype=torch.bool))
    status, _, err = cli("convert", short, tmp_path / "out", "--to", "specforge")
    assert status == 3 and "t2d has 36 entries but the target vocabulary has 40" in err
    assert "--repair from-d2t" in err
    assert cli("convert", short, tmp_path / "out", "--to", "specforge", "--repair", "from-d2t")[0] == 0
    assert inspect(str(tmp_path / "out")).head.vocab_status == "ok"


def test_a_way_rests_on_what_is_assumed_and_on_the_target(tmp_path: Path):
    head = peagle(tmp_path, mask_token_id=5, architectures=["LlamaForCausalLMPeagle"])
    told = note(of(tmp_path, "llama", head), "head-no-engine")
    assert told is not None and told.hint is not None
    assert told.hint.endswith("that vLLM gets right, if what is assumed holds")
    alone = note(inspect(str(head)), "head-no-engine")
    assert alone is not None and "if they draft for the target" in (alone.hint or "")


def test_a_context_that_the_config_does_not_state_is_not_called_the_heads(tmp_path: Path, cli: Cli):
    target = heads.target(tmp_path / "target", model_type="llama", max_position_embeddings=4096)
    silent = edit(plain(tmp_path), max_position_embeddings="DELETE")
    assert "context     not stated (its target has 4096 tokens)" in cli("inspect", silent, "--target", target)[1]
    stated = edit(silent, max_position_embeddings=4096)
    assert re.search(r"context +4096 tokens *$", cli("inspect", stated, "--target", target)[1], re.M)
