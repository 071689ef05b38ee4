"""`track:`, `save:`, `evaluate:` and `dry_run:`, what happens around the loop."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import model_validator

from unicscale.recipe.sections.base import Count, Positive, Section, unless


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
    """The project on Weights & Biases in which the run appears."""
    entity: str | None = None
    """The user or team that owns the project; null: your own account's default."""
    mode: Literal["auto", "online", "offline", "off"] = "auto"
    """`auto` is online where an account is known and offline elsewhere; `offline` keeps the run for `wandb sync`;
    `off` sends nothing.
    """

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
    """Steps between two records in metrics.jsonl. The first and the last step are always recorded; only here does a
    step wait for the device.
    """
    wandb: Wandb | None = None
    """Mirror the records to Weights & Biases: `{project: NAME}`; null: do not."""
    tensorboard: bool = False
    """Also write TensorBoard's event files, under events/ in the run folder."""

    @property
    def asked(self) -> list[Tracker]:
        """Those who listen."""
        sections = [value for _, value in self if isinstance(value, Tracker)]
        return [one for one in sections if one.listens] + [TensorBoard()] * self.tensorboard


class Best(Section):
    """Which measurement makes one checkpoint better than another."""

    task: str
    """One of evaluate.tasks: `knn` keeps the highest, `loss` the lowest."""


class Save(Section):
    """When checkpoints are written and which are kept."""

    every_minutes: Positive | None = 30
    """Minutes between two checkpoints by the clock; null: by steps only. The end of a stage is always saved."""
    every_steps: Count | None = None
    """Steps between two checkpoints; null: by the clock only."""
    keep: Count = 3
    """How many of the newest whole checkpoints stay; older ones are deleted."""
    keep_every_steps: Count | None = None
    """Checkpoints at multiples of this step are never deleted; null: none is spared for its number."""
    best: Annotated[Best | None, unless(None)] = None
    """Keep the checkpoint that measured best while training, whatever `keep` says: `{task: knn}`; null: the newest
    only. RUN@best opens it.
    """
    asynchronous: bool = True
    """Write checkpoints behind training's back; false makes every save wait until it lies on the disk."""


class Evaluate(Section):
    """What is measured while training; `unicscale evaluate` measures everything else."""

    every_epochs: Positive | None = None
    """Epochs between two evaluations during training; null: see every_steps. Where neither is given nothing is
    measured.
    """
    every_steps: Count | None = None
    """Steps between two evaluations, instead of every_epochs."""
    tasks: list[str] = []
    """What is measured: `loss` (the training loss on held-out images), `knn` (k-nearest neighbours; wants labels),
    and other tasks of `unicscale evaluate`.
    """
    data: str | None = None
    """A folder of labelled images to measure on; null: the first of data.val."""
    max_images: Count | None = None
    """How many images are measured at most; null: 10,000."""

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
    """Steps of every stage that the rehearsal takes."""
    images_per_step: Count | None = None
    """Images per step of the rehearsal, over all ranks; null: one per rank."""
