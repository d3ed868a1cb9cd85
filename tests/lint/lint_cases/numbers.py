"""C2, C4, C5: numbers, the conditions they were measured under, recipes."""

from __future__ import annotations

from support.versions import SGLANG, VLLM

from eagle3hub.lint import RULES
from lint_cases import FRONT, Case

GIVEN = (
    f"Measured with vLLM {VLLM} on one H100, K = 3, temperature 0, batch size 1, 80 prompts, at most 64 new tokens; "
    "± is the 95% interval, pooled over rounds.\n"
)


def lengths(*rows: str, header: str = "| Set | τ |", before: str = "", after: str = "") -> str:
    bar = "|---" * (header.count("|") - 1) + "|"
    return "\n".join(["## Results", "", before, "", header, bar, *rows, "", after])


def speeds(header: str = "Throughput (tok/s)", rest: str = GIVEN) -> str:
    return f"## Results\n\n{rest}\n| Set | {header} |\n|---|---|\n| MT-Bench | 224 |\n"


def without(words: str, instead: str = "") -> str:
    assert words in GIVEN
    return GIVEN.replace(words, instead)


def tau(given: str) -> str:
    return lengths("| MT-Bench | 2.15 |", before=given)


def serve(flags: str, before: str = "") -> str:
    return f"{before}\n\n## Usage\n\n```bash\nvllm serve owner/target \\\n  {flags}\n```\n"


def log(tau: str, rates: str) -> str:
    return f"```\nMean acceptance length: {tau}, Per-position acceptance rate: {rates}\n```"


def speedups(factor: str, name: str) -> str:
    return (
        f"| Set | Baseline (tok/s) | EAGLE-3 (tok/s) | {name} |\n|---|---|---|---|\n| GSM8K | 100 | 180 | {factor} |\n"
    )


SERVED = "```yaml\nmodel_path: owner/target\nchunked_prefill_size: 4\ntp_size: 2\n```"


TWO_SETS = ("| GSM8K | 2.80 |", "| HumanEval | 3.10 |")
TWO_FACTORS = ("| GSM8K | 1.9x |", "| HumanEval | 2.1x |")


def listed(*items: str, before: str = "") -> str:
    return "\n".join(["## Results", "", before, "", *(f"- {item}" for item in items), ""])


def across(first: str, second: str) -> str:
    """Two tables with a column for each set."""
    head = "| Metric | A | B | C |\n|---|---|---|---|\n"
    return f"## Results\n\n{head}| τ | {first} |\n\n## Summary\n\n{head}| Acceptance length | {second} |\n"


BY_SLOT = "Unconditional acceptance by draft slot (all verification rounds count):"
TRAINED = "Trained on 200,000 prompts of UltraChat. "


def rates_for(drafted: int) -> str:
    table = "| Position | Marginal rate |\n|---|---|\n| 1 | 60% |\n| 2 | 40% |\n| 3 | 20% |\n"
    return f"## Results\n\n{table}" + serve(EXAMPLE.replace(": 3", f": {drafted}"))


def two_tables(first: str, second: str, between: str = "") -> str:
    bar = "|---|---|\n"
    one = f"## {first}\n\n| Set | τ |\n{bar}| A | 2.40 |\n| B | 2.80 |\n\n"
    return f"{one}## {second}\n\n{between}| Set | Acceptance length |\n{bar}| A | 2.71 |\n| B | 3.05 |\n"


def python(target: str, tokens: str = "num_speculative_tokens") -> str:
    config = f'{{"method": "eagle3", "model": "owner/head", "{tokens}": 3}}'
    return f'```python\nllm = LLM(model="{target}", speculative_config={config})\n```'


THREE_SETS = "| Set | τ |\n|---|---|\n| GSM8K | 2.5 |\n| MT-Bench | 2.1 |\n| MATH500 | 3.1 |"
TWO_PAIRS = (
    "## Speed\n\n| Run | Baseline TPOT | Head TPOT | Speedup | Baseline tok/s | Head tok/s |\n"
    "|---|---|---|---|---|---|\n"
)
OTHER_THREE = "| Set | Acceptance (of 4) |\n|---|---|\n| GSM8K | 2.2 |\n| MT-Bench | 2.0 |\n| MATH-500 | 2.9 |"
DIFFERENCE = "| Set | Throughput A | Throughput B | Difference |"

SIMULATED = """vllm serve owner/target --speculative-config '{"method": "eagle3", "model": "owner/head",
"num_speculative_tokens": 3, "rejection_sample_method": "synthetic", "synthetic_acceptance_length": 2.5}'"""
MEASURED = SIMULATED.replace(', "synthetic_acceptance_length": 2.5', "").replace("synthetic", "standard")
EXAMPLE = """--speculative-config '{"method": "eagle3", "model": "owner/head", "num_speculative_tokens": 3}'"""
BROKEN = "vllm serve owner/target\n  --port 8000"

_ENGINE_NAMES = [
    Case(
        "C510",
        "```python\nfrom openai import OpenAI\n\nask(model='m', kwargs: {})\n```",
        "ask(",
        "```python\nfrom openai import OpenAI\n\nask(model='m', kwargs={})\n```",
        "does not parse",
        name="Python that does not parse",
    ),
    Case(
        "C510",
        f"{tau(GIVEN)}\n```bash\n{SIMULATED}\n```\n",
        "rejection_sample_method",
        f"{tau(GIVEN)}\n```bash\n{MEASURED}\n```\n",
        "acceptance-simulated",
        name="simulated acceptance",
    ),
    Case(
        "C510",
        f"```bash\n{BROKEN}\n```",
        "vllm serve",
        f"```bash\n{BROKEN.replace('target', 'target' + chr(32) + chr(92))}\n```",
        "shell-continuation",
        name="a missing backslash",
    ),
    Case(
        "C510",
        "```python\nimport sglang as sgl\n\nllm = sgl.LLM(model_path='owner/target')\n```",
        "sgl.LLM",
        "```python\nimport sglang as sgl\n\nllm = sgl.Engine(model_path='owner/target')\n```",
    ),
]

