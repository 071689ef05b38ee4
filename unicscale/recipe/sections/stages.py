"""`stages:`, one resolution and schedule each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from unicscale.recipe.sections.base import DURATION, DURATIONS, MOST, Count, NonNegative, Pixels, Positive, Section
from unicscale.recipe.sections.names import StageName


class LearningRate(Section):
    """Stated for `data.images_per_step` and never rescaled."""

    peak: Positive
    end: NonNegative = 1e-6


class Stage(Section):
    """One resolution and schedule; exactly one of epochs, steps and images says how long."""

    name: StageName
    size: Pixels | Annotated[list[Pixels], Field(min_length=1)]  # a list is visited as `sizes` says
    sizes: Literal["cycle", "random"] = "cycle"
    epochs: Positive | None = None
    steps: Count | None = None
    images: Count | None = None
    warmup_epochs: NonNegative | None = None
    warmup_steps: Annotated[int, Field(ge=0, le=MOST)] | None = None
    warmup: str | None = None  # a duration; "5%" is of the stage
    freeze_trunk: str | None = None  # a duration from its first step, in which the projectors alone learn
    lr: LearningRate
    start_from: str = "weights"  # weights | checkpoint:PATH | scratch; of the stage before for `weights`
    optimizer: Literal["fresh", "keep"] = "fresh"

    @model_validator(mode="after")
    def _one_length(self) -> Stage:
        if sum(x is not None for x in (self.epochs, self.steps, self.images)) != 1:
            raise ValueError("say how long: exactly one of epochs, steps, images")
        if self.warmup is not None and not DURATION.fullmatch(self.warmup):
            raise ValueError(f"warmup '{self.warmup}' is no duration: {DURATIONS}")
        if self.freeze_trunk is not None and not DURATION.fullmatch(self.freeze_trunk):
            raise ValueError(f"freeze_trunk '{self.freeze_trunk}' is no duration: {DURATIONS}")
        if sum(x is not None for x in (self.warmup_epochs, self.warmup_steps, self.warmup)) > 1:
            raise ValueError("say the warm-up once: warmup_epochs, warmup_steps or warmup")
        return self

    @field_validator("start_from")
    @classmethod
    def _known_start(cls, value: str) -> str:
        if value not in ("weights", "scratch") and not (value.startswith("checkpoint:") and value[11:].strip()):
            raise ValueError(f"'{value}' is none of weights, scratch and checkpoint:PATH")
        return value

    @property
    def size_list(self) -> list[int]:
        """The sizes, also where only one is given."""
        return [self.size] if isinstance(self.size, int) else list(self.size)
