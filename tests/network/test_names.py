"""The names from a server that may become a path, an address or a line of output, and those that may not."""

from __future__ import annotations

import pytest

from eagle3hub.network import names
from eagle3hub.network.bounds import Exceeded

OID = "0123456789abcdef" * 2 + "01234567"
BAD_PATHS = [
    *("", "/", "/etc/passwd", "..", "../x", "a/../b", "a/./b", "a//b", "a/", "./a", "a\\b", "..\\x"),
    *("a\0b", "a\nb", "a\x1b[2Jb", "a\u202eb", "x" * 300, "a/" * 600 + "a", None, 3, ["a"], {"a": 1}),
]
BAD_REFS = [
    *("", "a b", "a..b", "/a", "a/", "a//b", ".a", "a/.b", "a.lock", "a~1", "a^", "a:b", "a?b", "a*", "a[b", "a\\b"),
    *("a\x07", "a\u202eb", "x" * 300, None, 1, ["main"]),
]
BAD_ETAGS = ["", ".", "..", "/tmp/x", "a/b", "a\\b", ".hidden", "a b", "a\0", "x" * 200, "..%2f", "-rf", "a.lock"]
BAD_WORDS = ["", "a/b", "..", "a b", "-a", "a\n", "a\n\n", "\u0430dmin", "x" * 200, None, 5]


@pytest.mark.parametrize("bad", BAD_PATHS, ids=ascii)
def test_paths(bad: object) -> None:
    with pytest.raises(Exceeded) as error:
        names.path(bad)
    assert error.value.kind == "name"
    assert error.value.says.isprintable()
    assert len(error.value.says) < 200


@pytest.mark.parametrize("bad", BAD_REFS, ids=ascii)
def test_refs(bad: object) -> None:
    with pytest.raises(Exceeded):
        names.ref(bad, "branch")


@pytest.mark.parametrize("bad", BAD_ETAGS, ids=ascii)
def test_etags(bad: object) -> None:
    with pytest.raises(Exceeded):
        names.etag(bad, "ETag")


@pytest.mark.parametrize("bad", BAD_WORDS, ids=ascii)
def test_words(bad: object) -> None:
    with pytest.raises(Exceeded):
        names.word(bad, "account")


@pytest.mark.parametrize("bad", [OID[:-1], OID + "0", OID.upper(), OID + "\n", "main", "", None, 7], ids=ascii)
def test_ids(bad: object) -> None:
    for check in (names.oid, names.sha256):
        with pytest.raises(Exceeded):
            check(bad, "commit")


@pytest.mark.parametrize(
    "bad",
    [
        "http://other/x",
        "https://hub.example.evil/x",
        "https://hub.example:444/",
        "http://hub.example/x",
        "/x",
        "",
        None,
        "https://hub.example/\x1b[2J",
        "https://hub.example/a b",
        "javascript:alert(1)",
        "https://[",
        "https://hub.example:x",
    ],
    ids=ascii,
)
def test_addresses(bad: object) -> None:
    with pytest.raises(Exceeded):
        names.address(bad, "https://hub.example")


@pytest.mark.parametrize("bad", ["refs/pr/x", "refs/heads/1", "refs/pr/", "refs/pr/1/2", "refs/pr/1\n", None])
def test_pull_requests(bad: object) -> None:
    with pytest.raises(Exceeded):
        names.pull(bad)


def test_what_is_right() -> None:
    assert names.path("specforge/model-00001-of-00002.safetensors")
    assert names.path("Größe/読.json")
    assert names.path(".gitattributes")
    assert names.ref("feature/x-1.0", "branch")
    assert names.ref("größe", "tag")
    assert names.etag("d41d8cd98f00b204e9800998ecf8427e-38", "ETag")
    assert names.oid(OID, "commit")
    assert names.pull("refs/pr/12")
    assert names.word("alice-2.b_c", "account")
    assert names.address("https://hub.example/a/b/discussions/1", "https://hub.example")
