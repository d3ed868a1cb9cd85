"""The check of each kind of file: it accepts a correct file, and refuses it after each change."""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmarking.serving_samples import Table, plan
from card.card_samples import EXAMPLE, MINIMAL
from publishing.folders import REPO
from publishing.places import exif, jpeg, png, png_chunk, svg, weights
from safetensors.numpy import save
from support.hub_writes import WritableHub

from eagle3hub.benchmarking.serving.measure import run_serving
from eagle3hub.publishing import kinds
from eagle3hub.publishing.files import digest_list, file_of_bytes, read_folder

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
ELF = b"\x7fELF\x02\x01\x01" + bytes(200)
SCRIPT = b"#!/bin/sh\nrm -rf /\n"
HTML = b"<!DOCTYPE html>\n<html><body><script>alert(1)</script></body></html>\n"


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return made.getvalue()


DISGUISES = {
    "an ELF program": ELF,
    "a ZIP archive": zipped(),
    "a pickle": pickle.dumps({"a": [1, 2, 3]}, 4),
    "an HTML page": HTML,
    "a script to be run": SCRIPT,
    "a gzip file": b"\x1f\x8b\x08" + bytes(60),
    "a PDF file": b"%PDF-1.7\n%\xe2\xe3\n" + bytes(60),
    "a Windows program": b"MZ\x90" + bytes(80),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n",
}
CITATION = b"cff-version: 1.2.0\nmessage: Cite it.\ntitle: A head\nauthors:\n  - name: Alice\n"
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "BPE", "vocab": {"a": 0, "\u202e": 1}, "merges": []},
}
ENVELOPE = {"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": "aa"}]}
BUNDLE = {
    "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
    "verificationMaterial": {},
    "dsseEnvelope": ENVELOPE,
}


def js(document: object) -> bytes:
    return json.dumps(document).encode()


TEMPLATE = "templates/_limitations.md.j2"
IMPORTED = EXAMPLE.parents[1] / "cards" / "qwen3-8b-specjax" / "imported.yaml"

WHOLE: dict[str, bytes] = {
    "model.safetensors": weights({"format": "pt"}),
    "modelopt/model-00001-of-00002.safetensors": weights(),
    "config.json": js({"architectures": ["LlamaForCausalLMEagle3"], "hidden_size": 64}),
    "generation_config.json": js({"eos_token_id": [1, 2], "do_sample": True}),
    "model.safetensors.index.json": js({"metadata": {"total_size": 1}, "weight_map": {"a": "model.safetensors"}}),
    "hf_quant_config.json": js({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}),
    "tokenizer.json": json.dumps(TOKENIZER, ensure_ascii=False).encode(),
    "tokenizer_config.json": js({"tokenizer_class": "Qwen2Tokenizer", "model_max_length": 1e30}),
    "special_tokens_map.json": js({"eos_token": {"content": "</s>"}, "additional_special_tokens": []}),
    "release.json": js(
        {
            "schema": "eagle3hub/release/1",
            "tool": {"name": "eagle3hub", "version": "0.1.0"},
            "charts": None,
            "waived": [],
            "files": [],
        }
    ),
    "release.yaml": MINIMAL.encode(),
    "imported/1.yaml": IMPORTED.read_bytes(),
    "model.sig": js(BUNDLE),
    "README.md": "---\nlicense: mit\n---\n# Köpfe 🦅\n<div align=center>τ = 2.5</div>\n".encode(),
    "LICENSE": b"GNU GENERAL PUBLIC LICENSE\n\f\nVersion 2\r\n",
    "NOTICE.txt": b"Built with Llama\n",
    "CITATION.cff": CITATION,
    "chat_template.jinja": b"{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    b"{% if loop.last %}{% break %}{% endif %}{% endfor %}",
    "SHA256SUMS": digest_list([file_of_bytes("a", b"b")]).head(1000),
    "assets/a.png": png((b"tEXt", b"Software\0drawn"), (b"pHYs", bytes(9)), (b"iCCP", b"p\0\0" + zlib.compress(b"x"))),
    "assets/a.jpg": jpeg((0xFE, b"drawn"), (0xE1, b"Exif\0\0" + exif("a"))),
    "assets/a.jpeg": jpeg(),
    "charts/a.svg": svg("τ"),
}


