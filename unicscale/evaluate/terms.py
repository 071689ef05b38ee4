"""Who is measured, and how: the words that tasks, shelf and runner share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from unicscale.recipe.sections import Count, Positive, Section

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unicscale.contracts import Features, Seen
    from unicscale.evaluate.lenders import Lender


class Settings(Section):
    """What may be said about how to measure; part of every protocol."""

    seed: int = 22
    size: Count | None = None  # pixels of classification; None: the size the model was made for
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 on CUDA, fp32 elsewhere
    batch: Count = 128
    limit: Count | None = None  # images per split, drawn evenly over the classes; None: all
    search: Literal["grid", "optuna"] = "grid"
    trials: Count = 40  # of Optuna
    epochs: Count = 100  # of SGD
    dense_size: Count = 512
    dense_steps: Count = 40_000
    dense_lr: Positive = 1e-3
    resamples: Count = 1000

    @property
    def keyed(self) -> dict[str, Any]:
        """What a result is kept under: keys younger than results that people have count only where they are used."""
        said = self.model_dump()
        return said if self.dense_lr != 1e-3 else {key: v for key, v in said.items() if key != "dense_lr"}


class Labelled(NamedTuple):
    """Features of a split."""

    features: Tensor  # (N, D)
    labels: Tensor  # (N,)
    classes: int
    own: Tensor | None = None  # (N,) where each of them stands in the set it is learnt from; it may not ask itself
    names: tuple[str, ...] = ()  # of the classes, where the set has them


@dataclass(frozen=True, slots=True)
class Subject:
    """A frozen model under examination."""

    name: str
    module: nn.Module
    encode: Callable[[Tensor], Features]  # uint8 images -> Features
    sha: str  # of its weights
    size: int
    patch: int
    channels: int = 3  # of the images that it sees, at least
    teacher: bool = False  # True: the others are measured against it
    tokens: tuple[str, ...] = ("summary", "patches")  # those that it has; without a summary, its patches' mean is one
    see: Callable[[Tensor], Seen] | None = None  # with projectors: uint8 images -> Seen
    invert: Callable[[str, Tensor], Tensor] | None = None  # a teacher's standardised summary -> its own terms
    lenders: Mapping[str, Lender] = field(default_factory=dict)  # its teachers: they lend classifiers and text towers
    silent: tuple[str, ...] = ()  # those of them whose summaries it was not taught

    @property
    def taught_by(self) -> tuple[str, ...]:
        """Its projector's teachers; a teacher is its own."""
        return tuple(self.lenders)
