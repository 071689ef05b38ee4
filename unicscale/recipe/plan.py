"""Durations -> steps, and what each step's lr, momentum, image size and duties are: torch-free arithmetic."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from unicscale.errors import RecipeError
from unicscale.recipe import sections

FREEZE_AFTER = 512  # steps; EUPE takes 500, and PHI-S refreshes its rotation at powers of two


@dataclass(frozen=True, slots=True)
class Pace:
    """What converts epochs and images into optimiser steps."""

    images_per_epoch: int
    images_per_step: int

    @property
    def steps_per_epoch(self) -> float:
        """Whole, because loaders drop the tail of an epoch; a bare number of images may say otherwise."""
        return self.images_per_epoch / self.images_per_step

    def epochs(self, epochs: float) -> int:
        """At least one step."""
        return max(1, round(epochs * self.steps_per_epoch))

    def images(self, images: float) -> int:
        """Rounded up: asked-for images are all seen."""
        return max(1, math.ceil(images / self.images_per_step))

    def duration(self, text: str | int, total: int, where: str) -> int:
        """`500`, `500 steps`, `2 epochs`, `1e6 images` or `5%` of `total` steps."""
        match = sections.DURATION.fullmatch(str(text))
        if match is None:
            raise RecipeError(f"{where}: '{text}' is no duration: {sections.DURATIONS}.")
        number, unit = float(match[1]), (match[2] or "steps").lower().rstrip("s")
        if unit == "%":
            return round(total * number / 100)
        return {"step": round, "epoch": self.epochs, "image": self.images}[unit](number)


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage in steps of the whole run."""

    name: str
    first: int
    steps: int
    warmup: int
    rest: int  # steps at its beginning in which the trunk is left alone
    peak: float
    end: float
    sizes: tuple[int, ...]
    random_sizes: bool
    section: sections.Stage

    def lr(self, step: int) -> float:
        """Linear from 0 to the peak, which warm-up's last step has; then a cosine towards `end`."""
        local = step - self.first
        if local < self.warmup:
            return self.peak * local / max(self.warmup - 1, 1)
        return cosine(self.peak, self.end, local - self.warmup, self.steps - self.warmup)

    @property
    def remark(self) -> str:
        """What nobody means who says it. As in the released code it stays, so that runs go on as they began."""
        if self.warmup != 1:
            return ""
        said = "a warm-up of one step has a learning rate of 0, so that step moves nothing: say 0, or 2"
        return f"stage {self.name}: {said}"

    @property
    def said(self) -> str:
        """`stage low: 1,120 steps of 48 px, 56 of them warm-up (5%, as nobody said another)`."""
        pixels = " and ".join(map(str, self.sizes)) if len(self.sizes) < 3 else f"{len(self.sizes)} sizes of"
        warm = f"{self.warmup:,} of them warm-up" if self.warmup else "no warm-up"
        usual = "" if self.section.says_warmup else f" ({self.section.warmup}, as nobody said another)"
        return f"stage {self.name}: {self.steps:,} step{'s' * (self.steps > 1)} of {pixels} px, {warm}{usual}"

    def size(self, step: int, seed: int) -> int:
        """Pixels: the sizes in turn, or drawn from (seed, step)."""
        if self.random_sizes:
            from unicscale import rng  # which brings numpy, and most who ask for a plan need none

            return self.sizes[rng.key(seed, rng.Purpose.SIZE, step) % len(self.sizes)]
        return self.sizes[(step - self.first) % len(self.sizes)]


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole run in optimiser steps, counted over all stages. A step's number is how many were done before it."""

    stages: tuple[PlannedStage, ...]
    pace: Pace
    standardize: sections.Standardize
    frozen_from: tuple[int | None, ...]  # of each estimate of the statistics: of the run, or of each stage
    log_every: int
    save_every: int | None
    evaluate_every: int | None

    @classmethod
    def of(
        cls,
        stages: Sequence[sections.Stage],
        *,
        images_per_epoch: int,
        images_per_step: int,
        standardize: sections.Standardize | None = None,
        track: sections.Track | None = None,
        save: sections.Save | None = None,
        evaluate: sections.Evaluate | None = None,
    ) -> Plan:
        """From the sections and the length of an epoch, which only the data knows."""
        pace, planned, first = Pace(images_per_epoch, images_per_step), [], 0
        for number, stage in enumerate(stages):
            planned.append(_planned(stage, first, pace, f"stages[{number}]"))
            first += planned[-1].steps
        standardize = standardize or sections.Standardize()
        evaluate = evaluate or sections.Evaluate()
        every = evaluate.every_steps or (pace.epochs(evaluate.every_epochs) if evaluate.every_epochs else None)
        return cls(
            stages=tuple(planned),
            pace=pace,
            standardize=standardize,
            frozen_from=tuple(_frozen_from(standardize, pace, steps) for steps in _estimates(standardize, planned)),
            log_every=(track or sections.Track()).every_steps,
            save_every=save.every_steps if save else None,
            evaluate_every=every,
        )

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.stages[-1].first + self.stages[-1].steps

    def stage_of(self, step: int) -> int:
        """The number of the stage that `step` belongs to; the last one's once the run is over."""
        return bisect_right([stage.first for stage in self.stages], step) - 1

    def size(self, step: int, seed: int) -> int:
        """Pixels of this step's images."""
        return self.stages[self.stage_of(step)].size(step, seed)

    def lr(self, step: int) -> float:
        """Of this step."""
        return self.stages[self.stage_of(step)].lr(step)

    def trunk_rests(self, step: int) -> bool:
        """Whether this step leaves the trunk alone."""
        stage = self.stages[self.stage_of(step)]
        return step - stage.first < stage.rest

    def momentum(self, step: int) -> float:
        """How far this step's batch moves the teachers' statistics; 0 leaves them alone."""
        number, steps = 0, self.steps
        if self.standardize.restart == "stage":
            number = self.stage_of(step)
            step, steps = step - self.stages[number].first, self.stages[number].steps
        frozen_from = self.frozen_from[number]
        if frozen_from is None:
            return cosine(self.standardize.momentum_start, self.standardize.momentum_end, step, steps)
        # statistics that will be frozen are a plain average: a momentum near 1 would freeze those of one batch
        return 1 / (step + 1) if step < frozen_from else 0.0

    def logs(self, done: int) -> bool:
        """Whether to log once `done` steps are done: the first, the last, and every so many."""
        return done in (1, self.steps) or done % self.log_every == 0

    def saves(self, done: int) -> bool:
        """Whether `save.every_steps` asks for a checkpoint now; the clock and the end ask elsewhere."""
        return self.save_every is not None and done % self.save_every == 0

    def ends_stage(self, done: int) -> bool:
        """Whether these steps complete a stage: what each stage made is worth a checkpoint."""
        return any(done == stage.first + stage.steps for stage in self.stages)

    def evaluates(self, done: int) -> bool:
        """Whether to evaluate once `done` steps are done; always at the end, if ever."""
        return self.evaluate_every is not None and (done % self.evaluate_every == 0 or done == self.steps)


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """Half a cosine from `start` at step 0 towards `end`, which step `steps` would have."""
    return end + (start - end) * (1 + math.cos(math.pi * step / max(steps, 1))) / 2