def why(path: str, data: bytes) -> str | None:
    kind = kinds.file_kind(path)
    assert kind is not None
    return kinds.mismatch(file_of_bytes(path, data), kind)


def test_a_measurement_under_load_is_a_benchmark():
    found = run_serving(plan(), Table()).to_json()
    assert why("benchmarks/1.json", json.dumps(found).encode()) is None


@pytest.mark.parametrize("path", WHOLE)
def test_whole_files_of_every_kind_pass(path: str):
    assert why(path, WHOLE[path]) is None


def test_every_line_of_the_table_is_tried():
    tried = {kinds.file_kind(path) for path in WHOLE} | {kinds.file_kind(f"reports/{n}.json") for n in ("a", "b")}
    tried |= {kinds.file_kind("eagle3hub.json"), kinds.file_kind(TEMPLATE)}
    assert tried == {kind for _, kind in kinds.FILE_KINDS}


def test_a_template_of_a_card_is_one_that_can_be_read():
    assert why(TEMPLATE, b"## Ours\n\n{{ release.repo }}\n") is None
    assert why(TEMPLATE, b"## Ours\n") is None
    assert why(TEMPLATE, b"{% if x %}") == "is not a template of a card: it is not a Jinja template"
    assert why(TEMPLATE, b"\x7fELF\x02\x01\x01\0") is not None


@pytest.mark.parametrize("path", [*WHOLE, "eagle3hub.json", "reports/a.json"])
@pytest.mark.parametrize("what", DISGUISES)
def test_no_other_kind_passes_under_a_name(path: str, what: str):
    told = why(path, DISGUISES[what])
    assert told is not None
    assert told.startswith(f"is {what}") or what in ("an HTML page", "a script to be run")
    for other, data in WHOLE.items():
        if kinds.file_kind(other) is not kinds.file_kind(path) and not path.endswith((".md", "LICENSE", "NOTICE.txt")):
            assert why(path, data) is not None, other


def test_empty_and_cut_files():
    for path, data in WHOLE.items():
        assert why(path, b"") == f"is empty, not {kinds.file_kind(path).name}"
        if not path.endswith((".md", "LICENSE", ".txt", ".cff")):
            assert why(path, data[: len(data) // 2]) is not None, path


def test_nothing_may_follow_a_whole_file():
    for path, data in WHOLE.items():
        if not path.endswith((".md", "LICENSE", ".txt")):
            for more in (ELF, zipped(), b"\0"):
                assert why(path, data + more) is not None, path
    assert "bytes after" in why("assets/a.png", png(after=b"x"))
    assert "bytes after" in why("assets/a.jpg", jpeg(after=b"x"))
    assert "after its last tensor" in why("model.safetensors", weights() + zipped())


JSON_FAULTS = {
    b'{"model_type": "a", "model_type": "b"}': "has the name 'model_type' twice in one object",
    b'{"model_type": "a", "x": NaN}': "holds NaN, which JSON does not have",
    b'{"model_type": "a", "x": -Infinity}': "holds -Infinity",
    b'{"model_type": "a", "x": 1e999}': "has a number that is not finite",
    b'{"model_type": "a"} {}': "is not valid JSON: line 1: Extra data",
    b"[1]": "is JSON, but not an object",
    b"[" * 100_000: "nests too deeply",
    b'{"model_type": "a", "x": ' + b"9" * 10_000 + b"}": "a number is too long",
    b'{"a": 1}': "does not fit the configuration of a model",
    b'{"model_type": 3}': "model_type is 3",
    b'{"model_type": "\xff"}': "line 1 that are not UTF-8",
    '{"model_type": "a", "x": "\u202e"}'.encode(): "turns the direction of text, U+202E",
    '\ufeff{"model_type": "a"}'.encode(): "",
}


@pytest.mark.parametrize("data", JSON_FAULTS, ids=[str(i) for i in range(len(JSON_FAULTS))])
def test_json_is_strict_and_in_its_role(data: bytes):
    told = why("config.json", data)
    assert told is not None
    assert JSON_FAULTS[data] in told


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("reports/notes.json", {"any": "thing"}),
        ("reports/notes.json", {"schema": "eagle3hub/provenance/1"}),
        ("reports/notes.json", {"schema": "eagle3hub/report/1"}),
        ("benchmarks/a.json", {"schema": "eagle3hub/bench/1"}),
        ("eagle3hub.json", {"schema": "eagle3hub/provenance/1"}),
        ("generation_config.json", {"aws": 1}),
        ("model.safetensors.index.json", {"weight_map": {"a": "../../etc/passwd.safetensors"}}),
        ("model.safetensors.index.json", {"weight_map": {"a": "pytorch_model.bin"}}),
        ("hf_quant_config.json", {"quantization": {}, "cmd": "x"}),
        ("tokenizer.json", {"model": {"vocab": {}}, "auto_map": {}}),
        ("tokenizer_config.json", {"x": 1}),
        ("special_tokens_map.json", {"password": "x"}),
        ("model.sig", {**BUNDLE, "more": 1}),
        ("model.sig", {**BUNDLE, "dsseEnvelope": {**ENVELOPE, "payload": "<script>"}}),
    ],
)
def test_json_of_another_role_is_refused(path: str, document: object):
    assert "not fit" in (told := why(path, js(document)) or "") or "does not state the schema" in told


