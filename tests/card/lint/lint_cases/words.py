"""C1, C3, C8: citations, words, claims."""

from __future__ import annotations

from lint_cases import Case

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


POSITIONS = """
## Results

{0}

| Position | {1} |
|---|---|
| 1 | 60% |
| 2 | {2} |
"""

CASES = [
    Case("C101", bib("EAGLE-3: Speculation without Training"), "title =", bib("{EAGLE-3}: " + EAGLE3[9:].upper())),
    Case(
        "C101",
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
    Case("C102", bib(author="Li, Yuhui and Wei, Fangyun"), "author =", bib(author="Li, Yuhui and others")),
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
]
