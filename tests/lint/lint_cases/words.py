"""C1, C3, C8: citations, words, claims."""

from __future__ import annotations

from lint_cases import FRONT, Case

EAGLE3 = "EAGLE-3: Scaling up Inference Acceleration of Large Language Models via Training-Time Test"
AUTHORS = "Yuhui Li and Fangyun Wei and Chao Zhang and Hongyang Zhang"


def bib(title: str = EAGLE3, author: str = AUTHORS, kind: str = "inproceedings", more: str = "") -> str:
    return f"""
```bibtex
@{kind}{{li2025,
  title = {{{title}}},
  author = {{{author}}},
  year = {{2025}},
  eprint = {{2503.01840}}{more}
}}
```
"""


def lengths(*rows: str, header: str = "| Set | τ |", before: str = "", after: str = "") -> str:
    bar = "|---" * (header.count("|") - 1) + "|"
    return "\n".join(["## Results", "", before, "", header, bar, *rows, "", after])


POSITIONS = """
## Results

{0}

| Position | {1} |
|---|---|
| 1 | 60% |
| 2 | {2} |
"""

MATH = bib("Training Verifiers to Solve Math Word Problems", "NAMES").replace("2503.01840", "2110.14168")
SAMPLING = "Accelerating Large Language Model Decoding with Speculative Sampling"
ACCURACIES = "| step | acc_0 | acc_1 |\n|---|---|---|\n| 10k | 0.74 | 0.70 |\n"
CASES = [
    Case("C101", bib("EAGLE-3: Speculation without Training"), "title =", bib("{EAGLE-3}: " + EAGLE3[9:].upper())),
    Case(
        "C106",
        f"[{EAGLE3}](https://arxiv.org/abs/2401.15077)",
        "2401.15077",
        f"[{EAGLE3}](https://arxiv.org/pdf/2503.01840v2), after [this](https://arxiv.org/abs/2401.15077)",
        name="link",
    ),
    Case(
        "C101",
        "[EAGLE3: Drafting without any Training](https://arxiv.org/abs/2503.01840)",
        "2503.01840",
        "[EAGLE3: paper](https://arxiv.org/abs/2503.01840) and "
        "[EAGLE-3: Scaling up Inference Acceleration via Training-Time Test](https://arxiv.org/abs/2503.01840)",
        name="subtitle",
    ),
    Case(
        "C101",
        bib("SGLang: Fast").replace("2503.01840", "2312.07104"),
        "title =",
        bib("Efficiently Programming Large Language Models using SGLang").replace("2503.01840", "2312.07104"),
        name="earlier",
    ),
    Case(
        "C101", bib("EAGLE-3: Speculation without Training").replace("2503.01840", ""), "title =", bib(), name="no id"
    ),
    Case(
        "C101",
        "Li et al., “EAGLE3: Scaling up EAGLE with Multi-Token Prediction”, arXiv 2503.01840.",
        "Multi-Token",
        f"Li et al., “{EAGLE3}”, arXiv 2503.01840, and “EAGLE: Exploring the Design Space for Multimodal Models”.",
        name="sentence",
    ),
    Case(
        "C106",
        "See [EAGLE](https://arxiv.org/pdf/2501.15077).",
        "2501.15077",
        "See [EAGLE](https://arxiv.org/pdf/2401.15077) and [EAGLE](https://arxiv.org/abs/2503.01840).",
        name="a slip",
    ),
    Case(
        "C106",
        "Trained as in the EAGLE-3 paper (arXiv:2503.01841).",
        "2503.01841",
        "Trained as in the EAGLE-3 paper (arXiv:2503.01840), after arXiv:2211.17192.",
        name="sentence",
    ),
    Case("C106", bib().replace("2503.01840", "2503.01841"), "eprint", bib(), name="bibtex"),
    Case(
        "C102",
        bib(author="Li, Yuhui and Wei, Fangyun"),
        "author =",
        bib(author="Li, Yuhui and 魏 and SafeAI Lab and others"),
        severity="warning",
    ),
    Case(
        "C102", bib(author="Jane Doe and others"), "author =", bib(author=AUTHORS), "Li, Wei, Zhang", name="invented"
    ),
    Case("C103", "A head.\nIt is an EAGLE3 head.", "EAGLE3 head", "EAGLE3, https://arxiv.org/abs/2503.01840"),
    Case("C104", "```bibtex\n@misc{a,\n  title = {T,\n}\n```", "@misc", bib(), "parsed"),
    Case("C104", "@misc{a,\n  title = {T},\n  year = 2025\n}", "@misc", bib(), "no author", name="author"),
    Case("C105", bib(kind="misc"), "@misc", bib()),
    Case(
        "C301",
        "| Category | Acceptance rate |\n|---|---|\n| math | 2.75 |\n| stem | 2.27 |",
        "| Category",
        "| Category | Acceptance rate |\n|---|---|\n| math | 0.75 |\n| stem | 62.7% |",
        "2.27 to 2.75",
    ),
    Case(
        "C301",
        "| Category | Acceptance rate |\n|---|---|\n| math | 2.75 |\n| stem | 12.7 |",
        "| Category",
        "| Category | Acceptance rate (%) |\n|---|---|\n| math | 2.75 |\n| stem | 12.7 |",
        severity="warning",
        name="perhaps percent",
    ),
    Case(
        "C301",
        "The number of tokens generated in each step is called acceptance rate.",
        "called",
        "The number of tokens generated in each step is called acceptance length.",
        name="sentence",
    ),
    Case(
        "C302",
        POSITIONS.format("", "Acceptance rate", "55%"),
        "| Position",
        POSITIONS.format("", "Marginal acceptance rate", "55%"),
        "1.93 if conditional, 2.15 if marginal",
    ),
    Case(
        "C302",
        "Per-position acceptance rates are 0.71, 0.48 and 0.34.",
        "Per-position",
        "Marginal per-position acceptance rates are 0.71, 0.48 and 0.34.",
        name="sentence",
    ),
    Case(
        "C303",
        "| Set | Acceptance rate |\n|---|---|\n| a | 61% |",
        "| Set",
        "Acceptance rate: accepted / drafted tokens.\n\n| Set | Acceptance rate |\n|---|---|\n| a | 61% |",
    ),
    Case(
        "C303",
        "An acceptance rate of 65% is reached.",
        "65%",
        "The training directly targets the acceptance rate.",
        name="sentence",
    ),
    Case(
        "C304",
        "## Results\n\n| Position | Acceptance rate |\n|---|---|\n| acc_0 | 60% |\n| acc_1 | 57% |",
        "| Position",
        "## Results\n\n| Position | Training accuracy |\n|---|---|\n| acc_0 | 60% |\n| acc_1 | 57% |",
        "acc_0 … acc_1",
    ),
    Case("C305", "EAGLE3's Test-Time Training loss.", "Training loss", "EAGLE3's training-time test."),
    Case(
        "C801",
        "It typically gives a 2-3x speed-up.",
        "2-3x",
        "It gives a 1.4x speed-up.\n\n"
        "| | Throughput (tok/s) |\n|---|---|\n| without a draft | 100 |\n| with the head | 140 |",
    ),
    Case(
        "C801",
        "Against the baseline it is 2x faster.",
        "2x",
        "Against the baseline it is 1.4x faster.\n\n| Set | Throughput (tok/s) |\n|---|---|\n| a | 100 |",
        name="baseline",
    ),
    Case("C801", "Decoding is 2.5× faster.", "2.5×", "4 hosts x 4 chips made training faster.", name="word order"),
    Case(
        "C801",
        "A 3x higher throughput is typical.",
        "3x",
        "It gained 2x what another loss gained, and trained 17% faster.",
        name="two things",
    ),
    Case(
        "C802",
        "Evaluated on MT-Bench:\n3,300 multi-turn dialogue sequences with expert preference votes.",
        "3,300",
        "Evaluated on MT-Bench: 80 questions of two turns, 3,300 rounds.",
    ),
    Case("C803", "HumanEval (200 problems) was used.", "200", "HumanEval (164 problems) was used.", "164 problems"),
    Case("C804", "- Input type: Text\n- Kind: image-to-text", "image-to-text", "- Input type: Text\n- Output: Text"),
    Case(
        "C804",
        "Input Type(s): Text\n\nModel type: Text and Image-to-text",
        "Image-to-text",
        "Input type: text and image\n\nModel type: image-to-text",
        name="both",
    ),
    Case(
        "C306",
        lengths("| MT-Bench | 0.95 |", header="| Set | Mean accepted tokens |"),
        "0.95",
        lengths(
            "| MT-Bench | 0.95 |", header="| Set | Mean accepted tokens |", after="The bonus token is not counted."
        ),
        "less than 1",
    ),
    Case(
        "C306",
        lengths("| MT-Bench | 1.95 |", before="The average number of accepted draft tokens."),
        "average number",
        lengths("| MT-Bench | 1.95 |", before="The average number of tokens generated per verification step."),
        severity="info",
        name="definition",
    ),
    Case(
        "C307",
        "EAGLE (Extrapolative A* Generative Language Engine) is a method.",
        "Extrapolative",
        "EAGLE (Extrapolation Algorithm for Greater Language-model Efficiency) is a method. "
        "EAGLE-3 (this head, epoch 3).",
    ),
    Case(
        "C307",
        "EAGLE3 (Efficient Auto-regressive Language model Generation with Learned Embeddings) is a technique.",
        "Learned Embeddings",
        "EAGLE-3 (Li et al., NeurIPS 2025, Advances in Neural Information Processing Systems) is a technique.",
        name="other words",
    ),
    Case(
        "C308",
        "# Qwen3-8B-speculator.peagle\n\nThis is a DFlash speculator model for owner/target.",
        "This is a",
        "# Qwen3-8B-speculator.dflash\n\nThis is a DFlash speculator model for owner/target, not a P-EAGLE one.",
    ),
    Case(
        "C002",
        "Dies ist ein Entwurfskopf für das Modell. Er wurde mit den Daten der Gruppe trainiert, "
        "und die Ergebnisse sind "
        "in der Tabelle zu sehen. Wir haben ihn auf einer Karte gemessen.",
        "---",
        "This is a head. It was trained on the data of the group, and the results are "
        "in the table. 它的平均接受长度为 2.5。",
        "German",
    ),
    Case(
        "C002",
        "これはドラフトヘッドです。ターゲットモデルの推論を速くするために作られました。学習には八枚のカードを使い、三日かかりました。評価は一枚で行いました。"
        "結果は下の表にあります。温度はゼロで、プロンプトは八十個です。",
        "---",
        "这是一个草稿模型，用于加速目标模型的推理。训练使用八张卡，用时三天。评测在一张卡上进行，温度为零，提示为八十条。结果见下表。",
        "Japanese",
        name="Japanese",
    ),
    Case(
        "C004",
        "Run.\n\n" + "".join(f"Run {i} took {i} s.\n\n" for i in range(1600)) + "Another thing.\n",
        "Run 1499 took",
        "Run.\n\n" + "".join(f"Run {i} took {i} s.\n\n" for i in range(900)) + "Another thing.\n",
        "101 parts",
    ),
    Case(
        "C003",
        "# Owner-7B\n\nA language model. It supports speculative decoding with MTP.",
        "---",
        "# Owner-7B-EAGLE3\n\nThis is a draft head for Owner-7B.",
        front=FRONT.replace("[eagle3, speculative-decoding]", "[text]"),
    ),
    Case(
        "C418",
        "## Results\n\n| Set | A | B |\n|---|---|---|\n| MT-Bench | 2.5 | 3.1 |\n| GSM8K | 2.9 | 3.3 |\n",
        "| Set",
        "## Results\n\n| Set | τ of A | τ of B |\n|---|---|---|\n| MT-Bench | 2.5 | 3.1 |\n| GSM8K | 2.9 | 3.3 |\n",
    ),
    Case(
        "C418",
        "## Results\n\n![throughput](results.png)",
        "results.png",
        "## Results\n\n![logo](logo.png)",
        name="picture",
    ),
    Case("C708", "TODO: fill the training parameters.", "TODO", "It is on the todo list of nobody, `TODOS.md` apart."),
    Case("C708", "# Model Card for Model ID", "Model ID", "# Model card of the model", name="template"),
    Case(
        "C708",
        "<!-- Internal: run 7, do not publish -->\n\nA head.",
        "Internal",
        "<!-- table made by a script -->\n\n```html\n<!-- internal -->\n```",
        name="comment",
    ),
    Case(
        "C708",
        "Trained for {num_epochs} epochs.",
        "num_epochs",
        "The layers {1, 13, 24}; `--port {server_port}`, {server_ip}:1.",
        name="blank",
    ),
    Case(
        "C708", "Licensed by <your-organization>.", "your-org", "Licensed by <https://a.example>.", name="placeholder"
    ),
    Case(
        "C806",
        "[Big-80B](https://huggingface.co/owner/Big-80B) has 1 trillion total parameters.",
        "1 trillion",
        "[Big-80B](https://huggingface.co/owner/Big-80B) has 80 billion total parameters, 3 billion active.",
    ),
    Case(
        "C807",
        "The target [Qwen3-Coder-Next](https://huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct).",
        "Coder",
        "The target [Qwen3-Next](https://huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct), "
        "[Qwen3-8B-FP8](https://huggingface.co/Qwen/Qwen3-8B), [the Qwen3 card](https://huggingface.co/Qwen/Qwen3-8B).",
    ),
    Case(
        "C101",
        "- Architecture: *DFlash: Block Diffusion for Speculative Decoding* (arXiv:2602.06036)",
        "DFlash",
        "It drafts as *DFlash: Block Diffusion for Flash Speculative Decoding* (arXiv:2602.06036) does.",
        name="in a sentence",
    ),
    Case(
        "C106",
        "We measure [MT-Bench](https://arxiv.org/abs/2402.14762).",
        "2402.14762",
        "We measure [MT-Bench](https://arxiv.org/abs/2306.05685) and [MT-Bench-101](https://arxiv.org/abs/2402.14762).",
        severity="warning",
        name="a data set",
    ),
    Case(
        "C106",
        bib("Qwen3 Technical Report").replace("2503.01840", "2505.09380"),
        "eprint",
        bib("Qwen3-TTS Technical Report").replace("2503.01840", "2601.15621"),
        name="a word more",
    ),
    Case(
        "C104",
        bib(author="Yuhui Li, Fangyun Wei, Chao Zhang"),
        "author",
        bib(author="Li, Yuhui and Wei, Fangyun and Zhang, Chao and Zhang, Hongyang"),
        "joined by commas",
        name="commas",
    ),
    Case(
        "C306",
        lengths("| K=3 | 3.02 |", header="| Run | AL |", before="AL is the average number of draft tokens accepted."),
        "AL is",
        lengths("| K=3 | 3.02 |", header="| Run | AL |", before="AL is the average number of tokens emitted."),
        "would be 3.02 of 3 drafted tokens",
        name="more than were drafted",
    ),
    Case(
        "C708",
        "License note: set the `license` field before publishing.",
        "License note",
        "Set the field `temperature` before the first request; evaluate your application before releasing it.",
        "note to the author",
        name="a note",
    ),
    Case(
        "C303",
        lengths("| MT-Bench | 61% |", header="| Set | Acceptance rate |"),
        "| Set",
        lengths("| MT-Bench | 61% |", header="| Set | Acceptance rate |", before="K = 1."),
        front="",
        name="with one drafted token there is one meaning",
    ),
    Case(
        "C801",
        "## Measured\n\nThe head is 1.8x faster.",
        "1.8x",
        "## Measured\n\nOn an H100, against the vanilla target, the head is 1.8x faster.",
        name="compared in a sentence",
    ),
    *(
        Case(code, bad, at, good, severity="".join(severity), name=name)
        for code, name, bad, at, good, *severity in (
            (
                "C101",
                "a list of references",
                "1. Li, Y. (2024). *EAGLE-2: Dynamic Trees for Lossless Speedup*. arXiv:2406.16858.",
                "1. Li",
                "EAGLE-2: see the paper of its authors, arXiv:2406.16858.",
            ),
            (
                "C101",
                "Chinese marks",
                "基于《EAGLE: Speculative Sampling with Hidden Features》（arXiv:2401.15077）。",
                "基于",
                "基于《EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty》（arXiv:2401.15077）。",
            ),
            (
                "C102",
                "in a sentence",
                f"The method of Cai et al., *{EAGLE3}*, arXiv:2503.01840.",
                "Cai",
                f"The method of Li et al. (2025), *{EAGLE3}*, arXiv:2503.01840.",
                "warning",
            ),
            (
                "C101",
                "a name of two words",
                "1. A. Samarin. LK Losses: Likelihood-Kernel Training of Draft Models. arXiv:2602.23881, 2026.",
                "1. A.",
                "1. A. Samarin. LK Losses: Direct Acceptance Rate Optimization for Speculative Decoding. "
                f"arXiv:2602.23881. 2. Li. {EAGLE3}. NeurIPS 2025, arXiv:2503.01840.",
            ),
            (
                "C101",
                "changed words",
                "Leviathan et al. Fast Inference from Transformers with Speculative Sampling. arXiv:2211.17192.",
                "Leviathan",
                "Leviathan et al. Fast Inference from Transformers via Speculative Decoding. arXiv:2211.17192.",
            ),
            (
                "C106",
                "beside its title",
                f"论文：《{EAGLE3}》（arXiv:2503.10480）。",
                "论文",
                f"论文：《{EAGLE3}》（arXiv:2503.01840）。",
            ),
            (
                "C102",
                "Chinese",
                f"- Leviathan 等，{SAMPLING}，arXiv:2302.01318",
                "- Leviathan",
                f"- Chen 等，{SAMPLING}，arXiv:2302.01318",
                "warning",
            ),
            (
                "C102",
                "names beside the title",
                f"> We thank the authors of\n> “{EAGLE3}”,\n> Tri Dao, Tianle Cai and Deming Chen (arXiv 2503.01840).",
                "> Tri",
                f"> We thank Tri Dao and Deming Chen, and the authors of\n> “{EAGLE3}”,\n"
                "> Yuhui Li, Fangyun Wei and others (arXiv 2503.01840).",
                "warning",
            ),
            (
                "C104",
                "without a key",
                f"```bibtex\n@misc{{\n  title={{{EAGLE3}}},\n  author={{{AUTHORS}}},\n  year={{2025}}\n}}\n```",
                "@misc",
                f"```bibtex\n@online{{k,\n  title={{{EAGLE3}}},\n  author={{{AUTHORS}}},\n  date={{2025-03}}\n}}\n```",
            ),
            (
                "C106",
                "another of its family",
                "[EAGLE-3](https://arxiv.org/abs/2401.15077)",
                "2401",
                "[EAGLE](https://arxiv.org/abs/2503.01840), whose third version it is",
            ),
            (
                "C106",
                "in a row",
                "| Method | Paper |\n|---|---|\n| Medusa | https://huggingface.co/papers/2401.10747 |",
                "| Medusa",
                "| Method | Paper |\n|---|---|\n| Medusa | https://huggingface.co/papers/2401.10774 |",
            ),
            (
                "C104",
                "other fields in the line",
                f"```bibtex\n@misc{{k, author={{Yuhui Li, Fangyun Wei, Chao Zhang}}, title={{{EAGLE3}}}, "
                "year={2025}}\n```",
                "@misc",
                "```bibtex\n@software{k, author={{Northwind AI}}, title={A head, a target, a card}, year={2026}}\n```",
            ),
            (
                "C301",
                "Chinese, without a unit",
                "MT-Bench 的接受率达到 2.7。",
                "2.7",
                "MT-Bench 的接受率达到 2.7%。",
                "warning",
            ),
            (
                "C301",
                "in a sentence",
                "It has an acceptance rate of 2.7 on MT-Bench.",
                "2.7",
                "It has an acceptance rate of 2.7 percentage points more, of 2.7 %, of 0.7.",
                "warning",
            ),
            (
                "C301",
                "in YAML",
                "```yaml\nacceptance_rate: {mt_bench: 2.77, gsm8k: 3.42}\n```",
                "2.77",
                "```yaml\nacceptance_rate: {mt_bench: 0.77}\naccept_length: 2.77\ndraft_acceptance_rate: 61.5\n```",
                "warning",
            ),
            (
                "C302",
                "teacher-forced",
                ACCURACIES,
                "| 10k",
                ACCURACIES + "\nTeacher-forced, and no acceptance.\n",
            ),
            (
                "C304",
                "teacher-forced",
                ACCURACIES,
                "| 10k",
                ACCURACIES + "\nTeacher-forced, and no acceptance.\n",
            ),
            (
                "C307",
                "more in the brackets",
                "EAGLE-3 (Efficient Autoregressive Generation with Lookahead Estimation, [paper](https://a.b)).",
                "EAGLE-3",
                "EAGLE – *Extrapolation Algorithm for Greater Language\u2011Model Efficiency* – drafts.",
            ),
            (
                "C708",
                "its word as a subject",
                "TODO: the numbers.",
                "TODO",
                "It completes `// TODO` comments, “resolve the TODO” prompts and TODO lists.",
            ),
            (
                "C801",
                "tokens a second",
                "- ~2.5x higher tokens/s",
                "2.5x",
                "- from 1,204 tok/s to 2,890 tok/s, 2.4x higher tokens/s",
            ),
            (
                "C801",
                "of the paper's authors",
                "Our authors promise speed-ups of up to 6.5x.",
                "6.5x",
                "The paper's authors report speed-ups of up to 6.5x for their heads.",
            ),
            (
                "C102",
                "whose first author alone is known",
                MATH.replace("NAMES", "Hendrycks, Dan and Burns, Collin"),
                "author",
                MATH.replace("NAMES", "Cobbe, Karl and Kosaraju, Vineet"),
            ),
            (
                "C303",
                "accepted over drafted",
                "A draft acceptance rate of 61 %.",
                "61 %",
                "A draft acceptance rate of 61 % (accepted over drafted).",
            ),
            (
                "C306",
                "Chinese",
                lengths("| MT-Bench | 0.93 |", header="| 数据集 | 每步平均接受的草稿 token 数 |"),
                "| MT-Bench",
                lengths(
                    "| MT-Bench | 0.93 |", header="| 数据集 | 每步平均接受的草稿 token 数（不含目标模型自身的） |"
                ),
            ),
            (
                "C308",
                "heads",
                "# Llama-3.1-8B-Instruct-EAGLE3\n\nThis repository contains Medusa heads for it.",
                "Medusa",
                "# Llama-3.1-8B-Instruct-EAGLE3\n\nThis repository contains the EAGLE-3 head; it beats Medusa heads.",
            ),
            (
                "C801",
                "measured in rows",
                "It is 1.70× faster.\n\n| | a | b |\n|---|---|---|\n| TPOT (ms) | 10.0 | 7.2 |\n",
                "1.70×",
                "It is 1.70× faster.\n\n| | baseline | b |\n|---|---|---|\n| TPOT (ms) | 10.0 | 7.2 |\n",
            ),
            (
                "C806",
                "somebody's model",
                "For Qwen/Qwen3-32B, Alibaba's dense model with 14B parameters.",
                "14B",
                "A head of 0.6B parameters for Qwen/Qwen3-32B, Alibaba's dense model with 33B parameters.",
            ),
            (
                "C101",
                "after et al. and a comma",
                "1. Hui et al., *P-EAGLE: Predictive Early-Exit Guided Language Decoding*, arXiv:2602.01469",
                "1. Hui",
                f"1. Y. Li, F. Wei: *{EAGLE3}*, NeurIPS 2025, [arXiv:2503.01840](https://arxiv.org/abs/2503.01840).",
            ),
            (
                "C302",
                "accuracies",
                "| acceptance | 0 | 1 | 2 |\n|---|---|---|---|\n| acceptance rate | 0.66 | 0.63 | 0.61 |\n",
                "| acceptance",
                "| step | 0 | 1 | 2 |\n|---|---|---|---|\n| training-time accuracy | 0.66 | 0.63 | 0.61 |\n",
            ),
            (
                "C304",
                "denied in the heading",
                "## Acceptance (teacher-forced agreement)\n\n| Set | agreement |\n|---|---|\n| a | 0.66 |\n",
                "| Set",
                "## Agreement (teacher-forced, not acceptance)\n\n| Set | agreement |\n|---|---|\n| a | 0.66 |\n",
            ),
            (
                "C306",
                "without the token that the target adds",
                lengths("| MT-Bench | 0.94 |", header="| Set | accepted per step |"),
                "| MT-Bench",
                lengths(
                    "| MT-Bench | 0.94 |",
                    header="| Set | accepted per step |",
                    before="Without the token that the target contributes anyway; add 1 for the usual length.",
                ),
            ),
            ("C708", "in a comment", "<!-- FIXME: the old run, ask Tom -->", "FIXME", "<!-- prettier-ignore -->"),
            (
                "C803",
                "Chinese",
                "评测集：HumanEval（500 题）。",
                "500",
                "评测集：HumanEval（164 题）、GSM8K（200 题）。",
            ),
            (
                "C803",
                "a split",
                "| Set | #samples | τ |\n|---|---|---|\n| GSM8K test | 2,000 | 2.68 |\n",
                "| GSM8K",
                "| Set | #samples | τ |\n|---|---|---|\n| GSM8K train | 2,000 | 2.68 |\n",
            ),
            (
                "C806",
                "a part of the sentence between",
                "The target, Qwen/Qwen3-32B, is a dense model with 14 billion parameters.",
                "14 billion",
                "The target, Qwen/Qwen3-32B, is a dense model with 33 billion parameters; the head has 0.6 billion.",
            ),
            (
                "C301",
                "tokens",
                "The average acceptance rate is 2.6 tokens.",
                "2.6",
                "The average acceptance rate is 60 % of 2.6 million tokens.",
            ),
            (
                "C301",
                "Chinese",
                "| 数据集 | 接受率 |\n|---|---|\n| GSM8K | 2.75 |\n| MATH | 2.40 |",
                "| 数据集",
                "| 数据集 | 接受率 |\n|---|---|\n| GSM8K | 0.75 |\n| MATH | 0.40 |",
            ),
            (
                "C302",
                "Chinese",
                "各位置接受率：0.72、0.51、0.36。",
                "各位置",
                "各位置的边际接受率：0.72、0.51、0.36。",
            ),
            (
                "C303",
                "a set between",
                "The acceptance rate on MT-Bench is 68%.",
                "68%",
                "The acceptance rate on MT-Bench, accepted / drafted tokens, is 68%.",
            ),
            (
                "C303",
                "percent in the head",
                lengths("| Code | 71.2 |", header="| Set | Acceptance Rate (%) |"),
                "| Set",
                lengths("| Code | 71.2 |", header="| Set | Accepted / drafted (%) |"),
            ),
            (
                "C304",
                "in a sentence",
                "The head reaches an acceptance of acc_0 = 0.72, acc_1 = 0.68.",
                "acc_0",
                "Training-time accuracy, which is no acceptance: acc_0 = 0.72, acc_1 = 0.68.",
            ),
            (
                "C304",
                "in a table of values",
                "## Acceptance\n\n| Metric | Value |\n|---|---|\n| acc_0 | 0.73 |\n| acc_1 | 0.70 |",
                "| Metric",
                "## Accuracy\n\n| Metric | Value |\n|---|---|\n| acc_0 | 0.73 |\n| acc_1 | 0.70 |",
            ),
            (
                "C305",
                "told apart",
                "EAGLE-3 uses test-time training.",
                "test-time",
                "Unlike test-time training, EAGLE-3's training-time test changes no weights at inference.",
            ),
            (
                "C306",
                "a sentence",
                "On average 1.7 tokens are accepted per step.",
                "1.7",
                "On average 1.7 tokens are accepted per step, not counting the target's own token.",
            ),
            ("C306", "Chinese", "平均每步接受 1.7 个 token。", "1.7", "平均每步输出 2.7 个 token。"),
            (
                "C307",
                "in the middle of a sentence",
                "It uses Extrapolation Algorithm for Generative Language Efficiency (EAGLE).",
                "It uses",
                "It uses the Extrapolation Algorithm for Greater Language-model Efficiency (EAGLE).",
            ),
            (
                "C307",
                "stands for",
                "EAGLE stands for Early-exit Accelerated Generation for Language Engines.",
                "stands",
                "EAGLE stands for Extrapolation Algorithm for Greater Language-model Efficiency.",
            ),
            ("C705", "one hash", "#Usage\n\nText.", "#Usage", "#1 of all heads, see #eagle3.\n\n# Usage\n\nText."),
            ("C705", "asterisks at the start", "**Note: a draft.", "**Note", "**Note**: `**names` are patterns."),
            ("C705", "Chinese asterisks", "这是**“重点”**说明。", "重点", "这是**重点**说明。"),
            ("C708", "X for a number", "- Speed-up: X.XXx", "X.XX", "- Speed-up on the XX-Large: see below"),
            (
                "C801",
                "percent",
                "It makes decoding 80% faster.",
                "80%",
                "It makes 80% of all users happy, and decoding faster.",
            ),
            (
                "C803",
                "of the set",
                "Measured on 500 prompts of MT-Bench.",
                "500",
                "Measured on 1,000 prompts of MT-Bench, GSM8K and ShareGPT.",
            ),
            (
                "C806",
                "in a sentence",
                "The target, Qwen3-8B, has 14 billion parameters.",
                "14 billion",
                "The target, Qwen3-8B, has 8.2 billion parameters; Llama-4-Scout-17B-16E has 109B parameters.",
            ),
            (
                "C806",
                "a short dash in a name",
                "The target, Qwen3–8B, has 14 billion parameters.",
                "14 billion",
                "The target, Qwen3–8B, has 8.2–billion–parameter layers; Llama–4–Scout–17B–16E has 109B parameters.",
            ),
            (
                "C806",
                "a long dash for a clause",
                "The target—Qwen3-8B—is a dense model with 14—billion—parameters.",
                "14",
                "The target—Qwen3-8B—is a dense model with 8.2 billion parameters.",
            ),
            (
                "C806",
                "a minus sign",
                "| Target | Parameters |\n|---|---|\n| Qwen3−8B | 32−B |",
                "| Qwen3",
                "| Target | Parameters |\n|---|---|\n| Qwen3−8B | 8−B |",
            ),
            (
                "C806",
                "a hyphen that does not break",
                "[Big‑80B](https://huggingface.co/owner/Big-80B) has 1‑trillion total‑parameters.",
                "trillion",
                "[Big‑80B](https://huggingface.co/owner/Big-80B) has 80‑billion total‑parameters, from 7–8B models.",
            ),
            ("C806", "Chinese", "目标模型 Qwen3-8B 共有 140 亿参数。", "140", "目标模型 Qwen3-8B 共有 82 亿参数。"),
            (
                "C806",
                "in a row",
                "| Target | Parameters |\n|---|---|\n| Qwen3-8B | 32B |",
                "| Qwen3",
                "| Target | Active parameters |\n|---|---|\n| Qwen3-235B-A22B | 22B |",
            ),
            (
                "C807",
                "HTML",
                '<p>Target: <a href="https://huggingface.co/Qwen/Qwen3-32B">Qwen/Qwen3-8B</a></p>',
                "Qwen3-32B",
                '<p>Target: <a href="https://huggingface.co/Qwen/Qwen3-8B">Qwen/Qwen3-8B</a></p>',
            ),
            (
                "C304",
                "a validation",
                "## Performance (acceptance at training time)\n\nMean accepted length ≈ 2.3 tokens/step.",
                "2.3",
                "## Performance\n\nMean accepted length ≈ 2.3 tokens/step, after training.",
            ),
            (
                "C303",
                "draft acceptance",
                "163 tok/s, and 0.82 draft acceptance.",
                "0.82",
                "163 tok/s, and 0.82 of all users accept drafts.",
            ),
            (
                "C806",
                "the name before",
                "The head of Qwen3-235B-A22B, with 32 billion activated parameters and 1 trillion total parameters.",
                "1 trillion",
                "The head of Llama-4-Scout-17B-16E, with 109 billion total parameters.",
            ),
            ("C708", "explained", "Speed-up: CHANGEME", "CHANGEME", "Replace every `CHANGEME` value."),
            (
                "C705",
                "a fence too many",
                "Text.\n\n```\nAnd add:\n```json\n{}\n```",
                "```json",
                "Text.\n\n```\nThe answer\n```json\n{}\n```",
            ),
            ("C705", "a text that goes on", "**Supported by vLLM", "**Supported", "**Supported by v..."),
            (
                "C301",
                "a set before the colon",
                "- Acceptance rate on MT-Bench: 2.61",
                "2.61",
                "- Acceptance rate on MT-Bench: 2.61%",
                "warning",
            ),
            (
                "C708",
                "a value to insert",
                "Acceptance length: [INSERT VALUE]",
                "INSERT",
                "Acceptance length: [see below]. Why? Because.",
            ),
            ("C801", "Chinese percent", "推理吞吐提升 80%。", "80%", "训练显存占用提升 80%。"),
            ("C801", "the training", "Decoding is 3x faster.", "3x", "Training was 3x faster with packing."),
        )
    ),
]
