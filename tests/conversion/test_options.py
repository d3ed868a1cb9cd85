"""Options of convert: each has an effect on the files, a place in the record, and a refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import heads
from support.folders import load, replace

from eagle3hub.layouts import LAYOUTS, open_head

FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BUFFERS = {"d2t", "t2d"}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("stored", FLOATS)
def test_dtype_casts_weights_and_says_what_is_lossy(tmp_path: Path, ok, stored: str, dtype: str):
    source = heads.specforge(tmp_path / "head", torch_dtype=str(FLOATS[stored]).removeprefix("torch."))
    replace(source, **heads.weights(heads.dims(), dtype=FLOATS[stored]))
    document, tensors, config = ok(source, "specforge", "--dtype", dtype)
    before = load(source)
    for name, t in before.items():
        wanted = t if name in BUFFERS else t.to(FLOATS[dtype])
        assert tensors[name].dtype == wanted.dtype
        assert torch.equal(tensors[name], wanted)
    assert config["torch_dtype"] == str(FLOATS[dtype]).removeprefix("torch.")
    if stored == dtype:
        assert document["repairs"] == []
    else:
        (change,) = document["repairs"]
        assert change["lossless"] == (dtype == "fp32")
        assert ("lossy" in change["what"]) != (dtype == "fp32")
        of = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
        exact = f"F32 has every value of {of[stored]}"
        assert change["evidence"] == (exact if dtype == "fp32" else "rounded to nearest, ties to even")
        assert len(change["tensors"]) == 13


def test_dtype_is_never_implicit_and_the_way_back_has_the_new_one(tmp_path: Path, ok):
    source = heads.specforge(tmp_path / "head")
    ok(source, "modelopt", "--dtype", "fp32", name="wide")
    _, tensors, config = ok(tmp_path / "wide", "specforge", name="back")
    assert tensors["fc.weight"].dtype == torch.float32
    assert config["torch_dtype"] == "float32"
    _, tensors, config = ok(tmp_path / "back", "specforge", "--dtype", "bf16", name="narrow")
    before = load(source)
    assert all(torch.equal(before[n], tensors[n]) for n in before), "bf16 to fp32 and back loses nothing"


def test_a_number_too_large_for_the_dtype_is_refused(tmp_path: Path, refused):
    source = heads.specforge(tmp_path / "head")
    fc = load(source)["fc.weight"].clone()
    fc[3, 5] = 70000.0
    replace(source, **{"fc.weight": fc})
    assert "fc.weight holds 70144, which F16 cannot hold" in refused(source, "specforge", "--dtype", "fp16")
    assert "there is no dtype int4" in refused(source, "specforge", "--dtype", "int4", status=2)


def target_with_weights(folder: Path, table: torch.Tensor, shards: bool = False) -> Path:
    heads.target(folder)
    if shards:
        save_file({"model.embed_tokens.weight": table}, folder / "model-00002-of-00002.safetensors")
        index = {"weight_map": {"model.embed_tokens.weight": "model-00002-of-00002.safetensors", "x": "absent"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file({"model.embed_tokens.weight": table}, folder / "model.safetensors")
    return folder


TABLE = torch.randn(40, 8, generator=torch.Generator().manual_seed(5)).bfloat16()


@pytest.mark.parametrize("place", ["folder", "shards", "file"])
def test_embeddings_can_be_included(tmp_path: Path, ok, place: str):
    target = target_with_weights(tmp_path / "target-model", TABLE, shards=place == "shards")
    source = target / "model.safetensors" if place == "file" else target
    document, tensors, _ = ok(heads.specforge(tmp_path / "head"), "specforge", "--include-embeddings", source)
    assert torch.equal(tensors["embed_tokens.weight"], TABLE)
    assert [c["name"] for c in document["repairs"]] == ["include-embeddings"]
    assert open_head(tmp_path / "out").tensors["embed_tokens.weight"].shape == (40, 8)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (TABLE[:39], "needs [40, 8]"),
        (TABLE.float(), "add --dtype"),
        (TABLE.to(torch.float8_e4m3fn), "not quantized"),
        (None, "no token embeddings"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(tmp_path: Path, refused, table: torch.Tensor | None, says: str):
    source = heads.specforge(tmp_path / "head")
    file = tmp_path / "some.safetensors"
    save_file({"other": TABLE} if table is None else {"embed_tokens.weight": table.contiguous()}, file)
    found = refused(source, "specforge", "--include-embeddings", file)
    assert says in found
    if table is None:
        assert "under embed_tokens.weight, model.embed_tokens.weight and similar names" in found
    own = heads.speculators(tmp_path / "own", embeddings=True)
    assert "its own" in refused(own, "specforge", "--include-embeddings", file)
    assert "contradict" in refused(own, "specforge", "--include-embeddings", file, "--drop-embeddings", status=2)


@pytest.mark.parametrize(
    "path", ["/nope", "./nope", "../a/nope", "~/nope", "a/b/c", "nope.safetensors", "a/b.safetensors"]
)
def test_a_path_to_embeddings_that_does_not_exist_is_not_looked_up_on_the_hub(tmp_path: Path, refused, path: str):
    source = heads.specforge(tmp_path / "head")
    assert f"{path} does not exist" in refused(source, "specforge", "--include-embeddings", path)


@pytest.mark.parametrize("to", LAYOUTS)
def test_a_layout_without_embeddings_says_so_of_those_asked_for(tmp_path: Path, ok, refused, to: str):
    """They are not the head's own, and to drop them is no advice for who wants them."""
    source, file = heads.specforge(tmp_path / "head"), tmp_path / "some.safetensors"
    save_file({"embed_tokens.weight": TABLE}, file)
    target = heads.target(tmp_path / "target")
    options = ("--target", target, "--target-name", "owner/t", "--speculative-tokens", 3, "--include-embeddings", file)
    holds = [n for n in LAYOUTS if "embed_tokens" in LAYOUTS[n].contract.expresses and n != "safeailab"]
    if to in holds:
        ok(source, to, *options)
        return
    said = refused(source, to, *options)
    assert "refused-embed-tokens: --include-embeddings: with them the head has its own" in said
    assert {"specforge", "speculators", "angelslim"} <= set(holds), "SafeAILab takes the target's where they fit"
    able = [*(f"--to {name}" for name in holds), "--to universal --engines vllm"]
    assert f" / leave the option out; {', '.join(able[:-1])} or {able[-1]} can hold it" in said
    own = heads.speculators(tmp_path / "own", embeddings=True)
    assert "--drop-embeddings leaves them out" in refused(own, to, "--target", target)


