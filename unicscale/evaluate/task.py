"""What a task is, what it measures with, and what it yields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unicscale.contracts import Features, Seen
    from unicscale.evaluate.features.shelf import Shelf
    from unicscale.teacher.finding import Frozen


class Score(NamedTuple):
    """One number, with the interval that 95 % of bootstrap resamples of the test set fall into."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be said about how to measure; part of every protocol."""

    seed: int = 22
    size: int | None = None  # pixels of classification; None: the size the model was made for
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 on CUDA, fp32 elsewhere
    batch: int = 128
    limit: int | None = None  # images per split, drawn evenly over the classes; None: all
    search: Literal["grid", "optuna"] = "grid"
    trials: int = 40  # of Optuna
    epochs: int = 100  # of SGD
    dense_size: int = 512
    dense_steps: int = 40_000
    resamples: int = 1000


@dataclass(slots=True)
class Subject:
    """A frozen model under examination."""

    name: str
    module: nn.Module
    encode: Callable[[Tensor], Features]  # uint8 images -> Features
    sha: str  # of its weights
    size: int
    patch: int
    teacher: bool = False  # True: the others are measured against it
    see: Callable[[Tensor], Seen] | None = None  # with projectors: uint8 images -> Seen
    taught_by: tuple[str, ...] = ()  # the projector's teachers
    invert: Callable[[str, Tensor], Tensor] | None = None  # a teacher's standardised summary -> its own terms
    open_teacher: Callable[[str], Frozen] | None = None  # the teacher itself: for its classifier, its text tower
    notes: dict[str, Any] = field(default_factory=dict)


class Want(NamedTuple):
    """Summaries that a task will ask the shelf for; computed beforehand by all ranks together."""

    data: str
    split: str
    answer: str | None = None  # the projector's guess of this teacher


@dataclass(frozen=True)
class Task(ABC):
    """One measurement, of any subject and without data unless it says otherwise."""

    name: str

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets without which it cannot run."""
        return ()

    def applies(self, subject: Subject) -> str | None:
        """Why this subject cannot be asked, or None."""
        return None

    def wants(self, subject: Subject) -> list[Want]:
        """The summaries it will ask for that are worth keeping."""
        return []

    @abstractmethod
    def protocol(self, settings: Settings) -> dict[str, Any]:
        """Everything that would change the numbers."""

    @abstractmethod
    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        """The scores, the headline first."""


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


def share(name: str, correct: np.ndarray, settings: Settings) -> Score:
    """Accuracy in per cent; resampling a 0/1 vector is drawing a binomial."""
    count = len(correct)
    value = float(correct.mean())
    generator = np.random.Generator(np.random.Philox(settings.seed))
    low, high = np.percentile(generator.binomial(count, value, settings.resamples) / count, [2.5, 97.5])
    return Score(name, 100 * value, 100 * float(low), 100 * float(high))
