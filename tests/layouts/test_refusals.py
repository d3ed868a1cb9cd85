"""What reading a folder as a layout refuses: the code, the sentence, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from support import heads, variants

Cli = Callable[..., tuple[int, str, str]]


def refused(cli: Cli, *argv: object) -> tuple[int, dict[str, str]]:
    status, out, _ = cli(*argv, "--json")
    return status, json.loads(out)["error"]


def test_files_that_two_trainers_could_have_written(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head")
    config = json.loads((source / "config.json").read_text())
    del config["architectures"]
    (source / "config.json").write_text(json.dumps(config))
    variants.replace(source, {"format": "pt"})
    status, error = refused(cli, "convert", source, tmp_path / "out", "--to", "modelopt")
    assert (status, error["code"]) == (3, "layout-ambiguous")
    assert error["message"] == f"{source} could be specjax or specforge: its files do not decide it"
    assert error["hint"] == "name the trainer's layout with --from specjax|specforge"
    assert not (tmp_path / "out").exists()
    assert cli("inspect", source, "--from", "specjax")[0] == 0


def test_files_of_no_trainer(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head")
    save_file({}, source / "model.safetensors")
    status, error = refused(cli, "convert", source, tmp_path / "out", "--to", "modelopt")
    assert (status, error["code"]) == (3, "layout-unknown")
    assert error["message"] == f"{source} is in no layout this version knows (its tensors: none)"
    assert error["hint"].startswith("if you know which it is, name it with --from specjax|specforge|")
    assert not (tmp_path / "out").exists()


def test_layouts_that_are_not_there_or_not_written(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head")
    for option, name, says in (
        ("--to", "pdf", "there is no layout called pdf"),
        ("--from", "pdf", "there is no layout called pdf"),
        ("--to", "spec-forge", "there is no layout called spec-forge; did you mean 'specforge'?"),
        ("--from", "torchspecs", "there is no layout called torchspecs; did you mean 'torchspec'?"),
        ("--to", "torchspec", "the layout torchspec (TorchSpec) is read, not written"),
    ):
        to = () if option == "--to" else ("--to", "modelopt")
        status, error = refused(cli, "convert", source, tmp_path / "out", option, name, *to)
        assert (status, error["code"], error["message"]) == (2, "usage-layout", says)
        assert not (tmp_path / "out").exists()


def test_a_flag_that_the_layout_has_not(tmp_path: Path, cli: Cli):
    source = heads.specjax(tmp_path / "head")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "fc_norm": True}))
    status, error = refused(cli, "convert", source, tmp_path / "out", "--to", "specforge", "--from", "specjax")
    assert (status, error["code"]) == (3, "config-layout")
    assert error["message"] == "config.json says fc_norm: true, which a SpecJAX head cannot have"
    assert "remove fc_norm from config.json" in error["hint"]
    assert not (tmp_path / "out").exists()