CASES = [
    *(_ENGINE_NAMES if "C510" in RULES else []),
    Case("C201", tau(GIVEN.replace("K = 3", "K = 1")), "| MT-Bench", tau(GIVEN), "more than K + 1 = 2"),
    Case("C201", lengths("| a | 0.85 |"), "0.85", lengths("| a | 1.00 |"), "less than 1", name="below 1"),
    Case(
        "C201",
        lengths("| a | 2 | 3.20 |", header="| Set | K | τ |"),
        "3.20",
        lengths("| a | 2 | 2.95 |", "| a | 7 | 4.95 |", header="| Set | K | τ |"),
        name="K by row",
    ),
    Case(
        "C201",
        lengths("| Acceptance length | 2.5 | 9.1 |", header="| | A | B |", before=GIVEN),
        "9.1",
        lengths("| Acceptance length | 2.5 | 3.9 |", "| Latency (ms) | 91 | 45 |", header="| | A | B |", before=GIVEN),
        name="by row",
    ),
    Case(
        "C201",
        lengths("| a | 9.1 | 45 |", header="| Set | τ | Latency (ms) |", before=GIVEN),
        "9.1",
        lengths("| a | 3.1 | 45 |", header="| Set | τ | Layers |", before=GIVEN + "Acceptance length:"),
        name="beside others",
    ),
    Case(
        "C202",
        lengths("| 1 | 60% |", "| 2 | 62% |", header="| Position | Marginal rate |"),
        "62%",
        lengths("| 1 | 60% |", "| 2 | 62% |", header="| Position | Conditional rate |"),
        "rises from 60% to 62% at position 2",
    ),
    Case(
        "C202",
        lengths("| 1 | 120% |", "| 2 | 62% |", header="| Position | Conditional rate |"),
        "120%",
        lengths("| 1 | 100% |", "| 2 | 62% |", header="| Position | Conditional rate |"),
        name="range",
    ),
    Case(
        "C202",
        "Marginal acceptance rates by position: 0.50, 0.48 and 0.52.",
        "0.50",
        "Marginal acceptance rates by position: 0.50, 0.48 and 0.48.",
        name="sentence",
    ),
    Case(
        "C203",
        tau(GIVEN) + "\n\n| Position | Marginal rate |\n|---|---|\n| 1 | 0.71 |\n| 2 | 0.48 |\n| 3 | 0.34 |",
        "| Position",
        tau(GIVEN).replace("2.15", "2.53")
        + "\n\n| Position | Marginal rate |\n|---|---|\n| 1 | 0.71 |\n| 2 | 0.48 |\n| 3 | 0.34 |",
        "2.53 if they are marginal",
        severity="warning",
    ),
    Case(
        "C203",
        "## Results\n\nAcceptance length: 2.15. The marginal acceptance rates by position are 0.71, 0.48 and 0.34.",
        "2.15",
        "## Results\n\nAcceptance length: 2.53. The marginal acceptance rates by position are 0.71, 0.48 and 0.34.",
        "2.53 if they are marginal",
        name="in one paragraph",
    ),
    Case(
        "C203",
        lengths("| MT-Bench | 2.00 |") + "\n\n| Position | Conditional rate |\n|---|---|\n| 1 | 0.50 |\n| 2 | 0.50 |",
        "| Position",
        lengths("| MT-Bench | 1.75 |") + "\n\n| Position | Conditional rate |\n|---|---|\n| 1 | 0.50 |\n| 2 | 0.50 |",
        "1.75 if they are conditional",
        severity="warning",
        name="conditional",
    ),
    Case(
        "C204",
        lengths("| a | 100.0 | 110.0 | A +12.0% |", header=DIFFERENCE),
        "12.0%",
        lengths("| a | 110.0 | 100.0 | A +10.0% |", "| b | 100.4 | 100.0 | +0.4% |", header=DIFFERENCE),
        "does not follow",
        severity="warning",
    ),
    Case(
        "C204",
        lengths("| a | 100 | 140 | 1.6x |", header="| Set | Baseline tok/s | Head tok/s | Speed-up |"),
        "1.6x",
        lengths("| a | 100 | 140 | 1.4x |", header="| Set | Baseline tok/s | Head tok/s | Speed-up |"),
        name="factor",
    ),
    Case(
        "C205",
        lengths("| a | 110 | 100 | A +10.0% |", "| b | 100 | 120 | B +20.0% |", header=DIFFERENCE),
        "| Set",
        lengths("| a | 110 | 100 | A +10.0% |", "| b | 80 | 100 | -20.0% |", header=DIFFERENCE),
    ),
    Case(
        "C206",
        lengths("| a | 3 | 2.50 | 40% |", header="| Set | K | τ | Drafted tokens accepted |"),
        "2.50",
        lengths("| a | 3 | 2.50 | 50% |", header="| Set | K | τ | Drafted tokens accepted |"),
        "means 50.0%",
    ),
    Case(
        "C206",
        lengths("| a | 3 | 2.50 | 48% |", header="| Set | K | τ | Drafted tokens accepted |"),
        "2.50",
        lengths("| a | 3 | 2.50 | 50% |", header="| Set | K | τ | Drafted tokens accepted |"),
        severity="warning",
        name="a small gap",
    ),
    Case(
        "C207",
        lengths("| a | 2.0 |", "| b | 3.0 |", "| Average | 2.8 |"),
        "Average",
        lengths("| a | 2.0 |", "| b | 3.0 |", "| Average | 2.5 |"),
        "mean is 2.5",
    ),
    Case(
        "C211",
        f"{THREE_SETS}\n\n## On a server\n\n{OTHER_THREE}",
        "Acceptance (of 4)",
        f"Temperature 0.\n\n{THREE_SETS}\n\n## On a server\n\nTemperature 1.\n\n{OTHER_THREE}",
        "gsm8k 2.5 and 2.2",
    ),
    Case(
        "C204",
        lengths("| a | 100.0 tok/s | 140 tok/s | 1.6x |", header="| Set | Baseline | DFlash | Speedup |"),
        "1.6x",
        lengths("| a | 100.0 tok/s | 140 tok/s | 1.4x |", header="| Set | Baseline | DFlash | Speedup |"),
        name="units in the cells",
    ),
    Case(
        "C302",
        lengths(
            "| Rounds | 90 |", "| Position 0 acceptance | about 50-67% |", "| Position 1 acceptance | about 44% |"
        ),
        "Position 0",
        lengths("| Rounds | 90 |", "| Batch 1 | about 50-67% |", "| Batch 2 | about 44% |"),
        "2 rates",
        name="about",
    ),
    Case(
        "C303",
        lengths("| EAGLE-3 | 30.1% |", "| MTP | 59.9% |", header="| Model | Acceptance |"),
        "| Model",
        lengths(
            "| EAGLE-3 | 30.1% |", "| MTP | 59.9% |", header="| Model | Acceptance |", after="Of all drafted tokens."
        ),
        name="acceptance alone",
    ),
    Case(
        "C506",
        "```bash\npython -m tool \\\n  --a 1 \\\n  --b 2\n  --c 3\n```",
        "--b 2",
        "```bash\npython -m tool \\\n  --a 1 \\\n  --b 2 \\\n  --c 3\n```",
        "no backslash",
        name="a backslash is missing",
    ),
    Case(
        "C506",
        "```bash\npython -m tool \\\n  --a 1 \\\n```",
        "--a 1",
        "```bash\npython -m tool \\\n  --a 1\n```",
        "nothing follows",
        name="a backslash at the end",
    ),
    Case(
        "C212",
        lengths("| GSM8K | 2.55 |", before="We measured an acceptance length of 2.9 on GSM8K."),
        "2.9",
        lengths("| GSM8K | 2.55 |", before="We measured an acceptance length of 2.6 on GSM8K."),
        "the table says 2.55",
    ),
    Case(
        "C212",
        lengths("| GSM8K | 1.9x |", header="| Set | Speed-up |", before="It is up to 2.5x faster."),
        "2.5x",
        lengths(
            "| GSM8K | 1.9x |",
            header="| Set | Speed-up |",
            before="It is up to 1.9x faster; the paper has up to 5x speed.",
        ),
        "largest factor",
        name="up to",
    ),
    Case(
        "C208",
        lengths("| a | 2.50 | 2.61 – 2.80 |", header="| Set | τ | 95% interval |"),
        "2.50",
        lengths("| a | 2.70 | 2.61 – 2.80 |", header="| Set | τ | 95% interval |"),
    ),
    Case(
        "C209",
        speeds() + "| GSM8K | 240 |\n| MATH | 250 |\n| CEval | 35 |",
        "CEval",
        speeds(rest=GIVEN + "CEval has long prompts.\n") + "| GSM8K | 240 |\n| MATH | 250 |\n| CEval | 35 |",
    ),
    Case("C401", speeds("Throughput"), "| Set", speeds("Throughput", GIVEN + "Values are in tokens/s.\n")),
    Case("C402", speeds(rest=without(" on one H100")), "| Set", speeds() + "\n## Training\n\nTPU v4"),
    Case("C402", speeds(rest=without("one H100", "NVIDIA GPUs, V2")), "| Set", speeds(rest=GIVEN), name="vague"),
    Case(
        "C403", speeds(rest=without(", batch size 1")) + "\n## Training\n\nBatch size 4", "| Set", speeds(rest=GIVEN)
    ),
    Case("C404", speeds(rest=without(", at most 64 new tokens")), "| Set", speeds(), "output length"),
    Case("C404", speeds(rest=without(", 80 prompts")), "| Set", speeds(), "number of prompts", name="count"),
    Case("C405", tau(without(", 80 prompts")), "| Set", tau(GIVEN)),
    Case(
        "C405",
        tau(without(", 80 prompts")) + "\n## Training\n\n5,000 prompts",
        "| Set",
        lengths("| a | 80 | 2.1 |", header="| Set | Prompts | τ |"),
        name="column",
    ),
    Case("C406", tau(without(", temperature 0")), "| Set", tau(without("temperature 0", "T = 0"))),
    Case("C407", tau(without(f" with vLLM {VLLM}")) + "\n## Usage\n\nRun vLLM.", "| Set", tau(GIVEN)),
    Case(
        "C407",
        tau(without(f" with vLLM {VLLM}")),
        "| Set",
        tau(without(f" with vLLM {VLLM}")) + f"\n## Setup\n\nEngine: SGLang {SGLANG}",
        name="elsewhere",
    ),
    Case("C408", "Serve it with vLLM.", "vLLM", f"Serve it with vLLM ({VLLM})."),
    Case(
        "C408",
        "Serve it with SGLang.\n\n```bash\npip install sglang\n```",
        "SGLang",
        f"Serve it with SGLang.\n\n```bash\npip install sglang=={SGLANG}\n```",
        name="pinned",
    ),
    Case("C409", tau(without("± is the 95% interval, ")), "| Set", tau(GIVEN)),
    Case(
        "C410",
        lengths("| MT-Bench | 3.03 | 3.10 |", header="| Set | A (τ) | B (τ) |"),
        "| Set",
        lengths("| MT-Bench | 3.03 ± 0.02 | 3.10 ± 0.02 |", header="| Set | A (τ) | B (τ) |"),
    ),
    Case(
        "C410",
        lengths("| Base | 4.25 |", "| Ours | 4.32 |", header="| Method | τ |"),
        "| Method",
        lengths("| math | 4.25 |", "| stem | 4.32 |", header="| Category | τ |"),
        "4.25 and 4.32",
        name="rows",
    ),
    Case("C411", tau(without(", K = 3")), "| Set", tau(without("K = 3", "draft length 3"))),
    Case("C412", "Averaged over three runs.", "three runs", "Averaged over three runs, ± one standard deviation."),
    Case("C413", "Engine: TensorRT-LLM 1.2.0rc0", "1.2.0rc0", "Engine: TensorRT-LLM 1.2.0"),
    Case("C414", "- CUDA 12.0+\n- PyTorch 2.0+", "CUDA", "- CUDA 12.9\n- PyTorch 2.13.0", "CUDA 12.0+, PyTorch 2.0+"),
    Case(
        "C415",
        lengths("| a | 3.1 |", before="At temperature 1:") + "\n" + lengths("| b | 3.4 |", before="At temperature 0:"),
        "| Set",
        lengths("| a | 3.1 |", before="At temperature 1:") + "\n" + lengths("| b | 3.4 |", before="At temperature 1:"),
    ),
    Case(
        "C416",
        lengths("| writing | 2.1 |", "| math | 2.7 |", "| coding | 2.6 |", "| stem | 2.2 |"),
        "| Set",
        lengths("| writing | 2.1 |", "| math | 2.7 |", "| coding | 2.6 |", "| stem | 2.2 |", after="Overall τ: 2.4."),
    ),
    Case("C417", "# EAGLE3 head\n\n## Results\n\nIt is good.", "## Results", "# EAGLE3 head\n\n" + tau(GIVEN)),
    Case(
        "C417",
        "# EAGLE3 head\n\n## Results\n\nNothing has been measured yet.",
        "## Results",
        "# EAGLE3 head\n\n## Results\n\nThe acceptance length is 2.15.",
        severity="info",
        name="admitted",
    ),
    Case("C419", tau(without(", pooled over rounds")), "| Set", tau(GIVEN)),
    Case(
        "C501",
        serve("--speculative-config '{\"num_speculative_tokens\": 6}'", tau(GIVEN.replace("K = 3", "K = 7"))),
        "num_speculative_tokens",
        serve("--speculative-config '{\"num_speculative_tokens\": 3}'", tau(GIVEN)),
        "measured was K = 7",
    ),
    Case(
        "C501",
        serve("--speculative-num-steps 5", tau(GIVEN)),
        "num-steps",
        serve("--speculative-num-steps 5"),
        name="not measured",
    ),
    Case(
        "C502",
        tau(GIVEN) + "\n\n```python\nSamplingParams(temperature=0.7)\n```",
        "0.7",
        tau(GIVEN) + "\n\n```python\nSamplingParams(temperature=0)\n```",
    ),
    Case(
        "C503",
        serve("--speculative-eagle-topk 1", "A tree-based attention verifies them."),
        "tree-based",
        serve("--speculative-eagle-topk 4", "A tree-based attention verifies them."),
    ),
    Case(
        "C504",
        "The current vLLM implementation samples draft tokens greedily.",
        "greedily",
        "vLLM samples draft tokens greedily unless draft_sample_method is probabilistic.",
    ),
    Case(
        "C505",
        serve("--trust-remote-code"),
        "--trust-remote-code",
        serve("--dtype bfloat16"),
        front=FRONT.replace("owner/target", "Qwen/Qwen3-8B"),
    ),
    Case(
        "C505",
        serve("--trust-remote-code"),
        "--trust-remote-code",
        serve("--dtype bfloat16"),
        severity="info",
        name="the target may need it",
    ),
    Case("C506", serve("--model-path /models/mine"), "/models/mine", serve("--model-path owner/target")),
    Case(
        "C210",
        "The head reaches an acceptance rate of 100%.",
        "100%",
        "No head reaches an acceptance rate of 100%. 100% of the prompts were used.",
    ),
    Case(
        "C201",
        lengths("| Coding | 2.83 | 2.45 |", header="| Set | k=1 | k=2 |"),
        "2.83",
        lengths("| Coding | 1.83 | 2.45 |", header="| Set | k=1 | k=2 |"),
        "K + 1 = 2",
        name="K of the column",
    ),
    Case(
        "C201",
        "## Results\n\nWith K = 3 the mean acceptance length is 5.68.",
        "5.68",
        "## Results\n\nWith K = 3 the mean acceptance length is 2.68, and throughput 5.68 tok/s. The paper reports an "
        "acceptance length of 6.2.",
        name="sentence",
    ),
    Case(
        "C201",
        "## 评测\n\n草稿长度为 3 时，平均接受长度为 5.68。K = 3",
        "5.68",
        "## 评测\n\n草稿长度为 3 时，平均接受长度为 2.68。K = 3",
        name="Chinese",
    ),
    Case(
        "C201",
        lengths(before="K = 3") + '\n```json\n{"mtbench": {"accept_length": 5.33}}\n```',
        "accept_length",
        lengths(before="K = 3") + '\n```json\n{"mtbench": {"accept_length": 3.33}}\n```',
        severity="warning",
        name="JSON",
    ),
    Case(
        "C201",
        "<table><tr><th>Set</th><th>τ</th></tr>\n\n<tr><td>a</td><td>5.68</td></tr></table>\n\nK = 3.",
        "5.68",
        "<table><tr><th>Set</th><th>τ</th></tr>\n\n<tr><td>a</td><td>3.68</td></tr></table>\n\nK = 3.",
        name="HTML",
    ),
    Case(
        "C201",
        f"{lengths('| a | 5.33 |')}\n{serve(EXAMPLE)}",
        "5.33",
        f"{lengths('| a | 3.33 |')}\n{serve(EXAMPLE)}",
        "the K of the measurement is not given",
        severity="warning",
        name="K of the example alone",
    ),
    Case(
        "C204",
        lengths("| GSM8K | 113.4 tok/s | 292.6 tok/s (3.58×) |", header="| Set | Baseline | Head |"),
        "3.58",
        lengths("| GSM8K | 113.4 tok/s | 292.6 tok/s (2.58×) |", header="| Set | Baseline | Head |"),
        "2.58x",
        name="factor in the cell",
    ),
    Case(
        "C204",
        lengths("| Writing | 207.83 → 268.62 | +99.2% |", header="| Set | Baseline → Head | Δ |"),
        "99.2",
        lengths("| Writing | 207.83 → 268.62 | +29.2% |", header="| Set | Baseline → Head | Δ |"),
        name="arrow",
    ),
    Case(
        "C204",
        lengths("| GSM8K | ×1.97 | 80.22 | 133.78 |", header="| Set | Speedup | Baseline (tok/s) | Head (tok/s) |"),
        "1.97",
        lengths(
            "| GSM8K | ×1.67 | 80.22 | 133.78 |",
            "| Math | 1.66x | 80.22 | 133.78 |",
            header="| Set | Speedup | Baseline (tok/s) | Head (tok/s) |",
        ),
        "1.67x",
        name="factor before its number",
    ),
    Case(
        "C204",
        lengths("| Baseline | 2704 | 1.00x |", "| Head | 4506 | 1.97x |", header="| Model | Tokens/s | Speedup |"),
        "1.97x",
        lengths("| Baseline | 2704 | 1.00x |", "| Head | 4506 | 1.67x |", header="| Model | Tokens/s | Speedup |"),
        name="baseline in a row",
    ),
    Case(
        "C803",
        lengths("| HumanEval | 200 | 2.5 |", header="| Set | Samples | τ |"),
        "200",
        lengths("| HumanEval | 164 | 2.5 |", "| LongHumanEval | 900 | 2.5 |", header="| Set | Samples | τ |"),
        name="in a table",
    ),
    Case(
        "C507",
        "The target has 36 layers. Aux layers: [2, 18, 40].",
        "40",
        "The target has 36 layers. Aux layers: [2, 18, 36]. The draft has 1 layer and hidden size 4096.",
        "layer 40 of a target that has 36",
    ),
    Case(
        "C507",
        "The target has 36 layers. Aux layers: [2, 18, 40].",
        "40",
        "| Field | Value |\n|---|---|\n| Layers | 8 decoder layers, full attention |\n| Taps | at layers [5, 9, 42] |",
        name="depth of the draft",
    ),
    Case(
        "C507",
        "It reads layers `{1, 14, 24}` of the 28-layer target (`{1, L//2-1, L-4}`).",
        "{1, 14, 24}",
        "It reads layers `{1, 13, 24}` of the 28-layer target (`{1, L//2-1, L-4}`).",
        "[1, 13, 24]",
        name="formula",
    ),
    Case(
        "C507",
        "The target has 36 layers.\n\n```yaml\neagle3_layers_to_capture: [2, 18, 33]\n```",
        "to_capture",
        "The target has 36 layers.\n\n```yaml\neagle3_layers_to_capture: [1, 17, 32]\n```",
        severity="warning",
        name="counted otherwise",
    ),
    Case(
        "C508",
        serve(EXAMPLE).replace("owner/target", "openai/gpt-oss-120b"),
        "gpt-oss-120b",
        serve(EXAMPLE).replace("owner/target", "lab/Target-FP8") + "\n```bash\nvllm serve openai/gpt-oss-20b\n```",
        "base_model is owner/target",
    ),
    Case(
        "C512",
        tau(GIVEN) + "\n## Usage\n\n```bash\npython -m sglang.launch_server --model-path owner/target\n```",
        "launch_server",
        tau(GIVEN) + serve(EXAMPLE),
    ),
    Case(
        "C405",
        lengths("| MT-Bench | 2.15 |"),
        "| Set",
        "## Results\n\n| Set | Score |\n|---|---|\n| MT-Bench | 2.15 |",
        front="",
        name="a page of results",
    ),
    Case(
        "C406",
        lengths("| MT-Bench | 2.15 |"),
        "| Set",
        lengths("| MT-Bench | 2.15 |") + "\n```bash\nvllm bench serve --num-prompts 80 --temperature 0.0\n```",
        front="",
        name="in the benchmark's command",
    ),
    Case(
        "C404",
        "## Speed\n\n| Metric | Value |\n|---|---|\n| Decode | **138.8 tok/s** |",
        "| Metric",
        "## Speed\n\n| Prompt | Decode |\n|---|---|\n| short, 256 out | 138.8 tok/s |\n| long, 300 out | 99.1 tok/s |",
        name="names and values",
    ),
    Case(
        "C211",
        across("2.40 | 2.80 | 2.31", "2.71 | 3.05 | 2.66"),
        "| Metric",
        across("2.40 | 2.80 | 2.31", "2.40 | 2.80 | 2.31"),
        name="a column for each set",
    ),
    Case(
        "C202",
        listed("slot 1 – 77.4 %", "slot 2 – 58.0 %", "slot 3 – 61.1 %", before=BY_SLOT),
        "slot 3",
        listed("slot 1 – 77.4 %", "slot 2 – 58.0 %", "slot 3 – 57.9 %", before=BY_SLOT),
        says="rises from 58% to 61.1%",
        name="in a list",
    ),
    Case(
        "C206",
        "| Metric | Value |\n|---|---|\n| Draft tokens (K) | 3 |\n| Mean acceptance length | 2.50 |\n"
        "| Draft acceptance rate | 71.0% |\n",
        "Mean acceptance",
        "| Metric | Value |\n|---|---|\n| Draft tokens (K) | 3 |\n| Mean acceptance length | 2.50 |\n"
        "| Draft acceptance rate | 50.0% |\n",
        name="names and values",
    ),
    Case(
        "C201",
        lengths("| MT-Bench | 2.21 | 2.90 |", "| GSM8K | 3.18 | 3.71 |", header="| τ | γ = 2 | γ = 4 |"),
        "GSM8K",
        lengths("| MT-Bench | 2.21 | 2.90 |", "| GSM8K | 2.98 | 3.71 |", header="| τ | γ = 2 | γ = 4 |"),
        says="K + 1 = 3",
        name="K in the heads",
    ),
    Case(
        "C405",
        tau(TRAINED + GIVEN.replace(", 80 prompts", "")),
        "| Set",
        tau(TRAINED + GIVEN),
        name="beside the training's prompts",
    ),
    Case(
        "C405", tau(without(", 80 prompts")), "| Set", tau(without("80 prompts", "MT-Bench (80)")), name="in brackets"
    ),
    Case("C403", speeds(rest=without("batch size 1, ")), "| Set", speeds(rest=without("batch size 1", "one client"))),
    Case("C411", tau(without("K = 3, ")), "| Set", tau(without("K = 3", "a chain of three")), name="a chain"),
    Case(
        "C406",
        tau(without("temperature 0, ")) + "\n```python\nllm.chat(x, SamplingParams(temperature=0))  # greeting\n```\n",
        "| Set",
        tau(without("temperature 0, ")) + "\n```python\nbody = {'temperature': 0.0}  # as measured\n```\n",
        name="in a comment",
    ),
    Case(
        "C201",
        f"SGLang {SGLANG}, steps 3, topk 1: every verification step commits 4.36 tokens on average.",
        "4.36",
        f"SGLang {SGLANG}, steps 4, topk 1: every verification step commits 4.36 tokens on average.",
        name="what a step commits",
    ),
    Case(
        "C201",
        '```json\n[{"steps": 3, "topk": 1, "metrics": [{"accept_length": 4.281}]}]\n```',
        "4.281",
        '```json\n[{"steps": 4, "topk": 1, "metrics": [{"accept_length": 4.281}]}]\n```',
        name="in data with its steps",
    ),
    Case(
        "C201",
        "```bash\n# accept length 5.6\nsglang serve x --speculative-num-steps 4 --speculative-eagle-topk 1\n```",
        "5.6",
        "```bash\n# accept length 4.6\nsglang serve x --speculative-num-steps 4 --speculative-eagle-topk 1\n```",
        name="in a comment",
    ),
    Case(
        "C201",
        lengths("| C-Eval | 0.82 |", header="| 数据集 | 平均接受长度 |", before="接受长度含目标模型自身的 token。"),
        "C-Eval",
        lengths("| C-Eval | 0.82 |", header="| 数据集 | 平均接受长度 |", before="接受长度不计目标模型自身的 token。"),
        name="below 1 with the target's token",
    ),
    Case(
        "C202",
        "```python\n# accepted_per_pos / num_drafts (marginal):\nrates = [0.77, 0.66, 0.69]\n```",
        "rates",
        "```python\n# accepted_per_pos / num_drafts (marginal):\nrates = [0.77, 0.66, 0.61]\n```",
        name="in a program",
    ),
    Case(
        "C204",
        "The output rises from 1,204 tok/s to 2,890 tok/s, a 2.9x speedup.",
        "2.9x",
        "The output rises from 1,204 tok/s to 2,890 tok/s, a 2.4x speedup.",
        name="after a comma",
    ),
    Case(
        "C204",
        "每 token 时延从 41.2 ms 降到 25.9 ms，降低 47.1%。",
        "47.1",
        "每 token 时延从 41.2 ms 降到 25.9 ms，降低 37.1%。",
    ),
    Case(
        "C206",
        "The head reaches an acceptance length of 3.10 at K = 4; 61.5% of the drafted tokens are accepted.",
        "61.5%",
        "The head reaches an acceptance length of 3.10 at K = 4; 52.5% of the drafted tokens are accepted.",
        name="of the drafted tokens",
    ),
    Case(
        "C208",
        "τ is 2.61 (bootstrap over prompts, 95 % between 2.70 and 2.85).",
        "2.61",
        "τ is 2.61 (bootstrap over prompts, 95 % between 2.50 and 2.72).",
        name="in words",
    ),
    Case(
        "C210",
        "| metric | value |\n|---|---|\n| acceptance rate (accepted / drafted) | 100.0% |\n",
        "100.0%",
        "| metric | value |\n|---|---|\n| acceptance rate (accepted / drafted) | 99.0% |\n",
        name="the only row",
    ),
    Case(
        "C507",
        "| | |\n|---|---|\n| Target layers n | 80 |\n| Aux layers (1, n//2 − 1, n − 4) | 1, 39, 75 |\n",
        "1, 39, 75",
        "| | |\n|---|---|\n| Target layers n | 80 |\n| Aux layers (1, n//2 − 1, n − 4) | 1, 39, 76 |\n",
        name="the formula in the name",
    ),
    Case(
        "C306",
        "| in flight | off, tok/s | on | accept len |\n|---|---|---|---|\n| 1 | 61 | 116 | 0.90 |\n",
        "0.90",
        "τ is 2.44 at every load.\n\n"
        "| in flight | off, tok/s | on | on / off |\n|---|---|---|---|\n| 1 | 61 | 116 | 0.90 |\n",
        name="a ratio of two columns",
    ),
    Case(
        "C302",
        lengths("| this head | 2.31 | [0.49, 0.31, 0.22] |", header="| | τ | per-position a0…a2 |"),
        "this head",
        lengths("| this head | 2.31 | [0.49, 0.31, 0.22] |", header="| | τ | marginal, per-position a0…a2 |"),
        name="in a cell",
    ),
    Case(
        "C406",
        "## Server log\n\n```text\nDecode batch. accept len: 2.80, #queue-req: 0\n```",
        "accept len",
        "## Server log\n\n```text\nDecode batch. accept len: 2.80, temperature: 0\n```\n\nGreedy decoding.",
        front="",
        name="in a log, on a page of a manual",
    ),
    Case(
        "C201",
        "τ is 5.68 when four tokens are drafted; a chain of 3 gives 3.31.",
        "5.68",
        "τ is 5.68 when seven tokens are drafted; a chain of 3 gives 3.31.",
        name="each clause with its own K",
    ),
    Case(
        "C201",
        lengths("| 20k | 1.92 | 4.9 |", header="| Step | τ of v1 | accept length |", after="Served with K = 3."),
        "20k",
        lengths("| 20k | 1.92 | 4.9 |", header="| Step | train loss | accept length |", after="Served with K = 3."),
        name="of the trainer",
    ),
    Case(
        "C201",
        "Measured: 0.2 tokens per step.",
        "0.2",
        "An earlier version lost 0.2 tokens per step.",
        severity="warning",
        name="a difference",
    ),
    Case(
        "C201",
        "τ counts the target's token. Measured: τ = 0.9.",
        "0.9",
        "τ counts the target's token. Accepted drafts per step: 0.9.",
        name="drafts alone",
    ),
    Case(
        "C204",
        "It makes 120 tok/s vs 100 tok/s (85% faster).",
        "85%",
        "It makes 120 tok/s vs 100 tok/s, 85% GPU utilization.",
        name="a share of something else",
    ),
    Case(
        "C204",
        "| Metric | Value |\n|---|---|\n| Baseline tok/s | 100 |\n| EAGLE-3 tok/s | 180 |\n| Speedup | 2.8x |\n",
        "2.8x",
        "| Metric | Value |\n|---|---|\n| tok/s, one user | 100 |\n| tok/s, 32 users | 1800 |\n| Speedup | 2.8x |\n",
        name="names and values",
    ),
    Case(
        "C202",
        "| K | i = 1 | i = 2 | i = 3 |\n|---|---|---|---|\n| 3 | 71 % | 50 % | 58 % |\n\nMarginal acceptance rates.",
        "58 %",
        "| K | i = 1 | i = 2 | i = 3 |\n|---|---|---|---|\n| 3 | 71 % | 50 % | 48 % |\n\nMarginal acceptance rates.",
        name="by i",
    ),
    Case(
        "C207",
        lengths(
            "| A | 2.60 |", "| B | 3.00 |", "| Mean | 3.25 |", after="Pooled by set; the mean is the unweighted one."
        ),
        "Mean",
        lengths("| A | 2.60 |", "| B | 3.00 |", "| Mean | 3.25 |", after="The mean is weighted."),
        name="unweighted, as the text says",
    ),
    Case(
        "C210",
        "```\nAvg Draft acceptance rate: 100.0%\n```",
        "100.0%",
        "```\nAvg Draft acceptance rate: 61.0%\n```",
        name="in a log",
    ),
    Case(
        "C403",
        "## Speed\n\n| Run | |\n|---|---|\n| throughput | 38,000 tok/s |\n",
        "| Run",
        "## Speed\n\n| Training | |\n|---|---|\n| throughput | 38,000 tok/s |\n",
        name="a table of the training",
    ),
    Case(
        "C501",
        "`vllm serve x --speculative-config.num_speculative_tokens=3`\n\n" + lengths("| A | 2.6 |", before="K = 6."),
        "vllm serve",
        "`vllm serve x --speculative-config.num_speculative_tokens=6`\n\n" + lengths("| A | 2.6 |", before="K = 6."),
        name="in a sentence",
    ),
    Case(
        "C507",
        "Aux hidden states of target layers [2, 18, 49] (0-based).",
        "49",
        "Aux hidden states of target layers [2, 18, 33] (0-based).",
        severity="warning",
        front=FRONT.replace("owner/target", "Qwen/Qwen3-8B"),
        name="a target whose depth is known",
    ),
    Case(
        "C507",
        "Aux hidden states of target layers [2, 63, 127] (0-based).",
        "127",
        "Aux hidden states of target layers [2, 63, 123] (0-based).",
        "layer 127 of a target that has 126",
        severity="warning",
        front=FRONT.replace("owner/target", "meta-llama/Meta-Llama-3.1-405B-Instruct-FP8"),
        name="a target whose depth is known, of an older name",
    ),
    Case(
        "C507",
        "The target's n = 36 layers: features of layers 1, n//2 − 1 and n − 4, so the states of layers 1, 17 and 33.",
        "33",
        "The target's n = 36 layers: features of layers 1, n//2 − 1 and n − 4, so the states of layers 1, 17 and 32.",
        name="a formula without brackets",
    ),
    Case(
        "C411",
        "## Acceptance length\n\n2.61: vLLM, MT-Bench (80), T = 0.",
        "2.61",
        "## Acceptance length\n\n2.61: vLLM, MT-Bench (80), T = 0, three drafts.",
        name="under its heading",
    ),
    Case(
        "C201",
        lengths(
            "| 64 | 3000 | 0.90 |", header="| load | on, tok/s | accept len |", before="τ counts the target's token."
        ),
        "| 64",
        lengths("| 64 | 3000 | 0.90 |", header="| load | on, tok/s | ratio |", before="τ counts the target's token."),
        name="a ratio",
    ),
    Case(
        "C201",
        listed("K = 1: 2.78", "K = 3: 2.90", before="τ:"),
        "K = 1",
        listed("K = 1: 1.78", "K = 3: 2.90", before="τ:"),
    ),
    Case(
        "C405",
        lengths("| greedy acceptance | 2.68 | 2.74 |", header="| metric | bf16 | int4 |"),
        "| metric",
        lengths("| draft accuracy | 0.68 | 0.74 |", header="| metric | bf16 | int4 |"),
        name="lengths in rows",
    ),
    Case(
        "C417",
        lengths("| a | 0.60 |", header="| Run | acceptance |"),
        "## Results",
        lengths("| `--spec-draft-n-max 2` | 0.60 |", header="| Run | acceptance |"),
        name="a rate and K",
    ),
    Case(
        "C204",
        "## Speed\n\n| Set | Speedup | Baseline ms | Draft ms |\n|---|---|---|---|\n| a | 3.00x | 6.0 | 3.0 |",
        "| a |",
        "## Speed\n\n| Set | Speedup | Baseline ms | Draft ms |\n|---|---|---|---|\n| a | 4.00x | 8.0 | 2.0 |\n"
        "| b | 1.50x | 6.0 | 4.0 |\n| Average | 2.75x | 7.0 | 3.0 |",
        name="the mean of factors",
    ),
    Case(
        "C204",
        f"{TWO_PAIRS}| a | 0.053484 | 0.013311 | 5.00x | 11.326 | 73.766 |",
        "| a |",
        f"{TWO_PAIRS}| a | 0.053484 | 0.013311 | 4.02x | 11.326 | 73.766 |",
        severity="error",
        name="of the time, not of the throughput",
    ),
    Case(
        "C204",
        "## Speed\n\n| Set | Baseline tok/s | Head tok/s |\n|---|---|---|\n| a | 10.0 | 20.0 (+50%) |",
        "| a |",
        "## Speed\n\n| Set | Baseline tok/s | Head tok/s |\n|---|---|---|\n| a | 18/30 (60%) | 27/30 (90%) |",
        name="a share of a count",
    ),
    Case(
        "C212",
        "## Speed\n\nIt is up to 3.0x faster.\n\n| Set | Speedup |\n|---|---|\n| a | 1.4x |",
        "up to",
        "## Speed\n\nIt is up to 1.3x faster.\n\n| Set | Speedup |\n|---|---|\n| a | 1.2x |\n\n"
        "| Best | Value |\n|---|---|\n| b | 81.7 tok/s (1.28x) |",
        name="a factor in brackets",
    ),
    Case(
        "C505",
        serve("--trust-remote-code").replace("owner/target", "Qwen/Qwen3-8B"),
        "--trust-remote-code",
        serve("--dtype bfloat16"),
        name="the target of the command",
    ),
    Case(
        "C210",
        "It is not viable. Despite 100% acceptance rates it is slow.",
        "100%",
        "It does not reach 100% acceptance rates.",
        name="the sentence before",
    ),
    Case(
        "C411",
        lengths("| MT-Bench | 61% |", header="| Set | Acceptance rate |"),
        "| Set",
        lengths("| MT-Bench | 61% |", header="| Set | Acceptance rate |", before="With K = 3."),
        name="a rate",
    ),
    Case(
        "C408",
        "Run with mlx-lm.",
        "mlx-lm",
        "Run with mlx-lm `420c01e1`.",
        name="a commit",
    ),
    Case(
        "C412",
        "Each number is the best of 2 runs.",
        "best of",
        "Each number is the best of 2 runs, std 0.1. It is the best of 12 models.",
        name="best of",
    ),
    Case(
        "C417",
        "# A head\n\nIt takes 3.6 tok/s.",
        "---",
        "# A head\n\nIt takes ~2.7-3.6 tok/step.",
        name="tokens a step",
    ),
    Case(
        "C408",
        "Measured with llama.cpp.",
        "llama.cpp",
        "Measured with llama.cpp.\n\n```bash\ncurl -LO https://github.com/o/llama.cpp/archive/refs/tags/b10685.tar.gz\n```",
        name="a tag",
    ),
    *(
        Case(code, bad, at, good, severity="".join(severity), name=name)
        for code, name, bad, at, good, *severity in (
            (
                "C202",
                "above one",
                "Acceptance rates by position: 1.12, 0.63, 0.41.",
                "1.12",
                "Acceptance rates by position: 0.92, 0.63, 0.41.",
            ),
            ("C202", "a log", log("2.73", "0.702, 0.498, 0.530"), "Mean", log("2.53", "0.702, 0.498, 0.330")),
            ("C203", "a log", log("2.91", "0.702, 0.498, 0.330"), "Mean", log("2.53", "0.702, 0.498, 0.330")),
            (
                "C203",
                "conditional rates",
                "Conditional rates 0.80, 0.70, 0.60 and τ = 3.1.",
                "3.1",
                "Conditional rates 0.80, 0.70, 0.60; acceptance length 2.70.",
            ),
            (
                "C204",
                "in a sentence",
                "Throughput rises from 120 tok/s to 180 tok/s (1.8x).",
                "1.8x",
                "Throughput rises from 120 tok/s to 180 tok/s (1.5x), latency falls from 10 ms to 5 ms (-50%).",
            ),
            ("C204", "Chinese", speedups("2.3 倍", "加速比"), "| GSM8K", speedups("1.8 倍", "加速比")),
            ("C204", "a bare factor", speedups("2.30", "Speedup"), "| GSM8K", speedups("1.80", "Speedup")),
            (
                "C204",
                "of lengths",
                speedups("2.3x", "Speedup vs baseline"),
                "| GSM8K",
                speedups("2.3x", "Speedup vs baseline")
                .replace("Baseline (tok/s)", "τ (ours)")
                .replace("EAGLE-3 (tok/s)", "τ (theirs)")
                .replace("100", "2.9")
                .replace("180", "2.6"),
            ),
            (
                "C206",
                "in a sentence",
                "K = 3: τ = 2.5, draft acceptance rate (accepted / drafted) 65%.",
                "65%",
                "K = 3: τ = 2.5, draft acceptance rate (accepted / drafted) 50%.",
            ),
            (
                "C207",
                "a column",
                "| Head | A τ | B τ | Mean τ |\n|---|---|---|---|\n| ours | 2.40 | 2.80 | 3.10 |",
                "| ours",
                "| Head | A τ | B τ | Mean τ |\n|---|---|---|---|\n| ours | 2.40 | 2.80 | 2.60 |",
            ),
            ("C208", "in a sentence", "τ = 2.61 (95 % CI 2.40–2.55).", "2.61", "τ = 2.61 (95 % CI 2.40–2.65)."),
            (
                "C208",
                "in one cell",
                lengths("| GSM8K | 2.90 [3.01, 3.12] |", header="| Set | τ [95 % CI] |"),
                "| GSM8K",
                lengths("| GSM8K | 2.90 [2.81, 3.02] |", header="| Set | τ [95 % CI] |"),
            ),
            (
                "C201",
                "with its interval",
                lengths("| GSM8K | 4.90 [4.81, 5.02] |", header="| Set | τ [95 % CI] |", before="K = 3"),
                "| GSM8K",
                lengths("| GSM8K | 2.90 [2.81, 3.02] |", header="| Set | τ [95 % CI] |", before="K = 3"),
            ),
            (
                "C201",
                "a word for K",
                tau("Two draft tokens per step.").replace("2.15", "3.4"),
                "3.4",
                tau("Three draft tokens per step.").replace("2.15", "3.4"),
            ),
            (
                "C211",
                "two sets",
                two_tables("Results", "Summary"),
                "| Set | Acceptance length",
                two_tables("Results", "Summary", "The head of others:\n\n"),
            ),
            (
                "C405",
                "numbers in words",
                tau("vLLM, K = 3, temperature 0."),
                "| Set",
                tau("vLLM, K = 3, temperature 0; eighty MT-Bench questions."),
                "warning",
            ),
            (
                "C405",
                "a head of problems",
                lengths("| AIME | 2.83 |", before="vLLM, K = 3, temperature 0."),
                "| Set",
                lengths("| AIME | 30 | 2.83 |", header="| Set | Problems | τ |", before="vLLM, K = 3, temperature 0."),
                "warning",
            ),
            (
                "C405",
                "settings of an evaluation",
                tau("vLLM, K = 3, temperature 0.") + "\n```yaml\ntrain:\n  prompts: {a: 164}\n```\n",
                "| Set",
                tau("vLLM, K = 3, temperature 0.") + "\n```yaml\neval:\n  prompts: {a: 164, b: 200}\n```\n",
                "warning",
            ),
            (
                "C406",
                "a log of results",
                tau("vLLM, K = 3, 80 prompts.") + "\n```\n$ curl -d 'temperature=0'\n```\n",
                "| Set",
                tau("vLLM, K = 3, 80 prompts.") + "\n```\n$ bench --temp 0\naccept_length=3.48\n```\n",
                "warning",
            ),
            (
                "C406",
                "an ornamented column",
                lengths("| AIME | 0 | 2.83 |", header="| Set | 🎲 Trials | τ |", before="vLLM, K = 3, 80 prompts."),
                "| Set",
                lengths("| AIME | 0 | 2.83 |", header="| Set | 🎲 T | τ |", before="vLLM, K = 3, 80 prompts."),
                "warning",
            ),
            (
                "C408",
                "after a comma",
                tau("*L40S, one. vLLM. Guesses, 3. 80 prompts, temperature 0.*"),
                "*L40S",
                tau(f"*L40S, one. vLLM, {VLLM}. Guesses, 3. 80 prompts, temperature 0.*"),
                "warning",
            ),
            (
                "C201",
                "which one drafts",
                lengths("| a | 2.45 |", before="It drafts one token.", header="| Set | acceptance length |"),
                "| a",
                lengths("| a | 2.45 |", before="This one drafts best.", header="| Set | acceptance length |"),
            ),
            (
                "C411",
                "an example's K",
                tau("vLLM, 80 prompts.") + serve(EXAMPLE) + serve(EXAMPLE.replace(": 3", ": 5")),
                "| Set",
                tau("vLLM, 80 prompts, K = 3.") + serve(EXAMPLE),
                "warning",
            ),
            (
                "C411",
                "the only example's K",
                tau("vLLM, 80 prompts.") + serve(EXAMPLE),
                "| Set",
                tau("vLLM, 80 prompts, K = 3.") + serve(EXAMPLE),
                "info",
            ),
            (
                "C417",
                "a log of another program",
                "# An EAGLE-3 draft head for Qwen3-8B\n\nUnder Apache 2.0, for Llama 3.1; a draft acceptance of 61%.",
                "---",
                "# An EAGLE-3 draft head for Qwen3-8B\n\n```\n[bench] 80 prompts, 31164 verify steps -> 1.97\n```",
            ),
            (
                "C417",
                "in a sentence of its own",
                "# An EAGLE-3 draft head for Qwen3-8B\n\nAccepted at NeurIPS 2025; 2.1x faster, with CUDA 12.4.",
                "---",
                "# An EAGLE-3 draft head for Qwen3-8B\n\nAt every load a round gave 2.31 ± 0.03 tokens.",
            ),
            (
                "C418",
                "a number that may be a length",
                "# An EAGLE-3 draft head for Qwen3-8B\n\n```\n[bench] 80 prompts, 31164 verify steps -> 1.97\n```",
                "[bench]",
                "# An EAGLE-3 draft head for Qwen3-8B\n\nUnder Apache 2.0, for Llama 3.1.",
                "info",
            ),
            (
                "C212",
                "after the set",
                lengths("| GSM8K | 2.80 |", after="On GSM8K, τ is 3.29."),
                "3.29",
                lengths(
                    "| GSM8K | 2.80 |",
                    after="On GSM8K, τ is 2.8; the previous head's acceptance length was 2.3 on GSM8K.",
                ),
            ),
            (
                "C212",
                "a mean outside of the rows",
                lengths(*TWO_SETS, before="The mean acceptance length is 3.61 on vLLM."),
                "3.61",
                lengths(*TWO_SETS, before="The mean acceptance length is 2.95; on MT-Bench the average τ is 3.61."),
            ),
            (
                "C212",
                "a mean beside its row",
                lengths(*TWO_SETS, "| Average | 2.95 |", before="An average acceptance length of 2.87."),
                "2.87",
                lengths(*TWO_SETS, "| Average | 2.95 |", before="An average acceptance length of 2.9."),
            ),
            (
                "C212",
                "a range of lengths",
                lengths(*TWO_SETS, before="Acceptance lengths range from 2.4 to 3.1."),
                "2.4",
                lengths(*TWO_SETS, before="Acceptance lengths range from 2.8 to 3.1."),
            ),
            (
                "C212",
                "a range of factors",
                lengths(*TWO_FACTORS, header="| Set | Speed-up |", before="It gives a 1.5–2.5x speedup."),
                "2.5x",
                lengths(
                    *TWO_FACTORS,
                    header="| Set | Speed-up |",
                    before="It gives a 1.9–2.1x speedup, at batch size 64 a 1.1–1.2x speedup.",
                ),
            ),
            (
                "C212",
                "a mean of factors",
                lengths(*TWO_FACTORS, header="| Set | Speed-up |", before="An average speed-up of 2.6x."),
                "2.6x",
                lengths(*TWO_FACTORS, header="| Set | Speed-up |", before="An average speed-up of 2.0x."),
            ),
            (
                "C212",
                "Chinese",
                lengths("| GSM8K | 2.80 |", after="在 GSM8K 上平均接受长度达到 3.20。"),
                "3.20",
                lengths("| GSM8K | 2.80 |", after="在 GSM8K 上平均接受长度达到 2.80。"),
            ),
            (
                "C403",
                "of the training",
                speeds(rest=without("batch size 1, ") + "\nTraining batch size 64.\n"),
                "| Set",
                speeds(rest=without("batch size 1, ") + "\nBatch size 64.\n"),
            ),
            (
                "C406",
                "a length",
                tau(without("temperature 0, ") + "Sequence length T=2048."),
                "| Set",
                tau(without("temperature 0, ") + "T = 0."),
            ),
            (
                "C408",
                "a commit of it",
                tau("Measured with vLLM."),
                "vLLM",
                tau("Measured with vLLM at commit 3f1a2bc."),
            ),
            (
                "C410",
                "in a sentence",
                "It improves acceptance length from 2.40 to 2.43.",
                "2.40",
                "It improves acceptance length from 2.40 to 2.83.",
            ),
            (
                "C411",
                "gamma",
                tau(without("K = 3, ") + "Loss decay γ = 7."),
                "| Set",
                tau(without("K = 3, ") + "γ = 7."),
            ),
            ("C412", "Chinese", "结果为三次运行的平均值。", "三次", "训练三次，损失的平均值为 1.9。"),
            (
                "C503",
                "vLLM's chain",
                serve(EXAMPLE, "The head drafts with a dynamic draft tree."),
                "tree",
                serve(EXAMPLE, "The head drafts a chain, no draft tree."),
            ),
            (
                "C507",
                "in a sentence",
                "Aux hidden states come from layers 2, 18 and 48 of the target (36 layers).",
                "48",
                "Aux hidden states come from layers 2, 18 and 33 of the target (36 layers).",
            ),
            (
                "C507",
                "in a table",
                "| What | Value |\n|---|---|\n| Target layers | 36 |\n| Aux hidden state layers | 2, 18, 45 |",
                "45",
                "| What | Value |\n|---|---|\n| Target layers | 36 |\n| Aux hidden state layers | 2, 18, 33 |",
            ),
            ("C508", "Python", python("other/model"), "other/model", python("owner/target")),
            (
                "C510",
                "a key in a fragment of Python",
                python("owner/target", "num_draft_tokens"),
                "LLM(",
                python("owner/target"),
            ),
            (
                "C512",
                "Python",
                tau(GIVEN.replace(f"vLLM {VLLM}", f"SGLang {SGLANG}")) + "\n\n```python\nfrom vllm import LLM\n```",
                "from vllm",
                tau(GIVEN) + "\n\n```python\nfrom vllm import LLM\n```",
            ),
            (
                "C413",
                "a development build",
                "It was run with vLLM: 0.17.1rc1.dev531+g89f572dbc.d20260324.",
                "dev531",
                "It was run with vLLM: 0.17.1.",
            ),
            (
                "C408",
                "a pull request of llama.cpp",
                tau("Measured with llama.cpp."),
                "llama.cpp",
                tau("Measured with llama.cpp (PR ggml-org/llama.cpp#23398)."),
            ),
            (
                "C405",
                "the one prompt",
                tau(without(", 80 prompts")),
                "| Set",
                tau(without(", 80 prompts") + 'Generation: prompt "What is 2 + 2?"'),
            ),
            ("C501", "positions", rates_for(4), "num_speculative", rates_for(3)),
            (
                "C501",
                "a block of a format",
                lengths("| A | 2.1 |", before="K = 5") + "\n## Quantization\n\nBlock size: 16\n" + serve(EXAMPLE),
                "num_speculative",
                lengths("| A | 2.1 |", before="K = 5")
                + "\n## Quantization\n\nBlock size: 3\n"
                + serve(EXAMPLE.replace(": 3", ": 5")),
            ),
            (
                "C506",
                "a blank without quotes",
                serve("--speculative-config '{\"model\": <head>}'"),
                "<head>",
                serve('--speculative-config \'{"model": "owner/head"}\''),
            ),
            (
                "C204",
                "a condition with an arrow",
                "| Run | TPOT | Speedup |\n|---|---|---|\n| A | 100 → 50 | 3.4x |",
                "| A",
                "| Run | Devices | Speedup |\n|---|---|---|\n| A | Parallelism 1 → 10 | 3.4x |",
            ),
            (
                "C510",
                "the file of another program",
                SERVED.replace("tp_size", "name: a\ntp_size"),
                "name: a",
                SERVED,
                "warning",
            ),
            (
                "C201",
                "a name with a dot",
                lengths("| A | **4.71** |", header="| Set | **Acc. length** |", before="K = 3"),
                "| A",
                lengths("| A | **3.71** |", header="| Set | **Acc. length** |", before="K = 3"),
            ),
            (
                "C405",
                "a name with a hyphen",
                tau(without("80 prompts", "MT-Bench")),
                "| Set",
                tau(without("80 prompts", "all 80 MT-Bench questions")),
            ),
            (
                "C408",
                "a row of versions",
                tau("Measured with vLLM."),
                "vLLM",
                tau("Measured with vLLM.") + "\n\n| Software | Version |\n|---|---|\n| vLLM | 0.20.0 |",
            ),
            (
                "C412",
                "a median",
                "Each value is the median of 5 runs.",
                "median",
                "Each value is the median of 5 runs, in brackets the standard deviation.",
            ),
            (
                "C501",
                "settings as JSON",
                tau(GIVEN) + '\n\n```json\n{"method": "eagle3", "num_speculative_tokens": 7}\n```',
                "tokens",
                tau(GIVEN) + '\n\n```json\n{"method": "eagle3", "num_speculative_tokens": 3}\n```',
            ),
        )
    ),
]
