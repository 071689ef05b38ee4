"""One run, top to bottom."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from unicscale.assembly import Parts, assemble, survey
from unicscale.cost.limit import limit_of
from unicscale.errors import BlewUp, DataError, ReachedLimit, StoppedOnRequest
from unicscale.evaluate.during import during, refuse_unfit, score_of
from unicscale.objective.loss import compared, distil
from unicscale.ranks.device import keep_compiled
from unicscale.ranks.failures import Streak, explained
from unicscale.ranks.voice import close_voice, open_voice, say
from unicscale.ranks.watchdog import Watchdog
from unicscale.ranks.world import joined
from unicscale.recipe import Recipe
from unicscale.run.folder import RunFolder
from unicscale.run.launches import owned_run
from unicscale.run.metrics import Tally
from unicscale.run.phases import Phases, held_garbage


def train(recipe: Recipe, *, fresh: bool = False, max_steps: int | None = None) -> RunFolder:
    """Run the recipe to its end (or step `max_steps`) from where it stands; StoppedOnRequest where it leaves early."""
    try:
        with joined(recipe.engine) as world:
            if recipe.evaluate.ever:
                world.on_main(lambda: refuse_unfit(recipe.evaluate, recipe.data.val, recipe.data.channels.count))
            with closing(survey(recipe, world)) as loader, owned_run(recipe, world, fresh=fresh) as (run, recipe):
                keep_compiled(recipe.engine, run.root / "compiled")
                open_voice(run.log_of(world.rank), world.rank, speaks=world.main)
                watchdog = Watchdog(run.logs, rank=world.rank, size=world.size, timeout=recipe.engine.timeout_seconds)
                with watchdog, explained(world.rank, watchdog), held_garbage():
                    parts = assemble(recipe, world, run, loader=loader)
                    try:
                        limit = limit_of(recipe, parts.plan, world)
                        loop(parts, Phases(world.device, watchdog, limit), max_steps)
                    except BlewUp:  # on all ranks alike; skipped steps moved nothing, so nothing is lost
                        parts.saver.save(parts.progress, parts.engine, parts.states, wait=True)
                        raise
                    finally:
                        parts.saver.settle()
                        parts.log.close()
            return run
    finally:
        close_voice()


def loop(parts: Parts, phase: Phases, max_steps: int | None = None) -> None:
    """Batches in, checkpoints out."""
    recipe, plan, progress, world = parts.recipe, parts.plan, parts.progress, parts.world
    engine, teachers, log, saver = parts.engine, parts.teachers, parts.log, parts.saver
    loss_of: dict[str, Any] = recipe.loss_arguments() | {"compare": compared(recipe.engine)}
    late = recipe.compares_late
    streak = Streak(world.device, recipe.engine.dtype)
    last = min(plan.steps, max_steps or plan.steps)
    batches = parts.loader.start(progress, parts.side, max(0, last - progress.step))
    while progress.step < last:
        if plan.stage_of(progress.step) != progress.stage:
            parts.begin(plan.stages[progress.stage + 1], plan.stages[progress.stage])
            progress.stage += 1
        tally = Tally()
        for final in engine.micro_steps():
            phase("data", progress.step)
            batch = next(batches)
            draws = parts.draws(batch)
            to_teachers, to_student = parts.shown(batch, draws)
            phase("teachers")
            targets = teachers(to_teachers, key=draws["key"], observe=plan.momentum(progress.step) > 0, late=late)
            phase("student")
            with phase.apart(engine.student):
                guess = engine.student(to_student)
            known = teachers.known(late=late) | draws
            loss = distil(guess.answers, targets, balance=parts.balance, world=world, **known, **loss_of)
            phase("backward")
            engine.backward(loss.sum, last=final)
            tally.add(loss)
            del guess, loss  # their graph would keep this stage's student alive while the next one's is built
        phase("optimizer")
        lr, momentum = plan.lr(progress.step), plan.momentum(progress.step)
        norm = engine.step(lr, tally.weight, trunk_rests=plan.trunk_rests(progress.step))
        streak.see(norm)
        teachers.update(momentum)
        parts.balance.update(world)
        progress.step, progress.images = progress.step + 1, progress.images + recipe.data.images_per_step
        phase("boundary")
        if plan.logs(progress.step) or progress.step == last:  # the only place where a step waits for the device
            rates = {"grad_norm": norm, "lr": lr, "momentum": momentum}
            log.write(progress, tally.terms(world) | rates | streak.terms() | phase.measured())
            teachers.remark()
            streak.judge(progress.step, teachers.broken())
        due = plan.saves(progress.step) or plan.ends_stage(progress.step) or plan.evaluates(progress.step)
        due = due or progress.step == last or saver.due()
        unjudged = parts.loader.damage.unjudged
        stop, save, bad = world.agreed(stop=world.stop.raised(), save=due, tell=unjudged)  # all leave at the same step
        if bad:
            parts.loader.damage.judge(world.gather_objects)
        if stop or save:
            phase("save")
            streak.judge(progress.step, teachers.broken())
            saver.save(progress, engine, parts.states, wait=stop or progress.step == last)
        if stop and progress.step < plan.steps:
            where = f"step {progress.step} of {plan.steps} ({world.stop.reason})"
            raise StoppedOnRequest(f"stopped at {where}; the same command goes on from there.")
        if plan.evaluates(progress.step):
            with phase.unwatched("evaluate"):
                log.event(measured := measure(parts))
            if score := recipe.save.best and score_of(recipe.save.best.task, measured):
                saver.judge(progress.step, score)
    if progress.step < plan.steps:
        where = f"step {progress.step} of {plan.steps} (--max-steps {max_steps})"
        raise ReachedLimit(f"stopped at {where}, saved; the same command without it goes on from there.")


def measure(parts: Parts) -> dict[str, Any]:
    """Validation losses and the recipe's tasks; leaves weights, statistics, randomness and data position alone."""
    recipe, progress = parts.recipe, parts.progress
    size = parts.plan.size(progress.step - 1, recipe.seed)
    at = {"step": progress.step, "images": progress.images, "stage": progress.stage}
    try:
        return at | during(
            recipe.evaluate, parts.engine.student, parts.world,
            val=recipe.data.val, size=size, teachers=parts.teachers, loss=recipe.loss_arguments(),
        )  # fmt: skip
    except DataError as problem:  # on all ranks alike; days of training are worth more than one measurement
        say.warning("not evaluated at step %d: %s", progress.step, problem)
        return at | {"val/failed": 1.0}
