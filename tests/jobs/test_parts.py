"""The sealed report in a log, the command of a container, and the images."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from eagle3hub.engines import ENGINES
from eagle3hub.engines.specs import recipe_versions
from eagle3hub.errors import HubError, UnavailableError
from eagle3hub.jobs.collect import Sealed, seal
from eagle3hub.jobs.plan import Command, image_for, parse_command

DOCUMENT = random.Random(0).randbytes(5000)


def test_a_document_survives_noise_doubling_and_disorder() -> None:
    lines = seal(DOCUMENT, "abc") * 2
    random.Random(1).shuffle(lines)
    sealed = Sealed("abc")
    for i, line in enumerate(lines):
        assert not sealed.take(f"noise {i}")
        assert not sealed.take(f"said: {line}")
        assert sealed.take(f"  {line}\r")
    assert sealed.complete
    assert sealed.document() == DOCUMENT
    assert max(len(line) for line in lines) < 1000


@pytest.mark.parametrize("missing", range(9))
def test_every_line_counts_but_one_of_the_marks(missing: int) -> None:
    lines = seal(DOCUMENT, "abc")
    sealed = Sealed("abc")
    for i, line in enumerate(lines):
        if i != missing:
            sealed.take(line)
    assert sealed.begun
    assert sealed.complete == (missing in (0, len(lines) - 1) or missing >= len(lines))
    if not sealed.complete:
        with pytest.raises(HubError, match="breaks off"):
            sealed.document()


def test_changed_bytes_are_found() -> None:
    lines = seal(DOCUMENT, "abc")
    sealed = Sealed("abc")
    for line in (lines[0], *reversed(lines[1:])):
        sealed.take(line.replace("A", "B") if " 3 " in line else line)
    with pytest.raises(HubError, match="SHA-256"):
        sealed.document()


@pytest.mark.slow
def test_sealing_in_a_pipe() -> None:
    command = [sys.executable, "-m", "eagle3hub.jobs.collect", "abc"]
    done = subprocess.run(command, input=DOCUMENT, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == seal(DOCUMENT, "abc")
    assert subprocess.run(command, input=b"\n", capture_output=True).returncode == 1


def test_what_is_typed_stays_an_argument() -> None:
    hostile = Command("n", "pkg; rm -rf /", "reference", ("validate", "hf://a/b", "--target", "$(reboot)/`x`"))
    argv = hostile.argv()
    assert "reboot" not in argv[2]
    assert parse_command(argv) == hostile
    assert parse_command(["sh", "-c", "true"]) is None
    assert parse_command([*argv[:7], "bench", "hf://a/b"]) is None


def test_the_engine_is_given_the_images_own_interpreter(tmp_path) -> None:
    fake = tmp_path / "python3"
    inside = tmp_path / "home" / "bin" / "python"
    fake.write_text(
        f'#!/bin/sh\nfor last; do :; done\nmkdir -p "$last/bin"\n'
        f'printf \'#!/bin/sh\\necho "$@" >> {tmp_path}/calls\\n\' > "$last/bin/python"\nchmod +x "$last/bin/python"\n'
    )
    fake.chmod(0o755)
    command = Command("n", "eagle3hub", "vllm", ("validate", "hf://a/b"))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    subprocess.run(command.argv(), env=environment, check=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].endswith("install --quiet --no-input --disable-pip-version-check eagle3hub")
    assert f"-m eagle3hub validate hf://a/b --engine-python vllm={fake} --json" in calls
    assert not inside.exists()


def test_an_image_is_pinned_to_a_version_that_is_known() -> None:
    for engine in ENGINES:
        if engine in ("sglang_jax", "llamacpp"):
            with pytest.raises(UnavailableError, match="no image"):
                image_for([engine])
            continue
        image = image_for(["reference", engine])
        assert image.version in recipe_versions(engine)
        assert image.version in image.address
    assert image_for(["reference"]).by_digest