def decays(name: str, shape: Sequence[int]) -> bool:
    """Biases and one-dimensional parameters do not decay; positions, CLS and registers do."""
    return len(shape) > 1 and not name.endswith(".bias")


def share(images_per_step: int, ranks: int, micro_batch: int | None = None) -> tuple[int, int]:
    """One rank's images per micro-batch, and how many micro-batches make its part of a step."""
    if images_per_step % ranks:
        below = images_per_step // ranks * ranks
        near = f"{below} or {below + ranks}" if below else f"{ranks}"
        raise RecipeError(
            f"data.images_per_step: {images_per_step} images do not divide over {ranks} ranks. "
            f"The nearest numbers that do are {near}."
        )
    own = images_per_step // ranks
    micro = min(micro_batch or own, own)
    if own % micro:
        fits = [n for n in range(1, own + 1) if own % n == 0]
        raise RecipeError(f"data.micro_batch: {micro} does not divide a rank's {own} images. These do: {fits}.")
    return micro, own // micro


def _planned(stage: sections.Stage, first: int, pace: Pace, where: str) -> PlannedStage:
    if stage.epochs is not None:
        steps = pace.epochs(stage.epochs)
    else:
        steps = stage.steps if stage.steps is not None else pace.images(stage.images or 0)
    if stage.warmup_epochs is not None:
        warmup = pace.epochs(stage.warmup_epochs) if stage.warmup_epochs else 0
    elif stage.warmup is not None:
        warmup = pace.duration(stage.warmup, steps, f"{where}.warmup")
        if warmup == 1 and stage.warmup.rstrip().endswith("%"):
            warmup = 0  # a share that is one step: its rate would be 0, and the step lost
    else:
        warmup = stage.warmup_steps or 0
    if warmup >= steps and warmup:
        raise RecipeError(
            f"{where}: a warm-up of {warmup} steps leaves nothing of the stage's {steps}. Shorten it, or say '5%'."
        )
    return PlannedStage(
        name=stage.name,
        first=first,
        steps=steps,
        warmup=warmup,
        rest=pace.duration(stage.freeze_trunk, steps, f"{where}.freeze_trunk") if stage.freeze_trunk else 0,
        peak=stage.lr.peak,
        end=stage.lr.end,
        sizes=tuple(stage.size_list),
        random_sizes=stage.sizes == "random",
        section=stage,
    )


def _estimates(standardize: sections.Standardize, stages: Sequence[PlannedStage]) -> list[int]:
    """How many steps each estimate of the statistics has."""
    each = [stage.steps for stage in stages]
    return each if standardize.restart == "stage" else [sum(each)]


def _frozen_from(standardize: sections.Standardize, pace: Pace, total: int) -> int | None:
    if standardize.kinds <= {"file", "none"} and standardize.freeze_after is None:
        return 0
    if standardize.kinds & {"running"} and standardize.freeze_after is None:
        return None
    after = FREEZE_AFTER if standardize.freeze_after is None else standardize.freeze_after
    return max(1, pace.duration(after, total, "standardize.freeze_after"))
