"""Who is measured, and how: the words that tasks, shelf and runner share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from unicscale.contracts import Features, Seen
    from unicscale.teacher.frozen import Frozen


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
