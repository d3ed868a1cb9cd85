"""The whole card: deterministic, inert, traceable to its reports, and refused where they do not fit."""

from __future__ import annotations

import copy
import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import card_samples as samples
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from support.versions import VLLM

from eagle3hub.card import Manifest, Shown, context, render_text, vocabulary
from eagle3hub.card.manifest import License
from eagle3hub.card.reports import runs
from eagle3hub.errors import InputError, ManifestError, SourceError
from eagle3hub.system import resources

Report = dict[str, Any]


def card(manifest: Manifest, *reports: Report, templates: Path | None = None, **shown: Any) -> str:
    return render_text(manifest, samples.typed(*reports), samples.make_head(), templates, Shown(**shown))


def edited(manifest: Manifest, report: Report, **options: Any) -> str:
    """The card of a report that was edited, with everything that follows from the edit."""
    return card(manifest, samples.settled(report), **options)


def body(text: str) -> str:
    return text.split("\n---\n", 1)[1]


def changed_lines(before: str, after: str) -> tuple[list[str], list[str]]:
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [x[2:] for x in lines if x.startswith("- ")], [x[2:] for x in lines if x.startswith("+ ")]


def test_sections_and_figures(example: Manifest) -> None:
    text = card(example, samples.make_report())
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings == [
        "Results",
        "Serve",
        "Files",
        "Training",
        "Architecture",
        "Limitations",
        "License",
        "Citation",
        "Provenance",
    ]
    assert "Measured on CPU, float32, 16 prompts (smoke), K = 3, T = 0:" in text
    assert f"| vLLM {VLLM} | **1.45** |" in text
    assert "| 2 | 58 of 622 | 9.3% | 28.2% |" in text
    assert "**16 of 16**" in text
    assert "This is a smoke test" in text
    assert "| **Total** |  | **8,923,392** |" in text


def test_the_same_input_gives_the_same_bytes(example: Manifest) -> None:
    reports = [samples.make_report("specforge"), samples.make_report("modelopt")]
    assert card(example, *reports) == card(example, *copy.deepcopy(reports)) == card(example, *reversed(reports))


def test_reports_are_not_changed(example: Manifest) -> None:
    report = samples.make_report()
    before = copy.deepcopy(report)
    card(example, report)
    assert report == before


SINGLE = [
    (("settings", "max_new_tokens"), 777, "64", "777"),
    (("settings", "seed"), 4321, "0", "4321"),
    (("measured_at",), "2031-01-02T03:04:05Z", "2026-11-22T13:00:00Z", "2031-01-02T03:04:05Z"),
    (("prompts", "name"), "other-set", "smoke", "other-set"),
    (("engines", 0, "version"), "9.8.7", VLLM, "9.8.7"),
    (("engines", 0, "throughput", "target_tokens_per_second"), 99.9, "24.1", "99.9"),
    (("engines", 0, "environment", "torch"), "7.7.7", "2.13.0", "7.7.7"),
]


@pytest.mark.parametrize(("path", "value", "old", "new"), SINGLE)
def test_one_field_changes_only_its_rows(
    example: Manifest, path: tuple[Any, ...], value: Any, old: str, new: str
) -> None:
    report = samples.make_report()
    before = card(example, report)
    place = report
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    removed, added = changed_lines(before, card(example, report))
    added = [line for line in added if line and "only who has it can repeat this" not in line]
    assert removed and len(removed) == len(added)
    assert all(old in line for line in removed), removed
    assert all(new in line for line in added), added


def test_images_and_lengths_of_prompts_are_said(example: Manifest) -> None:
    report = samples.make_report()
    prompts = report["prompts"]
    prompts |= {"name": "seen.jsonl@4k", "images": {"count": 16, "sha256": "ab" * 32}}
    prompts["context"] = {"tokens": 4096, "of": "seen.jsonl", "left_out": 0}
    text = card(example, report)
    assert "16 prompts of seen.jsonl&#64;4k with 16 images) the target emitted" in text
    assert "Measured on CPU, float32, 16 prompts (seen.jsonl&#64;4k) with 16 images, K = 3" in text
    assert "| Images in the prompts | 16, sha256:abababababab… |" in text
    assert "| Length of the prompts | 4,096 tokens, of text of the same set |" in text
    assert f"{'ab' * 32}  images of prompts seen.jsonl@4k, 16" in text
    assert "--prompts seen.jsonl \\\n" in text and "--context 4k" in text, "what the command takes"
    assert "The prompts are in seen.jsonl, a file of the makers that is not in this repository" in text


