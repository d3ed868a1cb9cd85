"""What scripts rely on: names in --json, exit statuses, streams, start-up without torch."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support import heads
from support.commands import leaves, root

import eagle3hub
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.cli.inspect import _print_engines
from eagle3hub.cli.output import CleanConsole, shown_for
from eagle3hub.errors import Eagle3HubError, Hint
from eagle3hub.inspection import InspectOptions, inspect

Cli = Callable[..., tuple[int, str, str]]
COMMANDS = dict(leaves(root()))


def test_inspect_keeps_its_contract(example_head: Path, tmp_path: Path, cli: Cli):
    fits = heads.target(tmp_path / "t", heads.dims(hidden=576, vocab=49152))
    status, out, err = cli("inspect", example_head, "--target", fits, "--json")
    doc = json.loads(out)
    assert (status, err) == (0, "")
    assert doc["layout"] == "specjax"
    assert doc["dims"]["hidden_size"] == 576
    assert doc["semantics"]["rope"] == {"theta": 100000.0, "scaling": None}
    assert doc["aux"] == {"count": 3, "after_layer": [1, 14, 26], "boundary": [2, 15, 27], "origin": "default"}
    vocab = {k: doc["vocab_map"][k] for k in ("status", "sorted", "spelling", "draft_vocab_size", "vocab_size")}
    assert vocab == {
        "status": "ok",
        "sorted": True,
        "spelling": "offset",
        "draft_vocab_size": 8192,
        "vocab_size": 49152,
    }
    assert doc["assumptions"] == []
    assert doc["problems"] == []


def test_inspect_without_a_target_says_what_it_does_not_know(example_head: Path, cli: Cli):
    status, out, _ = cli("inspect", example_head, "--json")
    doc = json.loads(out)
    assert status == 0
    assert doc["aux"] == {"count": 3, "after_layer": None, "boundary": None, "origin": None}
    assert [a["field"] for a in doc["assumptions"]] == ["aux"]
    assert {"severity", "code", "message", "hint"} == set(doc["problems"][0])


def test_inspect_shows_a_broken_map_and_exits_with_3(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head", t2d=None)
    status, out, _ = cli("inspect", source, "--from", "specjax")
    assert status == 0
    assert "map ok" in out
    broken = heads.specjax(tmp_path / "broken", d2t=heads.sorted_ids(heads.dims()))
    status, out, _ = cli("inspect", broken, "--from", "specjax", "--json")
    doc = json.loads(out)
    assert status == 3
    assert doc["vocab_map"]["status"] == "absolute"
    assert [p["code"] for p in doc["problems"] if p["severity"] == "error"] == ["vocab-absolute"]


EXPORTERS = Path(__file__).parents[1] / "fixtures" / "exporters"


def test_inspect_takes_what_the_source_does_not_say(tmp_path: Path, cli: Cli):
    source, options = EXPORTERS / "specforge-sglang-norm-output" / "head", ("--target", EXPORTERS / "target")
    status, out, _ = cli("inspect", source, *options)
    assert (status, "hint: say which it is: --norm-output pre for a head" in out) == (3, True)
    assert "eps 1e-05, feedback open" in out
    assert json.loads(cli("inspect", source, "--json")[1])["semantics"]["feedback"] == "open"
    status, out, _ = cli("inspect", source, *options, "--norm-output", "post")
    assert (status, "post-norm feedback" in out) == (0, True)
    plain = EXPORTERS / "specforge-sglang-plain" / "head"
    doc = json.loads(cli("inspect", plain, "--aux-layers", "2,4,5", "--aux-convention", "boundary", "--json")[1])
    assert (doc["aux"]["after_layer"], doc["aux"]["origin"], doc["assumptions"]) == ([1, 3, 4], "flag", [])
    assert cli("inspect", plain, "--rope-theta", "0")[0] == 2


def test_hints_name_the_command_that_has_an_option(tmp_path: Path, cli: Cli):
    """What `convert` is told of a source, others are not: who reads the hint shall not try it here."""
    plain, target = EXPORTERS / "specforge-sglang-plain" / "head", EXPORTERS / "target"
    _, shown, _ = cli("inspect", plain, "--target", target)
    assert "option of eagle3hub convert" not in shown
    _, shown, _ = cli("diff", plain, plain, "--target", target)
    assert shown.count("; --aux-layers is an option of eagle3hub convert)") == 2
    twice = heads.specforge(tmp_path / "twice", eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 1, 26]})
    others = "give the true list with --aux-layers; --aux-layers is an option of eagle3hub convert"
    assert cli("convert", twice, tmp_path / "out", "--to", "modelopt")[2].endswith("the true list with --aux-layers\n")
    assert others in cli("recipe", twice, "--target", heads.target(tmp_path / "target"))[2]
    assert others in json.loads(cli("diff", twice, twice, "--json")[1])["error"]["hint"]
    broken = heads.specjax(tmp_path / "broken", d2t=heads.sorted_ids(heads.dims()))
    assert "offsets; --repair is an option of eagle3hub convert" in cli("inspect", broken, "--from", "specjax")[1]
    unknown = heads.specforge(tmp_path / "unknown")
    (unknown / "model.safetensors").write_bytes(safetensors.torch.save({"fc.weight": torch.zeros(2, 2)}))
    assert "; here --from-a or --from-b" in cli("diff", unknown, unknown)[2]


def unmarked(node: ast.AST) -> Iterator[str]:
    """The literal texts of an expression, but for those inside a `Hint`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Hint":
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for below in ast.iter_child_nodes(node):
        yield from unmarked(below)


