"""The contracts are complete, have sources and can be printed, and no config makes a preflight crash."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from engines.preflight.test_matrix import MATRIX
from engines.preflight.test_traps import TRAPS
from hypothesis import given, settings
from hypothesis import strategies as st
from support import outlines as f
from support.sampling import examples
from support.versions import LLAMACPP

import eagle3hub.engines.preflight as package
from eagle3hub.engines.preflight import ExaminedHead, HeadFiles, contracts, infer_truth, preflight, preflight_all
from eagle3hub.engines.preflight.contracts import EFFECTS, _contracts, _document, common_rules

SOURCE = "\n".join(p.read_text() for p in Path(package.__file__).parent.glob("*.py"))
FOLDERS = [*(s for s, _ in MATRIX.values()), *(s for s, _, _ in TRAPS.values())]
PLAIN = f.universal()
QKV = [name for name in PLAIN.files.tensors if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]
FUSED = {
    **dict.fromkeys(QKV),
    min(QKV).replace("k_proj", "qkv_proj"): (sum(PLAIN.files.tensors[n][1][0] for n in QKV), 2 * f.H),
}
FOLDERS += [  # test_folders.py has the verdicts of these
    *(replace(PLAIN, files=replace(PLAIN.files, weights=(name,))) for name in ("eagle3.safetensors", "model.pt")),
    replace(PLAIN, files=replace(PLAIN.files, part="state_dict")),
    replace(PLAIN, files=replace(PLAIN.files, stray=("ema.safetensors",))),
    replace(PLAIN, truth=replace(PLAIN.truth, embedding="foreign")),
    f.mla(full=True, weights={"lm_head.weight": None}, tie_word_embeddings=True),
    *(
        replace(PLAIN, files=replace(PLAIN.files, alone="consolidated.safetensors", foreign=foreign))
        for foreign in (False, True)
    ),
    replace(PLAIN, files=replace(PLAIN.files, name="mistral-eagle3")),
    replace(PLAIN, files=replace(PLAIN.files, parted=True)),
    f.universal(model_type="draft_of_ours"),
    f.universal(torch_dtype="bf16"),
    f.universal(hidden_act="swish", truth={"hidden_act": "silu"}),
    f.universal(quantization_config={"quant_method": "modelopt", "quant_algo": None}),
    f.universal(eagle_aux_hidden_state_layer_ids="DELETE", eagle_config=f.eagle_config([float(i) for i in f.AFTER])),
    f.universal(eagle_aux_hidden_state_layer_ids=[float(i) for i in f.BOUNDARIES], eagle_config="DELETE"),
    f.universal(d2t=None, weights={"draft_id_to_target_id": (f.VD,)}, truth={"map_known": True}),
    f.universal(weights=FUSED),
]
TARGETS = [
    None,
    f.target(),
    f.target(layers=6),
    f.target(layers=2),
    f.target("qwen2"),
    f.target("deepseek_v3"),
    f.target("opt"),
    f.target("gemma"),
    f.target("unheard_of"),
    f.target("phi3"),
    f.target(hidden_size=99),
    f.target("kimi_k25"),
    f.target("gemma3_text"),
    replace(f.target(), dtype="float16"),
    replace(f.target(), tokenizer_class="TokenizersBackend"),
    f.target(fields={"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
    f.target(fields={"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
]


def test_every_rule_says_where_it_was_read():
    for terms in contracts():
        for code, rule in terms.rules.items():
            assert rule.source.strip(), f"{terms.title} {code}"
            assert rule.effect in EFFECTS
            assert rule.says[0].islower() and not rule.says.endswith("."), rule.says
            assert not re.search(r"/(root|work|tmp|home)/", rule.source)


def test_every_code_has_a_finding_and_every_finding_a_code():
    named = set(
        re.findall(r'"((?:[a-z0-9]+-)+[a-z0-9]+|tied|mla|mrope|bias|architecture|context|quantized|feedback)"', SOURCE)
    )
    built = {"norm-before-residual", "norm-before-fc", "fc-norm"}
    built |= {f"{flag}-stated" for flag in built} | {"norm-before-residual-assumed"}
    built |= {"head-dim-narrower", "mlp-width-narrower"}
    built |= {"null-target-hidden-size", "null-draft-vocab-size", "null-eagle-config", "null-rope-theta"}
    assert set(common_rules()) <= named | built
    for terms in contracts():
        assert set(terms.rules) <= set(common_rules())


def test_no_finding_about_a_norm_that_an_engine_reads_is_dropped():
    for flag in ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output"):
        readers = [t for t in contracts() if flag in t.norms or any(flag in own for own in t.nested_norms.values())]
        assert readers, flag
        code = flag.replace("_", "-")
        wanted = {"feedback", "feedback-open"} if flag == "norm_output" else {code, f"{code}-stated"}
        for terms in readers:
            assumed = any(own.get(flag) for own in terms.nested_norms.values())
            assert wanted | ({f"{code}-assumed"} if assumed else set()) <= set(terms.rules), f"{terms.title} {flag}"


def test_terms_that_read_a_norm_and_have_no_rule_for_it_are_refused():
    terms = _document("llamacpp", LLAMACPP)
    del terms["rules"]["norm-before-residual-stated"]
    with pytest.raises(ValueError, match=r"has no rules for \['norm-before-residual-stated'\]"):
        _contracts("llamacpp", "b1", terms)


@pytest.mark.parametrize("part", range(len(TARGETS)))
@pytest.mark.parametrize("target", TARGETS)
def test_every_sentence_is_complete(target, part: int):
    for subject in FOLDERS[part :: len(TARGETS)]:
        for verdict in preflight_all(subject, target):
            assert verdict.kind == max((r.effect for r in verdict.reasons), key=EFFECTS.index, default="right")
            for reason in verdict.reasons:
                for text in (reason.sentence, reason.hint or ""):
                    assert "{" not in text.replace("{'", "")
                    assert "None" not in text
                assert len(reason.sentence) < 160, reason.sentence


@pytest.mark.slow
def test_the_traps_reach_every_rule_of_every_contract():
    reached = {
        (v.engine, v.version, r.code)
        for target in TARGETS
        for subject in FOLDERS
        for c in contracts()
        for v in (preflight(subject, c.engine, c.version, target, tensor_parallel=3 if target is None else 1),)
        for r in v.reasons
    }
    assert {(c.engine, c.version, code) for c in contracts() for code in c.rules} == reached


KEYS = [
    *f.config(),
    *("eagle_config", "eagle_aux_hidden_state_layer_ids", "rope_parameters", "rope_scaling", "num_aux_hidden_states"),
    *("transformer_layer_config", "speculators_config", "layer_types", "norm_output", "target_hidden_size"),
    *("quantization_config", "norm_before_fc", "attention_bias"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=examples(3))
@given(
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=12),
    st.dictionaries(
        st.sampled_from([*f.shapes("midlayer."), *f.shapes("layers.0."), "d2t", "t2d", "q_norm", "x.bias"]),
        st.tuples(st.sampled_from(["BF16", "I64", "BOOL"]), st.lists(st.integers(0, 99), max_size=3).map(tuple)),
        max_size=8,
    ),
)
def test_no_folder_makes_it_fall_over(config, tensors):
    files = HeadFiles({**f.config(), **config}, tensors, ())
    for target in TARGETS:
        for verdict in preflight_all(ExaminedHead(files, infer_truth(files)), target):
            assert verdict.to_json()["verdict"] in EFFECTS


def test_a_claim_of_very_many_layers_costs_no_memory():
    import resource

    files = HeadFiles(
        {**f.config(), "num_hidden_layers": 2**40, "fc_norm": True, "hidden_size": 1},
        {**{n: ("BF16", s) for n, s in f.shapes("midlayer.").items()}, "fc.weight": ("BF16", (1, 2**40))},
        (),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for verdict in preflight_all(ExaminedHead(files, infer_truth(files)), None):
        assert verdict.to_json()["verdict"] in EFFECTS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"
