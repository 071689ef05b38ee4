"""From a recipe to everything that one training loop turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from unicscale import checkpoint
from unicscale.checkpoint import Safe, Saver
from unicscale.contracts import Batch, Progress
from unicscale.data.loader import Feed, Loader, open_loader
from unicscale.data.views.shift import Windows, room, shown
from unicscale.engine import Engine, attention, build_engine, stages
from unicscale.errors import RecipeError
from unicscale.interop.starting import introduce, refuse_unfit_init, weights_at
from unicscale.objective import build_balance
from unicscale.objective.balance import Balance
from unicscale.objective.pairs import refuse_unfit
from unicscale.ranks.device import settled
from unicscale.ranks.world import World
from unicscale.recipe import Recipe
from unicscale.recipe.plan import Plan, PlannedStage, share
from unicscale.recipe.sections import Source
from unicscale.run.folder import RunFolder
from unicscale.run.metrics import Log
from unicscale.run.telling import open_log
from unicscale.student.model import build_student
from unicscale.student.trunk.batch_norm import refuse_lone_images
from unicscale.teacher.targets import Teachers

SETS_APART = 1 << 40  # sample numbers of different data sets must not draw the same numbers


@dataclass(slots=True)
class Parts:
    """What the loop turns, all of it bound to one rank."""

    recipe: Recipe
    world: World
    plan: Plan
    loader: Feed
    engine: Engine
    teachers: Teachers
    balance: Balance
    progress: Progress
    states: checkpoint.States  # what a checkpoint holds beside the engine's pieces
    begin: Callable[[PlannedStage, PlannedStage | None], None]  # a stage, after the one before it
    saver: Safe
    log: Log

    def shown(self, batch: Batch, draws: dict[str, Any]) -> tuple[Tensor | Windows, Tensor]:
        """What teachers and student see of a batch."""
        return shown(batch.images, self.recipe.data.shift, self.teachers.student_patch, draws)

    def side(self, step: int) -> int:
        """Pixels of a step's images as they are loaded."""
        return self.plan.size(step, self.recipe.seed) + room(self.recipe.data.shift, self.teachers.student_patch)

    def draws(self, batch: Batch) -> dict[str, Any]:
        """What makes this micro-batch's random choices: (seed, step), sample and data set."""
        index = batch.index + batch.domain * SETS_APART  # (B,)
        key = (self.recipe.seed, self.progress.step)
        self.engine.student.set_draws(key, index)
        return {"key": key, "index": index, "domain": batch.domain}


def survey(recipe: Recipe, world: World) -> Loader:
    """Everything that can be refused without a model is refused here, before the run folder is touched."""
    widths = Teachers.widths_of(recipe.teachers)
    refuse_unfit(recipe.loss, recipe.standardize, recipe.teachers, widths)
    trunk = build_student(recipe.student, recipe.projector, widths, recipe.sizes[0], recipe.data.channels).trunk
    if said := recipe.too_few_patches(trunk.patch):
        raise RecipeError(said)
    trunk.check_stages([stage.size_list for stage in recipe.stages])
    refuse_lone_images(trunk, share(recipe.data.images_per_step, world.size, recipe.data.micro_batch)[0])
    stages.refuse_lost_starts(recipe.stages)
    world.on_main(lambda: refuse_unfit_init(recipe.student, trunk, recipe.teachers, Path(recipe.out)))
    Teachers.survey(recipe.teachers, student_patch=trunk.patch, sizes=recipe.sizes, world=world)
    place: dict[str, Any] = {"rank": world.rank, "world": world.size, "device": world.device}
    compiled = settled(recipe.engine, world.device).compile is True
    return world.together(lambda: open_loader(recipe.data, seed=recipe.seed, compiled=compiled, **place))


def assemble(
    recipe: Recipe, world: World, run: RunFolder, *, loader: Feed, saver: Safe | None = None, log: Log | None = None
) -> Parts:
    """Build, place, fill; then go on from the newest whole checkpoint, if there is one."""
    facts = {"images_per_epoch": loader.images_per_epoch}
    found = checkpoint.find(run.checkpoints, world, facts, recipe)
    progress = found.progress if found else Progress()
    plan = Plan.of(
        recipe.stages, images_per_epoch=loader.images_per_epoch, images_per_step=recipe.data.images_per_step,
        standardize=recipe.standardize, track=recipe.track, save=recipe.save, evaluate=recipe.evaluate,
    )  # fmt: skip
    size = max(plan.stages[progress.stage].sizes)  # the stage that the checkpoint was in, not the one it leads to
    widths = Teachers.widths_of(recipe.teachers)
    student = build_student(recipe.student, recipe.projector, widths, size, recipe.data.channels)
    introduce(student, recipe.student, recipe.teachers, resumed=found is not None)
    engine = build_engine(
        recipe.engine, student, seed=recipe.seed, world=world, micro_batches=loader.micro_batches, size=size
    )
    teachers = Teachers.build(
        recipe.teachers,
        recipe.standardize,
        loss=recipe.loss,
        student_patch=student.trunk.patch,
        engine=engine,
        engine_section=recipe.engine,
        world=world,
    )
    teachers.remember(recipe.engine, run.root)
    attention.settle(recipe, world, run.root, student, engine.student, teachers.models(recipe), resumed=bool(found))
    sources = [source.teachers if isinstance(source, Source) else None for source in recipe.data.train]
    balance = build_balance(recipe.loss.balance, list(recipe.teachers), sources).to(world.device)
    parameters = [name for name, _ in student.named_parameters()]
    anew = teachers.restart if recipe.standardize.restart == "stage" else None
    begin = partial(stages.enter, engine=engine, student=student, seed=recipe.seed, read=weights_at, anew=anew)
    states: checkpoint.States = {"statistics": teachers, "balance": balance}
    if found:
        checkpoint.restore(found, engine, world, parameters=parameters, states=states)
    else:
        begin(plan.stages[0], None)
    saver = saver or Saver(run.checkpoints, recipe, world, parameters=parameters, facts=facts)
    log = log or open_log(recipe, run, world, plan, progress)
    return Parts(recipe, world, plan, loader, engine, teachers, balance, progress, states, begin, saver, log)