def hints(tree: ast.AST) -> Iterator[ast.AST]:
    """Every expression that a module gives as a hint, or as what settles an assumption."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (k.value for k in node.keywords if k.arg == "hint")
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            place = {"Problem": 3, "Assumption": 3, "_fault": 2}.get(name)
            yield from node.args[place : place + 1] if place else ()


@pytest.mark.slow
def test_every_hint_knows_which_options_of_convert_it_names():
    package = Path(eagle3hub.__file__).parent
    names = {o for p in COMMANDS["convert"].params if getattr(p, "rich_help_panel", None) for o in p.opts} | {"--from"}
    found = 0
    for room in ("layouts", "head", "conversion/edits", "checkpoint"):
        for path in (package / room).glob("*.py"):
            for hint in hints(ast.parse(path.read_text())):
                found += 1
                texts = " ".join(unmarked(hint))
                assert not names & {*re.findall(r"--[a-z0-9-]+", texts)}, f"{path.name}: {texts}"
    assert found > 100


@pytest.mark.parametrize(("words", "by_manifest"), [("release", True), ("card write", True), ("bench", False)])
def test_a_command_with_a_manifest_is_told_its_fields(words: str, by_manifest: bool):
    command = dict(leaves(root()))[words]
    told = shown_for(Hint("repair it with --repair", "--repair"), command)
    assert ("in the manifest: head.repair" in told) is by_manifest


def test_a_hint_names_the_options_it_says_it_names():
    with pytest.raises(ValueError, match="does not name --rope-theta"):
        Hint("give --dtype", "--rope-theta")
    hint = Hint("give --from or --dtype", "--from", "--dtype")
    assert hint.for_command({"--from", "--dtype"}) == "give --from or --dtype"
    assert hint.for_command(()) == "give --from or --dtype; --from and --dtype are options of eagle3hub convert"
    assert hint.for_command({"--from-a", "--dtype"}) == "give --from or --dtype; here --from-a"
    in_manifest = "give --from or --dtype; in the manifest: head.from or head.dtype"
    assert hint.for_command((), {"from", "dtype"}) == in_manifest
    both = Hint.join(["leave it out", hint, Hint("or --d2t", "--d2t")])
    assert (both, both.options) == ("leave it out; give --from or --dtype; or --d2t", ("--from", "--dtype", "--d2t"))
    with pytest.raises(ValueError, match="hints of bench and convert"):
        Hint.join([hint, Hint("--seed", "--seed", command="bench")])
    error = Eagle3HubError("no", hint=hint)
    assert (error.hint, error.to_json()["hint"]) == (hint, "give --from or --dtype")
    assert isinstance(error.hint, Hint)


def test_inspect_lists_tensors(example_head: Path, cli: Cli):
    assert "midlayer.self_attn.q_proj.weight" in cli("inspect", example_head, "--tensors")[1]
    assert "midlayer.self_attn.q_proj.weight" not in cli("inspect", example_head)[1]


@pytest.mark.parametrize("name", ["modelopt-nvfp4", "specforge-training-plain", "speculators-peagle", "prefixed"])
def test_every_tensor_of_the_files_is_listed(tmp_path: Path, name: str, cli: Cli):
    plain = EXPORTERS / "specforge-sglang-plain" / "head"
    source = Path(shutil.copytree(plain if name == "prefixed" else EXPORTERS / name / "head", tmp_path / "head"))
    if name == "specforge-training-plain":
        shutil.copy(plain / "config.json", source)
    if name == "prefixed":
        file = source / "model.safetensors"
        safetensors.torch.save_file({f"model.{n}": t for n, t in safetensors.torch.load_file(file).items()}, file)
    listed = {t["name"] for t in json.loads(cli("inspect", source, "--json")[1])["tensors"]}
    assert listed == set(open_checkpoint(source).tensors)
    assert {n.removeprefix("model.") for n in listed} >= {"d2t"}


def on_a_terminal(columns: int, folder: Path, *argv: object) -> list[str]:
    """The lines a command prints on a terminal so wide."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "24", "TERM": "xterm", "NO_COLOR": "1"}
    environment["PYTHONPATH"] = str(Path(eagle3hub.__file__).parents[1])
    command = [sys.executable, "-m", "eagle3hub", *map(str, argv)]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=theirs) as process:
        os.close(theirs)
        with os.fdopen(ours, "rb") as terminal:
            printed = b""
            with suppress(OSError):  # what reading says when nobody writes any more
                while part := terminal.read1():
                    printed += part
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.decode()).splitlines()


