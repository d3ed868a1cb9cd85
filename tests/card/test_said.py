"""What a lab has to say besides numbers: targets, links, data sets, engines, its own voice and headings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import card_samples as samples
import pytest
import yaml
from card_samples import MINIMAL
from huggingface_hub import ModelCard

from eagle3hub.card import load_manifest, render_text
from eagle3hub.card.imported import read_imported
from eagle3hub.errors import ManifestError

Write = Callable[[str], Path]
SAID = """
training:
  framework: SpecForge 0.2
  data_sets:
    - name: Chat
      id: owner/chat
      size: 1.4M conversations
      share: 62.5
      synthetic: 100
      made_by: owner/target
      license: cc-by-nc-4.0
    - {name: In-house, share: 37.5, synthetic: false, license: other, license_name: ours, license_link: LICENSE-DATA}
engines:
  - engine: sglang
    version: 0.5.9
    draft_tokens: 4
    topk: 2
    num_draft_tokens: 8
    env: {SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN: 1}
    flags: [--chunked-prefill-size, "2048"]
    pull_requests: [https://github.com/sgl-project/sglang/pull/25408, https://gitlab.com/a/b/-/merge_requests/7]
    install: |
      uv pip install sglang
      git apply eagle3.patch
  - {engine: sglang, title: thinking off, draft_tokens: 2}
sections:
  - {title: 更多, text: Our words.}
"""


def said(write: Write, **release: object) -> Path:
    data = yaml.safe_load(MINIMAL + SAID)
    data["target"] |= {"also": ["owner/target-FP8", "owner/target-NVFP4"], "gated": True}
    data["release"] |= {
        "links": [{"title": "Code", "url": "https://example.org/code"}],
        "voice": "we",
        "headings": {"Serve": "部署", "Training": "训练"},
        "pipeline_tag": "text-generation",
        **release,
    }
    return write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def test_everything_said_is_on_the_card(write: Write) -> None:
    manifest = load_manifest(said(write))
    text = render_text(manifest, [], samples.make_head())
    metadata = ModelCard(text).data
    assert metadata.base_model == ["owner/target", "owner/target-FP8", "owner/target-NVFP4"]
    assert (metadata.pipeline_tag, metadata.datasets) == ("text-generation", ["owner/chat"])
    lines = text.splitlines()
    assert ("## 部署" in lines, "## 训练" in lines, "## Serve" in lines, "## License" in lines) == (1, 1, 0, 1)
    assert "[Code](https://example.org/code)" in lines
    assert (
        "We made it for [owner/target-FP8](https://huggingface.co/owner/target-FP8) and "
        "[owner/target-NVFP4](https://huggingface.co/owner/target-NVFP4) as well; nothing on this card was measured "
        "with them."
    ) in lines
    assert "The target is gated: ask for access at [owner/target](https://huggingface.co/owner/target)" in text
    assert "*The section “更多” is written by us and not made from measurements.*" in lines
    assert (
        "| [Chat](https://huggingface.co/datasets/owner/chat) | 1.4M conversations | 62.5 % "
        "| 100 %, by owner/target | CC-BY-NC-4.0 |"
    ) in lines
    assert "| In-house | – | 37.5 % | no | ours |" in lines
    assert "We name SGLang 0.5.9." in lines
    assert (
        "Needs the pull requests [sgl-project/sglang#25408](https://github.com/sgl-project/sglang/pull/25408) and "
        "[a/b#7](https://gitlab.com/a/b/-/merge_requests/7)."
    ) in lines
    assert "uv pip install sglang\ngit apply eagle3.patch\n" in text
    assert "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 python -m sglang.launch_server" in text
    assert "--speculative-num-steps 4 \\\n  --speculative-eagle-topk 2 \\\n  --speculative-num-draft-tokens 8" in text
    assert "--chunked-prefill-size 2048" in text


def test_others_are_spoken_of_as_the_makers(write: Write) -> None:
    text = render_text(load_manifest(said(write, voice="makers")), [], samples.make_head())
    assert ("Its makers name [owner/target-FP8]" in text, "The makers name SGLang 0.5.9." in text) == (True, True)
    assert " we " not in text.lower().partition("\n# ")[2]


def test_the_example_of_the_documentation_is_a_manifest(write: Write) -> None:
    page = (Path(__file__).parents[2] / "docs/manifest.md").read_text(encoding="utf-8")
    example = page.partition("<!-- manifest -->\n```yaml\n")[2].partition("```")[0]
    assert load_manifest(write(example)).conversion.read.aux_layers == (2, 18, 33)


def test_the_example_of_imported_measurements_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/manifest.md").read_text(encoding="utf-8")
    path = tmp_path / "imported.yaml"
    path.write_text(page.partition("<!-- imported -->\n```yaml\n")[2].partition("```")[0], encoding="utf-8")
    under_load, modes = read_imported(path)
    assert under_load.varying == ("concurrency",) and modes.varying == ("mode",)


def test_licenses_of_data_sets_are_named_where_the_data_has_none_of_its_own(write: Write) -> None:
    text = render_text(load_manifest(said(write)), [], samples.make_head())
    assert "| Training data | CC-BY-NC-4.0, ours |" in text
    own = said(write).read_text(encoding="utf-8").replace("training:\n", "training:\n  data_license: mit\n")
    assert "| Training data | MIT |" in render_text(load_manifest(write(own)), [], samples.make_head())


def test_a_text_that_a_comma_cut_in_two_is_called_so(write: Write) -> None:
    with pytest.raises(ManifestError) as error:
        load_manifest(
            write(MINIMAL + "training: {hardware: none, data: about 200,000 tokens that the target wrote}\n")
        )
    assert "unknown field 'training.000 tokens that the target wrote'" in str(error.value)
    assert (error.value.hint or "").startswith("put quotes around a text with a comma inside { }")


def test_several_ways_to_serve_on_one_engine_have_headings_of_their_own(write: Write) -> None:
    text = render_text(load_manifest(said(write)), [], samples.make_head())
    parts = text.partition("### SGLang, thinking off, not tested here\n")
    tree, chain = parts[0].partition("### SGLang, not tested here\n")[2], parts[2].partition("\n## ")[0]
    assert "--chunked-prefill-size 2048" in tree and "--speculative-num-steps 2 " in chain
    assert "The same from Python" not in tree, "it would leave out the flags and the environment"
    assert "The same from Python" in chain


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        (
            "engine: sglang\n",
            "engine: vllm\n",
            "vllm: vLLM drafts EAGLE-3 chains: --topk is for SGLang",
        ),
        ("num_draft_tokens: 8", "dtype: bfloat16", "sglang: a tree is described by three numbers"),
        ("share: 62.5", "share: 625", "share"),
        ("share: 62.5", "share: 72.5", "the shares of the data sets make 110 percent together"),
        ("license: cc-by-nc-4.0", "license: cc-by-nc", "training.data_sets.0.license is 'cc-by-nc'"),
        ("license_name: ours, ", "", "license_name"),
        ("synthetic: 100", "synthetic: most", "synthetic"),
        ("env: {S", "env: {9S", "env"),
        ("sglang/pull/25408", "sglang/issues/25408", "the address of a pull request"),
        ("title: thinking off, ", "", "two entries of sglang are without a title give each a title"),
        ("version: 0.5.9", "title: thinking off", "two entries of sglang are called 'thinking off'"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_line(write: Write, old: str, new: str, wrong: str) -> None:
    text = MINIMAL + SAID
    assert old in text
    with pytest.raises(ManifestError, match=r"release\.yaml:\d+: ") as error:
        load_manifest(write(text.replace(old, new)))
    assert wrong in f"{error.value} {error.value.hint}"


@pytest.mark.parametrize(
    ("release", "wrong"),
    [
        ({"headings": {"Serving": "部署"}}, "unknown field 'release.headings.Serving'"),
        ({"headings": {"Serve": "two\nlines"}}, "release.headings.Serve"),
        ({"voice": "they"}, "makers or we"),
        ({"links": [{"title": "Code", "url": "http://example.org"}]}, "https://"),
    ],
)
def test_a_release_says_what_it_can(write: Write, release: dict[str, object], wrong: str) -> None:
    with pytest.raises(ManifestError) as error:
        load_manifest(said(write, **release))
    assert wrong in f"{error.value} {error.value.hint}"