@pytest.mark.parametrize("character", "\0\x01\x08\x0b\x1b\x7f\x85\u202a\u202e\u2066\u2069\ufeff")
@pytest.mark.parametrize("path", ["README.md", "LICENSE", "CITATION.cff", "chat_template.jinja", "charts/a.svg"])
def test_text_holds_nothing_unseen(path: str, character: str):
    told = why(path, WHOLE[path] + f"\na{character}b".encode())
    assert f"U+{ord(character):04X}, in line" in told
    assert why(path, WHOLE[path] + "ä".encode("latin-1")) is not None


def test_encodings_of_text():
    assert why("LICENSE", "Copyright © Ä".encode("latin-1")) == (
        "is not plain text: it holds bytes in line 1 that are not UTF-8 text (save it as UTF-8)"
    )
    assert why("LICENSE", "text".encode("utf-16")) == "is text in UTF-16, not plain text"
    assert why("README.md", b"# A\n\fB\n") is not None, "form feeds are for licenses"


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        ("CITATION.cff", CITATION + b"x: &a [1]\ny: *a\n", "an anchor"),
        ("CITATION.cff", CITATION + b"x: !!python/object/apply:os.system [id]\n", "a tag"),
        ("CITATION.cff", b"title: x\n", "lacks fields"),
        ("CITATION.cff", b"a: [\n", "not valid YAML"),
        ("chat_template.jinja", b"plain words\n", "nothing that a template fills in"),
        ("chat_template.jinja", b"{% if x %}", "is not a Jinja template"),
        ("SHA256SUMS", b"x  y\n", "not a list of digests"),
    ],
)
def test_other_texts(path: str, data: bytes, words: str):
    assert words in why(path, data)


HEADER = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)
IDAT = zlib.compress(b"\0\1\2" * 2)


def chunked(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png((b"juNK", b"x")), "a chunk of a kind"),
        (png((b"acTL", bytes(8))), "acTL"),
        (png((b"zTXt", b"a\0\0" + zlib.compress(b"x") + ELF)), "followed by more"),
        (png((b"zTXt", b"a\0\0" + zlib.compress(bytes(20 << 20)))), "too large"),
        (png()[:40] + b"\xff" + png()[41:], "check sum"),
        (chunked((b"IHDR", HEADER), (b"IDAT", IDAT + ELF), (b"IEND", b"")), "bytes after"),
        (chunked((b"IHDR", HEADER), (b"IDAT", IDAT), (b"IDAT", ELF), (b"IEND", b"")), "bytes after"),
        (chunked((b"IHDR", HEADER), (b"IDAT", zlib.compress(bytes(5))), (b"IEND", b"")), "fewer pixels"),
        (chunked((b"IHDR", HEADER), (b"IDAT", zlib.compress(bytes(9 << 20))), (b"IEND", b"")), "more bytes"),
        (chunked((b"IHDR", HEADER), (b"IDAT", b"junk"), (b"IEND", b"")), "cannot be unpacked"),
        (chunked((b"IHDR", HEADER), (b"IEND", b"")), "no pixels"),
        (chunked((b"IHDR", HEADER), (b"IDAT", IDAT), (b"IEND", ELF)), "empty IEND"),
        (
            chunked(
                (b"IHDR", struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 0, 0, 0, 0)), (b"IDAT", IDAT), (b"IEND", b"")
            ),
            "×",
        ),
    ],
)
def test_png(data: bytes, words: str):
    assert words in why("assets/a.png", data)


