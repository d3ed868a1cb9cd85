"""Bad input: one clear sentence, exit status 3, nothing written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import heads
from support.signals import default_signals, forking, killed_at_a_call
from support.unprivileged import drop_overrides

WEIGHTS = "model.safetensors"
Cli = Callable[..., tuple[int, str, str]]


def replace(folder: Path, **tensors: torch.Tensor | None) -> None:
    every = {**load_file(folder / WEIGHTS), **tensors}
    save_file({k: v for k, v in every.items() if v is not None}, folder / WEIGHTS)


def with_header(folder: Path, edit: Callable[[dict], None]) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def shift(header: dict, by: int) -> None:
    header["norm.weight"]["data_offsets"] = [x + by for x in header["norm.weight"]["data_offsets"]]


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def ids(folder: Path) -> torch.Tensor:
    d2t = load_file(folder / WEIGHTS)["d2t"]
    return d2t + torch.arange(len(d2t), dtype=d2t.dtype)


def set_d2t(folder: Path, position: int, value: int) -> None:
    d2t = load_file(folder / WEIGHTS)["d2t"].clone()
    d2t[position] = value
    replace(folder, d2t=d2t)


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "there is no config.json in"),
    "config is not JSON": (lambda f: (f / "config.json").write_text("{,}"), "is not valid JSON: line 1"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "is not a JSON object"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no safetensors file in"),
    "truncated": (lambda f: os.truncate(f / WEIGHTS, (f / WEIGHTS).stat().st_size - 100), "is truncated"),
    "empty file": (lambda f: os.truncate(f / WEIGHTS, 0), "is only 0 bytes long"),
    "header longer than the file": (
        lambda f: (f / WEIGHTS).write_bytes((10**6).to_bytes(8, "little") + b"{}"),
        "claims a header of 1000000 bytes but is only 10 bytes long",
    ),
    "header of a terabyte": (
        lambda f: (f / WEIGHTS).write_bytes((2**40).to_bytes(8, "little") + b"{}"),
        "a head needs less than 4000000",
    ),
    "header is not JSON": (
        lambda f: (f / WEIGHTS).write_bytes((4).to_bytes(8, "little") + b"{{{{"),
        "not valid JSON",
    ),
    "pickle by another name": (lambda f: (f / WEIGHTS).write_bytes(b"PK\x03\x04" + bytes(60)), "torch pickle"),
    "offsets overlap": (lambda f: with_header(f, lambda h: shift(h, -2)), "overlapping tensors"),
    "offsets leave a hole": (lambda f: with_header(f, lambda h: shift(h, 2)), "overlapping|unaccounted bytes"),
    "offsets out of range": (lambda f: with_header(f, lambda h: shift(h, 10**6)), "unaccounted bytes"),
    "offsets too short": (
        lambda f: with_header(f, lambda h: h["norm.weight"].update(data_offsets=[0, 2])),
        "the byte range 0…2, not 16 bytes",
    ),
    "unknown dtype": (lambda f: with_header(f, lambda h: h["norm.weight"].update(dtype="Q7")), "unknown dtype 'Q7'"),
    "negative shape": (lambda f: with_header(f, lambda h: h["norm.weight"].update(shape=[-8])), "natural numbers"),
    "a tensor missing": (
        lambda f: replace(f, **{"midlayer.hidden_norm.weight": None}),
        r"lacks midlayer\.hidden_norm\.weight",
    ),
    "lm_head missing": (lambda f: replace(f, **{"lm_head.weight": None}), r"lacks lm_head\.weight"),
    "an unknown tensor": (lambda f: replace(f, **{"extra.weight": torch.ones(2)}), r"holds extra\.weight"),
    "a bias": (
        lambda f: replace(f, **{"midlayer.self_attn.q_proj.bias": torch.ones(8)}),
        r"holds midlayer\.self_attn\.q_proj\.bias",
    ),
    "shape contradicts config": (lambda f: edit_config(f, hidden_size=16), "but the config asks for"),
    "intermediate size contradicts": (lambda f: edit_config(f, intermediate_size=99), "but the config asks for"),
    "draft vocabulary contradicts": (lambda f: edit_config(f, draft_vocab_size=11), "10 rows but the config says"),
    "heads is a string": (lambda f: edit_config(f, num_attention_heads="2"), "not a positive integer"),
    "hidden size missing": (lambda f: edit_config(f, hidden_size=None), "has no hidden_size"),
    "two layers": (lambda f: edit_config(f, num_hidden_layers=2), "one decoder layer"),
    "integer weights": (
        lambda f: replace(f, **{"norm.weight": torch.ones(8, dtype=torch.int8)}),
        "reads unquantized heads",
    ),
    "d2t out of range": (lambda f: set_d2t(f, 9, 1000), "outside the vocabulary of 40"),
    "d2t duplicated": (lambda f: set_d2t(f, 1, int(ids(f)[0]) - 1), "to the same target id"),
    "d2t absolute": (lambda f: replace(f, d2t=ids(f)), "absolute target ids where offsets belong"),
    "d2t all zero": (lambda f: replace(f, d2t=torch.zeros(10, dtype=torch.int32)), "all zeros with a reduced"),
    "d2t disagrees with t2d": (lambda f: replace(f, t2d=~load_file(f / WEIGHTS)["t2d"]), "t2d"),
    "d2t shuffled against t2d": (
        lambda f: replace(f, t2d=torch.roll(load_file(f / WEIGHTS)["t2d"], 1)),
        "d2t and t2d disagree",
    ),
    "d2t is floating point": (lambda f: replace(f, d2t=torch.zeros(10).half()), "not a vector of I32 or I64"),
    "no map at all": (lambda f: replace(f, d2t=None, t2d=None), "in no layout|neither d2t nor t2d"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_heads(tmp_path: Path, cli: Cli, name: str):
    damage, message = CASES[name]
    source = heads.specjax(tmp_path / "head")
    damage(source)
    refused(cli, tmp_path, message, source, tmp_path / "out", "--to", "specforge")
    status, out, _ = cli("inspect", source, "--json")
    document = json.loads(out)
    assert status == 3
    assert ("error" in document) != any(p["severity"] == "error" for p in document.get("problems", []))


def refused(cli: Cli, folder: Path, message: str, *argv: object) -> str:
    """The command prints one matching sentence, exits with 3, and leaves the folder as it was."""
    before = snapshot(folder)
    status, out, err = cli("convert", *argv)
    assert (status, out) == (3, "")
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert [line.startswith("hint: ") for line in lines[1:]] in ([], [True])
    import re

    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in err
    assert snapshot(folder) == before
    return lines[0]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def test_a_missing_folder(tmp_path: Path, cli: Cli):
    refused(cli, tmp_path, "does not exist", tmp_path / "nowhere", tmp_path / "out", "--to", "modelopt")


def test_speculators_without_a_target(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head")
    refused(
        cli, tmp_path, "names the verifier", source, tmp_path / "out", "--to", "speculators", "--speculative-tokens", 3
    )


def test_speculators_without_a_number_of_tokens(tmp_path: Path, cli: Cli, target: Path):
    source = heads.specjax(tmp_path / "head")
    refused(cli, tmp_path, "no number is safe", source, tmp_path / "out", "--to", "speculators", "--target", target)


def test_an_existing_destination(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious.txt").write_text("keep me")
    refused(cli, tmp_path, "exists already", source, tmp_path / "out", "--to", "specforge")
    refused(cli, tmp_path, "did not write", source, tmp_path / "out", "--to", "specforge", "--force")
    for dest in (source, tmp_path):
        refused(cli, tmp_path, "is, or contains, .*head, which", source, dest, "--to", "specforge", "--force")


def test_the_inputs_of_a_conversion_are_not_replaced(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """A folder this tool wrote may be replaced, unless something in it is read to make what replaces it."""
    source, out = heads.specforge(tmp_path / "head"), tmp_path / "out"
    assert cli("convert", source, out, "--to", "specforge")[0] == 0
    edited = tmp_path / "edited"
    edited.mkdir()
    shutil.copy(out / "config.json", edited)
    (edited / "model.safetensors").symlink_to("../out/model.safetensors")
    to = ("--to", "specforge", "--force")
    refused(cli, tmp_path, "contains, .*edited/model.safetensors", edited, out, *to)
    fitting = heads.target(out / "target")
    refused(cli, tmp_path, "contains, .*out/target, which", source, out, *to, "--target", fitting)
    shutil.rmtree(fitting)
    given = out / "model.safetensors"
    written = given.read_bytes()
    refused(cli, tmp_path, "contains, .*out/model.safetensors", source, out, *to, "--d2t", given)
    save_file({"embed_tokens.weight": torch.ones(40, 8, dtype=torch.bfloat16)}, given)
    refused(cli, tmp_path, "contains, .*out/model.safetensors", source, out, *to, "--include-embeddings", given)
    given.write_bytes(written)
    (source / "exported").symlink_to(out)
    (source / "gone").symlink_to(out / "nothing")
    monkeypatch.chdir(tmp_path)
    assert cli("convert", source, "out", *to)[0] == 0, "a link to the earlier result is no input"


def test_what_lies_beside_a_head_is_not_replaced(tmp_path: Path, cli: Cli):
    source, out = heads.specjax(tmp_path / "head"), tmp_path / "out"
    assert cli("convert", source, out, "--to", "specforge", "--max-shard-size", "500")[0] == 0
    (out / "README.md").write_text("mine")
    (out / "bench").mkdir()
    argv = (source, out, "--to", "specforge")
    refused(cli, tmp_path, "files this tool did not write \\(README.md, bench\\)", *argv, "--force")
    refused(cli, tmp_path, "exists already and holds files this tool did not write", *argv)
    (out / "README.md").unlink()
    (out / "bench").rmdir()
    assert cli("convert", source, out, "--to", "specforge", "--force")[0] == 0
    assert cli("convert", source, out / "other", "--to", "specjax")[0] == 0
    refused(cli, tmp_path, "did not write \\(other\\)", *argv, "--force")


@pytest.mark.parametrize("record", ["{}", "no JSON", '{"files": 3}', '{"files": [{"path": []}, 1]}'])
def test_a_record_that_lists_nothing_protects_everything(tmp_path: Path, cli: Cli, record: str):
    source, out = heads.specjax(tmp_path / "head"), heads.specjax(tmp_path / "out")
    (out / "eagle3hub.json").write_text(record)
    refused(cli, tmp_path, "did not write .*config.json", source, out, "--to", "specforge", "--force")


def test_force_is_recommended_only_where_it_works(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    for dest, message, code in (
        ("file", "exists already, as a file", "output-exists"),
        ("link", "exists already, as a symbolic link", "output-exists"),
        ("file/out", f"{tmp_path}/file is not a folder, so", "output-parent"),
        ("link/out", f"{tmp_path}/link is not a folder, so", "output-parent"),
        ("new/out", f"the folder {tmp_path}/new does not exist", "output-parent"),
    ):
        for more in ((), ("--force",)):
            argv = (source, tmp_path / dest, "--to", "specforge", *more)
            refused(cli, tmp_path, message, *argv)
            error = json.loads(cli("convert", *argv, "--json")[1])["error"]
            assert (error["code"], "--force" in error["hint"]) == (code, False)
            assert ("create it first" in error["hint"]) == (dest == "new/out")
    _, _, err = cli("convert", source, tmp_path / "empty", "--to", "specforge")
    assert "or replace it with --force" in err
    assert cli("convert", source, tmp_path / "empty", "--to", "specforge", "--force")[0] == 0


def test_force_replaces_what_this_tool_wrote(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head")
    assert cli("convert", source, tmp_path / "out", "--to", "specforge")[0] == 0
    status, out, _ = cli("convert", source, tmp_path / "out", "--to", "specjax", "--force", "--json")
    assert status == 0
    assert json.loads(out)["to"] == "specjax"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head", "out"]
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_a_dry_run_writes_nothing(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head")
    before = snapshot(tmp_path)
    status, out, _ = cli("convert", source, tmp_path / "out", "--to", "specforge", "--dry-run", "--json")
    document = json.loads(out)
    assert (status, document["dry_run"], len(document["tensors"])) == (0, True, 15)
    assert snapshot(tmp_path) == before


def test_errors_are_json_when_asked(tmp_path: Path, cli: Cli):
    status, out, err = cli("convert", tmp_path / "nowhere", tmp_path / "out", "--to", "modelopt", "--json")
    assert (status, err) == (3, "")
    assert json.loads(out)["error"] == {
        "code": "source-missing",
        "message": f"{tmp_path}/nowhere does not exist",
        "hint": "name the folder that holds config.json",
        "exit_code": 3,
    }


def test_usage_errors_exit_with_2(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head")
    status, _, err = cli("convert", source, tmp_path / "out", "--to", "vllm")
    assert (status, "; vLLM, SGLang and TensorRT-LLM all serve universal" in err) == (2, True)
    assert cli("convert", source)[0] == 2
    assert cli("convert", source, tmp_path / "out", "--to", "specjax", "--no-such-option")[0] == 2
    assert not (tmp_path / "out").exists()


def python(code: str, *argv: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, argv)], capture_output=True, text=True, **options)


MAIN = "import sys; from eagle3hub.cli.app import run; sys.exit(run(sys.argv[1:]))"


def test_a_full_disk(tmp_path: Path, example_head: Path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    before = snapshot(tmp_path)
    done = python(MAIN, "convert", example_head, tmp_path / "out", "--to", "specforge", preexec_fn=limit)
    assert done.returncode == 3, done.stderr
    assert "disk is full (or a size limit was reached)" in done.stderr
    assert snapshot(tmp_path) == before


def test_a_small_file_system(tmp_path: Path, example_head: Path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        done = python(MAIN, "convert", example_head, small / "out", "--to", "specforge")
        left = list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert done.returncode == 3
    assert "bytes free" in done.stderr.replace("are free there", "bytes free")
    assert left == []


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--force",)])
def test_a_place_that_may_not_be_written_to(tmp_path: Path, more: tuple[str, ...]):
    source = heads.specjax(tmp_path / "head")
    locked = tmp_path / "locked"
    (locked / "out").mkdir(parents=True)
    for mode, dest, reason in (
        (0o555, locked / "new", "Permission denied"),
        (0o000, locked / "new" / "out", "Permission denied"),
        (0o000, locked / "out", "Permission denied"),
    ):
        locked.chmod(mode)
        done = python(MAIN, "convert", source, dest, "--to", "specforge", *more, preexec_fn=drop_overrides)
        locked.chmod(0o755)
        assert done.returncode == 3
        assert done.stderr.splitlines() == [
            f"error: cannot write {dest}: {reason}",
            "hint: choose a place you may write to, or change the permissions of its folder",
        ]


def test_a_read_only_file_system(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head")
    place = tmp_path / "place"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(place)], capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        for more in ((), ("--dry-run",)):
            status, _, err = cli("convert", source, place / "out", "--to", "specforge", *more)
            assert status == 3
            assert "Read-only file system\nhint: choose a place on another file system" in err
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_working_directory_that_was_removed(tmp_path: Path):
    source, here = heads.specjax(tmp_path / "head"), tmp_path / "here"
    here.mkdir()
    code = f"import os, sys; os.chdir(sys.argv.pop(1)); os.rmdir(os.getcwd()); {MAIN}"
    done = python(code, here, "convert", source, "out", "--to", "specforge")
    assert done.returncode == 3
    assert done.stderr.startswith("error: cannot write out: No such file or directory\nhint: ")


KILLED_AT = killed_at_a_call(
    ("fsync", "rename", "pwrite", "copy_file_range", "preadv"),
    "from eagle3hub.cli.app import run; sys.exit(run(sys.argv[2:]))",
)


@pytest.mark.slow
def test_sigkill_at_every_step_leaves_no_half_destination(tmp_path: Path):
    source = heads.specjax(tmp_path / "head")
    out = tmp_path / "out"
    killed = 0
    argv = ["convert", str(source), str(out), "--to", "specforge"]
    with forking(KILLED_AT, f"from eagle3hub.cli.app import run; run({[*argv, '--dry-run']})") as run:
        for step in range(1, 200):
            status = run(step, *argv)
            if status == 0:
                break
            assert status == -signal.SIGKILL
            killed += 1
            if out.exists():  # killed after the rename: it must be whole
                assert python(MAIN, "inspect", out).returncode == 0
                assert (out / "eagle3hub.json").is_file()
                break
    assert killed > 20
    if out.exists():
        subprocess.run(["rm", "-r", str(out)], check=True)
    assert python(MAIN, "convert", source, out, "--to", "specforge").returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head", "out"], "the leftovers of killed runs are removed"


SIGNALLED = """
import os, shutil, signal, sys
number, during = signal.Signals(int(sys.argv.pop(1))), sys.argv.pop(1)
real_fsync, real_rmtree = os.fsync, shutil.rmtree
def fsync(fd):
    signal.raise_signal(number)
    real_fsync(fd)
