"""Student's t distribution, in the closed form that integer degrees of freedom allow."""

from __future__ import annotations

import math
from functools import cache


def t_cdf(t: float, df: int) -> float:
    """P(T <= t) of Student's t with ``df`` degrees of freedom (an integer of 1 or more), in closed form.

    The finite trigonometric series for integer degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4).
    """
    if df < 1:
        raise ValueError(f"degrees of freedom must be 1 or more, not {df}")
    theta = math.atan(t / math.sqrt(df))
    sin, cos = math.sin(theta), math.cos(theta)
    odd = df % 2
    term = cos if odd else 1.0
    series = term if df > 1 else 0.0
    for k in range(2 + odd, df - 1, 2):
        term *= cos * cos * (k - 1) / k
        series += term
    inside = 2 / math.pi * (theta + sin * series) if odd else sin * series
    return (1 + inside) / 2


@cache
def t_quantile(p: float, df: int) -> float:
    """The t with P(T <= t) = p, for 0.5 <= p < 1, by bisection to full precision."""
    if not 0.5 <= p < 1:
        raise ValueError(f"p must lie in [0.5, 1), not {p}")
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        low, high = high, high * 2
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)


def t_quantile_between(p: float, df: float) -> float:
    """`t_quantile` for any ``df`` of 1 or more: between whole ones in a straight line over 1 / df."""
    below = math.floor(df)
    if below == df:
        return t_quantile(p, below)
    share = (1 / below - 1 / df) / (1 / below - 1 / (below + 1))
    return (1 - share) * t_quantile(p, below) + share * t_quantile(p, below + 1)