@pytest.mark.parametrize("table", [TABLE, TABLE.float() / 3], ids=["of the head's dtype", "of another"])
@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_embeddings_of_another_dtype_are_cast_with_the_rest(tmp_path: Path, ok, table, name: str, dtype: torch.dtype):
    source = heads.specforge(tmp_path / "head")
    save_file({"embed_tokens.weight": table}, tmp_path / "some.safetensors")
    _, tensors, _ = ok(source, "specforge", "--include-embeddings", tmp_path / "some.safetensors", "--dtype", name)
    assert torch.equal(tensors["embed_tokens.weight"], table.to(dtype))
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {dtype}


def test_embeddings_can_be_dropped_where_the_target_has_the_same(tmp_path: Path, ok, refused):
    source = replace(heads.speculators(tmp_path / "head", embeddings=True), **{"embed_tokens.weight": TABLE})
    assert "embed_tokens" in refused(source, "modelopt")
    document, tensors, _ = ok(source, "modelopt", "--drop-embeddings")
    assert "embed_tokens.weight" not in tensors
    assert "embed_tokens" in {a["field"] for a in document["assumptions"]}
    assert "--strict" in refused(source, "modelopt", "--drop-embeddings", "--strict")
    same = target_with_weights(tmp_path / "same", TABLE)
    document, _, _ = ok(source, "modelopt", "--drop-embeddings", "--target", same, name="checked")
    assert "embed_tokens" not in {a["field"] for a in document["assumptions"]}
    assert "byte for byte" in document["repairs"][0]["evidence"]
    other = target_with_weights(tmp_path / "other", TABLE + 1)
    assert "differ" in refused(source, "modelopt", "--drop-embeddings", "--target", other)
    assert "no embed_tokens" in refused(heads.specforge(tmp_path / "none"), "modelopt", "--drop-embeddings")


def test_embeddings_equal_to_the_targets_are_left_out_where_a_layout_has_no_place_for_them(tmp_path, ok, refused):
    source = replace(heads.speculators(tmp_path / "head", embeddings=True), **{"embed_tokens.weight": TABLE})
    same, other = (target_with_weights(tmp_path / name, TABLE + i) for i, name in enumerate(("same", "other")))
    for to in ("modelopt", "universal"):
        document, tensors, _ = ok(source, to, "--target", same, name=f"to-{to}")
        assert "embed_tokens.weight" not in tensors
        assert [(c["name"], c["evidence"]) for c in document["repairs"]] == [
            ("drop-embeddings", "they equal those of same, byte for byte")
        ]
        assert "embed_tokens" not in {a["field"] for a in document["assumptions"]}
        assert "give --target a folder with the target's weights" in refused(source, to, "--target", other)
    _, tensors, _ = ok(source, "specforge", "--target", same, name="kept")
    assert torch.equal(tensors["embed_tokens.weight"], TABLE)


