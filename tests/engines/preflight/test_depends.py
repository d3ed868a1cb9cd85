"""Verdicts that rest on what was assumed of the training, and heads that are in error."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import heads, variants
from support import outlines as f
from support.variants import Has
from support.versions import SGLANG, TRTLLM_NEXT, VLLM

import eagle3hub
from eagle3hub import InspectOptions, inspect
from eagle3hub.card.served import Served, choose, open_folders, prospect
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.preflight import (
    EFFECTS,
    condition,
    contracts,
    doubts,
    examine,
    preflight,
    preflight_all,
    told_layers,
    weigh,
)
from eagle3hub.engines.preflight.contracts import Reason
from eagle3hub.engines.specs import default_version
from eagle3hub.errors import Problem
from eagle3hub.head import Assumption
from eagle3hub.head.aux_defaults import AUX_IDS, aux_default
from eagle3hub.head.target import read_target
from eagle3hub.layouts import LAYOUTS, open_head
from eagle3hub.layouts.base import ReadOptions
from eagle3hub.lint.served import doubtful_uses, refused_uses
from eagle3hub.publishing import gates
from eagle3hub.publishing.files import read_folder
from eagle3hub.validation.engine_runner import stops
from eagle3hub.validation.render import preflight_verdict

Cli = Callable[..., tuple[int, str, str]]
V1, V2, SG = ("vllm", f"{VLLM} V1"), ("vllm", f"{VLLM} V2"), ("sglang", SGLANG)
AUX = Assumption("aux", [1, 14, 26], "nothing names them", "give --aux-layers 1,14,26")


def without_nulls(folder: Path) -> Path:
    """The folder with a config that engines open: the nulls of ModelOpt's export stop them."""
    config = {k: v for k, v in variants.config_of(folder).items() if v is not None}
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": f.CONTEXT}))
    return folder


def without_ids(folder: Path) -> Path:
    """A ModelOpt head whose list of layers was lost."""
    eagle = {"use_aux_hidden_state": True, "next_layer_regular": True}
    return without_nulls(heads.modelopt(folder, eagle_config=eagle))


def naming_none(folder: Path, layout: str) -> Path:
    """A head of a layout whose config names no layers, and nothing else that is in doubt."""
    made = heads.MAKERS[layout](folder)
    config = variants.config_of(made)
    named = {"eagle_config": {"use_aux_hidden_state": True}} if "eagle_config" in config else {}
    base = {"rope_theta": 10000.0} if layout == "angelslim" else {}
    return variants.edit(made, **named, **base)


def of(folder: Path, target: Path | None = None, **read: object) -> dict[tuple[str, str], dict[str, object]]:
    found = inspect(str(folder), InspectOptions(target=target, read=ReadOptions(**read)))  # type: ignore[arg-type]
    return {(e["engine"], e["version"]): e for e in found.to_json()["engines"]}