def rmtree(*a, **k):
    if during == "cleaning":
        signal.raise_signal(signal.SIGHUP)
    real_rmtree(*a, **k)
os.fsync, shutil.rmtree = fsync, rmtree
from eagle3hub.cli.app import main; main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("during", ["writing", "cleaning"])
def test_a_signal_to_end_cleans_up(tmp_path: Path, number: signal.Signals, during: str):
    """A session that ends may send SIGHUP twice: the second one must not cut the cleaning short."""
    source = heads.specjax(tmp_path / "head")
    argv = (number.value, during, "convert", source, tmp_path / "out", "--to", "specforge")
    done = python(SIGNALLED, *argv, preexec_fn=default_signals)
    assert done.returncode == 128 + number, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["head"]


@pytest.mark.slow
def test_an_interrupt_is_said(tmp_path: Path):
    source = heads.specjax(tmp_path / "head")
    argv = (signal.SIGINT.value, "writing", "convert", source, tmp_path / "out", "--to", "specforge")
    told = python(SIGNALLED, *argv, preexec_fn=default_signals)
    assert (told.returncode, told.stdout, told.stderr) == (130, "", "interrupted\n")
    as_json = python(SIGNALLED, *argv, "--json", preexec_fn=default_signals)
    assert (as_json.returncode, as_json.stderr) == (130, "")
    assert json.loads(as_json.stdout)["error"]["code"] == "interrupted"
    assert [p.name for p in tmp_path.iterdir()] == ["head"]


def test_nohup_goes_on(tmp_path: Path):
    source = heads.specjax(tmp_path / "head")
    argv = (signal.SIGHUP.value, "cleaning", "convert", source, tmp_path / "out", "--to", "specforge")
    done = python(SIGNALLED, *argv, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head", "out"]
