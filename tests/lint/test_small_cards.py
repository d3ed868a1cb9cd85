"""Whole cards of a few lines that once were judged wrongly: what must be said of each, where, and what must not."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from support.versions import SGLANG

from eagle3hub.lint import lint_text

HEAD = """\
---
license: apache-2.0
base_model: Qwen/Qwen3-8B
language: [en]
tags: [eagle3, speculative-decoding, draft-model]
datasets: [HuggingFaceH4/ultrachat_200k]
---
# Qwen3-8B EAGLE-3 head

Draft head for Qwen/Qwen3-8B, trained on HuggingFaceH4/ultrachat_200k on 8x H100, with
[EAGLE-3](https://arxiv.org/abs/2503.01840).

"""


@dataclass(frozen=True)
class Small:
    """The body of a card. ``wanted``: (code, text on its line, words of the message). ``never``: codes."""

    body: str
    wanted: tuple[tuple[str, str, str], ...] = ()
    never: tuple[str, ...] = ()


ABSENT = ("C417", "C418")
TWO_HEADERS = """
## Performance

| Model | Method | GSM8K | | MT-bench | |
|---|---|---|---|---|---|
| | | throughput (tokens/s) | accept length | throughput (tokens/s) | accept length |
| Qwen3-8B | Vanilla | 149.63 | 1 | 153.81 | 1 |
| | Eagle3 | 257.32 | 12.0 | 258.2 | 1.97 |
"""
BIBTEX = """
```bibtex
@misc{gptoss,
  title={gpt-oss-120b & gpt-oss-20b Model Card},
  author={OpenAI and : and Sandhini Agarwal and Lama Ahmad and Jason Ai},
  year={2025}, eprint={2508.10925},
}
@article{llama3, title={The llama 3 herd of models},
  author={Dubey, Abhimanyu and Jauhri, Abhinav and Pandey, Abhinav and others},
  journal={arXiv preprint arXiv:2407.21783}, year={2024}
}
@article{qwen3, title={Qwen3 technical report}, author={Yang, An and Li, Anfeng and others},
  journal={arXiv preprint arXiv:2505.09388}, year={2025}
}
@article{specinfer,
  title={SpecInfer: Accelerating Generative LLM Serving with Speculative Inference and Token Tree Verification},
  author={Miao, Xupeng and Oliaro, Gabriele and others}, journal={arXiv preprint arXiv:2305.09781}, year={2023}
}
@misc{specforge,
  title={SpecForge: A Flexible and Efficient Open-Source Training Framework for Speculative Decoding},
  author={Chao Wang and Shenggui Li and Yikai Zhu and Laixin Xie}, year={2026}, eprint={2603.18567}
}
```
"""
INVENTED = """
```bibtex
@misc{a, title={EAGLE-3: Scaling up Inference Acceleration of Large Language Models via Training-Time Test},
  author={Yuhui Li and Fangyun Wei and Chao Zhang and Hongyang Zhang}, year={2025}, eprint={2503.01841}
}
@misc{b, title={EAGLE-3: Scalable Speculative Decoding with Training-Free Multi-Draft Speculation},
  author={Li, Y. and Wei, F.}, year={2025}, journal={NeurIPS}
}
@inproceedings{c, title={DFlash: Diffusion-based Flash Speculative Decoding},
  author={Chen, Jian and Liang, Yesheng and Liu, Zhijian}, booktitle={ICML}, year={2026}, eprint={2602.06036}
}
@misc{d, title={Kimi K2: Open Agentic Superintelligence}, author={Nobody}, year={2025}, eprint={2507.20534}}
```

See [EAGLE](https://arxiv.org/pdf/2501.15077), the EAGLE-3 paper (arXiv:2503.01841) and Li et al., "EAGLE3: Scaling up
EAGLE with Multi-Token Prediction", arXiv 2503.01840.
"""
CARDS = {
    "a flag whose JSON spans lines": Small(
        '```bash\nvllm serve Qwen/Qwen3-8B \\\n  -tp 8 \\\n  --speculative-config \'{\n    "model": "a/b",\n'
        '    "num_speculative_tokens": 3,\n    "method": "eagle3"\n  }\'\n```\n',
        never=("C510", "C508"),
    ),
    "another program's help": Small(
        "```bash\nvllm serve Qwen/Qwen3-8B\n```\n\n```\nusage: python -m my_chat [-h]\n\n"
        "options:\n  --raw    Raw mode\n```\n",
        never=("C510",),
    ),
    "a command in a sentence": Small(
        "Run `vllm serve Qwen/Qwen3-8B --speculative-model a/b --num-speculative-tokens 5` and wait.\n",
        (("C510", "--speculative-model", "is gone"),),
    ),
    "a dash that is a letter": Small(
        "```bash\nvllm serve openai/gpt-oss-120b \\\n"
        '  --speculative-config \'{"method": "eagle3", "model": "a/b", "num_speculative_tokens": '
        "5}' \\\n  —tp 1\n```\n",
        (("C510", "—tp", "typographic"), ("C508", "openai/gpt-oss-120b", "Qwen/Qwen3-8B")),
    ),
    "an HTML table": Small(
        "## Evaluation\n\nMeasured with K = 3, temperature 0, 80 prompts.\n\n<table>\n"
        "<thead><tr><th>Dataset</th><th>Acceptance length</th></tr></thead>\n"
        "<tbody><tr><td>MT-Bench</td><td>5.68</td></tr><tr><td>GSM8K</td><td>2.94</td></tr></tbody>\n</table>\n",
        (("C201", "5.68", "K + 1 = 4"),),
        ABSENT,
    ),
    "an HTML table with merged cells": Small(
        '## Results\n\n<table>\n<tr><th rowspan="2">Set</th><th colspan="2">K = 3</th></tr>\n'
        "<tr><th>tok/s</th><th>τ</th></tr>\n\n"
        "<tr><td>MT-Bench</td><td>120</td><td>5.68</td></tr>\n<tr><td>GSM8K</td><td>130</td><td>2.9</td></tr>\n</table>\n",
        (("C201", "5.68", "K + 1 = 4"),),
        ABSENT,
    ),
    "K in the column heads": Small(
        "## Results\n\n| Dataset | k=1 | k=2 | k=3 |\n|---|---|---|---|\n| Coding | 2.83 | 2.45 | 4.94 |\n"
        "| Math | 1.86 | 2.56 | 3.08 |\n",
        (("C201", "Coding", "2.83 (Coding) is more than K + 1 = 2"), ("C201", "Coding", "4.94 (Coding)")),
        (*ABSENT, "C411"),
    ),
    "draft tokens in the column heads": Small(
        "## Results\n\n| Set | `acc_length` (num_draft_tokens=4) | `acc_length` "
        "(num_draft_tokens=8) |\n|---|---|---|\n"
        "| gsm8k | 5.32 | 5.4 |\n| **Average** | ~5.32 | ~5.4 |\n",
        (("C201", "gsm8k", "5.32 (gsm8k) is more than K + 1 = 5"),),
        (*ABSENT, "C411"),
    ),
    "two header rows": Small(TWO_HEADERS, (("C411", "| Model", "K"), ("C405", "| Model", "prompts")), ABSENT),
    "two header rows, with K": Small(TWO_HEADERS + "\nK = 3\n", (("C201", "12.0", "Qwen3-8B Eagle3"),), ABSENT),
    "facts of the training": Small(
        "The head improves inference throughput with no loss of quality.\n\n| Detail | Value |\n|---|---|\n"
        "| TTT steps | 8 |\n| Draft tokens | 4 |\n| Epochs | 5 |\n| Sequence length | 1024 |\n",
        (("C417", "---", ""),),
        ("C401", "C402", "C403", "C404", "C209", "C418"),
    ),
    "arrows and factors": Small(
        "## Results (K = 3, T = 0, 80 prompts)\n\n| Task | Baseline | Head |\n|---|---|---|\n"
        "| GSM8K | 113.4 tok/s | 292.6 tok/s (3.58×) |\n| Writing | 207.83 → 268.62 | +99.2% |\n\n"
        "| Data set | Speedup | Baseline (tok/s) | EAGLE-3 (tok/s) |\n|---|---|---|---|\n"
        "| GSM8K | ×1.97 | 80.22 | 133.78 |\n| MT-Bench | 2.5x | 100 | 150 |\n",
        (
            ("C204", "3.58×", "292.6 / 113.4 is 2.58x"),
            ("C204", "+99.2%", "differ by +29.2%"),
            ("C204", "×1.97", "133.78 / 80.22 is 1.67x"),
            ("C204", "2.5x", "150 / 100 is 1.50x"),
        ),
    ),
    "arrows and factors that are right": Small(
        "## Results\n\n| Task | Baseline | Head |\n|---|---|---|\n| GSM8K | 113.4 tok/s | 292.6 tok/s (2.58×) |\n\n"
        "| Category | Baseline → Ours | Δ | Accept Length |\n|---|---|---|---|\n| Writing | "
        "207.83 → 268.62 | +29.2% | 2.2 |\n\n"
        "| Metric | Baseline | Ours | Δ |\n|---|---|---|---|\n| Latency (s) | 444.05 | 373.11 | −16.0% |\n"
        "| Accept Length | 1.000 | 2.347 | +134.7% |\n\n"
        "| Set | Our τ | Their τ | E2E Speedup |\n|---|---|---|---|\n| gsm8k | 3.89 | 3.38 | 2.47x |\n\n"
        "| Model | Acceptance length | Tok/s | Speedup |\n|---|---|---|---|\n| EAGLE-3 | 2.5 | 180 | 1.8x |\n",
        never=("C204", *ABSENT),
    ),
    "drafts without the bonus token": Small(
        "## Evaluation\n\nSpeculative Tokens per step: 3.\n\n| Dataset | Throughput (tok/s) | Mean accepted tokens |\n"
        "|---|---|---|\n| MT-Bench | 120 | 0.95 |\n| GSM8K | 130 | 1.38 |\n",
        (("C306", "0.95", "without the target's own token?"),),
        ("C201", "C411", *ABSENT),
    ),
    "citations as arXiv gives them": Small(BIBTEX, never=("C101", "C102", "C104", "C106")),
    "wrong and invented citations": Small(
        INVENTED,
        (
            ("C106", "2503.01841}", "and not 2503.01840"),
            ("C101", "Training-Free", "Training-Time Test"),
            ("C101", "Diffusion-based", "Block Diffusion"),
            ("C101", "Superintelligence", "Open Agentic Intelligence"),
            ("C106", "2501.15077", "and not 2401.15077"),
            ("C106", "(arXiv:2503.01841)", "“EAGLE-3” is given"),
            ("C101", "Scaling up\n", "Training-Time Test"),
        ),
    ),
    "what was left in the text": Small(
        "EAGLE (Extrapolative A* Generative Language Engine) is a method. TODO: Fill training parameters. "
        "[More Information Needed]\n\n# Model Card for Model ID\n\n"
        "The target [Qwen3-Coder-Next](https://huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct) has 1 trillion total "
        "parameters.\n<!-- Internal: exp-e, do not publish /home/alice/runs -->\n",
        (
            ("C307", "Extrapolative", "A* Generative"),
            ("C708", "TODO", "TODO"),
            ("C708", "More Information", "template"),
            ("C708", "# Model Card for", "template"),
            ("C806", "1 trillion", "80B"),
            ("C807", "Coder-Next", "Qwen3-Next-80B"),
            ("C708", "Internal", "comment"),
        ),
    ),
    "hardware is no speed-up": Small(
        "A head for accelerating inference, trained on 8x AMD MI350 GPUs. Faster on 4x H200 "
        "nodes; served on 2x A100.\n",
        never=("C801",),
    ),
    "a speed-up is one": Small(
        "A head for accelerating inference by 2.5x, trained on 8x AMD MI350 GPUs.\n", (("C801", "2.5x", "2.5x"),)
    ),
    "a Chinese card": Small(
        "## 评测\n\n使用 vLLM 在 1 张 H100 上测试，温度为 0，批大小为 1，80 条提示，最大输出 512。K = 3。\n\n"
        "| 数据集 | 平均接受长度 | 吞吐 (tok/s) | 加速比 |\n|---|---|---|---|\n| MT-Bench | 5.68 | 200 | 1.9x |\n"
        "| GSM8K | 3.1 | 210 | 2.0x |\n",
        (("C201", "5.68", "K + 1 = 4"),),
        (*ABSENT, "C402", "C403", "C404", "C405", "C406", "C407", "C002"),
    ),
    "a length in a sentence": Small(
        "Under a 3-1-4 configuration (3 speculative steps, top-1, 4 draft tokens) it achieves an "
        "acceptance length of 5.45.\n",
        (("C201", "5.45", "K + 1 = 4"),),
        ABSENT,
    ),
    "tokens per step are no throughput": Small(
        "With draft length 3, this head achieves an average acceptance length of 2.62 tokens per step on MT-Bench.\n",
        (("C405", "2.62", "prompts"),),
        ("C402", "C403", "C404", "C411", *ABSENT),
    ),
    "a configuration in a heading": Small(
        "## H100 @ BS=1, ours (1-3-1-4)\n\n| Metric | Baseline | Ours |\n|---|---|---|\n| Accept "
        "Length | 1.000 | 4.347 |\n",
        (("C201", "4.347", "K + 1 = 4"),),
        ("C411", *ABSENT),
    ),
    "results as JSON": Small(
        '## Benchmark\n\n```json\n{"mtbench": [{"batch_size": 1, "metrics": [{"output_throughput": 160.5,\n'
        '  "accept_length": 3.49, "num_questions": 80}]}]}\n```\n',
        (("C402", "output_throughput", "accelerator"), ("C411", "```", "K")),
        (*ABSENT, "C403", "C405"),
    ),
    "a table that says nothing of its numbers": Small(
        "## Results\n\n| Set | A | B |\n|---|---|---|\n| MT-Bench | 2.5 | 3.1 |\n| GSM8K | 2.9 | 3.3 |\n",
        (("C418", "| Set", "was not read"),),
        ("C417",),
    ),
    "an engine that the card installs in another version": Small(
        "```bash\npip install vllm==0.10.1\nvllm serve Qwen/Qwen3-8B --what-that-version-had\n```\n"
    ),
    "the same target in another format": Small(
        '```bash\nvllm serve Qwen/Qwen3-8B-FP8 --speculative-config \'{"model": "a/b", "method": "eagle3"}\'\n```\n',
        never=("C508",),
    ),
    "a drafter of whole blocks": Small(
        "## Results\n\nMeasured with K = 7.\n\n| Set | Acceptance length |\n|---|---|\n| GSM8K | 5.9 |\n\n```bash\n"
        "sglang serve --model-path Qwen/Qwen3-8B --speculative-algorithm DSPARK --speculative-num-steps 1\n```\n",
        never=("C501",),
    ),
    "what is counted, two paragraphs above": Small(
        "## Draft acceptance\n\nThis table has the mean number of draft tokens accepted per target verification "
        "pass; the speedup "
        "depends on more.\n\nAs others do, with six sets.\n\n| Set | A (block 9) | B (block 8) |\n|---|---|---|\n"
        "| GQA | 4.14 | 9.77 |\n",
        (("C201", "9.77", "K + 1 = 9"),),
        ABSENT,
    ),
    "an engine in the head of a speed-up's column": Small(
        "## Speed-up\n\n| Set | Speedup (SGLang) |\n|---|---|\n| GQA | 2.3x |\n", never=("C407",)
    ),
    "results that another card has": Small(
        "See [`Liquid/LFM2.5-VL`](https://huggingface.co/Liquid/LFM2.5-VL) for acceptance benchmarks.\n"
    ),
    "reports of one family": Small(
        "```bibtex\n@article{q3, title={Qwen3 Technical Report}, author={An Yang and others},\n"
        "  journal={arXiv preprint arXiv:2505.09388}, year={2025}}\n"
        "@article{q2, title={Qwen2.5 Technical Report}, author={An Yang and others},\n"
        "  journal={arXiv preprint arXiv:2412.15115}, year={2024}}\n"
        "@article{e, title={EAGLE-2: Faster Inference of Language Model with Dynamic Draft Trees},\n"
        "  author={Yuhui Li and others}, journal={arXiv preprint arXiv:2406.16859}, year={2024}}\n```\n",
        (("C106", "EAGLE-2", "and not 2406.16858"),),
    ),
    "an engine's plug-in": Small(
        "A plug-in for vLLM is needed.\n\n```bash\nvllm serve Qwen/Qwen3-8B --enable-shift-parallel\n```\n"
    ),
    "an engine from its sources": Small(
        "```bash\npip install git+https://github.com/sgl-project/sglang.git\n"
        "python -m sglang.launch_server --model-path Qwen/Qwen3-8B --enable-what-comes-next\n```\n"
    ),
    "a head made of a head": Small(
        "- **Verifier:** meta-llama/Llama-3.1-8B-Instruct\n\n```bash\nvllm serve Qwen/Qwen3-8B --speculative-config "
        '\'{"model": "a/b", "num_speculative_tokens": 3, "method": "eagle3"}\'\n```\n',
        (("C508", "vllm serve", "the text lists meta-llama/Llama-3.1-8B-Instruct (line "),),
    ),
    "a projected speed-up": Small(
        "This projects to a 2.5x decode speedup. Decoding is 3.1x faster.\n",
        (("C801", "3.1x", "3.1x"),),
    ),
    "a link without an address": Small(
        "See [the blog]() and [the paper](https://arxiv.org/abs/2503.01840).\n", (("C701", "the blog", "no address"),)
    ),
    "blanks that a template of a chat has": Small("```\n{tool_description}\n\nUSER:{query}\n```\n", never=("C708",)),
    "tokens accepted per forward": Small(
        "## Results\n\nThe accepted tokens per target forward:\n\n"
        "| Drafter | accept / target-forward |\n|---|---|\n| a head | 2.26 |\n| MTP | 2.79 |\n",
        (("C306", "2.26", "with or without"),),
    ),
    "a ceiling that shows what is counted": Small(
        "## Results\n\nAccepted tokens; at block size 9 the ceiling is 10.\n\n| Set | Accepted tokens / step |\n"
        "|---|---|\n| GSM8K | 3.91 |\n| MATH | 10.4 |\n",
        (("C201", "10.4", "K + 1 = 10"),),
        ("C306", "C411"),
    ),
    "K of blocks and of steps in column heads": Small(
        "## Accept length\n\n| Set | MTP steps=3 | Ours block=8 |\n|---|---|---|\n| GSM8K | 4.474 | 5.1 |\n",
        (("C201", "4.474", "K + 1 = 4"),),
        ("C411", *ABSENT),
    ),
    "samples with a colon": Small(
        "## Results\n\n- Samples: 128 at concurrency 1\n\n| Set | τ |\n|---|---|\n| GSM8K | 3.9 |\n", never=("C405",)
    ),
    "two drafts that are called equal": Small(
        "## Results\n\nThe two are not distinguishable.\n\n| Drafter | Acceptance length |\n|---|---|\n"
        "| EAGLE head | 4.24 |\n| MTP | 4.16 |\n",
        never=("C410",),
    ),
    "two drafts with the same number": Small(
        "## Results\n\n| Drafter | Acceptance length |\n|---|---|\n| EAGLE head | 4.24 |\n| MTP | 4.24 |\n",
        never=("C410",),
    ),
    "runs per configuration": Small(
        "## Results\n\n5 independent runs per configuration.\n\n| Set | τ |\n|---|---|\n| GSM8K | 3.9 |\n",
        (("C412", "5 independent runs", "without their spread"),),
    ),
    "a version after a colon": Small(
        "```bash\nvllm serve Qwen/Qwen3-8B\n```\n\n- vLLM version: 0.11.0\n", never=("C408",)
    ),
    "an engine beside the results, in another section": Small(
        "## Results\n\n### Setup\n\nRuntime: SGLang on one B200.\n\n### Acceptance\n\n| Set | τ |\n|---|---|\n| "
        "GSM8K | 3.9 |\n",
        never=("C407",),
    ),
    "a speed-up has conditions": Small(
        "## Speedup\n\n| Concurrency | GSM8K | MT-Bench |\n|---|---|---|\n| 1 | 3.32x | 2.34x |\n"
        "| 4 | 2.5x | 1.83x |\n",
        (("C404", "| Concurrency", "output length"), ("C407", "| Concurrency", "no engine")),
        ("C403",),
    ),
    "a recommended K that was not measured": Small(
        "Recommended serving setting: `num_speculative_tokens=7`.\n\n## Results\n\nMeasured with "
        "`num_speculative_tokens=15`.\n\n| Set | Acceptance length |\n|---|---|\n| GSM8K | 5.9 |\n",
        (("C501", "Recommended", "drafts K = 7; measured was K = 15"),),
        ("C411",),
    ),
    "accuracies by position of a validation": Small(
        "## Validation metrics\n\n| Metric | Value |\n|---|---|\n| Loss | 1.25 |\n| Position 1 acc | 0.74 |\n"
        "| Position 2 acc | 0.51 |\n| Position 3 acc | 0.37 |\n",
        (("C302", "Position 1", "3 rates by position"), ("C417", "", "")),
        ("C405", "C406", "C407", "C304"),
    ),
    "agreement called acceptance": Small(
        "### Measured acceptance (greedy draft/target agreement, held-out)\n\n| seed | agreement p |\n|---|---|\n"
        "| 0 | 0.67 |\n| 1 | 0.69 |\n",
        (("C304", "| seed", "agreement"),),
    ),
    "an English page's versions of builds": Small(
        "- torch 2.7.1+cu128\n- CUDA 12.0+\n", (("C414", "CUDA", "CUDA 12.0+"),)
    ),
}


@pytest.mark.parametrize("small", CARDS.values(), ids=CARDS)
def test_what_is_said_of_a_small_card(small: Small) -> None:
    text = HEAD + small.body
    lines = text.split("\n")
    found = lint_text(text)
    for code, at, words in small.wanted:
        places = [i for i, line in enumerate(lines, 1) if at.strip("\n") in line or (code == "C411" and at == "```")]
        right = [f for f in found if f.code == code and words in f.message and (f.line in places or at == "---")]
        assert right, (code, at, words, [f for f in found if f.code == code])
    assert not [f for f in found if f.code in small.never]


def test_a_language_model_owes_no_acceptance_length() -> None:
    text = (
        "---\nlicense: mit\nlanguage: [en]\ntags: [text-generation]\n---\n# Big-7B\n\nA language model of 7 billion "
        "parameters. It has an MTP layer for speculative decoding, and runs with vLLM.\n\n## Results\n\n"
        "| Benchmark | Big-7B |\n|---|---|\n| MMLU | 71.2 |\n"
    )
    codes = {f.code for f in lint_text(text)}
    assert "C003" in codes and not codes & {"C103", "C417", "C418", "C408", "C613", "C617", "C618"}


def test_a_guide_is_no_card_and_a_card_needs_no_metadata_to_be_one() -> None:
    guide = (
        "# Kimi-K2.5 training\n\nSetup for training an Eagle3 draft model for Kimi-K2.5.\n\n```\nbash run.sh\n```\n"
    )
    default = "---\nlicense: mit\n---\n# Model Card for Model ID\n\nEAGLE-3 drafter model for GPT-oss-20b.\n"
    assert "C417" in {f.code for f in lint_text(default)}
    paper = "# P-EAGLE\n\nA method. It drafts in parallel.\n"
    card = "Thanks to the framework for their work.\n\n# GLM-5.1-eagle3\n\nA specialized draft model.\n"
    codes = [{f.code for f in lint_text(text)} for text in (guide, paper, card)]
    assert ["C003" in found for found in codes] == [True, True, False]
    assert ["C417" in found for found in codes] == [False, False, True]


def test_an_engine_that_will_support_the_head_needs_no_version() -> None:
    soon = HEAD + "Upstream support is in progress (vLLM [#46853](https://github.com/vllm-project/vllm/pull/46853)).\n"
    assert "C408" not in {f.code for f in lint_text(soon)}
    assert "C408" in {f.code for f in lint_text(soon + "\nIt was measured with vLLM.\n")}


def test_a_copied_table_with_factors_is_read() -> None:
    text = (
        "some-eagle3-drafter\n\nan EAGLE-3 draft head for google/gemma-3-27b-it, best of 3-4-8:\n\n"
        "workload speedup accept length\nrepetitive text 1.52x 1.97\ncode 1.44x 1.84\nprose "
        "1.33x 1.56\n\nDownloads last month\n10\n"
    )
    found = {f.code for f in lint_text(text)}
    assert "C405" in found and not found & {"C417", "C418", "C610"}


def test_a_method_of_the_title_is_cited_too():
    text = HEAD.replace("Qwen3-8B EAGLE-3 head", "Qwen3-8B-DFlash").replace("Draft head", "DFlash draft model")
    found = [f for f in lint_text(text) if f.code == "C103"]
    assert ["DFlash and does not cite it (arXiv 2602.06036)" in f.message for f in found] == [True]
    assert "C103" not in {f.code for f in lint_text(text + "\n[DFlash](https://arxiv.org/abs/2602.06036)\n")}
    assert [
        f.severity
        for f in lint_text("# A-eagle3\n\nAn EAGLE-3 head.\n\nDownloads last month\n9\n")
        if f.code == "C103"
    ] == ["info"]


def test_a_column_of_data_sets_does_not_name_the_training_data():
    text = HEAD.replace("datasets: [HuggingFaceH4/ultrachat_200k]\n", "").replace(
        "trained on HuggingFaceH4/ultrachat_200k on", "trained on"
    )
    table = "## Results\n\n| Dataset | τ |\n|---|---|\n| GSM8K | 3.9 |\n"
    assert "C617" in {f.code for f in lint_text(text + table)}
    assert "C617" in {f.code for f in lint_text(text + "- **Training data:** 50k samples\n")}
    assert "C617" not in {f.code for f in lint_text(text + "Trained on 50k conversations of our users.\n")}


def test_recipes_and_readmes_are_no_heads_and_builds_are_said_to_be_unknown():
    recipe = "---\nlicense: mit\ntags: [eagle]\n---\n# Q on SGLang (DFlash2 / EAGLE)\n\n"
    recipe += "Serve recipe for the body. Draft: a draft model for Q.\n"
    assert "C003" in {f.code for f in lint_text(recipe)}
    assert [f.severity for f in lint_text("# A library\n\nIt serves models.\n") if f.code == "C610"] == ["info"]
    elsewhere = lint_text(HEAD + CARDS["results that another card has"].body)
    assert [f.severity for f in elsewhere if f.code == "C417"] == ["info"]
    builds = (
        "an engine's plug-in",
        "an engine from its sources",
        "an engine that the card installs in another version",
    )
    for name in builds:
        found = [f for f in lint_text(HEAD + CARDS[name].body) if f.code == "C510"]
        assert [f.severity for f in found] == ["info"] and "whose names are not known" in found[0].message
    head_of_head = HEAD.replace("base_model: Qwen/Qwen3-8B", "base_model: nvidia/Llama-Eagle3")
    serve = '```bash\nvllm serve Qwen/Qwen3-8B --speculative-config \'{"model": "a/b", "method": "eagle3"}\'\n```\n'
    assert "C508" not in {f.code for f in lint_text(head_of_head + serve)}


def test_less_than_one_token_per_step_is_impossible_where_the_target_is_counted():
    table = "## Results\n\n| Set | {} |\n|---|---|\n| GSM8K | 0.95 |\n| MATH | 0.9996 |\n"
    below = [f for f in lint_text(HEAD + table.format("τ")) if f.code == "C201"]
    assert [f.message for f in below] == [
        "τ = 0.95 (GSM8K): less than 1 token per step cannot be",
        "τ = 0.9996 (MATH): less than 1 token per step cannot be",
    ]
    for name in ("Acceptance length", "Mean accepted tokens"):  # which may count accepted drafts alone
        found = {f.code for f in lint_text(HEAD + table.format(name))}
        assert "C201" not in found and "C306" in found
    rounded = HEAD + table.format("τ").replace("0.95", "1.0").replace("0.9996", "1")
    assert "C201" not in {f.code for f in lint_text(rounded)}


def test_a_log_is_searched_as_its_first_lines_are():
    text = HEAD + "".join(f"Step {i} of the log: TODO\n\n" for i in range(700))
    assert next(f.line for f in lint_text(text) if f.code == "C708") == HEAD.count("\n") + 1
    late = text + "Decoding is 3.1x faster.\n"
    assert [f.line for f in lint_text(late) if f.code == "C801"] == [late.count("\n")]
    book = HEAD + "".join(f"A line {i} of one paragraph.\n" for i in range(1500)) + "Decoding is 3.1x faster.\n"
    assert [f.line for f in lint_text(book) if f.code == "C801"] == [book.count("\n")]


CHINESE = """---
license: mit
base_model: Qwen/Qwen3-8B
language: [zh]
tags: [eagle3, draft-model]
datasets: [a/b]
---
# Qwen3-8B EAGLE-3 草稿模型

本模型是 Qwen/Qwen3-8B 的草稿模型，训练数据为 a/b，方法见 [EAGLE-3](https://arxiv.org/abs/2503.01840)。

"""


@pytest.mark.parametrize(
    ("sentence", "code", "words"),
    [
        ("在 MT-Bench 上平均接受长度达到 3.2。", "C405", ""),
        ("草稿 token 的接受率为 72%。", "C303", "72%"),
        ("相比自回归解码，推理速度提升 2.3 倍。", "C801", "2.3 倍"),
        ("接受率高达 100%。", "C210", "100%"),
        ("评测结果待补充。", "C708", "待补充"),
        ("本模型沿用基座模型的许可证。", "C604", "沿用基座模型"),
        (
            "每轮草稿 4 个 token。\n\n| 数据集 | 平均每步接受 token 数 |\n|---|---|\n| GSM8K | 5.6 |",
            "C201",
            "K + 1 = 5",
        ),
        ("草稿长度为 3。\n\n| 数据集 | 接受长度 |\n|---|---|\n| GSM8K | 4.6 |", "C201", "K + 1 = 4"),
        ("| 方法 | 吞吐量（token/s） |\n|---|---|\n| 基线 | 100 |\n| EAGLE-3 | 210 |", "C402", "accelerator"),
        ("EAGLE-3 采用 test-time training。", "C305", "test-time training"),
    ],
)
def test_chinese_sentences_are_read(sentence: str, code: str, words: str) -> None:
    found = lint_text(CHINESE + sentence + "\n")
    assert any(f.code == code and words in f.message for f in found), [(f.code, f.message) for f in found]
    assert not any(f.code == "C002" for f in found)
    plain = "在 8 张 H100 上测试，许可证为 MIT，速度见下文。"
    assert code == "C405" or code not in {f.code for f in lint_text(CHINESE + plain + "\n")}


def test_the_report_of_a_sibling_is_no_wrong_id() -> None:
    found = [f.message for f in lint_text(HEAD + CARDS["reports of one family"].body) if f.code == "C106"]
    assert len(found) == 1 and "EAGLE-2" in found[0]


def _table(*rows: str, after: str = "") -> str:
    columns = rows[0].count("|") - 1
    return "\n".join([rows[0], "|" + "---|" * columns, *rows[1:]]) + f"\n\n{after}\n"


def _twice(first: str, second: str) -> str:
    """Two tables of the same sets with other lengths, each under its words."""
    a = _table("| set | τ |", "| MT-Bench (80) | 2.71 |", "| HumanEval (164) | 3.28 |", "| all | 3.07 |")
    b = _table("| set | n | τ |", "| MT-Bench | 80 | 2.38 |", "| HumanEval | 164 | 2.94 |", "| all | 244 | 2.74 |")
    return f"{first}\n\n{a}\n{second}\n\n{b}"


SPEED = _table("| set | tok/s | tok/s, baseline |", "| MT-Bench | 172 | 104 |") + "T = 0, concurrency 1, 80 prompts"
SHARE = _table("| set | τ | {} |", "| GSM8K | 3.40 | {} |", after="K = 5, a chain.")
MEAN = _table("| set | τ |", "| MT-Bench, 80 prompts | 2.36 |", "| GSM8K, 120 prompts | 2.79 |", "| {} | {} |")
RATES = _table("| set | acceptance rate |", "| MT-Bench | 0.47 |", after="K = 3, T = 0.")
CATEGORIES = _table(
    "| category | τ |", "| QA | 2.2 |", "| Summarization | 2.7 |", "| Translation | 2.6 |", "| Math reasoning | 2.7 |"
)
LOAD = (
    _table("| set | tok/s | tok/s, baseline |", "| MT-Bench | 172 | 104 |") + "H100, T = 0, 80 prompts, 512 new tokens"
)
THREE_SETS = _table("| set | τ |", "| MT-Bench | 2.41 |", "| GSM8K | 2.92 |", "| HumanEval | 2.80 |")
COUNTLESS = _table("| K | τ |", "| 3 | 2.3 |", "| 5 | 2.6 |") + "Measured with SGLang, batch 1"
VERSIONLESS = _table("| K | τ |", "| 3 | 2.3 |") + "T = 0, 80 prompts, llama.cpp"
EQUALS = _table("| draft | τ | tok/s |", "| BF16 | 2.38 | 139 |", "| Q8_0 | 2.37 | 151 |")
BATCHES = "Accept length (tokens per step, pooled): **2.71**, on 80 prompts.\n\n" + _table(
    "| batch | tok/s without | tok/s with | {} |", "| 1 | 78 | 140.4 | 1.80 |", "| 64 | 2650 | 2544 | 0.96 |"
)
WINNERS = _table(
    "| set | MTP throughput | EAGLE-3 throughput | {2} |", "| a | 190 | 209 | {0} |", "| b | 242 | 220 | {1} |"
)
ONE_STATE = (
    "{}\n\n```yaml\nspeculative_config:\n  decoding_type: Eagle\n  max_draft_len: 3\n  speculative_model: a/b\n"
    "  eagle3_layers_to_capture: [-1]\n```\n\n```sh\ntrtllm-serve Qwen/Qwen3-8B --config config.yaml\n```\n"
)
TWO_NAMES = _table(
    "| model | MT-Bench | GSM8K |", "| | {0} | {0} |", "| Qwen3-4B | 1.52 | 2.06 |", "| Qwen3-8B | 1.60 | 2.18 |"
)
DRAFTS_FIVE = (
    "\n\n```bash\npython -m sglang.launch_server --model-path Qwen/Qwen3-8B --speculative-algorithm EAGLE3 "
    "--speculative-draft-model-path a/b --speculative-num-steps 5 --speculative-eagle-topk 1 "
    "--speculative-num-draft-tokens 6\n```\n"
)
MEASURED = _table("| set | τ |", "| MT-Bench | 2.4 |", after=f"SGLang {SGLANG}, {{}}.") + DRAFTS_FIVE
OTHER_BASE = HEAD.replace("base_model: Qwen/Qwen3-8B", "base_model: meta-llama/Llama-3.1-70B-Instruct")
CO2 = "co2_eq_emissions: 187200\nlicense:"
CUSTOM = HEAD.replace("license: apache-2.0", "license: other")
OTHER_DATA = HEAD.replace("trained on HuggingFaceH4/ultrachat_200k on", "on").replace(
    "HuggingFaceH4/ultrachat_200k", "HuggingFaceTB/xyz"
)
NO_DATA = OTHER_DATA.replace("datasets: [HuggingFaceTB/xyz]\n", "")
IMAGES = "pipeline_tag: image-text-to-text\nlicense:"
WAYS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "C803: a number is that set's own": (
        "license:",
        (
            "MT-Bench (80 questions), HumanEval (200 problems).",
            "MT-Bench and HumanEval, 200 prompts each.",
            "80 MT-Bench questions and 200 HumanEval problems.",
            "GSM8K, 2,000 prompts.",
            _table("| target | n (HumanEval) | τ |", "| a | 200 | 2.2 |", "| b | 200 | 2.3 |"),
        ),
        (
            "80 MT-Bench, 164 HumanEval and 200 GSM8K prompts.",
            "MT-Bench and HumanEval (244 prompts).",
            "MT-Bench, HumanEval: 244 prompts in total.",
            "MT-Bench, 500 prompts of MATH-500.",
            "在 MT-Bench 和 HumanEval 上共 244 条。",
            "GSM8K (7,473 training problems) was left out.",
            "We trained on GSM8K too, and measured GSM8K (2,000 problems).",
            _table("| set | n | τ |", "| HumanEval and MT-Bench | 244 | 2.2 |"),
        ),
    ),
    "C201: what a number below 1 is of": (
        "license:",
        (_table("| set | τ |", "| MT-Bench | 0.66 |", after="τ counts the target's token."),),
        (
            _table("| K | τ | share accepted, (τ − 1)/K |", "| 1 | 1.66 | 0.660 |", "| 2 | 2.07 | 0.535 |"),
            _table("| set | τ | difference of τ |", "| MT-Bench | 2.34 | 0.02 |"),
            "The difference in τ is −0.02 with a 95 % interval of −0.05 to +0.01.",
        ),
    ),
    "C802: what was dropped": (
        "license:",
        ("MT-Bench with 3,300 expert votes.",),
        ("lmsys/mt_bench_human_judgments (3,300 expert votes; we dropped the votes); MT-Bench was measured.",),
    ),
    "C101: authors are no title": (
        "license:",
        ("EAGLE-3: Faster Drafts for Everybody and All. arXiv 2503.01840.",),
        (
            "EAGLE-3: Y. Li, F. Wei, C. Zhang, H. Zhang. *EAGLE-3: Scaling up Inference Acceleration of Large "
            "Language Models via Training-Time Test*. NeurIPS 2025. [arXiv:2503.01840](https://arxiv.org/abs/2503.01840)",
        ),
    ),
    "C306: the sum of one and drafts": (
        "license:",
        (_table("| set | accepted drafts per step |", "| MT-Bench | 1.37 |"),),
        (_table("| set | drafts | accepted | τ = 1 + accepted/drafts |", "| MT-Bench | 14,210 | 19,467 | 2.37 |"),),
    ),
    "C407: an engine with its version": (
        "license:",
        (_table("| set | τ |", "| MT-Bench | 2.4 |", after="K = 3, T = 0."),),
        (
            _table("| component | version |", f"| SGLang | {SGLANG} |") + _table("| set | τ |", "| MT-Bench | 2.4 |"),
            f"- 引擎:SGLang {SGLANG}\n\n" + _table("| 数据集 | 题数 | 接受长度 τ |", "| MT-Bench | 80 | 2.4 |"),
        ),
    ),
    "C802: what was not used": (
        "license:",
        ("MT-Bench (3,300 human judgments).", "Measured over the 3.3K expert-level conversations of MT-Bench."),
        (
            "MT-Bench: the 80 questions (not the 3,300 human judgments).",
            "The 3,300 human judgments are another data set than MT-Bench's questions.",
            "Unlike the 3,300 expert votes, MT-Bench's questions have answers.",
            "MT-Bench 的 80 题，不是 3,300 human judgments。",
        ),
    ),
    "C620: a factor is no mass": (
        CO2,
        ("The run emitted 187.2 tonnes CO2.", "520 kWh at 0.36 kg CO2 per kWh, which makes 18.72 kg."),
        (
            "520 kWh at 0.36 kg CO2 per kWh, which makes 187.2 kg.",
            "520 kWh × 0.36 kg/kWh = 187.2 kg CO2e.",
            "Per kWh the grid emits 0.36 kg of CO2; 520 kWh were used.",
            "耗电 520 kWh，每千瓦时 0.36 kg CO2。",
        ),
    ),
    "C621: energy times factor": (
        CO2,
        ("520 kWh at 0.36 kg CO2 per kWh, which makes 18.72 kg.", "520 kWh, 187.2 tonnes CO2."),
        ("520 kWh at 0.36 kg CO2 per kWh, which makes 187.2 kg.", "520 kWh at 360 g per kWh: 187.2 kg CO2."),
    ),
    "C404: the output length in other places": (
        "license:",
        (f"{SPEED}.", f"{SPEED}.\n\n```bash\nvllm serve Qwen/Qwen3-8B --max-model-len 4096\n```\n"),
        (
            f"{SPEED}, 输出上限 512 token.",
            f"{SPEED}, 最多 512 个 token.",
            f"{SPEED}, answers cut at 1k new tokens.",
            f"{SPEED}.\n\n```yaml\nhardware: H200\nmax_new_tokens: 1024\n```\n",
            f"{SPEED}.\n\n```\nTotal generated tokens:   31842\nOutput token throughput (tok/s): 150\n```\n",
        ),
    ),
    "C403: the load in other words": (
        "license:",
        (
            f"{LOAD}, TP 4.",
            f"{LOAD}, tensor parallel 4, 3 GPUs.",
            f"{LOAD}.\n\nThe head drafts 8 tokens at once. A model writes one token at a time.",
            f"{LOAD}.\n\n## Training\n\nBatch size 32.",
            "\n## Numbers\n\nOutput tokens per second on 80 prompts, K = 5: 402 with the head, 251 without.\n",
        ),
        (
            f"{LOAD}, one slot.",
            f"{LOAD}, 8 requests at a time.",
            f"{LOAD}, each question waits for the one before.",
            f"{LOAD}, no queue.",
            f"{LOAD}, unbatched.",
            f"{LOAD}, load of 4 clients.",
            f"{LOAD}, 单路。",
            _table("| setting | value |", "| Requests at a time | 1 |", "| GPU | H100 |") + LOAD,
            f"{LOAD}.\n\n```bash\nllama-server -m a.gguf -md b.gguf --spec-type draft-eagle3 -np 1\n```\n",
        ),
    ),
    "C405: a number of something": (
        "license:",
        (
            f"{COUNTLESS}, 512 new tokens, 8 concurrent users, in 2026.",
            f"{COUNTLESS}, 15 runs of 300 seconds.",
            f"{COUNTLESS}.\n\n## Training\n\n" + _table("| what | value |", "| Prompts | 150,000 of UltraChat |"),
        ),
        (
            f"{COUNTLESS}, the 80 first turns of MT-Bench.",
            f"{COUNTLESS}. The set consists of 300 news articles.",
            f"{COUNTLESS}, all of GSM8K.",
            f"{COUNTLESS}. Prompts, 320 of the test split.",
            f'{COUNTLESS}.\n\n```json\n{{"dataset": "mt_bench", "n": 80, "acceptance_length": 2.53}}\n```\n',
        ),
    ),
    "C404: a unit is no length": (
        "license:",
        (
            _table("| | output tokens/s |", "| plain | 410 |", "| with this head | 640 |")
            + "H100, 8 concurrent requests, 80 prompts.",
        ),
        (
            _table("| | output tokens/s |", "| plain | 410 |", "| with this head | 640 |")
            + "H100, 8 concurrent requests, 80 prompts, 256 output tokens each.",
        ),
    ),
    "C406: nothing is drawn": (
        "license:",
        (f"{COUNTLESS}, 80 prompts.",),
        (
            f"{COUNTLESS}, 80 prompts, no randomness.",
            f"{COUNTLESS}, 80 prompts, deterministic.",
            f"{COUNTLESS}, 80 prompts, T 0.",
        ),
    ),
    "C408: a build is a version": (
        "license:",
        (f"{VERSIONLESS}, K = 3.", f"{VERSIONLESS} on an M3 Max."),
        (
            f"{VERSIONLESS} build b9412.",
            f"{VERSIONLESS} (b9412).",
            f"{VERSIONLESS} of 2026-05-11.",
            f"{VERSIONLESS} at commit 3f2a91c.",
            f"{VERSIONLESS}, release 9412.",
        ),
    ),
    "C410: a card that calls them equal": (
        "license:",
        (EQUALS, f"{EQUALS}\nQ8_0 is better."),
        (
            f"{EQUALS}\nThe difference between the two is noise.",
            f"{EQUALS}\nThe two are equal.",
            f"{EQUALS}\n两者持平。",
        ),
    ),
    "C303: what is defined, or is of a position": (
        "license:",
        (RATES, f"{RATES}\nThe acceptance rate is high."),
        (
            f"{RATES}\n- **Acceptance rate**: accepted tokens / drafted tokens, pooled.",
            f"{RATES}\nFor a chain it is (τ − 1) / K.",
            f"{RATES}\nThe rate is over all drafted tokens.",
            f"{RATES}\nOf 1000 drafted tokens 470 were accepted.",
            f"{RATES}\n接受率为接受 token 数与草稿 token 数之比。",
            _table("| acc_0 | acc_1 | acc_2 |", "| 0.71 | 0.66 | 0.63 |"),
        ),
    ),
    "C201: a ratio is no length": (
        "license:",
        (_table("| set | τ |", "| MT-Bench | 0.96 |"),),
        (
            BATCHES.format("ratio (with / without)"),
            BATCHES.format("with ÷ without"),
        ),
    ),
    "C411: a formula is no length": (
        "license:",
        ("- `acceptance_length`: 2.4\n- `other`: 1",),
        ("- `acceptance_length`: 1 + accepted / drafts\n- `draft_acceptance_rate`: accepted / drafted tokens",),
    ),
    "C212: a condition of its own": (
        "license:",
        (THREE_SETS + "On GSM8K τ is 2.70.",),
        (
            THREE_SETS + "On GSM8K τ with thinking is 2.70.",
            THREE_SETS + "Acceptance length on GSM8K by turn: 2.45 and 2.38.",
            THREE_SETS + "On GSM8K τ of the earlier version was 2.70.",
        ),
    ),
    "C212: throughputs of a sentence": (
        "license:",
        (
            f"{SPEED}.\n\nOutput goes from 104 to 190 tokens per second.",
            f"{SPEED}.\n\nThat is 190 tok/s instead of 104 tok/s.",
            f"{SPEED}.\n\n吞吐从 104 提升到 190 tok/s。",
        ),
        (
            f"{SPEED}.\n\nOutput goes from 104 to 172 tokens per second.",
            f"{SPEED}.\n\nOn another machine it goes from 60 to 99 tok/s.",
            f"{SPEED}.\n\nWe went from 104 to 190 prompts.",
            "- throughput: 1,450 → 2,465 tok/s\n- latency: 30 → 21 ms",
        ),
    ),
    "C205: who is faster in words": (
        "license:",
        (
            WINNERS.format("EAGLE-3 快 10.0%", "MTP 快 10.0%", "差异"),
            WINNERS.format("EAGLE-3 is faster by 10.0%", "MTP is faster by 10.0%", "difference"),
        ),
        (WINNERS.format("EAGLE-3 快 10.0%", "EAGLE-3 慢 9.1%", "差异"), WINNERS.format("+10.0%", "-9.1%", "Δ")),
    ),
    "C612: a link under another model's name": (
        OTHER_BASE,
        ("For [Llama-3.3-70B-Instruct](https://huggingface.co/meta-llama/Llama-3.1-70B-Instruct).",),
        (
            "For [Llama-3.1-70B-Instruct](https://huggingface.co/meta-llama/Llama-3.1-70B-Instruct).",
            "For [Llama 3.1 70B](https://huggingface.co/meta-llama/Llama-3.1-70B-Instruct).",
            "For [this target](https://huggingface.co/meta-llama/Llama-3.1-70B-Instruct).",
        ),
    ),
    "C605: terms of its own": (
        "license:",
        (
            "## License\n\nUse of the draft head is governed by the **Obsidian Community License 1.2**.",
            "## License\n\nThe weights are released under the Acme Research License.",
        ),
        (
            "## License\n\nApache 2.0. The target is under the Acme Research License.",
            "## License\n\nThe data set is released under the Acme Research License.",
            "## License\n\nThe head is released under the Apache License 2.0.",
        ),
    ),
    "C606: terms of its own, and no address": (
        "license:",
        ("## License\n\nUse of the draft head is governed by the **Obsidian Community License 1.2**.",),
        (
            "## License\n\nThe head is under the [Obsidian Community License](https://obsidian.example/license).",
            "## License\n\nThe target is under the Obsidian Community License.",
        ),
    ),
    "C510: a head without auxiliary states": (
        "license:",
        (ONE_STATE.format("It drafts three tokens."),),
        (
            ONE_STATE.format("It was trained with `use_aux_hidden_state: false`."),
            ONE_STATE.format("It has no `fc`."),
            ONE_STATE.format("It reads the last state alone."),
        ),
    ),
    "C306: one name under the names of the sets": (
        "license:",
        (TWO_NAMES.format("平均接受 token 数"), TWO_NAMES.format("mean accepted tokens")),
        (
            TWO_NAMES.format("accept length"),
            TWO_NAMES.format("mean accepted tokens") + "The extra token that the verifier adds is left out.",
            TWO_NAMES.format("mean accepted tokens") + "Only drafted tokens are counted.",
            TWO_NAMES.format("accepted drafts per step (without the target's token)"),
            TWO_NAMES.format("mean accepted tokens") + "The bonus token is included.",
        ),
    ),
    "C405: the set beside n": (
        "license:",
        (_table("| target | τ of MT-Bench |", "| a | 2.2 |"),),
        (_table("| target | n (MT-Bench) | τ |", "| a | 80 | 2.2 |"),),
    ),
    "C402: a machine for hours is the training's": (
        "license:",
        (
            f"{SPEED}.\n\nAnswers by the target; 16 × H100; 30 h.",
            f"{SPEED}.\n\n30 h on 8 × H100.",
            f"{SPEED}.\n\n4 张 H20，4 天。",
        ),
        (
            f"{SPEED}, H100.",
            f"{SPEED}.\n\nMeasured on 8 × H100 in 2 hours.",
            f"{SPEED}.\n\n```yaml\nhardware: 1x H200\nconcurrency: 1\n```\n\n8 × H100, 19 hours.",
        ),
    ),
    "C211: what leads to a table is its condition": (
        "license:",
        (_twice("## Highlights", "## Details"), _twice("## Highlights", "## Details\n\nAll sets are of 80 to 164.")),
        (
            _twice("Temperature 0:", "Temperature 0.7 (the default):"),
            _twice("With K = 3:", "With K = 5:"),
            _twice("The FP8 target:", "The BF16 target:"),
            _twice("On H100, in July:", "On H100, in August:"),
            _twice("## vLLM", "## SGLang"),
        ),
    ),
    "C206: the share of the drafted tokens by any name": (
        "license:",
        (
            SHARE.format("accepted / drafted tokens", "68 %"),
            SHARE.format("share of drafted tokens that were accepted", "68 %"),
            SHARE.format("接受/草拟", "68 %"),
            SHARE.format("accepted / drafted (%)", "68.0"),
            SHARE.format("acceptance rate", "68 %") + "\nThe acceptance rate is accepted / drafted tokens.",
            SHARE.format("acceptance rate", "0.68") + "\nAcceptance rate: (τ - 1) / K.",
        ),
        (
            SHARE.format("accepted / drafted tokens", "48 %"),
            SHARE.format("acceptance rate", "68 %"),
            SHARE.format("draft tokens accepted", "2.40"),
            SHARE.format("accepted / drafted", "68 %").replace("a chain", "top-k 4"),
            _table("| set | K | accepted drafts per round | accepted / drafted |", "| a | 3 | 1.31 | 43.7 % |"),
            _table(
                "| counter | value |", "| drafted tokens | 99,450 |", "| τ | 2.31 |", "| accepted / drafted | 43 % |"
            ),
        ),
    ),
    "C207: a mean in words": (
        "license:",
        tuple(
            MEAN.format(name, "2.95")
            for name in (
                "Mean of the two",
                "Average over both sets",
                "Overall mean",
                "**Average (unweighted mean of the two)**",
                "Mean across benchmarks",
                "两项平均",
            )
        ),
        (
            MEAN.format("Mean of the two", "2.58"),
            MEAN.format("Average over both sets", "2.62"),
            MEAN.format("Average over 200 prompts", "2.95"),
            MEAN.format("Average (pooled over rounds)", "2.95"),
            MEAN.format("Mean token probability", "2.95"),
        ),
    ),
    "C412: runs by other names": (
        "license:",
        (
            "Averages of five runs.",
            "Five-run means.",
            "Every set was run 3 times and the values averaged.",
            "Averaged across 5 independent repetitions.",
            "## A\n\nτ is 2.58, 95 % interval 2.48 to 2.68.\n\n## B\n\nEach value is the mean of five runs.",
        ),
        (
            "Averages over 80 prompts.",
            "## A\n\nFive-run means ± std.\n\n## B\n\nOne run.",
            "Five-run means ± std.",
            "Each run averages 80 prompts.",
            "The runs' mean cost.",
        ),
    ),
    "C416: the categories of Spec-Bench": (
        "license:",
        (CATEGORIES,),
        (
            CATEGORIES + "\nOverall τ: 2.5.",
            _table("| set | τ |", "| MT-Bench | 2.2 |", "| GSM8K | 2.7 |", "| HumanEval | 2.6 |", "| C-Eval | 2.6 |"),
        ),
    ),
    "C417: a rate that nobody defines gives no length": (
        "license:",
        (RATES, RATES + "\nRates are over all requests.", "The head was measured."),
        (
            RATES + "\nAcceptance rate = accepted / drafted tokens.",
            RATES.replace("acceptance rate", "accepted / drafted"),
            "K = 3.\n\n```\ndraft acceptance rate = 0.47 ( 470 accepted / 1000 generated)\n```\n",
            "Two and a half tokens per round on average.",
            "Of three drafts, 1.41 are kept on average; the target adds one.",
        ),
    ),
    "C306: tokens accepted per step": (
        "license:",
        ("On 80 questions, 1.74 tokens accepted per step.", "It has 2.41 tokens accepted per verification step."),
        (
            "On 80 questions, 1.74 tokens accepted per step, not counting the target's own.",
            "2.74 tokens per step, the bonus token included.",
        ),
    ),
    "C801: the training in the sentence before": (
        "license:",
        (
            "These values are of the training run; they promise a speed-up of about 2.4x.",
            "The training was on 8 GPUs. Expect a 2.4x speed-up.",
        ),
        (
            _table("| set | head on (tok/s) | head off (tok/s) |", "| a | 160 | 90 |") + "Speed-up: 1.78x.",
            _table("| set | τ | EAGLE-3 tok/s | stock tok/s |", "| a | 2.4 | 160 | 90 |") + "A speed-up of 1.78x.",
            "With packing, training ran 2.4x faster.",
            "Thanks to packing the training runs at 2x the throughput.",
        ),
    ),
    "C501: draft steps": (
        "license:",
        tuple(MEASURED.format(k) for k in ("3 draft steps, top-k 1", "three drafted positions", "a chain of three")),
        tuple(MEASURED.format(k) for k in ("5 draft steps, top-k 1", "unrolled over 3 draft steps in training")),
    ),
    "C503: a tree in other words": (
        "license:",
        (
            f"The draft expands a tree of candidates.{DRAFTS_FIVE}",
            f"The target verifies all branches in one pass.{DRAFTS_FIVE}",
            f"草稿模型展开候选树。{DRAFTS_FIVE}",
        ),
        (
            f"It drafts a chain, not a tree of candidates.{DRAFTS_FIVE}",
            f"See the source tree of SGLang.{DRAFTS_FIVE}",
            f"Others draft a tree of 5 steps; the recipe here is a chain.{DRAFTS_FIVE}",
        ),
    ),
    "C504: what vLLM has meanwhile, and variables that are gone": (
        "license:",
        (
            "vLLM always takes the draft's arg-max.",
            "Probabilistic sampling of draft tokens is not possible in vLLM yet.",
            "vLLM cannot sample from the draft yet.",
            "You must also set `SGLANG_ENABLE_SPEC_V2=1`, otherwise SGLang takes the slow worker.",
        ),
        (
            "vLLM takes the draft's arg-max unless draft_sample_method says otherwise.",
            "vLLM always takes the target's arg-max at temperature 0.",
            "`SGLANG_ENABLE_SPEC_V2` is no longer needed.",
            "SGLang's `SGLANG_ENABLE_SPEC_V2=1` does nothing and can be deleted from your scripts.",
            "Do not set SGLANG_ENABLE_SPEC_V2.",
            "SGLANG_ENABLE_SPEC_V2 was needed in 0.5.4.",
            "Temperature sampling is not supported in SGLang's tree mode.",
        ),
    ),
    "C806: a size before the model": (
        "license:",
        (
            "With this head the 80B target is fast.",
            "A head for the 32B model Qwen/Qwen3-8B.",
            "It serves the 14B dense target.",
        ),
        (
            "With this head the 8B target is fast, and the 0.4B head small.",
            "Our other head is for the 32B target Qwen/Qwen3-32B.",
            "(There is a sister head for the 70B model meta-llama/Llama-3.3-70B-Instruct.)",
            "It saw 2B tokens of a 300B token corpus.",
            "Compared with the 70B target of our sister head, this is small.",
        ),
    ),
    "C604: a license that is taken over": (
        "license:",
        (
            "This model inherits the Apache 2.0 license from its base model Qwen3-8B.",
            "Its license is that of the base model.",
            "The head takes its license from the target model.",
        ),
        (
            "It inherits the tokenizer and the chat template from its base model.",
            "License: Apache 2.0; the target model is Apache 2.0 as well.",
        ),
    ),
    "C605: a license at the end of a line": (
        "license:",
        ("8 × H20，4 天。许可证：MIT。", "Two days on H100. License: MIT.", "许可证为 MIT。"),
        (
            "8 × H20，4 天。许可证：Apache 2.0。",
            "Two days on H100. License: Apache 2.0.",
            "Data license: CC-BY-4.0.",
            "The dataset is on the Hub. License: MIT.",
            "Done. License: CC-BY-4.0 (data), Apache 2.0 (weights).",
        ),
    ),
    "C804: neither reads pictures": (
        IMAGES,
        (
            "It is text-only: neither target nor head takes pictures.",
            "The target cannot read images.",
            "Head and target are text-only.",
        ),
        ("It was measured with text-only prompts.", "MMStar's pictures were left out.", "It reads images and text."),
    ),
}


BY_HEAD: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "C606: a license that only the text names": (
        CUSTOM,
        ("## License\n\nUse is governed by the Ravenrock Open Weights Agreement.", "License: Acme Community License."),
        (
            "License: [Acme Community License](https://acme.org/license).",
            "## License\n\nSee the License.",
            "Weights: Acme License 2.0 (see LICENSE in this repository).",
            "The Service Level Agreement of our API is separate.",
            "Code is under the MIT License.",
        ),
    ),
    "C615: prompts of another set": (
        OTHER_DATA,
        (
            "We took the prompts of mlabonne/open-perfectblend and let Qwen3-8B answer them.",
            "mlabonne/open-perfectblend, answers by the target.",
            "mlabonne/open-perfectblend（由目标模型重新作答）",
        ),
        (
            "HuggingFaceTB/xyz and the prompts of mlabonne/open-perfectblend.",
            "Measured on the prompts of HuggingFaceH4/mt_bench_prompts.",
            "Made with sgl-project/SpecForge on regenerated responses.",
        ),
    ),
    "C617: a set and who answered": (
        NO_DATA,
        ("Measured on the prompts of HuggingFaceH4/mt_bench_prompts.", "Qwen/Qwen3-8B answers in prose."),
        (
            "HuggingFaceTB/xyz, answers by the target; one A100; 3 days.",
            "Prompts: a/xyz.",
            "The prompts of a/xyz were answered by Qwen3-8B.",
        ),
    ),
}


def _under(front: str) -> str:
    return front if front.startswith("---") else HEAD.replace("license:", front)


RESULTS = _table(
    "| Set | τ | tok/s with | tok/s without |", "| MT-Bench | 2.41 | 150 | 90 |", "| all | 2.60 | 160 | 90 |"
)
CONDITIONS = {
    "C405": "80 prompts each",
    "C403": "one request at a time",
    "C404": "at most 512 new tokens",
    "C406": "temperature 0",
    "C411": "3 draft tokens",
    "C408": f"SGLang {SGLANG}",
    "C402": "one H100",
}
OTHER_WORDS = {
    "C405": (
        "80 questions of each set",
        "eighty prompts",
        "100 user turns",
        "first 100 rows of each set",
        "80 chats per set",
        "the test split in full",
        "every question of both sets",
        "prompt count: 80",
        "a random subset of 150",
        "50 tickets",
        "1k prompts",
        "80 generations",
        "共 280 个样本",
    ),
    "C403": (
        "bsz 1",
        "bs1",
        "B=1",
        "serially",
        "sequentially",
        "unloaded server",
        "parallelism 1",
        "QPS 1",
        "request rate 1",
        "at load 1",
        "a lone request",
        "requests never overlap",
        "8-way concurrency",
        "without concurrency",
        "单请求",
    ),
    "C404": (
        "512-token answers",
        "gen len 512",
        "until EOS",
        "1k out",
        "completion limit 512",
        "256 tok each",
        "n_predict 512",
        "OSL 512",
        "answers cut at 512 tokens",
        "输出 512 token",
    ),
    "C406": ("argmax", "top-1", "sampled with 0.7", "no sampling", "zero temperature", "temp. 0", "贪心"),
    "C411": (
        "draft len 3",
        "3 tokens per draft",
        "gamma 3",
        "chain length 3",
        "3 proposals per step",
        "three guesses",
        "speculation length 3",
        "block of 3",
        "3 tokens ahead",
        "K is 3",
        "K: 3",
        "draft budget 3",
        "每步 3 个草稿 token",
    ),
    "C408": (
        f"SGLang engine {SGLANG}",
        f"SGLang-{SGLANG}",
        f"{SGLANG} (SGLang)",
        f"v{SGLANG} of SGLang",
        "SGLang of 12 May 2026",
        "SGLang (3f2a91c)",
        "llama.cpp at b9412",
        "llama.cpp (May 2026)",
    ),
    "C402": (
        "a 4090",
        "2x4090",
        "GeForce 3080",
        "Radeon 7900 XTX",
        "Arc B580",
        "Strix Halo",
        "Mac Studio",
        "v5e-4",
        "one g5.xlarge",
        "沐曦 C500",
    ),
}
NOT_IT = {
    "C405": "3 runs of 300 seconds",
    "C403": "tensor parallel 4",
    "C404": "17 output tok/s more",
    "C406": "no surprises",
    "C411": "one draft head",
    "C408": "SGLang gives 2.41",
    "C402": "fast",
}


def _measured(code: str, said: str, *, as_list: bool) -> str:
    said_all = ({**CONDITIONS, code: said}).values()
    told = "\n".join(f"- {one}" for one in said_all) if as_list else f"{', '.join(said_all)}."
    return f"{HEAD}\n## Results\n\n{told}\n\n{RESULTS}{DRAFTS_FIVE}{DRAFTS_FIVE.replace(' 5', ' 4')}"


@pytest.mark.parametrize("code", CONDITIONS)
@pytest.mark.parametrize("as_list", [False, True], ids=["sentence", "list"])
def test_a_condition_is_read_in_other_words(code: str, as_list: bool):
    for said in (CONDITIONS[code], *OTHER_WORDS[code]):
        found = [f for f in lint_text(_measured(code, said, as_list=as_list)) if f.severity != "info"]
        assert not [f for f in found if f.code[:2] == "C4"], (said, found)
    found = [f for f in lint_text(_measured(code, NOT_IT[code], as_list=as_list)) if f.severity != "info"]
    assert {f.code for f in found if f.code[:2] == "C4"} == {code}


@pytest.mark.parametrize(
    ("name", "text", "is_fault"),
    [
        (f"{name} {'trips' if is_fault else 'nearly'} {i}", _under(front) + text + "\n", is_fault)
        for name, (front, *both) in (*WAYS.items(), *BY_HEAD.items())
        for texts, is_fault in zip(both, (True, False), strict=True)
        for i, text in enumerate(texts)
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 80 else "",
)
def test_a_kind_of_fault_is_found_in_other_words_and_what_is_near_it_is_not(name: str, text: str, is_fault: bool):
    found = [f for f in lint_text(text) if f.severity != "info" and f.code == name[:4]]
    assert bool(found) is is_fault, (found, text[len(HEAD) - 40 :])
