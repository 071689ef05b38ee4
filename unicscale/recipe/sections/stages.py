"""`stages:`, one resolution and schedule each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from unicscale.recipe.sections.base import DURATION, DURATIONS, MOST, Count, NonNegative, Pixels, Positive, Section
from unicscale.recipe.sections.names import StageName

WARMUP = "5%"  # without one the first step has the whole rate, and losses rise before they fall


class LearningRate(Section):
    """Stated for `data.images_per_step` and never rescaled."""

    peak: Positive
    """The learning rate at the end of the warm-up, for data.images_per_step; never rescaled by the number of ranks."""
    end: NonNegative = 1e-6
    """The learning rate at the stage's end, reached by a cosine."""


class Stage(Section):
    """One resolution and schedule; exactly one of epochs, steps and images says how long."""

    name: StageName
    """What the stage is called in logs, curves and checkpoints: RUN@NAME opens its end."""
    size: Pixels | Annotated[list[Pixels], Field(min_length=1)]
    """Side of the training images in pixels, a multiple of the student's patch; a list is visited as `sizes` says."""
    sizes: Literal["cycle", "random"] = "cycle"
    """How a list of sizes is visited: in turn (`cycle`), or drawn at every step (`random`)."""
    epochs: Positive | None = None
    """Length in passes over the data; give one of epochs, steps, images."""
    steps: Count | None = None
    """Length in optimiser steps."""
    images: Count | None = None
    """Length in images seen."""
    warmup_epochs: NonNegative | None = None
    """Epochs over which the learning rate rises from 0 to its peak; give at most one warm-up."""
    warmup_steps: Annotated[int, Field(ge=0, le=MOST)] | None = None
    """The same in steps; 0: none."""
    warmup: str | None = WARMUP
    """The same as a duration: `5%` of the stage (where no warm-up is named), `500 steps`, `2 epochs`, `1e6 images`."""
    freeze_trunk: str | None = None
    """A duration from the stage's first step in which only the projectors learn; null: none."""
    lr: LearningRate
    """The learning rate: `{peak: 3e-4, end: 1e-6}`."""
    start_from: str = "weights"
    """`weights` of the stage before, `scratch`, or checkpoint:PATH of a run, a checkpoint or an export."""
    optimizer: Literal["fresh", "keep"] = "fresh"
    """Whether AdamW's moments begin `fresh`, or are kept (`keep`) from the stage before."""

    @model_validator(mode="before")
    @classmethod
    def _the_usual_warmup(cls, said: Any) -> Any:
        if not isinstance(said, dict) or said.get("warmup") is not None:
            return said
        others = any(said.get(key) is not None for key in ("warmup_epochs", "warmup_steps"))
        kept = {key: value for key, value in said.items() if key != "warmup"}
        return kept | {"warmup": None} if others else kept

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
    def says_warmup(self) -> bool:
        """Whether its warm-up was named, rather than the usual one taken."""
        return "warmup" in self.model_fields_set or (self.warmup_epochs, self.warmup_steps) != (None, None)

    @property
    def size_list(self) -> list[int]:
        """The sizes, also where only one is given."""
        return [self.size] if isinstance(self.size, int) else list(self.size)
