"""The page of troubleshooting quotes the program: each mistake on it is made here, and prints what the page says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support import heads
from support.commands import blocks, matches

from eagle3hub.cli import app
from eagle3hub.cli.app import run

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
EXPORTED = Path(__file__).parent / "fixtures" / "exporters"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"
FLIPPED = (heads.sorted_ids(heads.dims()).flip(0) - torch.arange(heads.dims()["draft"])).to(torch.int32)
QUOTED = dict(
    zip(
        re.findall(r"^### (\S+)$", PAGE.read_text(), re.MULTILINE),
        [command for block in blocks(PAGE) for command in block.commands],
        strict=True,
    )
)


def exported(name: str) -> None:
    """``head`` becomes a head of an exporter."""
    shutil.rmtree("head")
    shutil.copytree(EXPORTED / name / "head", "head")


def rewritten(**changes: torch.Tensor | None) -> None:
    """``head`` becomes a SpecJAX head with tensors changed, and ``target`` one that fits it."""
    shutil.rmtree("head")
    shutil.rmtree("target")
    heads.specjax(Path("head"), **changes)
    heads.target(Path("target"))


def weights(change: Callable[[bytes], bytes]) -> None:
    file = Path("head/model.safetensors")
    file.write_bytes(change(file.read_bytes()))


def foreign_index() -> None:
    Path("head/model.safetensors.index.json").write_text('{"weight_map": {"fc.weight": "model.safetensors"}}')


def occupied() -> None:
    Path("out").mkdir()
    Path("out/notes.txt").touch()


def edited() -> None:
    assert run(["convert", "head", "out", "--to", "universal", "--target", "target"]) == 0
    with Path("out/config.json").open("a") as f:
        f.write("\n")


PLAIN = """\
schema: eagle3hub/manifest/1
head: {source: head}
target: {id: owner/target, license: apache-2.0}
release: {repo: owner/head, summary: A head., license: mit}
layouts: {main: specforge}
speculative_tokens: 3
"""


def wide_pattern() -> None:
    Path("release.yaml").write_text(f"{PLAIN}reports: [runs/**/*.json]\n")
    Path("runs").mkdir()
    for number in range(20_001):
        Path("runs", f"{number}.log").touch()


def release_folder(record: str, more: str = "") -> None:
    Path("made").mkdir()
    Path("made/release.yaml").write_text(PLAIN + more)
    Path("made/release.json").write_text(record)


def starve() -> None:
    def starved(*_: object, **__: object) -> None:
        raise MemoryError

    STARVED.setattr("eagle3hub.layouts.open_head", starved)
    STARVED.setattr("eagle3hub.inspection.open_head", starved, raising=False)


STARVED = pytest.MonkeyPatch()
MISTAKES: dict[str, Callable[[], object]] = {
    "source-missing": lambda: None,
    "source-no-config": lambda: Path("head/config.json").unlink(),
    "source-no-weights": lambda: Path("head/model.safetensors").unlink(),
    "source-incomplete": lambda: Path("head/model.safetensors").rename("head/model-00001-of-00002.safetensors"),
    "hub-offline": lambda: None,
    "checkpoint-truncated": lambda: weights(lambda data: data[:-100]),
    "checkpoint-header": lambda: weights(lambda _: b"<!DOCTYPE html>\n<title>Sign in</title>\n"),
    "checkpoint-index": foreign_index,
    "checkpoint-lfs-pointer": lambda: weights(lambda _: LFS_POINTER),
    "vocab-absolute": lambda: rewritten(d2t=heads.sorted_ids(heads.dims())),
    "vocab-double-subtracted": lambda: exported("specjax-resumed"),
    "vocab-zero": lambda: rewritten(d2t=torch.zeros(heads.dims()["draft"], dtype=torch.int32)),
    "vocab-missing": lambda: rewritten(d2t=None, t2d=None),
    "vocab-unsorted": lambda: rewritten(d2t=FLIPPED),
    "tensor-missing": lambda: rewritten(**{"fc.weight": None}),
    "tensor-unknown": lambda: rewritten(**{"extra.weight": torch.zeros(3)}),
    "target-mismatch": lambda: (shutil.rmtree("target"), heads.target(Path("target"))),
    "refused-embed-tokens": lambda: exported("specforge-hf-plain"),
    "refused-norm-before-residual": lambda: exported("speculators-default"),
    "refused-aux-unknown": lambda: None,
    "refused-no-speculative-tokens": lambda: None,
    "output-exists": lambda: Path("out").mkdir(),
    "output-foreign": occupied,
    "output-edited": edited,
    "output-not-a-file": lambda: Path("report.json").symlink_to("nowhere.json"),
    "output-parent": lambda: None,
    "memory": starve,
    "engine-not-installed": lambda: None,
    "engine-no-environment": lambda: None,
    "engine-python-missing": lambda: None,
    "endpoint-unreachable": lambda: None,
    "source-target-weights": lambda: None,
    "manifest": lambda: Path("release.yaml").write_text("schema: eagle3hub/manifest/1\nhead: {source: head}\n"),
    "manifest-pattern": wide_pattern,
    "release-record": lambda: release_folder("{}"),
    "usage-intent": lambda: release_folder("{}", "publish: {private: true}\n"),
}


def test_every_mistake_on_the_page_is_made():
    assert list(QUOTED) == list(MISTAKES)


@pytest.fixture(autouse=True)
def _fed() -> Iterator[None]:
    yield
    STARVED.undo()


@pytest.mark.parametrize("code", MISTAKES)
def test_the_page_quotes_the_program(
    code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(EXPORTED / "specjax-saved" / "head", "head")
    shutil.copytree(EXPORTED / "target", "target")
    MISTAKES[code]()
    quoted = QUOTED[code]
    argv = shlex.split(quoted.line)[1:]
    capsys.readouterr()
    status, error = app._run(argv), capsys.readouterr().err
    assert status == quoted.status
    assert matches(quoted.printed, error[error.find("error: ") :]), error
    app._run([*argv, "--json"])
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert quoted.printed[0].startswith("error: ")