@pytest.mark.parametrize(
    ("mode", "size"), [("RGBA", (33, 7)), ("P", (5, 5)), ("1", (17, 3)), ("L", (1, 1)), ("I;16", (4, 4))]
)
def test_png_pictures_of_every_mode_pass(mode: str, size: tuple[int, int]):
    from PIL import Image

    made = io.BytesIO()
    Image.new(mode, size).save(made, "PNG")
    assert why("assets/a.png", made.getvalue()) is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (jpeg((0xE5, b"x")), "FFE5"),
        (jpeg()[:2] + b"\xff\xc4\0\x04ab" + jpeg()[2:200] + b"\xff\xd9", ""),
        (jpeg()[:-2], "before its pixels do"),
        (jpeg()[:300] + jpeg()[320:], ""),
        (b"\xff\xd8\xff\xd9", "no pixels"),
    ],
)
def test_jpeg(data: bytes, words: str):
    told = why("assets/a.jpg", data)
    assert told is not None
    assert words in told


def test_progressive_and_colour_jpeg_pass():
    from PIL import Image

    for options in (
        {},
        {"progressive": True},
        {"comment": b"x"},
        {"icc_profile": b"y" * 300},
        {"restart_marker_rows": 1},
    ):
        made = io.BytesIO()
        Image.effect_noise((64, 48), 80).convert("RGB").save(made, "JPEG", **options)
        assert why("assets/a.jpg", made.getvalue()) is None, options


def drawn(inside: str, *, root: str = "", before: str = "") -> bytes:
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n{before}<svg xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" {root}>{inside}</svg>'
    ).encode()


SVG_FAULTS = {
    "script": ("<script>alert(1)</script>", "", "", "the element script"),
    "nested script": ("<g><defs><script href='#a'/></defs></g>", "", "", "the element script"),
    "foreignObject": (
        "<foreignObject><p xmlns='http://www.w3.org/1999/xhtml'/></foreignObject>",
        "",
        "",
        "foreignObject",
    ),
    "html element": ("<p xmlns='http://www.w3.org/1999/xhtml'>x</p>", "", "", "the element p"),
    "event": ("", "onload='alert(1)'", "", "the attribute onload"),
    "event within": ("<rect onclick='x()'/>", "", "", "the attribute onclick"),
    "link": ("<a xlink:href='javascript:alert(1)'><text>x</text></a>", "", "", "the element a"),
    "animation": ("<animate attributeName='href' to='x'/>", "", "", "the element animate"),
    "set": ("<set attributeName='onload' to='x'/>", "", "", "the element set"),
    "use elsewhere": ("<use xlink:href='https://example.org/a.svg#b'/>", "", "", "refers to something outside"),
    "use by href": ("<use href='//example.org/a.svg#b'/>", "", "", "refers to something outside"),
    "use data": ("<use href='data:image/svg+xml;base64,PHN2Zy8+'/>", "", "", "refers to something outside"),
    "image elsewhere": ("<image href='http://example.org/a.png'/>", "", "", "refers to something outside"),
    "image data html": ("<image href='data:text/html;base64,PGI+'/>", "", "", "refers to something outside"),
    "image of svg": ("<image href='data:image/svg+xml;base64,PHN2Zy8+'/>", "", "", "refers to something outside"),
    "image that is none": (
        f"<image href='data:image/png;base64,{base64.b64encode(ELF).decode()}'/>",
        *("", "", "does not begin like a PNG picture"),
    ),
    "style url": ("<rect style='fill: url(http://example.org/x)'/>", "", "", "a style or value"),
    "style import": ("<style>@import 'http://example.org/a.css';</style>", "", "", "a style or value"),
    "style escape": (r"<style>*{background: \75rl(x)}</style>", "", "", "a style or value"),
    "style split": ("<style>*{fill: u/**/rl(http://x)}</style>", "", "", "a style or value"),
    "style in cdata": ("<style><![CDATA[@import url(x);]]></style>", "", "", "a style or value"),
    "fill elsewhere": ("<rect fill='url(http://example.org/x#y)'/>", "", "", "a style or value"),
    "style sheet": ("", "", "<?xml-stylesheet href='http://example.org/x.css'?>", "an instruction to programs"),
    "entity": ("<text>&a;</text>", "", '<!DOCTYPE svg [<!ENTITY a "b">]>', "declarations of its own"),
    "external entity": (
        "&a;",
        "",
        '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        "declarations of its own",
    ),
    "attribute list": ("", "", "<!DOCTYPE svg [<!ATTLIST svg onload CDATA 'x'>]>", "declarations of its own"),
    "other document type": ("", "", "<!DOCTYPE svg SYSTEM 'http://example.org/x.dtd'>", "document type other than"),
    "not well-formed": ("<g>", "", "", "not well-formed XML"),
    "xml base": ("", "xml:base='http://example.org/'", "", "the attribute base"),
    "deep": ("<g>" * 200 + "</g>" * 200, "", "", "more elements"),
    "handler element": ("<handler type='x'/>", "", "", "the element handler"),
    "metadata script": ("<metadata><x:script xmlns:x='urn:x'/></metadata>", "", "", "the element script"),
}