@pytest.mark.slow
def test_a_plain_head_fits_on_a_small_screen(tmp_path: Path):
    shutil.copytree(EXPORTERS / "specforge-sglang-plain" / "head", tmp_path / "head")
    shutil.copytree(EXPORTERS / "target", tmp_path / "target")
    small = on_a_terminal(80, tmp_path, "inspect", "head", "--target", "target")
    assert len(small) < 24
    assert max(map(len, small)) <= 80
    said = " ".join(" ".join(small).split())
    assert said.count("takes the head's boundary ids") == 1
    wide = on_a_terminal(120, tmp_path, "inspect", "head", "--target", "target")
    assert sum("takes the head's boundary ids" in line for line in wide) == 9
    engines = [line.partition("  ")[0] for line in wide[wide.index("engines, with these files as they are:") + 1 :]]
    assert all(name in said for name in engines[:10])


def test_rope_scaling_is_said_in_words(tmp_path: Path, cli: Cli):
    scaling = {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    head = heads.specforge(tmp_path / "head", rope_scaling={**scaling, "original_max_position_embeddings": 2048})
    status, shown, err = cli("inspect", head)
    assert status == 0, err
    assert ", longrope, factor 4, short_factor of 4 numbers, long_factor of 4 numbers, original" in shown


@pytest.mark.parametrize("kind", ["fp8", "nvfp4"])
def test_a_quantized_head_has_as_many_parameters(kind: str, cli: Cli):
    plain, head = EXPORTERS / "modelopt-default" / "head", EXPORTERS / f"modelopt-{kind}" / "head"
    parameters = [json.loads(cli("inspect", source, "--json")[1])["parameters"] for source in (plain, head)]
    assert parameters == [14464, 14464]
    assert f"14.5 k parameters, {kind.upper()}\n" in cli("inspect", head)[1]


def test_markup_in_a_path_is_only_text(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "[red]head")
    assert "[red]head" in cli("inspect", source)[1]


def test_version_and_help(cli: Cli):
    assert cli("--version")[1] == f"eagle3hub {eagle3hub.__version__}\n"
    for command in ("inspect", "convert", "diff", "validate", "card", "release", "demo"):
        status, out, _ = cli(command, "--help")
        assert status == 0
        assert "Example" in out, command


def test_every_exit_code_is_a_documented_one():
    def every(kind: type[Eagle3HubError]) -> list[type[Eagle3HubError]]:
        return [kind, *(k for sub in kind.__subclasses__() for k in every(sub))]

    assert {kind.exit_code for kind in every(Eagle3HubError)} == {1, 2, 3, 4, 5, 70}


def test_nothing_here_imports_torch(example_head: Path, tmp_path: Path):
    code = (
        "import sys\n"
        "class Forbidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers'):\n"
        "            raise AssertionError(name + ' was imported')\n"
        "sys.meta_path.insert(0, Forbidden())\n"
        "from eagle3hub.cli.app import run\n"
        f"assert run(['inspect', {str(example_head)!r}]) == 0\n"
        f"assert run(['convert', {str(example_head)!r}, {str(tmp_path / 'o')!r}, '--to', 'specforge']) == 0\n"
        "assert run(['card', '--help']) == 0\n"
        "assert run(['validate', '--help']) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_no_module_takes_the_place_of_a_public_function():
    code = (
        "import eagle3hub, importlib, pkgutil\n"
        "for m in pkgutil.walk_packages(eagle3hub.__path__, 'eagle3hub.'):\n"
        "    if not m.name.startswith('eagle3hub.engines.workers') and m.name != 'eagle3hub.__main__':\n"
        "        importlib.import_module(m.name)\n"
        "assert all(callable(getattr(eagle3hub, n)) for n in eagle3hub.__all__ if n != '__version__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("columns", [80, 100, 120, 300])
def test_a_reason_that_takes_several_lines_is_said_once(tmp_path: Path, columns: int):
    source = heads.specforge(tmp_path / "head")
    weights = safetensors.torch.load_file(source / "model.safetensors")
    swapped = weights | {"d2t": weights["t2d"], "t2d": weights["d2t"]}
    safetensors.torch.save_file(swapped, source / "model.safetensors", metadata={"format": "pt"})
    engines = inspect(source, InspectOptions(target=heads.target(tmp_path / "target"))).engines
    deciding = {e.title: next(r.sentence for r in e.reasons if r.effect == e.kind) for e in engines}
    same = [title for title, sentence in deciding.items() if "are swapped" in sentence]
    shown = StringIO()
    _print_engines(engines, CleanConsole(file=shown, width=columns))
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert max(map(len, lines)) <= columns
    assert " ".join(" ".join(lines).split()).count(deciding[same[0]]) == (1 if columns < 300 else len(same))
    above = [line for line in lines if line.endswith(f"  as {same[0]}")]
    assert len(above) == (len(same) - 1 if columns in (100, 120) else 0)
    assert all(title in " ".join(" ".join(lines).split()) for title in deciding)
