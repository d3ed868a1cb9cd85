"""Group sequences by length, so that little is padded."""

from __future__ import annotations

from collections.abc import Sequence


def batches(lengths: Sequence[int], most_tokens: int, most_rows: int | None = None) -> list[list[int]]:
    """Numbers of the sequences in batches, longest sequences first.

    A batch of B sequences, the longest of T tokens, holds at most ``most_tokens`` = B * T tokens, padding included
    (a longer sequence is alone), and at most ``most_rows`` sequences. The longest come first so that running out of
    memory happens at once or never.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    out: list[list[int]] = []
    for i in order:
        room = out and (len(out[-1]) + 1) * lengths[out[-1][0]] <= most_tokens
        if room and (most_rows is None or len(out[-1]) < most_rows):
            out[-1].append(i)
        else:
            out.append([i])
    return out