@pytest.mark.parametrize("name", SVG_FAULTS)
def test_svg_that_runs_or_fetches_something(name: str):
    inside, root, before, words = SVG_FAULTS[name]
    assert words in why("charts/a.svg", drawn(inside, root=root, before=before))
    assert why("charts/a.svg", drawn("<text>x</text>")) is None


def test_svg_of_another_root_or_encoding():
    assert "not svg" in why("charts/a.svg", b'<?xml version="1.0"?><svg>x</svg>')
    assert why("charts/a.svg", b"<html xmlns='http://www.w3.org/1999/xhtml'/>") is not None
    assert "another encoding" in why("charts/a.svg", drawn("").replace(b"utf-8", b"utf-7"))
    assert why("charts/a.svg", svg("a").decode().encode("utf-16")) is not None


@pytest.mark.slow
def test_everything_that_matplotlib_draws_passes():
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.tri import Triangulation

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for fonts in ("path", "none"):
            matplotlib.rcParams["svg.fonttype"] = fonts
            figure = Figure()
            axes = figure.subplots(2, 2).ravel()
            axes[0].plot([1, 2], [3, 1], marker="o", label="$\\tau$ & <b>", linestyle="--")
            axes[0].legend(title="K = 5")
            axes[1].bar([1, 2], [3, 4], hatch="//", alpha=0.5)
            axes[2].imshow(np.arange(12).reshape(3, 4))
            axes[3].tripcolor(Triangulation([0, 1, 0], [0, 0, 1]), [0.0, 1.0, 2.0], shading="gouraud")
            made = io.BytesIO()
            figure.savefig(made, format="svg", metadata={"Title": "a", "Creator": "b", "Keywords": ["c", "d"]})
            assert why("charts/a.svg", made.getvalue()) is None
            made = io.BytesIO()
            figure.savefig(made, format="png")
            assert why("charts/a.png", made.getvalue()) is None


def test_pictures_and_documents_of_this_project_pass():
    paths = [p for folder in ("docs", "examples") for p in (ROOT / folder).rglob("*") if p.suffix in (".svg", ".png")]
    assert len(paths) >= 8
    assert {p.name: m for p in paths if (m := why(f"assets/{p.name}", p.read_bytes()))} == {}
    assert why("README.md", (ROOT / "README.md").read_bytes()) is None
    assert why("LICENSE", (ROOT / "LICENSE").read_bytes()) is None
    assert why("CITATION.cff", (ROOT / "CITATION.cff").read_bytes()) is None


