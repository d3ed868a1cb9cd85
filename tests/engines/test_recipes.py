"""Recipes as the user types them, for every engine and every version in the data."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import heads
from support.versions import SGLANG_JAX, TRTLLM_NEXT

from eagle3hub.engines import ENGINES, get_engine
from eagle3hub.engines.recipes import Serving, make_recipe, over_nodes
from eagle3hub.engines.specs import default_version, interface, recipe_versions
from eagle3hub.errors import UsageError


def options(argv: tuple[str, ...]) -> dict[str, str]:
    return {flag: value for flag, value in pairwise(argv) if flag.startswith("--")}


def served(engine: str, version: str | None = None, **settings: Any) -> Any:
    return make_recipe(engine, Serving("org/target", "org/my head", **settings), version)


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "llamacpp"])
def test_every_engine_that_takes_folders_spells_every_setting(engine: str) -> None:
    for version in recipe_versions(engine):
        recipe = served(engine, version, draft_tokens=5, tensor_parallel=2, dtype="bfloat16", context=4096)
        words = shlex.split(recipe.server_command)
        assert "org/target" in words
        everything = recipe.server_command + (recipe.yaml or "")
        for value in ("org/my head", "5", "2", "bfloat16", "4096"):
            assert value in everything, (version, value)
        if recipe.python:
            tree = ast.parse(recipe.python)
            assert {"org/my head", "org/target"} <= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        assert "trust" not in everything
        assert get_engine(engine).recipe("t", "h", draft_tokens=5).version == default_version(engine)


def test_llama_cpp_is_served_what_was_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = served("llamacpp", draft_tokens=5, dtype="bfloat16", context=4096)
    assert [shlex.split(line) for line in recipe.prepare] == [
        ["hf", "download", "org/target", "--local-dir", "target"],
        ["hf", "download", "org/my head", "--local-dir", "my head"],
        ["python", "convert_hf_to_gguf.py", "target", "--outfile", "target.gguf", "--outtype", "bf16"],
        [
            *("python", "convert_hf_to_gguf.py", "my head", "--target-model-dir", "target"),
            *("--outfile", "my head.gguf", "--outtype", "bf16"),
        ],
    ]
    assert options(recipe.argv) == {
        "--model": "target.gguf",
        "--spec-type": "draft-eagle3",
        "--spec-draft-model": "my head.gguf",
        "--spec-draft-n-max": "5",
        "--ctx-size": "4096",
    }
    names = {n.value for n in ast.walk(ast.parse(recipe.python)) if isinstance(n, ast.Constant)}
    assert {"target.gguf", "my head.gguf", 5} <= names
    local = make_recipe("llamacpp", Serving("./models/target", "./out"))
    assert [line.split()[2] for line in local.prepare] == ["./models/target", "./out"], "nothing is fetched"
    assert local.to_json()["prepare"] == list(local.prepare)


def test_files_made_from_target_and_head_have_names_of_their_own() -> None:
    recipe = make_recipe("llamacpp", Serving("org/model", "lab/model"))
    made = [shlex.split(line)[-1] for line in recipe.prepare]
    assert made == ["model", "model-draft", "model.gguf", "model-draft.gguf"]
    assert {"--model": "model.gguf", "--spec-draft-model": "model-draft.gguf"}.items() <= options(recipe.argv).items()


def test_the_engine_gives_its_own_recipe_for_llama_cpp() -> None:
    assert get_engine("llamacpp").recipe("t", "h", draft_tokens=5).version == default_version("llamacpp")


def test_vllm_is_told_the_method() -> None:
    recipe = served("vllm", draft_tokens=5)
    config = json.loads(options(recipe.argv)["--speculative-config"])
    assert config == {"method": "eagle3", "model": "org/my head", "num_speculative_tokens": 5}


@pytest.mark.parametrize("engine", ["sglang", "sglang_jax"])
def test_the_three_numbers_are_all_given_or_none(engine: str) -> None:
    names = ("--speculative-num-steps", "--speculative-eagle-topk", "--speculative-num-draft-tokens")
    chain = options(served(engine, draft_tokens=5).argv)
    assert [chain[name] for name in names] == ["5", "1", "6"]
    tree = options(served(engine, draft_tokens=5, topk=4, num_draft_tokens=8).argv)
    assert [tree[name] for name in names] == ["5", "4", "8"]
    unset = options(served(engine).argv)
    # sglang-jax's own defaults contradict its scheduler, so it is never left to them
    assert [name in unset for name in names] == [engine == "sglang_jax"] * 3
    assert ("--disable-overlap-schedule" in served(engine, draft_tokens=5, topk=4, num_draft_tokens=8).argv) == (
        engine == "sglang_jax"
    )


def test_tensorrt_llm_reads_a_file_whose_keys_depend_on_the_version() -> None:
    stable = served("trtllm", draft_tokens=3, aux_layers=(1, 8, 26))
    assert options(stable.argv)["--config"] == "extra-config.yaml"
    assert yaml.safe_load(stable.yaml)["speculative_config"] == {
        "decoding_type": "Eagle",
        "max_draft_len": 3,
        "speculative_model": "org/my head",
        "eagle3_layers_to_capture": [1, 8, 26],
    }
    assert "= EagleDecodingConfig(" in stable.python
    new = served("trtllm", TRTLLM_NEXT, draft_tokens=3)
    config = yaml.safe_load(new.yaml)["speculative_config"]
    assert config == {"decoding_type": "Eagle3", "max_draft_len": 3, "speculative_model": "org/my head"}
    assert "= Eagle3DecodingConfig(" in new.python
    old = served("trtllm", "1.1")
    assert options(old.argv)["--extra_llm_api_options"] == "extra-config.yaml"
    config = yaml.safe_load(old.yaml)["speculative_config"]
    assert config == {"decoding_type": "Eagle", "max_draft_len": 3, "speculative_model_dir": "org/my head"}


@pytest.mark.parametrize(
    ("engine", "settings", "message"),
    [
        ("vllm", {"draft_tokens": 3, "topk": 4, "num_draft_tokens": 8}, "EAGLE-3 chains"),
        ("trtllm", {"draft_tokens": 3, "topk": 4, "num_draft_tokens": 8}, "EAGLE-3 chains"),
        ("llamacpp", {"draft_tokens": 3, "topk": 4, "num_draft_tokens": 8}, "EAGLE-3 chains"),
        ("llamacpp", {"tensor_parallel": 2}, "no tensor parallel size"),
        ("sglang", {"draft_tokens": 3, "topk": 4}, "three numbers"),
        ("sglang", {"topk": 4, "num_draft_tokens": 8}, "three numbers"),
        ("sglang", {"draft_tokens": 3, "num_draft_tokens": 8}, "verifies 4, not 8"),
        ("sglang", {"draft_tokens": 0}, "1 or more"),
    ],
)
def test_settings_that_contradict_each_other(engine: str, settings: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        served(engine, **settings)


def test_an_unknown_version_names_the_known_ones() -> None:
    with pytest.raises(UsageError) as error:
        served("trtllm", "newest")
    assert error.value.hint == "versions: 1.1, 1.2, 1.3"


def test_further_words_come_last() -> None:
    assert served("sglang", extra=("--mem-fraction-static", "0.5")).argv[-2:] == ("--mem-fraction-static", "0.5")


def test_the_command_prints_what_the_library_makes(cli: Callable[..., Any], example_head: Path, target: Path) -> None:
    arguments = ("recipe", example_head, "--target", target, "--draft-tokens", "3")
    status, out, _ = cli(*arguments, "--engine", "sglang-jax", "--json")
    assert status == 0
    document = json.loads(out)
    assert document["engine"] == "sglang_jax"
    assert shlex.split(document["server_command"])[:3] == ["python", "-m", "sgl_jax.launch_server"]
    assert [v["version"] for v in document["preflight"]] == [SGLANG_JAX]
    status, out, _ = cli(*arguments, "--engine", "sglang")
    assert status == 0
    assert "--speculative-num-draft-tokens 4" in out
    assert "refuses" in out, "these files crash SGLang, whatever the command"
    assert cli(*arguments, "--engine", "nothing")[0] == 2


@pytest.mark.parametrize(
    ("theirs", "given", "flag"),
    [
        ("bfloat16", (), "bfloat16"),
        ("float16", (), None),
        ("float32", (), None),
        ("bfloat16", ("--dtype", "float16"), "float16"),
    ],
)
def test_sglang_is_told_the_dtype_where_the_configs_of_head_and_target_differ(
    cli: Callable[..., Any], tmp_path: Path, theirs: str, given: tuple[str, ...], flag: str | None
) -> None:
    head = heads.specforge(tmp_path / "head", torch_dtype="float16", max_position_embeddings=8192)
    target = heads.target(tmp_path / "target", torch_dtype=theirs)
    command = ("recipe", head, "--target", target, "--engine", "sglang", "--json", *given)
    document = json.loads(cli(*command)[1])
    words = shlex.split(document["server_command"])
    assert dict(pairwise(words)).get("--dtype") == flag
    (verdict,) = document["preflight"]
    assert "dtype-apart" not in {reason["code"] for reason in verdict["reasons"]}, "the command says it"


def test_tensorrt_llm_is_told_the_taps_only_where_it_has_to_be(cli: Callable[..., Any], example_head: Path) -> None:
    wide = example_head.parent / "deeper"
    wide.mkdir()
    config = {"model_type": "llama", "hidden_size": 576, "vocab_size": 49152, "num_hidden_layers": 30}
    (wide / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    command = ("recipe", example_head, "--target", wide, "--engine", "trtllm", "--json")
    assert "eagle3_layers_to_capture" not in json.loads(cli(*command)[1])["yaml"]
    file = example_head / "config.json"
    named = json.loads(file.read_text()) | {"architectures": ["LlamaForCausalLMEagle3"]}
    named["eagle_config"] = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 8, 26]}
    file.write_text(json.dumps(named))
    (example_head / "README.md").unlink(missing_ok=True)
    document = json.loads(
        cli(
            *command,
        )[1]
    )
    assert yaml.safe_load(document["yaml"])["speculative_config"]["eagle3_layers_to_capture"] == [1, 8, 26]
    assert not [r for v in document["preflight"] for r in v["reasons"] if r["code"] == "aux-layers"]


@pytest.mark.parametrize(
    ("engine", "first", "second"),
    [
        (
            "vllm",
            "--nnodes 2 --node-rank 0 --master-addr HEAD_NODE",
            "--nnodes 2 --node-rank 1 --master-addr HEAD_NODE --headless",
        ),
        (
            "sglang",
            "--nnodes 2 --node-rank 0 --dist-init-addr HEAD_NODE:20000",
            "--nnodes 2 --node-rank 1 --dist-init-addr HEAD_NODE:20000",
        ),
        (
            "trtllm",
            "srun --nodes=2 --ntasks=16 --ntasks-per-node=8 --mpi=pmix trtllm-llmapi-launch trtllm-serve",
            None,
        ),
    ],
)
def test_an_engine_over_two_nodes(engine: str, first: str, second: str | None) -> None:
    made = make_recipe(engine, Serving("T", "H", tensor_parallel=16))
    lines = [" ".join(words) for words in over_nodes(made, 2, 16)]
    assert first in lines[0]
    assert len(lines) == 1 if second is None else second in lines[1]
    known = interface(engine, made.version)
    if second is not None and known is not None:
        for line in lines:
            flags = {word for word in line.split() if word.startswith("--")}
            assert flags <= set(known.flags), "the engine's own parser takes them"


@pytest.mark.parametrize(("engine", "nodes", "devices"), [("llamacpp", 2, 2), ("vllm", 2, 9), ("vllm", 4, 2)])
def test_nodes_that_cannot_be(engine: str, nodes: int, devices: int) -> None:
    made = make_recipe(engine, Serving("T", "H"))
    with pytest.raises(UsageError) as error:
        over_nodes(made, nodes, devices)
    assert error.value.code == "usage-recipe"
