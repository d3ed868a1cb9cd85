"""Time ``card --check`` on large cards: 20,000 rows of a table, and cards of 1 MB in every shape that a card can have.

    python benchmarks/lint.py [--slack FACTOR]

Prints the seconds of CPU for each shape at a quarter of the size and at the whole, and the slowest rules. The exit
status is 1 if a card takes longer than the limit: 2 s for the rows, 3 s for 1 MB, times ``--slack``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from eagle3hub.lint import lint_card
from eagle3hub.lint.model import RULES, run_rule
from eagle3hub.lint.parse import parse_card

HEAD = """---
license: mit
base_model: Qwen/Qwen3-8B
tags: [eagle3]
---
# Qwen3-8B EAGLE-3 head

"""
MEGABYTE = 1_000_000


def repeated(unit: Callable[[int], str], size: int) -> str:
    """Return units until they have ``size`` characters."""
    out, length, i = [], 0, 0
    while length < size:
        out.append(unit(i))
        length += len(out[-1])
        i += 1
    return "".join(out)


def rows(count: int) -> str:
    """Return a table of results."""
    header = "## Results\n\n| Dataset | Acceptance length | Throughput (tok/s) | Speedup |\n|---|---|---|---|\n"
    return header + "".join(
        f"| set {i} | {2 + i % 10 / 10} | {200 + i % 50} | 1.{i % 100:02d}x |\n" for i in range(count)
    )


SHAPES: dict[str, Callable[[int], str]] = {
    "rows of a table": lambda size: rows(size // 35),
    "rows of an HTML table": lambda size: (
        "<table>\n<tr><th>Set</th><th>τ</th></tr>\n"
        + repeated(lambda i: f"<tr><td>set {i}</td><td>{2 + i % 10 / 10}</td></tr>\n", size)
        + "</table>\n"
    ),
    "tables": lambda size: repeated(lambda i: f"K = 3\n\n| Set | τ |\n|---|---|\n| set {i} | 2.{i % 10} |\n\n", size),
    "paragraphs": lambda size: repeated(
        lambda i: (
            f"The head {i} was measured with vLLM on an H100 at batch size 1; its acceptance length is 2.{i % 10}.\n\n"
        ),
        size,
    ),
    "one paragraph": lambda size: repeated(lambda i: f"mean acceptance length {i} is 2.{i % 10}, 1.5x faster\n", size),
    "list items": lambda size: repeated(lambda i: f"- Mean acceptance length: 2.{i % 10}, TODO\n", size),
    "sections": lambda size: repeated(lambda i: f"## Results {i}\n\nWith K = 3.\n\n", size),
    "links": lambda size: repeated(lambda i: f"[EAGLE](https://arxiv.org/abs/2503.{i % 9999:05d}) ", size),
    "JSON": lambda size: "```json\n{" + repeated(lambda i: f'"accept_length": 2.{i % 10},\n', size) + '"a": 1}\n```\n',
    "commands": lambda size: repeated(
        lambda i: f"```bash\nvllm serve owner/target --speculative-model a/b --num-speculative-tokens {i % 9}\n```\n",
        size,
    ),
    "comments": lambda size: repeated(lambda i: f"<!-- internal {i} -->\n\ntext\n\n", size),
}


def seconds(text: str) -> float:
    """Return the CPU time of one check."""
    begun = time.process_time()
    lint_card(parse_card(HEAD + text))
    return time.process_time() - begun


def slowest(text: str) -> str:
    """Return the parser's and the three slowest rules' times."""
    begun = time.process_time()
    card = parse_card(HEAD + text)
    found = {"parse": time.process_time() - begun}
    for rule in RULES.values():
        begun = time.process_time()
        list(run_rule(rule, card))
        found[rule.code] = time.process_time() - begun
    worst = sorted(found.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {spent:.2f}" for name, spent in worst)


def main() -> int:
    """Run every shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slack", type=float, default=1.0, help="factor on the limits, for a slow machine")
    slack = parser.parse_args().slack
    cards = {"20,000 rows": (rows(5_000), rows(20_000), 2.0)}
    cards |= {f"1 MB of {name}": (make(MEGABYTE // 4), make(MEGABYTE), 3.0) for name, make in SHAPES.items()}
    failed = False
    print(f"{'card':32} {'a quarter':>10} {'whole':>8} {'limit':>6}  slowest")
    for name, (small, large, limit) in cards.items():
        quarter, whole = seconds(small), seconds(large)
        failed |= whole > limit * slack
        print(f"{name:32} {quarter:9.2f}s {whole:7.2f}s {limit:5.0f}s  {slowest(large)}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
