"""Six cards that have little in common: each is made from a manifest as a lab writes it, and says what the lab said.

Numbers are the makers', imported with their source. Two heads are stand-ins with random weights; their cards say so.
One more card has nothing but measured numbers.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from card_samples import EXAMPLE, HERE
from huggingface_hub import ModelCard
from support import heads

from eagle3hub.card.assemble import render_card
from eagle3hub.card.manifest import load_manifests
from eagle3hub.lint import lint_text
from eagle3hub.metrics import acceptance
from eagle3hub.validation.report import load_report

SIX = HERE / "fixtures" / "six"
SAYS = {
    "vl-custom-license": (
        "| GSM8K | text | 415.29 | 212.87 | +95.1% | 2.57 |",
        "| MMMU | pictures | 104.44 | 65.88 | +58.5% | 2.05 |",
        "[license-for-angelslim](https://github.com/Tencent/AngelSlim/blob/main/LICENSE)",
        "as the makers of the head reported, not measured here: **2.05** (MMMU, pictures) to **2.82** (HumanEval, ",
    ),
    "gated-fp8-target": (
        "The target is gated: ask for access at",
        "We made it for [meta-llama/Llama-4-Maverick-17B-128E-Instruct](",
        "**This release was not validated.**",
        "Built with Llama",
    ),
    "two-heads-under-load#small": (
        "| MT-Bench | 371.90 | 304.93 | +22.0% | 373.11 | 2.347 |",
        "| Hardware | 8 x H200 |",
    ),
    "two-heads-under-load#large": (
        "| 64 | 2339 | 1620 | 1730 | +44.4% | 2.43 |",
        "TP 1",
        "--speculative-draft-window-size 2048",
    ),
    "reasoning-mode": ("| Chat | 41% | 33% |", "mode of the target: reasoning on"),
    "six-data-sets": (
        "| [Open-PerfectBlend](https://huggingface.co/datasets/mlabonne/open-perfectblend) | 1.4M | 20 % | 80 % | "
        "Apache-2.0 | – |",
        "| In-house support chats | 40k | 5 % | no | [not-published](https://example.org/terms) | not public |",
    ),
    "in-chinese": (
        "## 结果",
        "## 部署",
        "| MT-bench | 1 | 1.98× | 2.75 |",
        "Speed-up as the makers of the head reported, not measured here: **1.98×** (MT-bench, T = 1) to **2.82×**",
    ),
}


def made(name: str, folder: Path) -> str:
    """Render one of the six in ``folder``, beside a stand-in head where it has one; return its text."""
    which, _, head = name.partition("#")
    shutil.copytree(SIX / which, folder, dirs_exist_ok=True)
    if "source: head" in (folder / "release.yaml").read_text(encoding="utf-8"):
        heads.specforge(folder / "head")
    manifest = folder / ("release.yaml" + (f"#{head}" if head else ""))
    return render_card(manifest, output=folder / "README.md").text


@pytest.mark.parametrize("name", SAYS)
def test_it_says_what_its_lab_says_and_the_linter_agrees(name: str, tmp_path: Path) -> None:
    text = made(name, tmp_path)
    assert [said for said in SAYS[name] if said not in text] == []
    beside = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    found = [f for f in lint_text(text, files=beside) if f.severity != "info"]
    assert [(f.code, f.line, f.message) for f in found] == []


@pytest.mark.parametrize("name", SAYS)
def test_its_metadata_names_data_sets_by_their_hub_ids(name: str, tmp_path: Path) -> None:
    results = ModelCard(made(name, tmp_path)).data.eval_results or []
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", r.dataset_type) for r in results)
    assert len({repr((r.dataset_type, r.dataset_config, sorted(r.metric_args.items()))) for r in results}) == len(
        results
    )


def test_a_chart_has_no_character_that_its_font_lacks(tmp_path: Path) -> None:
    text = made("in-chinese", tmp_path)
    alt = re.search(r'<img src="charts/[^"]+" alt="([^"]+)"', text)
    assert alt is not None and alt[1].startswith("Acceptance length τ. This head: MT-bench, T=0 3.65")
    imported = tmp_path / "imported.yaml"
    imported.write_text(imported.read_text(encoding="utf-8").replace("name: GSM8K", "name: 数学"), encoding="utf-8")
    without = render_card(tmp_path / "release.yaml", output=tmp_path / "AGAIN.md").text
    assert "| 数学 | 0 | 2.82× | 3.90 |" in without and "<img" not in without, "its table has everything"


def test_a_card_whose_every_number_was_measured(tmp_path: Path) -> None:
    """In Chinese, two modes, two data sets: measured with the reference, the example head and its target, on a CPU."""
    shutil.copytree(HERE / "fixtures" / "measured", tmp_path, dirs_exist_ok=True)
    shutil.copytree(EXAMPLE.parent / "head", tmp_path / "head")
    text = render_card(tmp_path / "release.yaml", output=tmp_path / "README.md").text
    assert "imported" not in text and "## 结果" in text and "**This release was not validated.**" not in text
    for name in ("as-usual", "gsm8k", "step-by-step"):
        report = load_report(tmp_path / "reports" / f"{name}.json")
        (entry,) = report.engines
        assert report.verdict == "pass" and entry.counted is not None
        of_counters = acceptance([row.counts for row in entry.counted.per_prompt]).mean_acceptance_length
        (row,) = [line for line in text.splitlines() if f"| **{of_counters:.2f}** |" in line]
        assert f"| 8 ({report.prompts.name}) |" in row and (report.settings.system_prompt or "default") in row
    first, last = (
        r"to emit \*\*\S+\*\* \(8 prompts of smoke, .+\)",
        r"\*\*\S+ tokens .+\*\* \(8 prompts of gsm8k, default\)",
    )
    assert re.search(f"{first} to {last}", text), "from which number to which, and of which prompts"
    (result,) = ModelCard(text).data.eval_results or ()
    assert result.dataset_type == "openai/gsm8k" and result.metric_args["n"] == 8
    beside = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    assert [(f.code, f.line, f.message) for f in lint_text(text, files=beside) if f.severity != "info"] == []


def test_there_are_six() -> None:
    assert sorted(p.name for p in SIX.iterdir()) == sorted({name.partition("#")[0] for name in SAYS})
    assert [m.name for m in load_manifests(SIX / "two-heads-under-load" / "release.yaml")] == ["small", "large"]