@pytest.mark.slow
def test_headers_whose_length_looks_like_a_pickle(hub: WritableHub, release: Path, cli: Cli):
    """A safetensors file whose header has 0x0280, 0x0380, 0x0480 or 0x0580 bytes begins like a pickle."""
    for length in (0x280, 0x380, 0x480, 0x580):
        tensors = {f"t{i}": np.zeros(2, np.float16) for i in range(4)}
        bare = len(save(tensors, metadata={"a": ""})) - 8 - 16
        data = save(tensors, metadata={"a": "x" * (length - bare)})
        while int.from_bytes(data[:8], "little") > length:
            bare += 1
            data = save(tensors, metadata={"a": "x" * (length - bare)})
        assert data[:2] == bytes([0x80, length >> 8])
        assert why("model.safetensors", data) is None
        (release / "model-extra.safetensors").write_bytes(data)
        _, out, _ = cli("publish", release, "--repo", REPO, "--json")
        assert [p for p in json.loads(out)["problems"] if p["code"] in ("publish-pickle", "publish-kind")] == []


@pytest.mark.parametrize(
    ("path", "data", "code", "words"),
    [
        ("assets/chart.png", ELF, "publish-kind", "assets/chart.png is an ELF program, not a PNG picture"),
        (
            "assets/chart.svg",
            drawn("<script/>"),
            "publish-kind",
            "assets/chart.svg is not an SVG picture: it holds the element script",
        ),
        ("reports/notes.json", b'{"a": 1}', "publish-kind", "reports/notes.json is not a report or benchmark"),
        ("LICENSE", SCRIPT, "publish-kind", "LICENSE is a script to be run, not plain text"),
        ("assets/chart.png", zipped(), "publish-pickle", "assets/chart.png is a ZIP archive, not a PNG picture"),
        ("NOTICE", pickle.dumps([1]), "publish-pickle", "NOTICE is a pickle, not plain text"),
        ("notes.json", b"{}", "publish-outside", "notes.json does not belong to a release"),
        ("assets/run.py", b"print()", "publish-outside", "assets/run.py does not belong to a release"),
        ("reports/a.png", png(), "publish-outside", "reports/a.png does not belong to a release"),
        ("a/b/README.md", b"x", "publish-outside", "a/b/README.md does not belong to a release"),
        ("README.md\n", b"x", "publish-outside", "does not belong to a release"),
    ],
)
def test_publish_refuses_it(hub: WritableHub, release: Path, cli: Cli, path: str, data: bytes, code: str, words: str):
    (release / path).parent.mkdir(parents=True, exist_ok=True)
    (release / path).write_bytes(data)
    status, out, _ = cli("publish", release, "--repo", REPO, "--json")
    assert status == 1
    assert any(p["code"] == code and words in p["message"] for p in json.loads(out)["problems"]), out
    assert hub.uploads == []


def test_a_release_is_of_its_kinds(release: Path):
    files, _ = read_folder(release)
    assert {f.path: why(f.path, f.head(f.size)) for f in files} == dict.fromkeys([f.path for f in files])


GROWING: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "open brackets": ("CITATION.cff", lambda n: b"[" * n),
    "open braces": ("CITATION.cff", lambda n: b"{a: " * n),
    "comments without an end": (
        "assets/a.svg",
        lambda n: b'<svg xmlns="http://www.w3.org/2000/svg" class="' + b"/*a" * n + b'"/>',
    ),
    "a name twice after many": (
        "config.json",
        lambda n: b"{" + b"".join(b'"a%d":1,' % i for i in range(n)) + b'"a%d":1}' % (n - 1),
    ),
}


@pytest.mark.parametrize("what", GROWING)
def test_what_a_check_costs_grows_as_the_file_does(what: str):
    """A file eight times as long takes about eight times as long, not 64 times as with a quadratic search."""
    path, make = GROWING[what]
    kind = kinds.file_kind(path)
    assert kind is not None

    def seconds(size: int) -> float:
        file = file_of_bytes(path, make(size))
        begun = time.process_time()
        kinds.mismatch(file, kind)
        return time.process_time() - begun

    seconds(10)
    assert min(seconds(16_000) for _ in range(3)) < 24 * max(min(seconds(2_000) for _ in range(5)), 0.002)


def test_open_brackets_of_a_citation_are_refused_as_that():
    kind = kinds.file_kind("CITATION.cff")
    assert kind is not None
    assert "opens more than 100 brackets" in str(kinds.mismatch(file_of_bytes("CITATION.cff", b"[" * 101), kind))