def test_a_head_of_a_trainer_that_always_names_layers_depends_on_them(
    tmp_path: Path, target: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    """vllm#50170: NVIDIA's Llama-3.3-70B head names none, and on the default ones 1.2 % were accepted."""
    folder = without_ids(tmp_path / "head")
    found = of(folder, target)
    for engine in (V1, V2):
        assert found[engine]["verdict"] == "depends"
        (assumed,) = found[engine]["depends"]  # type: ignore[misc]
        assert (assumed["field"], assumed["value"]) == ("aux", [1, 14, 26])
        assert "always writes them" in assumed["why"] and "--aux-layers 1,14,26" in assumed["settle"]
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = cli("inspect", folder, "--target", target)
    assert "right if" in out and "trained on boundary ids 2, 15, 27" in out


def test_what_the_user_or_the_config_says_depends_on_nothing(tmp_path: Path, target: Path):
    folder = without_ids(tmp_path / "head")
    assert of(folder, target, aux_layers=(1, 14, 26))[V2]["verdict"] == "right"
    assert "depends" not in of(folder, target, aux_layers=(1, 14, 26))[V2]
    assert of(without_nulls(heads.modelopt(tmp_path / "named")), target)[V2]["verdict"] == "right"


@pytest.mark.parametrize("layout", ["specjax", "specforge", "safeailab", "angelslim"])
def test_a_trainer_whose_default_is_certain_leaves_no_doubt(tmp_path: Path, target: Path, layout: str):
    assert aux_default(layout).unnamed == "certain"
    assert of(naming_none(tmp_path / "head", layout), target)[V2]["verdict"] == "right"


def test_without_the_depth_of_the_target_the_condition_says_so(tmp_path: Path):
    found = of(without_ids(tmp_path / "head"))
    assert found[V2]["verdict"] == "depends"
    (assumed,) = doubts(open_head(tmp_path / "head").assumptions)
    assert condition(assumed) == "trained on the default layers of its target, whose depth is not known"


def test_the_exception_of_a_trainer_counts_where_the_kind_of_target_is_not_known(tmp_path: Path, target: Path):
    """SpecJAX taps other layers of a qwen3_next target, and writes nothing."""
    folder = heads.specjax(tmp_path / "head")
    assert of(folder)[V2]["verdict"] == "depends"
    assert of(folder, target)[V2]["verdict"] == "right"
    other = heads.target(tmp_path / "next", model_type="qwen3_next")
    assert of(folder, other)[V2]["verdict"] in ("silently_wrong", "unknown")


def test_layers_that_seem_shifted_are_an_assumption(tmp_path: Path, target: Path):
    """Converted heads exist whose boundary list holds after-layer ids."""
    ids = {AUX_IDS: [1, 14, 26], "eagle_config": {AUX_IDS: [0, 13, 25]}}
    folder = variants.edit(heads.universal(tmp_path / "head"), **ids)
    found = of(folder, target)
    assert found[V2]["verdict"] == "depends"
    assert found[V2]["depends"][0]["value"] == [0, 13, 25]  # type: ignore[index]
    assert of(folder, target, aux_layers=(0, 13, 25))[V2]["verdict"] == "right"


def test_a_doubtful_rope_base_is_a_condition(tmp_path: Path, target: Path):
    folder = heads.safeailab(tmp_path / "head", rope_theta=500000.0)
    (verdict,) = (
        v for v in inspect(str(folder), InspectOptions(target=target)).engines if (v.engine, v.version) == V2
    )
    assert (verdict.kind, verdict.words) == ("depends", "right if trained with RoPE base 500000")
    assert of(folder, target, rope_theta=500000.0)[V2]["verdict"] == "right"


def test_the_assumption_outlives_a_conversion_and_so_does_certainty(tmp_path: Path, target: Path):
    doubt, sure = without_ids(tmp_path / "doubt"), naming_none(tmp_path / "sure", "specforge")
    for name, source, kind in (("doubt", doubt, "depends"), ("sure", sure, "right")):
        convert(source, tmp_path / f"{name}-out", "universal", ConvertOptions(target=str(target)))
        found = of(tmp_path / f"{name}-out", target)
        assert found[V2]["verdict"] == found[SG]["verdict"] == kind
        record = json.loads((tmp_path / f"{name}-out" / "eagle3hub.json").read_text())
        assert [a.get("doubtful", True) for a in record["facts"]["assumptions"]] == [kind == "depends"]


def test_every_field_has_words():
    values = {"aux": [1, 14, 26], AUX_IDS: [1, 14, 26], "rope_theta": 1e6, "norm_before_residual": False}
    for field, value in values.items():
        assert condition(Assumption(field, value, "", "")).startswith("trained ")
    assert condition(Assumption("something_new", 3, "", "")) == "something_new is 3"


def test_a_verdict_depends_only_where_it_would_be_right():
    def reason(effect: str, code: str) -> Reason:
        return Reason(code, effect, "does", "somewhere")  # type: ignore[arg-type]

    for effect in EFFECTS:
        found = weigh("vllm", "1", "vLLM 1", [reason(effect, "context")], [AUX])
        assert found.kind == ("depends" if effect in ("right", "depends") else effect)
        assert found.depends == ((AUX,) if found.kind == "depends" else ())
    wrong = weigh("vllm", "1", "vLLM 1", [reason("silently_wrong", "aux-layers")], [AUX])
    assert (wrong.kind, wrong.depends) == ("silently_wrong", (AUX,)), "it is wrong only if they are as assumed"
    both = [reason("silently_wrong", "aux-layers"), reason("silently_wrong", "tied")]
    assert weigh("vllm", "1", "vLLM 1", both, [AUX]).depends == ()
    assert weigh("vllm", "1", "vLLM 1", [], [AUX]).words == "right if trained on boundary ids 2, 15, 27"
    assert wrong.words == "silently wrong if trained on boundary ids 2, 15, 27"
    for code in ("aux-count", "aux-range"):  # wrong whatever the head was trained on
        assert weigh("vllm", "1", "vLLM 1", [reason("refuses", code)], [AUX]).words == "refuses"


def test_inspect_says_what_a_wrong_verdict_rests_on(
    tmp_path: Path, target: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    """Ids one too late for the default: wrong on vLLM's CPU runner only if they are what they seem."""
    monkeypatch.setenv("COLUMNS", "300")
    shifted = variants.edit(
        heads.specforge(tmp_path / "head"), eagle_config={AUX_IDS: [2, 15, 27]}, max_position_embeddings=8192
    )
    _, out, _ = cli("inspect", shifted, "--target", target)
    (line,) = (line for line in out.splitlines() if line.startswith(f"vLLM {V1[1]} "))
    assert "! silently wrong  if trained on boundary ids 3, 16, 28: takes boundary ids 2, 15, 27 instead" in line


def test_everything_that_reads_verdicts_knows_it(tmp_path: Path, target: Path, cli: Cli):
    folder = without_ids(tmp_path / "head")
    head = open_head(folder, target=str(target))
    subject = examine(open_checkpoint(folder), head)
    facts = read_target(str(target))
    verdict = preflight(subject, *V2, facts)
    assert stops(verdict) is None, "it is measured, which is what settles it"
    assert [preflight_verdict(effect) for effect in EFFECTS] == [
        "pass",
        "inconclusive",
        "inconclusive",
        "fail",
        "fail",
    ]
    one = Served("", head.layout, subject, facts, head)
    seen = prospect(one, "vllm", VLLM, "cuda")
    assert (seen.kind, seen.works, seen.condition) == ("depends", True, "trained on boundary ids 2, 15, 27")
    chosen = choose([one], "vllm", VLLM)
    assert chosen is not None and chosen.folder is one
    assert "right if the head was trained on boundary ids 2, 15, 27" in chosen.remarks[0]
    settled = choose([one], "vllm", VLLM, settled=True)
    assert settled is not None and "as they are" in settled.remarks[0], "a measurement that passed shows it"
    _, out, _ = cli("recipe", folder, "--target", target, "--engine", "vllm")
    assert "right if trained on boundary ids 2, 15, 27" in " ".join(out.split())
    status, out, _ = cli("recipe", folder, "--target", target, "--engine", "vllm", "--json")
    assert status == 0
    assert {v["verdict"] for v in json.loads(out)["preflight"]} == {"depends"}


@pytest.mark.parametrize("measured", [False, True])
def test_a_command_on_a_card_needs_a_measurement_or_certainty(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, measured: bool
):
    folder = without_ids(tmp_path / "head")
    convert(folder, tmp_path / "out", "universal", ConvertOptions(target=str(target), target_name="owner/target"))
    spec = json.dumps({"method": "eagle3", "model": "owner/head", "num_speculative_tokens": 3})
    card = tmp_path / "out" / "README.md"
    card.write_text(f"```bash\nvllm serve owner/target --speculative-config '{spec}'\n```\n")
    (one,) = open_folders(tmp_path / "out", [""])
    assert list(refused_uses(card.read_text(), [one], {"owner/head"})) == []
    ((line, what),) = doubtful_uses(card.read_text(), [one], {"owner/head"})
    assert line == 2 and what.endswith("right if the head was trained on boundary ids 2, 15, 27")
    monkeypatch.setattr(gates, "measured_well", lambda files: measured)
    found = [p for p in gates._recipes("owner/head", read_folder(tmp_path / "out")[0]) if p.code == "publish-recipe"]
    assert bool(found) != measured
    if found:
        assert "eagle3hub validate" in (found[0].hint or "")


# No engine is right about what reading calls an error.


def codes_of_errors() -> set[str]:
    """Codes of the problems of severity error that reading may leave in a head."""
    package = Path(eagle3hub.__file__).parent
    found = {"config-aux-collapsed", "config-aux-count"}  # of a ConfigError that becomes a problem
    found |= {"tensor-suspicious"}  # an error unless the user allows it
    for path in [*package.glob("layouts/*.py"), *package.glob("head/*.py"), package / "checkpoint/folder.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
                named = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                if node.func.id == "Problem" and named[:1] == ["error"] and named[1:]:
                    found.add(named[1])
                elif node.func.id == "_fault" and path.name == "vocab.py":
                    found |= {f"vocab-{named[0]}"}
    return found | {"config-norm-output", "checkpoint-duplicate"}


def test_the_codes_of_errors_are_found():
    found = codes_of_errors()
    assert {"vocab-zero", "vocab-absolute", "tensor-suspicious", "config-aux-order", "target-mismatch"} <= found
    assert len(found) > 15


@pytest.mark.parametrize("code", sorted(codes_of_errors()))
def test_no_engine_is_right_about_an_error(code: str):
    """Even if an engine's contract knows nothing of it: the files of this head are right on every engine."""
    error = Problem("error", code, "something is wrong")
    clean = f.universal()
    target = f.target()
    for terms in contracts():
        was = preflight(clean, terms.engine, terms.version, target)
        found = preflight(replace(clean, errors=(error,)), terms.engine, terms.version, target)
        if code in terms.unconcerned:
            assert any(r.code == "head-error-elsewhere" and code in r.sentence for r in found.reasons)
            continue
        assert found.kind not in ("right", "depends"), f"{terms.title}: {code}"
        if was.kind == "right":
            assert found.kind == "unknown" and "something is wrong" in found.reasons[0].sentence


def _broken(folder: Path, d2t: torch.Tensor) -> Path:
    return heads.specjax(folder, d2t=d2t)


ERRORS: dict[str, Callable[[Path], Path]] = {
    "vocab-zero": lambda at: _broken(at, torch.zeros(10, dtype=torch.int32)),
    "vocab-absolute": lambda at: _broken(at, heads.sorted_ids(heads.dims()).int()),
    "vocab-out-of-range": lambda at: _broken(at, torch.full((10,), 1000, dtype=torch.int32)),
    "config-norm-output": lambda at: heads.specforge(at, norm_output=False),
    "config-aux-order": lambda at: heads.specforge(at, eagle_config={AUX_IDS: [26, 1, 14]}),
}


@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("with_target", [True, False])
def test_no_engine_is_right_about_a_head_that_inspect_calls_wrong(
    tmp_path: Path, target: Path, cli: Cli, code: str, with_target: bool
):
    folder = ERRORS[code](tmp_path / "head")
    found = inspect(str(folder), InspectOptions(target=target if with_target else None))
    assert code in {p.code for p in found.problems if p.severity == "error"}
    for verdict in found.engines:
        spared = any(r.code == "head-error-elsewhere" and code in r.sentence for r in verdict.reasons)
        assert spared or verdict.kind not in ("right", "depends"), verdict
    _, out, _ = cli("recipe", folder, "--target", target, "--engine", "vllm", "--json")
    warned = json.loads(out)["preflight"]
    assert warned and not {"right", "depends"} & {v["verdict"] for v in warned}


def test_every_layout_says_what_a_missing_list_means():
    assert {aux_default(name).unnamed for name in LAYOUTS} <= {"certain", "open", "suspicious"}
    assert aux_default("modelopt").unnamed == "suspicious"
    assert aux_default("speculators").unnamed == "open"
    assert not preflight_all(f.universal())[0].depends


# Every kind of head that is read is taken by some engine, or inspect says that none does.


def kinds() -> dict[str, Callable[[Path], Path]]:
    def has(maker: Callable[..., Path], shape: Has, **config: object) -> Callable[[Path], Path]:
        return lambda at: maker(at, has=shape, **config)

    modelopt, speculators, specforge = variants.modelopt, variants.speculators, variants.specforge
    return {
        **{layout: heads.MAKERS[layout] for layout in heads.MAKERS},
        "final state": has(modelopt, Has(uses_aux=False)),
        "final state, as nobody builds it": has(modelopt, Has(uses_aux=False, joins=False)),
        "two layers": has(modelopt, Has(layers=2)),
        "attention bias": has(modelopt, Has(attention_bias=True)),
        "bias of fc": has(modelopt, Has(fc_bias=True), bias=True),
        "norm before fc": has(modelopt, Has(input_norm=True)),
        "fc_norm": has(specforge, Has(fc_norm=True)),
        "EAGLE-3.1": has(specforge, Has(fc_norm=True), fc_norm=True, norm_output=True),
        "norm_before_residual": has(speculators, Has(), norm_before_residual=True),
        "q/k norms": has(speculators, Has(qk_norm=True)),
        "post-norm feedback": has(speculators, Has(), norm_output=True),
        "P-EAGLE": has(speculators, Has(mask_hidden=True, layers=2)),
        "own embeddings": has(speculators, Has(embeddings=True)),
        "FP8": lambda at: variants.quantized(at, "FP8"),
        "NVFP4": lambda at: variants.quantized(at, "NVFP4"),
    }


@pytest.mark.parametrize("kind", kinds())
def test_some_engine_takes_it_or_inspect_says_that_none_does(tmp_path: Path, target: Path, cli: Cli, kind: str):
    folder = kinds()[kind](tmp_path / "head")
    if variants.config_of(folder).get("eagle_config"):
        without_nulls(folder)
    found = inspect(str(folder), InspectOptions(target=target))
    told = [p for p in found.problems if p.code == "head-no-engine"]
    verdicts = [v.with_settings(["parallel_drafting"]) for v in found.engines]  # which a recipe states
    taken = {v.title for v in verdicts if v.kind in ("right", "depends", "unknown")}
    assert bool(told) != bool(taken), (kind, sorted(taken))
    if kind == "final state, as nobody builds it":
        assert "this head has neither" in told[0].message
        _, out, _ = cli("inspect", folder, "--target", target)
        assert "no engine known here" in out
    else:
        assert taken, "the list above has one kind that no engine takes"


def test_heads_of_the_final_state_are_judged_by_version_and_runner(tmp_path: Path, target: Path):
    folder = without_nulls(variants.modelopt(tmp_path / "head", has=Has(uses_aux=False)))
    head = open_head(folder, target=str(target))
    subject, facts = examine(open_checkpoint(folder), head), read_target(str(target))
    kinds = {v.title: v.kind for c in contracts() for v in (preflight(subject, c.engine, c.version, facts),)}
    pinned = default_version("vllm")
    assert (kinds[f"vLLM {pinned} V1 (CPU)"], kinds[f"vLLM {pinned} V2 (GPU)"]) == ("right", "refuses")
    assert (kinds["vLLM 0.33.0 V1 (CPU)"], kinds["vLLM 0.33.0 V2 (GPU)"]) == ("right", "right")
    assert kinds[f"SGLang {SGLANG}"] == "right"
    assert told_layers(head, "trtllm") == (-1,) and told_layers(head, "vllm") is None
    assert preflight(subject, "trtllm", TRTLLM_NEXT, facts, told_layers(head, "trtllm")).kind == "right"
    assert preflight(subject, "trtllm", TRTLLM_NEXT, facts).kind == "silently_wrong"


def test_an_error_about_one_engine_spares_the_others_and_says_so(tmp_path: Path, target: Path):
    """eagle3hub.json names the engines that a folder is made for."""
    source = heads.specforge(tmp_path / "head")
    convert(source, tmp_path / "out", "universal", ConvertOptions(target=str(target), engines=("vllm", "sglang")))
    short = heads.target(tmp_path / "longer", max_position_embeddings=1 << 20)
    found = inspect(str(tmp_path / "out"), InspectOptions(target=short))
    assert "engine-made-for" in {p.code for p in found.problems if p.severity == "error"}
    right = [v for v in found.engines if v.kind in ("right", "depends")]
    assert right
    for verdict in right:
        assert any(r.code == "head-error-elsewhere" and f"SGLang {SGLANG}" in r.sentence for r in verdict.reasons)
