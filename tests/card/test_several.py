"""A manifest of several heads: what is shared, what is laid over it, and that errors still name the right line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eagle3hub.card.manifest import load_manifest, load_manifests
from eagle3hub.errors import ManifestError

Write = Callable[[str], Path]
SHARED = """\
schema: eagle3hub/manifest/1
target:
  id: owner/target
  license: apache-2.0
release:
  repo: owner/unused
  summary: A head.
  license: mit
layouts:
  main: specforge
  also: [modelopt]
speculative_tokens: 3
training:
  data: Alpaca
heads:
  - name: small
    head:
      source: small
    release:
      repo: owner/small
  - name: large
    head:
      source: hf://owner/trained@epoch-4
    release:
      repo: owner/large
      summary: A larger head.
    layouts:
      also: []
    speculative_tokens: 5
    training:
      schedule: 3 epochs
"""


def test_each_is_laid_over_what_all_share(write: Write) -> None:
    path = write(SHARED)
    small, large = load_manifests(path)
    assert (small.name, small.release.repo, small.release.summary) == ("small", "owner/small", "A head.")
    assert (large.name, large.release.repo, large.release.summary) == ("large", "owner/large", "A larger head.")
    assert (small.head_source, large.head_source) == (str(path.parent / "small"), "hf://owner/trained@epoch-4")
    assert (list(small.layouts), list(large.layouts)) == (["specforge", "modelopt"], ["specforge"])
    assert (small.validate.draft_tokens, large.validate.draft_tokens) == (3, 5)
    assert large.training.facts == (("Data", "Alpaca"), ("Schedule", "3 epochs"))
    assert load_manifest(f"{path}#large") == large
    assert load_manifests(f"{path}#small") == [small]


def test_a_file_with_that_name_is_meant_first(write: Write) -> None:
    path = write(SHARED.partition("heads:")[0].replace("release:", "head: {source: one}\nrelease:", 1))
    odd = path.rename(path.with_name("release#small.yaml"))
    assert load_manifest(odd).name is None


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("name: large", "name: small", 21, "two heads are called 'small'"),
        ("repo: owner/large", "repo: owner/small", 21, "the heads small and large both go to owner/small"),
        ("name: large", "name: Large", 21, 'heads[1].name is "Large"'),
        ("  - name: large\n    head:", "  - head:", 21, "'heads[1].name' is missing"),
        ("summary: A larger", "sumary: A larger", 26, "'release.sumary'; did you mean 'summary'"),
        ("    speculative_tokens: 5", "    speculative_tokens: 500", 29, "speculative_tokens is 500"),
        ("also: []", "also: [specforge]", 28, "'specforge' is already the main layout"),
        ("also: []", "engines: [vllm]", 28, "none of the layouts is made for engines"),
    ],
)
def test_errors_name_the_line_of_the_entry(write: Write, old: str, new: str, line: int, message: str) -> None:
    assert old in SHARED
    with pytest.raises(ManifestError) as caught:
        load_manifests(write(SHARED.replace(old, new)))
    assert caught.value.message.startswith(f"release.yaml:{line}: ")
    assert message in caught.value.message


def test_a_name_that_does_not_fit(write: Write) -> None:
    path = write(SHARED)
    for address, words, hint in (
        (path, "has the heads small, large: name one", "release.yaml#small"),
        (f"{path}#medium", "there is no head 'medium'", "release.yaml#small"),
    ):
        with pytest.raises(ManifestError) as caught:
            load_manifest(address)
        assert caught.value.code == "manifest-heads"
        assert words in caught.value.message
        assert hint in (caught.value.hint or "")
    path = write(SHARED.partition("heads:")[0])
    with pytest.raises(ManifestError, match="one head, which has no name"):
        load_manifest(f"{path}#small")
