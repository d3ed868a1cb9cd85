"""Simulated prompts: finite populations whose true values are known exactly."""

from __future__ import annotations

import numpy as np

from eagle3hub.metrics import Counts

K = 3


def chances(rng: np.random.Generator, prompts: int, spread: float = 0.12) -> np.ndarray:
    """Each prompt's own chance that a draft is accepted: around 0.6."""
    return np.clip(rng.normal(0.6, spread, prompts), 0.05, 0.95)


def uneven(rng: np.random.Generator, prompts: int, mean: float, alpha_beta: float) -> np.ndarray:
    """Each prompt's own chance, Beta distributed: the smaller ``alpha_beta``, the more prompts differ."""
    return np.clip(rng.beta(mean * alpha_beta, (1 - mean) * alpha_beta, prompts), 1e-9, 1 - 1e-9)


def lengths(rng: np.random.Generator, prompts: int) -> np.ndarray:
    """Response lengths, 60 to 256 tokens."""
    return rng.integers(60, 257, prompts)


def run(rng: np.random.Generator, chance: np.ndarray, length: np.ndarray, k: int = K) -> np.ndarray:
    """Rounds until each response is complete, whole last round counted: [prompts, 1 + k], rounds then accepted."""
    out = np.empty((len(chance), 1 + k), dtype=np.int64)
    for part in np.array_split(np.arange(len(chance)), max(1, len(chance) // 2000)):
        uniform = rng.random((len(part), length.max()))
        # P(a >= i) = chance ** i
        accepted = np.minimum(np.floor(np.log(uniform) / np.log(chance[part])[:, None]), k).astype(np.int64)
        emitted_before = np.cumsum(accepted + 1, axis=1) - (accepted + 1)
        ran = emitted_before < (length[part] - 1)[:, None]
        out[part, 0] = ran.sum(axis=1)
        for i in range(1, k + 1):
            out[part, i] = ((accepted >= i) & ran).sum(axis=1)
    return out


def counts(rows: np.ndarray) -> list[Counts]:
    """The counters of some of the prompts."""
    return [Counts(r, r * len(per), sum(per), tuple(per)) for r, *per in rows.tolist()]


def tau(rows: np.ndarray) -> float:
    """Pooled acceptance length of a whole population."""
    return float(rows.sum() / rows[:, 0].sum())
