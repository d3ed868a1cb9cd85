"""One digest covers every file of a folder: one job of a workflow states it, and the next job checks it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eagle3hub.checkpoint.digest import head_digests
from eagle3hub.errors import SourceError
from eagle3hub.publishing.files import whole_digest

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    for name in ("README.md", "SHA256SUMS", "charts/a.png", "charts/b.svg", "reports/one.json", ".hidden", "Ä/ü.txt"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(f"bytes of {name}")
    return made


def test_it_is_what_sha256sum_prints_in_order(folder: Path, cli: Cli):
    (folder / "two\nlines\\and\rmore").write_text("a name that is no name of a file")
    listing = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    done = subprocess.run(["bash", "-c", listing], cwd=folder, capture_output=True, text=True, check=True)
    status, out, _ = cli("verify", folder, "--print-whole-digest")
    assert (status, out) == (0, f"sha256:{done.stdout.split()[0]}\n")
    assert json.loads(cli("verify", folder, "--print-whole-digest", "--json")[1])["whole_digest"] == out.strip()
    assert cli("verify", folder, "--whole-digest", out.strip())[0] == 0


def test_every_change_shows(folder: Path, tmp_path: Path):
    before = whole_digest(folder)
    seen = {before}
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        data = path.read_bytes()
        path.write_bytes(data + b"\n")
        seen.add(whole_digest(folder))
        path.unlink()
        seen.add(whole_digest(folder))
        path.with_name(path.name + "x").write_bytes(data)
        seen.add(whole_digest(folder))
        path.with_name(path.name + "x").rename(path)
    assert len(seen) == 1 + 3 * 7
    assert whole_digest(folder) == before


def test_a_name_cannot_stand_for_another_file(tmp_path: Path):
    """Two files have another digest than one file whose name contains the line of the second."""
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    (two / "a").write_text("x")
    (two / "b").write_text("y")
    line = subprocess.run(["sha256sum", "b"], cwd=two, capture_output=True, text=True, check=True).stdout
    (one / f"a\n{line.split()[0]}  b").parent.mkdir()
    (one / f"a\n{line.split()[0]}  b").write_text("x")
    assert whole_digest(one) != whole_digest(two)


@pytest.mark.parametrize("kind", ["link", "folder link", "fifo"])
def test_what_is_no_file_is_refused(folder: Path, cli: Cli, kind: str):
    digest = whole_digest(folder)
    if kind == "fifo":
        os.mkfifo(folder / "odd")
    else:
        (folder / "odd").symlink_to("README.md" if kind == "link" else "charts")
    with pytest.raises(SourceError, match="odd, which is a link or a special file"):
        whole_digest(folder)
    assert cli("verify", folder, "--print-whole-digest")[0] == 3
    status, out, _ = cli("verify", folder, "--whole-digest", digest)
    assert status == 1
    assert "odd is a link or a special file" in out


@pytest.mark.slow
def test_a_release_is_held_to_it(release: Path, cli: Cli):
    digest = cli("verify", release, "--print-whole-digest")[1].strip()
    assert cli("verify", release, "--whole-digest", digest)[0] == 0
    for name in ("README.md", next(p.name for p in (release / "reports").iterdir())):
        path = next(release.rglob(name))
        data = path.read_bytes()
        path.write_bytes(data + b" ")
        status, out, _ = cli("verify", release, "--whole-digest", digest)
        assert status == 1, name
        assert f"not {digest}" in out
        path.write_bytes(data)
    assert cli("verify", release, "--whole-digest", digest)[0] == 0
    assert cli("verify", release, "--whole-digest", "")[0] == 1, "a digest that is empty is none"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hf://owner/name", "--whole-digest", "sha256:0"), "of a folder, not of a repository"),
        (("hf://owner/name", "--print-whole-digest"), "of a folder, not of a repository"),
        ((".", "--print-whole-digest", "--digest", "sha256:0"), "checks nothing"),
        ((".", "--print-whole-digest", "--whole-digest", "sha256:0"), "checks nothing"),
        ((".",), "nothing says what . should hold"),
    ],
)
def test_what_cannot_be_asked(cli: Cli, words: tuple[str, ...], message: str):
    status, _, err = cli("verify", *words)
    assert status == 2
    assert message in err


def test_a_folder_that_is_not_there(cli: Cli, tmp_path: Path):
    status, _, err = cli("verify", tmp_path / "nothing", "--print-whole-digest")
    assert (status, "is not a folder" in err) == (3, True)


def test_the_digests_of_many_heads_cost_as_much_as_their_files():
    def seconds(count: int) -> float:
        files = {f"head-{i}/config.json": "0" * 64 for i in range(count)}
        begun = time.process_time()
        assert len(head_digests(files)) == count
        return time.process_time() - begun

    assert min(seconds(8_000) for _ in range(3)) < 24 * min(seconds(1_000) for _ in range(5))
