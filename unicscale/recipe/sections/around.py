"""`track:`, `save:`, `evaluate:` and `dry_run:`, what happens around the loop."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from unicscale.recipe.sections.base import Count, Positive, Section


class Tracker(Section):
    """Somebody who hears what metrics.jsonl records; a new one is such a section, and a line in Track."""

    builds: ClassVar[str]

    @property
    def listens(self) -> bool:
        """Whether it is wanted at all."""
        return True


class Wandb(Tracker):
    """Mirrors metrics.jsonl; `auto` is online with an account, offline without."""

    builds: ClassVar = "unicscale.run.mirrors:WandbMirror"
    project: str = "unicscale"
    entity: str | None = None
    mode: Literal["auto", "online", "offline", "off"] = "auto"

    @property
    def listens(self) -> bool:
        """`off` keeps the section and its project."""
        return self.mode != "off"


class TensorBoard(Tracker):
    """Event files under events/; `tensorboard: true` in a recipe."""

    builds: ClassVar = "unicscale.run.mirrors:TensorBoardMirror"


class Track(Section):
    """Who else hears what metrics.jsonl records."""

    every_steps: Count = 50
    wandb: Wandb | None = None
    tensorboard: bool = False

    @property
    def asked(self) -> list[Tracker]:
        """Those who listen."""
        sections = [value for _, value in self if isinstance(value, Tracker)]
        return [one for one in sections if one.listens] + [TensorBoard()] * self.tensorboard


class Save(Section):
    """When checkpoints are written and which are kept."""

    every_minutes: Positive | None = 30
    every_steps: Count | None = None
    keep: Count = 3
    keep_every_steps: Count | None = None
    asynchronous: bool = True


class Evaluate(Section):
    """What is measured while training; `unicscale evaluate` measures everything else."""

    every_epochs: Positive | None = None
    every_steps: Count | None = None  # instead
    tasks: list[str] = []
    data: str | None = None  # labelled images; None: data.val
    max_images: Count | None = None

    @model_validator(mode="after")
    def _one_pace(self) -> Evaluate:
        if self.every_epochs and self.every_steps:
            raise ValueError("say every_epochs or every_steps, not both")
        return self

    @property
    def ever(self) -> bool:
        """Whether anything is measured while training."""
        return bool(self.every_epochs or self.every_steps)


class DryRun(Section):
    """Real shapes, random weights, synthetic pixels: proves a recipe before a cluster sees it."""

    steps: Count = 1
    images_per_step: Count | None = None  # None: one per rank