def test_how_the_targets_weights_are_quantized_is_said(example: Manifest) -> None:
    report = samples.make_report()
    assert "(target: " not in card(example, report)
    report["target"]["quantization"] = "FP8 (compressed-tensors)"
    text = card(example, report)
    assert "Measured on CPU, float32 (target: FP8 (compressed-tensors)), 16 prompts" in text
    assert "| Target's weights | FP8 (compressed-tensors) |" in text


def test_the_command_says_whose_turn_it_is_and_how_was_drafted(example: Manifest) -> None:
    report = samples.make_report()
    report["prompts"]["name"] = "mt_bench#2"
    report["settings"] |= {"temperature": 0.7, "drafting": "probabilistic"}
    text = card(example, report)
    assert "--prompts mt_bench \\\n" in text and "--second-turns first-turns.jsonl" in text
    assert "--drafting probabilistic" in text
    assert "`first-turns.jsonl` holds the target's answers to the first turns" in text
    assert "only who has it" not in text, "everybody can get this set by its name"


def test_runs_of_different_numbers_give_the_ends_and_what_tells_them_apart(example: Manifest) -> None:
    on, off = samples.make_report(), samples.make_report()
    on["tool"]["version"] = "0.0.1"  # of which no recipe is derived again
    on["settings"] |= {
        "chat_template": "the target's own with enable_thinking=true",
        "engine_settings": {"chat_template": {"enable_thinking": True}},
    }
    for row in on["engines"][0]["per_prompt"]:
        row["rounds"] += 2
        row["drafted"] += 6
    text = card(example, samples.settled(on), off)
    (line,) = [line for line in text.splitlines() if "tokens per verification step**" in line]
    assert "(float32, K = 3, T = 0, 16 prompts of smoke) the target emitted" in line
    ends = r"\*\*(\S+)\*\* \(enable\\_thinking=true\) to \*\*(\S+) tokens per verification step\*\* \(default\),"
    found = re.search(ends, line)
    assert found and float(found[1]) < float(found[2])


def test_other_counters_change_every_result_and_nothing_else(example: Manifest) -> None:
    report = samples.make_report()
    before = card(example, report)
    engine = report["engines"][0]
    for row in engine["per_prompt"]:
        row["rounds"] += 2
        row["drafted"] += 6
    removed, added = changed_lines(before, edited(example, report))
    gone = "\n".join(removed)
    for figure in ("1.45", "622", "1,866", "33.1%", "9.3%", "2.9%", "15.1%", "1.453", "1.35 – 1.58"):
        assert figure in gone
    after = card(example, report)
    assert "1.43 tokens per verification step" in after
    for figure in ("622", "33.1%", "1,866"):
        assert figure not in after
    assert not any("Architecture" in line or "8,923,392" in line for line in removed + added)


def test_no_template_holds_a_measured_number() -> None:
    for path in sorted(resources.data_path("templates/card").glob("*.j2")):
        prose = re.sub(r"\{[{%].*?[%}]\}", "", path.read_text(encoding="utf-8"))
        prose = (
            prose.replace("EAGLE-3", "").replace("eagle3hub", "").replace("SHA-256", "").replace("95% interval", "")
        )
        assert set(re.findall(r"\d[\d.,%]*", prose)) <= {"1", "1."}, path.name


HOSTILE = (
    "x](https://e.example) <b>b</b> **s** {{ 7*7 }} {% raw %} ${T}$ \u202eevil | p\n---\nlicense: mit\n# h\n```\n~~~`"
)


