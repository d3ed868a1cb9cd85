"""Secrets of every kind are found in every place of a release, and none in ordinary files."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from publishing import planted
from publishing.folders import EXAMPLE, REPO
from publishing.ordinary import LINES
from publishing.places import PLACES, WORDS, jpeg, png, png_chunk, svg, text_of, weights
from support.hub_writes import WritableHub

from eagle3hub.publishing import sensitive
from eagle3hub.publishing.files import LocalFile, file_of_bytes, read_folder
from eagle3hub.publishing.secrets import is_placeholder
from eagle3hub.publishing.sensitive import safe_path, secret_problems

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
SOME = ("Hub access token", "GitHub fine-grained token", "W&B key", "AWS secret key", "bearer header", "NVIDIA key")


def found(path: str, data: bytes) -> list[str]:
    return [p.message for p in secret_problems(file_of_bytes(path, data)) if "looks like a secret" in p.message]


def in_file(path: Path, name: str) -> LocalFile:
    return LocalFile(name, path, path.stat().st_size, "", "")


def told(secret: str, text: str) -> bool:
    """Return whether ``text`` contains eight characters of the random part of a secret."""
    runs = [run for run in re.split(r"[^A-Za-z0-9+/_\-]+", secret) if len(run) >= 20]
    return any(run[i : i + 8] in text for run in runs for i in range(8, len(run) - 8))


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_every_kind_is_found_in_every_place(place: str):
    missed, leaked = [], []
    for kind in planted.KINDS:
        secret = planted.plant(kind)
        messages = found(*PLACES[place](secret))
        missed += [] if messages else [kind]
        leaked += [kind for message in messages if told(secret, message)]
    assert (missed, leaked) == ([], [])


@pytest.mark.parametrize("kind", planted.KINDS)
def test_a_kind_is_found_whatever_its_random_part_is(kind: str):
    assert all(found("NOTICE", text_of(planted.plant(kind, seed)).encode()) for seed in range(1, 12))


@pytest.mark.slow
@pytest.mark.parametrize("kind", planted.KINDS)
def test_a_secret_across_the_border_of_two_pieces_is_found(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sensitive, "_PIECE", 1024)
    monkeypatch.setattr(sensitive, "_OVERLAP", 4096)
    secret = planted.plant(kind)
    for before in range(max(0, 4096 - len(secret)), 4097, max(1, len(secret) // 5)):
        (tmp_path / "NOTICE").write_bytes(b"\n" * before + secret.encode() + b"\n" * 3000)
        messages = [p.message for p in secret_problems(in_file(tmp_path / "NOTICE", "NOTICE"))]
        assert any(m.startswith(f"NOTICE:{before + 1} holds") for m in messages), (before, messages)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_large_files_are_searched_to_their_end(tmp_path: Path, encoding: str):
    """Secrets are found at the borders of pieces, at the end, and in lines of millions of characters."""
    filling = "tau,2.5;" * (1 << 15)
    secret = [planted.plant(kind) for kind in SOME]
    with (tmp_path / "NOTICE").open("wb") as f:
        while f.tell() < (66 << 20 if encoding == "utf-8" else 20 << 20):
            f.write((filling if f.tell() % 5 else filling + "\n").encode(encoding))
            for border in (8 << 20, 16 << 20):
                if 0 < border - f.tell() < 1 << 20:
                    f.write(b"\n" + b"." * (border - f.tell() - 10) + b" " + secret[0].encode() + b"\n")
        f.write(("\n\n" + "\n".join(secret)).encode(encoding))
    messages = [p.message for p in secret_problems(in_file(tmp_path / "NOTICE", "NOTICE"))]
    assert len(messages) == 2 + len(SOME)
    assert not any(told(s, m) for s in secret for m in messages)


def _wrapped(text: str, width: int, mark: str) -> str:
    return mark + f"\n{mark}".join(text[i : i + width] for i in range(0, len(text), width))


def _in_words(secret: str) -> bytes:
    return f"{'w' * 41} {secret} {'w' * 50}".encode()


HIDDEN: dict[str, Callable[[str], str | bytes]] = {
    **{
        f"base64 behind {len(before)} characters of a name": lambda s, b=before: (
            b + base64.b64encode(_in_words(s)).decode()
        )
        for before in ("a_name/", "a_name_", "some_name-", "run/x/", "a_long_identifier_of_many_words_\n")
    },
    "base64 in an indented block": lambda s: _wrapped(base64.b64encode(_in_words(s)).decode(), 76, "    "),
    "base64 in a quotation": lambda s: _wrapped(base64.b64encode(_in_words(s)).decode(), 64, "> "),
    "base64 in short lines": lambda s: _wrapped(base64.b64encode(_in_words(s)).decode(), 20, ""),
    "base64 with line breaks in JSON": lambda s: json.dumps(
        {"a": _wrapped(base64.b64encode(_in_words(s)).decode(), 60, "")}
    ),
    "base64 of base64": lambda s: base64.b64encode(base64.b64encode(_in_words(s))),
    "base64 of UTF-16": lambda s: base64.b64encode(_in_words(s).decode().encode("utf-16-le")),
    "gzip in base64": lambda s: base64.b64encode(gzip.compress(_in_words(s), mtime=0)),
    "a picture in an SVG picture": lambda s: svg(
        '<image href="data:image/png;base64,'
        + base64.b64encode(png((b"zTXt", b"Comment\0\0" + zlib.compress(_in_words(s))))).decode()
        + '"/>'
    ),
    "hexadecimal digits": lambda s: s.encode().hex(),
    "octal escapes": lambda s: "".join(f"\\{ord(c):03o}" for c in s),
    "long escapes": lambda s: "".join(f"\\U{ord(c):08x}" for c in s),
    "two lines": lambda s: f"{s[:15]}\n{s[15:]}",
    "two lines, the first short": lambda s: f"{s[:12]}\n{s[12:]}",
    "two lines, the second short": lambda s: f"{s[:-8]}\n{s[-8:]}",
    "two lines of YAML": lambda s: f'note: "{s[:15]}\\\n  {s[15:]}"',
    "two strings of Python": lambda s: f'a = "{s[:15]}" "{s[15:]}"',
    "two spans of an SVG picture": lambda s: svg(f"{s[:15]}<tspan>{s[15:]}</tspan>"),
    "a comment inside": lambda s: svg(f"{s[:15]}<!-- -->{s[15:]}"),
    "Markdown inside": lambda s: f"{s[:15]}**{s[15:]}**",
    "a space without width inside": lambda s: f"{s[:15]}\u200b{s[15:]}",
    "pixels that are not packed": lambda s: png()[:8] + _stored_pixels(s),
    "bytes behind the pixels of a JPEG picture": lambda s: jpeg()[:-2] + f" {s} ".encode() + jpeg()[-2:],
}


def _stored_pixels(secret: str) -> bytes:
    row = b"\0" + f" {secret} ".encode().ljust(90)
    return (
        png_chunk(b"IHDR", struct.pack(">IIBBBBB", 90, 1, 8, 0, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(row, 0))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("how", HIDDEN)
@pytest.mark.parametrize("kind", ["Hub access token", "GitHub fine-grained token", "npm token"])
def test_a_secret_is_found_however_it_is_written(how: str, kind: str):
    secret = planted.plant(kind)
    hidden = HIDDEN[how](secret)
    messages = found("assets/a.svg", b"one\n" + hidden.encode() if isinstance(hidden, str) else hidden)
    assert messages, how
    assert not any(told(secret, m) for m in messages)


def test_the_line_of_a_wrapped_secret_is_told():
    text = "one\ntwo\n" + _wrapped(base64.b64encode(_in_words(planted.plant("npm token"))).decode(), 60, "  ")
    assert found("NOTICE", text.encode())[0].startswith("NOTICE:3 holds")
    secret = planted.plant("npm token")
    assert found("NOTICE", f"one\nabcdefghijklmno\npqrstuvwxyz\n{secret[:20]}\n{secret[20:]}".encode())[0].startswith(
        "NOTICE:4 holds"
    )


@pytest.mark.slow
def test_packed_texts_of_a_picture_are_bounded_together():
    bomb = (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (9 << 20)))
    assert found("assets/a.png", png(bomb)) == []
    (problem,) = secret_problems(file_of_bytes("assets/a.png", png(bomb, bomb)))
    assert "unpack to more than a picture of a card needs" in problem.message


def test_a_line_names_every_kind_in_it_and_long_lists_end():
    line = " ; ".join(planted.plant(kind) for kind in SOME)
    kinds = "AWS secret key, GitHub token, Hub access token, NVIDIA key, W&B key, bearer token"
    assert found("NOTICE", f"one\n{line}\n".encode()) == [f"NOTICE:2 holds what looks like a secret ({kinds})"]
    many = "\n".join(planted.plant("npm token", seed) for seed in range(200))
    messages = [p.message for p in secret_problems(file_of_bytes("NOTICE", many.encode()))]
    assert len(messages) == 51
    assert messages[-1] == "NOTICE holds what looks like secrets in more than 50 lines; no more are listed"


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_ordinary_lines_hold_no_secret(line: str):
    assert {place: m for place, make in PLACES.items() if (m := found(*make(line)))} == {}


@pytest.mark.slow
def test_no_random_value_is_taken_for_a_placeholder():
    rng = random.Random(14)
    for chars, count in ((planted.LETTERS, 34), (planted.WORD, 20), (planted.HEX, 32), (planted.URL64, 40)):
        assert not any(is_placeholder(planted.some(chars, count)(rng)) for _ in range(20_000))
    for placeholder in (
        "EMPTY",
        "string",
        "hf_xxxxxxxxxx",
        "YOUR_API_KEY",
        "<your token>",
        "${HF_TOKEN}",
        "1234567890",
    ):
        assert is_placeholder(placeholder)
    for real in ("hunter2horse9", "Tr0ub4dor&3", "xK9xxxxQp2Ls8", "your9Kq2pLsX8vRt4", "password9Kq2pL"):
        assert not is_placeholder(real)


@pytest.mark.slow
def test_ordinary_files_of_this_project_hold_no_secret():
    names = [p for d in ("docs", "examples", "schemas", "templates", "benchmarks") for p in (ROOT / d).rglob("*")]
    names += [ROOT / name for name in ("README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "CONTRIBUTING.md")]
    files = [p for p in names if p.is_file() and p.stat().st_size < 20 << 20]
    assert len(files) > 60
    messages = [p.message for f in files for p in secret_problems(in_file(f, f.relative_to(ROOT).as_posix()))]
    assert messages == []


@pytest.mark.slow
def test_texts_of_installed_packages_hold_no_secret():
    """Yield Yield READMEs, licenses and lists of digests that other people wrote."""
    site = Path(json.__file__).parent, Path(pytest.__file__).parents[1]
    patterns = ("*.dist-info/METADATA", "*.dist-info/RECORD", "*.dist-info/**/LICENSE*", "*/LICENSE*", "LICENSE*")
    files = [f for folder in site for pattern in patterns for f in sorted(folder.glob(pattern)) if f.is_file()]
    assert len(files) >= 40
    messages = [p.message for f in files for p in secret_problems(in_file(f, f.name))]
    assert [m for m in messages if "JSON Web Token" not in m] == [], "PyJWT's README shows a token"


def test_a_signature_and_digests_hold_no_secret(keys: Path, release: Path, tmp_path: Path):
    from eagle3hub.publishing.signing import sign_folder

    pytest.importorskip("model_signing")
    files, _ = read_folder(release)
    sign_folder(release, keys / "mine.pem", {f.path: f.sha256 for f in files})
    files, _ = read_folder(release)
    assert [p.message for f in files for p in secret_problems(f)] == []


def test_numbers_of_tensors_are_not_searched_but_their_files_are(tmp_path: Path):
    import numpy as np
    from safetensors.numpy import save

    text = np.frombuffer(f" {planted.plant('Hub access token')} ".encode(), np.uint8)
    assert list(secret_problems(file_of_bytes("model.safetensors", save({"t": text})))) == []
    whole = weights({"note": "none"})
    for broken, why in ((whole + b"x", "after its last tensor"), (whole[:40], "only 40 bytes"), (b"x" * 9, "")):
        (problem,) = secret_problems(file_of_bytes("model.safetensors", broken))
        assert "model.safetensors cannot be searched for secrets: it" in problem.message
        assert why in problem.message
        assert problem.code == "publish-secret"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (png()[:-3], "it ends before its IEND chunk"),
        (png((b"zTXt", b"a\0\0not zlib")), "zTXt chunk that cannot be unpacked"),
        (b"PK\x03\x04" + b"\0" * 60, "it is a ZIP archive, which is compressed"),
        (b"\x1f\x8b\x08" + b"\0" * 60, "it is a gzip file, which is compressed"),
        (b"\xff\xd8\xff\xe0\0\x04ab" + b"\0" * 60, "bytes between its segments"),
    ],
)
def test_what_cannot_be_searched_is_a_problem(data: bytes, why: str):
    (problem,) = secret_problems(file_of_bytes("assets/a.png", data))
    assert problem.message.startswith("assets/a.png cannot be searched for secrets: ")
    assert why in problem.message
    assert problem.hint


def test_a_file_that_is_gone_is_a_problem(tmp_path: Path):
    (problem,) = secret_problems(LocalFile("NOTICE", tmp_path / "NOTICE", 3, "", ""))
    assert problem.message == "NOTICE cannot be searched for secrets: No such file or directory"


FOR_NAMES = [k for k in planted.ONE_WORD if not set(planted.plant(k)) & set("/\n:")]


@pytest.mark.parametrize("kind", FOR_NAMES)
@pytest.mark.parametrize("path", ["{}", "reports/{}.json", "{}/config.json", "assets/run-{}-final.png"])
def test_names_are_searched_and_withheld(kind: str, path: str):
    secret = planted.plant(kind)
    (problem,) = [p for p in secret_problems(file_of_bytes(path.format(secret), b"text")) if "name of" in p.message]
    assert not told(secret, problem.message)
    assert "(withheld)" in safe_path(path.format(secret))
    assert safe_path("reports/specforge-cpu.json") == "reports/specforge-cpu.json"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["LICENSE in Latin-1", "UTF-16", "safetensors metadata", "PNG zTXt", "file name"])
def test_publish_refuses_it_and_tells_no_part_of_it(hub: WritableHub, release: Path, cli: Cli, place: str):
    secret = planted.plant("Hub access token")
    path, data = PLACES[place](secret) if place != "file name" else (f"reports/{secret}.json", b"{}")
    (release / path).parent.mkdir(exist_ok=True)
    (release / path).write_bytes(data)
    for more in ((), ("--json",), ("--dry-run",)):
        status, out, err = cli("publish", release, "--repo", REPO, *more)
        assert status == 1
        assert "publish-secret" in out
        assert not told(secret, out + err)
        assert hub.uploads == []


def test_the_example_is_ordinary():
    files = [p for p in EXAMPLE.rglob("*") if p.is_file()]
    assert [p.message for f in files for p in secret_problems(in_file(f, f.name))] == []
    assert found("README.md", WORDS.encode()) == []
