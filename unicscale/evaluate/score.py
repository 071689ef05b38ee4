"""One number and its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from unicscale.evaluate.terms import Settings


class Score(NamedTuple):
    """One number, with the interval that 95 % of bootstrap resamples of the test set fall into."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True
    chosen: Mapping[str, float] | None = None  # the hyper-parameters behind it, where some were searched

    def held(self) -> dict[str, Any]:
        """As files of results hold it."""
        return {name: value for name, value in self._asdict().items() if name != "chosen"}


def bootstrap(
    samples: np.ndarray,  # (N, K) what each test sample contributes
    statistic: Callable[[np.ndarray], np.ndarray],  # sums (R, K) -> (R,)
    *,
    seed: int,
    resamples: int,
) -> tuple[float, float]:
    """The 2.5 and 97.5 per cent points of a statistic of sums over resampled test sets."""
    generator = np.random.Generator(np.random.Philox(seed))
    samples = samples.reshape(len(samples), -1).astype(np.float64)
    values = []
    for _ in range(resamples):
        weights = np.bincount(generator.integers(len(samples), size=len(samples)), minlength=len(samples))
        values.append(statistic((weights @ samples)[None])[0])
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def share(name: str, correct: np.ndarray, settings: Settings, chosen: Mapping[str, float] | None = None) -> Score:
    """Accuracy in per cent; resampling a 0/1 vector is drawing a binomial."""
    count = len(correct)
    value = float(correct.mean())
    generator = np.random.Generator(np.random.Philox(settings.seed))
    low, high = np.percentile(generator.binomial(count, value, settings.resamples) / count, [2.5, 97.5])
    return Score(name, 100 * value, 100 * float(low), 100 * float(high), chosen=chosen)