def strings(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all strings of a report that a schema does not restrict to a few."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from strings(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value[:1]):
            yield from strings(item, (*path, i))
    elif isinstance(value, str):
        yield path


def structure(text: str) -> list[str]:
    """The kinds of the card's tokens, without what holds text."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = []
    for token in parser.parse(body(text)):
        if token.type == "inline":
            found += [t.type for t in token.children or [] if t.type not in ("text", "text_special", "softbreak")]
        found.append(token.type + (token.content if token.type == "html_block" else ""))
    return found


@pytest.mark.parametrize("path", list(strings(samples.make_report())), ids=lambda p: ".".join(map(str, p)))
def test_no_text_of_a_report_changes_the_structure(example: Manifest, path: tuple[Any, ...]) -> None:
    report = samples.make_report()
    report["tool"]["version"] = "0.0.1"  # of which no sentence or recipe is derived again
    plain = copy.deepcopy(report)
    for document, text in ((report, HOSTILE), (plain, "harmless words")):
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = text
    try:
        expected = card(example, plain)
    except ManifestError:
        with pytest.raises(ManifestError):
            card(example, report)
        return
    got = card(example, report)
    assert structure(got) == structure(expected)
    assert "\u202e" not in got
    metadata = ModelCard(got).data
    assert (metadata.license, metadata.base_model) == ("apache-2.0", samples.TARGET)


FREE = ["title", "summary"]


@pytest.mark.parametrize("field", ["title", "summary", "authors", "limitations", "training", "data_license"])
def test_no_text_of_a_manifest_changes_the_structure(example: Manifest, field: str) -> None:
    def changed(text: str) -> Manifest:
        if field in FREE:
            return replace(example, release=replace(example.release, **{field: text}))
        if field == "authors":
            return replace(example, release=replace(example.release, authors=(text, text)))
        if field == "limitations":
            return replace(example, limitations=(text, text))
        if field == "training":
            return replace(example, training=replace(example.training, facts=((text, text),)))
        return replace(example, training=replace(example.training, data_license=License("other", "x", text)))

    got, expected = (card(changed(text), samples.make_report()) for text in (HOSTILE, "harmless"))
    links = ("link_open", "link_close")
    if field == "data_license":
        assert [t for t in structure(got) if t not in links] == [t for t in structure(expected) if t not in links]
    else:
        assert structure(got) == structure(expected)
    assert "\u202e" not in got
    assert "{{ 7*7 }}" not in body(got) or "49" not in got


@pytest.mark.parametrize("verdict", ["fail", "inconclusive", "unavailable"])
def test_a_run_that_did_not_pass_is_said_first(example: Manifest, verdict: str) -> None:
    report = samples.make_report(verdict=verdict)
    why = report["engines"][0]["reason"]
    text = card(example, report)
    top = body(text).split("## Results")[0]
    assert ("was not validated" if verdict == "unavailable" else "did not pass validation") in top
    assert vocabulary.outcome(verdict) in top and why.split(",")[0] in top.replace("\\", "")
    assert "tokens per verification step**" not in top
    assert "vllm serve" not in text
    assert "model-index" not in text
    assert "It shows that the engine loads" not in text


def test_an_engine_without_counters(example: Manifest) -> None:
    text = card(example, samples.make_report(verdict="unavailable"))
    assert "vLLM is not installed" in text
    assert "Nothing has been measured" in text


def test_static_faults_are_named(example: Manifest) -> None:
    report = samples.make_report()
    problem = {"severity": "error", "code": "vocab-zero", "message": "d2t is all zeros", "hint": None}
    report |= {
        "verdict": "fail",
        "engines": [],
        "static": {"verdict": "fail", "problems": [problem], "assumptions": []},
    }
    assert "d2t is all zeros" in card(example, report)


def test_no_report_is_said(example: Manifest) -> None:
    text = card(example)
    assert "Not validated" in text and "Nothing has been measured" in text and "model-index" not in text


def test_only_another_layout_was_measured(example: Manifest) -> None:
    text = card(example, samples.make_report("modelopt"))
    assert "no report covers" in text and "vllm serve" not in text and "model-index" not in text
    assert "### By layout" in text and "By draft position" not in text


def test_two_layouts_are_compared(example: Manifest) -> None:
    text = card(example, samples.make_report("specforge"), samples.make_report("modelopt"))
    rows = re.search(r"### By layout\n(.+?)\n### ", text, re.S)
    assert rows and rows[1].count("| 622 | 1.45 | 16 of 16 | pass |") == 2
    assert text.count("vllm serve") == 1


def test_two_runs_of_the_main_layout(example: Manifest) -> None:
    other = samples.make_report(device="cuda", dtype="bfloat16")
    other["settings"] |= {"device": "cuda", "dtype": "bfloat16"}
    text = card(example, samples.make_report(), samples.settled(other))
    assert f"Measured with vLLM {VLLM} on 16 prompts (smoke), K = 3, T = 0:" in text
    assert "| NVIDIA GPU | bfloat16 | **1.45** |" in text and "| math | 2 | " in text
    assert "| Category | Prompts | τ, CPU, float32 | τ, NVIDIA GPU, bfloat16 |" in text
    assert text.count("**This is a smoke test:**") == 1
    assert "command and what differs" in text
    assert text.count("vllm serve") == 1


def test_other_bytes_are_refused(example: Manifest) -> None:
    digests = set(samples.DIGESTS.values())
    assert card(example, samples.make_report(), digests=digests)
    with pytest.raises(ManifestError, match="measured other bytes") as caught:
        card(example, samples.make_report(), digests={samples.DIGESTS["modelopt"]})
    assert caught.value.code == "report-digest"


def test_another_target_is_refused(example: Manifest) -> None:
    report = samples.make_report()
    report["target"]["name"] = "target"
    with pytest.raises(ManifestError, match="measured with the target 'target'") as caught:
        card(example, report)
    assert "--target-name" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("mean_acceptance_length",), 1.5, r"mean_acceptance_length is stated as 1\.5, and the counters give 1\.453"),
        (("mean_acceptance_length",), 1.4534, "mean_acceptance_length is stated as"),
        (("accepted",), 281, r"accepted is stated as 281, and the counters give 282"),
        (("accepted_per_position",), [206, 18, 58], "accepted_per_position is stated as"),
        (("marginal_acceptance_rates", 0), 0.4, "marginal_acceptance_rates is stated as"),
        (("ci95",), [1.6, 1.7], r"ci95 is stated as \[1\.6, 1\.7\]"),
        (("rounds",), 623, "rounds is stated as 623, and the counters give 622"),
        (("drafted",), 200, "drafted is stated as 200, and the counters give 1866"),
        (("accepted_per_position",), [206, 76], "accepted_per_position is stated as"),
        (("standard_error",), 0.0, "standard_error is stated as 0"),
        (("draft_acceptance_rate",), 0.9, "draft_acceptance_rate is stated as 0.9"),
        (("mean_acceptance_length_per_request",), 3.9, "mean_acceptance_length_per_request is stated as 3.9"),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(
    example: Manifest, path: tuple[Any, ...], value: Any, message: str
) -> None:
    report = samples.make_report()
    place = report["engines"][0]["acceptance"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ManifestError, match=message):
        card(example, report)


def test_prompts_that_do_not_sum_up_are_refused(example: Manifest) -> None:
    report = samples.make_report()
    report["engines"][0]["per_prompt"].pop()
    with pytest.raises(ManifestError, match="has other questions than the set smoke"):
        card(example, report)


def test_rounded_numbers_are_refused(example: Manifest) -> None:
    report = samples.make_report()
    acceptance = report["engines"][0]["acceptance"]
    rounded = json.loads(json.dumps(acceptance), parse_float=lambda x: round(float(x), 3))
    report["engines"][0]["acceptance"] = rounded
    with pytest.raises(ManifestError, match="is stated as"):
        card(example, report)


def test_a_report_that_is_none_is_refused(example: Manifest) -> None:
    report = samples.make_report()
    del report["settings"]["draft_tokens"]
    with pytest.raises(ManifestError, match=r"settings\.draft_tokens"):
        card(example, report)


def test_one_template_can_be_replaced(example: Manifest, tmp_path: Path) -> None:
    (tmp_path / "_limitations.md.j2").write_text(
        "## Ours\n\n{{ release.repo }} and {{ results[0].acceptance.length }}\n"
    )
    text = card(example, samples.make_report(), templates=tmp_path)
    assert f"## Ours\n\n{samples.REPO} and 1.45" in text
    assert "## Limitations" not in text and "## Results" in text


def test_a_template_that_changed_is_read_again_though_its_file_looks_the_same(
    example: Manifest, tmp_path: Path
) -> None:
    path = tmp_path / "_limitations.md.j2"
    for word in ("Ours", "Mine"):
        path.write_text(f"## {word}\n")
        os.utime(path, (1, 1))
        text = card(example, samples.make_report(), templates=tmp_path)
        assert f"\n## {word}\n" in text
        assert ("## Ours" in text) == (word == "Ours")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{% if %}", "_limitations.md.j2:1"),
        ("line\n{{ 1 / 0 }}", "_limitations.md.j2:2"),
        ("{{ results }}", "printed a list"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ release.tags.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ link.__globals__ }}", "unsafe"),
        ("{% set _ = results[0].run.entry.flags.update({'seed': 1}) %}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no template"),
        ("{% include '../../pyproject.toml' %}", "no template"),
        ("{% for i in range(10**9) %}x{% endfor %}", "ange"),
        ("{{ 0.5 }}", "printed a float"),
    ],
)
def test_templates_are_sandboxed_and_fail_cleanly(
    example: Manifest, tmp_path: Path, template: str, message: str
) -> None:
    (tmp_path / "_limitations.md.j2").write_text(template)
    with pytest.raises(InputError, match=re.escape(message)):
        card(example, samples.make_report(), templates=tmp_path)


def test_a_missing_folder_of_templates(example: Manifest, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        card(example, samples.make_report(), templates=tmp_path / "absent")


def test_templates_see_nothing_that_touches_a_disk(example: Manifest) -> None:
    read = samples.typed(samples.make_report())
    seen = context.build(example, read, runs(read, list(example.layouts)), samples.make_head())

    def walk(value: Any) -> None:
        assert not isinstance(value, Path)
        if is_dataclass(value) and not isinstance(value, type):
            for f in fields(value):
                walk(getattr(value, f.name))
        elif isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                walk(item)
        else:
            assert isinstance(value, (str, int, float, type(None))), type(value)

    walk(seen)


def test_no_path_of_this_machine_is_printed(example: Manifest) -> None:
    report = samples.make_report()
    report["engines"][0]["flags"]["llm"]["model"] = "/home/someone/secret-place/target"
    text = card(example, report)
    assert "secret-place" not in text and "model = target" in text
    assert str(samples.EXAMPLE.parent) not in text


def test_recipes_name_the_published_repository(example: Manifest) -> None:
    text = card(example, samples.make_report())
    assert "release-specforge" not in text.split("## Results")[0]
    block = re.search(r"```bash\n(vllm serve.+?)\n```", text, re.S)
    assert block
    config = re.search(r"--speculative-config '(.+)'", block[1])
    assert config
    assert json.loads(config[1])["model"] == samples.REPO
    snippet = re.search(r"```python\n(.+?)\n```", text, re.S)
    assert snippet
    compile(snippet[1], "snippet", "exec")
    assert f"'{samples.REPO}'" in snippet[1]


def test_reports_are_linked(example: Manifest) -> None:
    text = card(example, samples.make_report(), report_files=["reports/specforge.json"])
    assert "[reports/specforge.json](reports/specforge.json)" in text


def test_what_a_recipe_converts_is_fetched_under_its_measured_name(example: Manifest) -> None:
    report = samples.make_report()
    report["tool"]["version"] = "0.0.1"  # vLLM has no such recipe, and that is not derived again here
    target = f"hf download {samples.TARGET} --local-dir target"
    convert = "python convert_hf_to_gguf.py release-specforge --target-model-dir target --outfile head.gguf"
    report["engines"][0]["recipe"] = {
        **report["engines"][0]["recipe"],
        "server_command": "llama-server --spec-draft-model head.gguf",
        "prepare": [target, convert],
    }
    text = card(example, report)
    head = f"hf download {samples.REPO} --local-dir release-specforge"
    assert f"{head}\n{target}\n{convert}\nllama-server \\\n  --spec-draft-model head.gguf" in text


@pytest.mark.parametrize("source", ["eagle3", "model", "method", "vllm", "serve", "user", "num_speculative_tokens"])
def test_a_head_may_be_called_like_a_word_of_the_recipe(example: Manifest, source: str) -> None:
    report = samples.make_report()
    recipe = report["engines"][0]["recipe"]
    plain = card(example, report)
    for key in ("server_command", "python"):
        recipe[key] = recipe[key].replace("release-specforge", source)
    report["head"]["source"] = source
    assert card(example, report) == plain