def test_set_writes_fields_and_keeps_what_the_tensors_say(tmp_path: Path, ok, refused):
    source = heads.specforge(tmp_path / "head")
    document, _, config = ok(
        source, "specforge", "--set", "note=made by hand", "--set", "eagle_config.x=[1, 2]", "--set", "bos_token_id=7"
    )
    assert (config["note"], config["eagle_config"]["x"], config["bos_token_id"]) == ("made by hand", [1, 2], 7)
    assert [c["name"] for c in document["repairs"]] == ["set:note", "set:eagle_config.x", "set:bos_token_id"]
    assert document["repairs"][0]["what"] == 'config field note was set to "made by hand"'
    noted = heads.specforge(tmp_path / "noted", note="found")
    (changed,) = ok(noted, "specforge", "--set", "note=made", name="changed")[0]["repairs"]
    assert changed["what"] == 'config field note was set to "made" (it was "found")'
    assert all(c["lossless"] for c in document["repairs"])
    for setting, says in {
        "hidden_size=16": "hidden_size",
        "vocab_size=41": "t2d",
        "draft_vocab_size=11": "10 rows",
        "num_attention_heads=4": "contradicts|asks for",
        "torch_dtype=float16": "--dtype",
        "tie_word_embeddings=true": "lm_head",
        "eagle_aux_hidden_state_layer_ids=[3,15,27]": "aux layers",
        "nowhere.x=1": "no object nowhere",
        "rms_norm_eps=tiny": "not a positive number",
        "rms_norm_eps=0.5": "rms_norm_eps from 1e-05 to 0.5",
        "some_trainer_field={}": "would drop kept",
        "note=null": "null",
        'note={"a": [null]}': "null",
    }.items():
        said = refused(source, "specforge", "--set", setting)
        assert any(word in said for word in says.split("|")), said
    assert "KEY=VALUE" in refused(source, "specforge", "--set", "nonsense", status=2)


@pytest.mark.parametrize("name", ["not an id", "name", "https://huggingface.co/owner/t", "owner/t\n", "owner/\udcff"])
def test_a_target_is_recorded_under_a_hub_id(tmp_path: Path, refused, target: Path, name: str):
    options = ("--target", target, "--target-name", name)
    assert "is not a Hub id" in refused(heads.specforge(tmp_path / "head"), "specforge", *options, status=2)


def test_what_is_said_of_a_wrong_setting_helps(tmp_path: Path, ok, refused, cli, target: Path):
    source = heads.specforge(tmp_path / "head")
    example = refused(source, "universal", "--set", "nonsense", status=2).partition(" / --set ")[2]
    for layout in LAYOUTS:
        options = ("--target", target, "--target-name", "owner/t", "--speculative-tokens", 3, "--set", example)
        ok(source, layout, *options, name=layout)
    assert "--dry-run --json shows the fields" in refused(source, "specforge", "--set", "a.b=1")
    _, out, _ = cli("convert", source, tmp_path / "out", "--to", "specforge", "--dry-run", "--json")
    document, _, config = ok(source, "specforge")
    assert json.loads(out)["config"] == document["config"] == config


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("draft_vocab_size=null", "engines take a JSON null"),
        ("architectures=X", "vLLM .* has no draft class"),
        ("max_position_embeddings=16", "SGLang .* shorter than the target's 8192 tokens, and the head's is 16"),
        ("eagle_config={}", "would drop eagle_aux_hidden_state_layer_ids, use_aux_hidden_state"),
        ("num_aux_hidden_states=4", "vLLM .* builds fc for 32 inputs"),
        ('quantization_config={"a": 1}', "vLLM .* builds quantized layers because of quantization_config"),
        ("norm_output=true", "--norm-output is there for that"),
        ("norm_before_residual=true", "norm_before_residual from False to True|norm_before_residual: true"),
        ("eagle3hub_layout=x", "look like specforge instead of universal"),
    ],
)
def test_set_costs_no_engine(tmp_path: Path, refused, setting: str, says: str):
    source, target = heads.specforge(tmp_path / "head"), heads.target(tmp_path / "target")
    said = refused(source, "universal", "--target", target, "--set", setting)
    assert said.startswith("refused-set")
    assert re.search(says, said), said


@pytest.mark.parametrize("layout", ["universal", "speculators"])
def test_set_of_a_field_nobody_reads_is_free(tmp_path: Path, ok, layout: str):
    source, target = heads.specforge(tmp_path / "head"), heads.target(tmp_path / "target")
    name = {"universal": "model_name", "speculators": "speculators_config.verifier.name_or_path"}[layout]
    options = ("--target", target, "--target-name", "owner/t", "--speculative-tokens", "3", "--set", f"{name}=owner/x")
    document, _, config = ok(source, layout, *options)
    assert document["repairs"][0]["lossless"]
    assert "owner/x" in json.dumps(config)


def test_set_can_settle_what_would_be_assumed(tmp_path: Path, ok, refused):
    config = json.loads((heads.specforge(tmp_path / "head") / "config.json").read_text())
    del config["rms_norm_eps"]
    (tmp_path / "head/config.json").write_text(json.dumps(config))
    (assumed,) = (a for a in open_head(tmp_path / "head").assumptions if a.field == "rms_norm_eps")
    assert not assumed.doubtful, "every engine takes transformers' default"
    assert "rms_norm_eps" in refused(tmp_path / "head", "specforge", "--strict")
    document, _, config = ok(tmp_path / "head", "specforge", "--strict", "--set", "rms_norm_eps=1e-5")
    assert config["rms_norm_eps"] == 1e-5
    (change,) = document["repairs"]
    assert not change["lossless"]
    assert "changes what the head computes: rms_norm_eps from 1e-06 to 1e-05" in change["what"]
    assert open_head(tmp_path / "out").semantics.rms_norm_eps == 1e-5


def test_shards_are_bounded_indexed_and_read_back(tmp_path: Path, ok, refused):
    source = heads.specforge(tmp_path / "head")
    document, tensors, _ = ok(source, "specforge", "--max-shard-size", "500B")
    before = load(source)
    assert before.keys() == tensors.keys()
    assert all(torch.equal(before[n], tensors[n]) for n in before)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    assert files == document["shards"] == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    for name in files:
        inside = load_file(tmp_path / "out" / name)
        assert set(inside) == {t for t, file in index["weight_map"].items() if file == name}
        assert len(inside) == 1 or sum(t.nbytes for t in inside.values()) <= 500
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    recorded = json.loads((tmp_path / "out/eagle3hub.json").read_text())
    assert set(recorded["fingerprint"]["header_sha256"]) == set(files)
    ok(tmp_path / "out", "specforge", name="one")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert "single model.safetensors" in refused(heads.specjax(tmp_path / "sj"), "specjax", "--max-shard-size", "500B")
    for size in ("0", "many", "-3GB", "5XB"):
        assert "not a size" in refused(source, "specforge", "--max-shard-size", size, status=2)


@pytest.mark.parametrize("to", LAYOUTS)
def test_several_files_are_refused_where_the_layouts_own_reader_knows_no_index(tmp_path: Path, ok, refused, to: str):
    source, target = heads.specforge(tmp_path / "head"), heads.target(tmp_path / "target")
    options = ("--target", target, "--target-name", "o/t", "--speculative-tokens", 3, "--max-shard-size", "500B")
    if to in {"specjax", "safeailab"}:
        assert "refused-shards: --max-shard-size: " in refused(source, to, *options)
    else:
        assert len(ok(source, to, *options)[0]["shards"]) > 1


@pytest.mark.parametrize("to", sorted(LAYOUTS))
def test_layouts_whose_programs_read_one_file_are_not_sharded(tmp_path: Path, cli, to: str):
    """SpecJAX and SafeAILab load `model.safetensors` by its name; every other layout is given an index."""
    head = heads.specjax(tmp_path / "head")
    target = heads.target(tmp_path / "target")
    argv = ["convert", head, tmp_path / "out", "--to", to, "--target", target, "--max-shard-size", "500B", "--json"]
    status, out, _ = cli(*argv, "--speculative-tokens", 3)
    if to in ("specjax", "safeailab"):
        assert (status, json.loads(out)["error"]["code"]) == (3, "refused-shards")
        assert not (tmp_path / "out").exists()
    else:
        assert status == 0, out
        assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1


def test_a_shard_size_that_is_large_enough_changes_nothing(tmp_path: Path, ok):
    source = heads.specforge(tmp_path / "head")
    document, _, _ = ok(source, "specforge", "--max-shard-size", "5GB")
    assert document["shards"] == ["model.safetensors"]
    assert not (tmp_path / "out/model.safetensors.index.json").exists()


def test_what_was_done_shows_on_the_screen(tmp_path: Path, cli):
    source = heads.modelopt(tmp_path / "head", unsorted=True)
    status, out, _ = cli("convert", source, tmp_path / "out", "--to", "specforge", "--resort-vocab", "--dtype", "fp16")
    assert status == 0
    assert "changed resort-vocab: 10 of 10 rows" in out
    assert "changed, lossy dtype:fp16: 13 of 13 weights" in out


def test_every_option_can_be_read_in_the_record(tmp_path: Path, ok):
    """The recorded command, run again, gives the same record and the same files."""
    source = heads.modelopt(tmp_path / "head", unsorted=True)
    options = ["--resort-vocab", "--dtype", "fp32", "--set", 'note="x y"', "--max-shard-size", "600"]
    ok(source, "specforge", *options)
    record = json.loads((tmp_path / "out/eagle3hub.json").read_text())
    assert record["command"][:4] == ["eagle3hub", "convert", "head", "DEST"]
    ok(source, "specforge", *record["command"][6:], name="again")
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
