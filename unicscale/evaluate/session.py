"""One call of `unicscale evaluate`: models, tasks, and where the results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unicscale.errors import RecipeError
from unicscale.evaluate import checkpoints, keeping, opening, runner
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.results import course
from unicscale.evaluate.runner import Outcome
from unicscale.evaluate.task import Task
from unicscale.evaluate.terms import Settings
from unicscale.ranks.world import World


class Asked(NamedTuple):
    """What is to be measured, whoever is."""

    tasks: Sequence[Task]
    named: set[str]  # of them, those without which it is an error
    settings: Settings
    data: Path
    cache: Path | None  # of features; None: beside the results
    given: Mapping[str, Mapping[str, Any]]  # what is said of teachers


def measure(
    models: Sequence[str], asked: Asked, outs: Sequence[Path], world: World, beside: str | None = None
) -> tuple[Outcome, dict[str, Any]]:
    """What came of it, and its summary, which rank 0 writes into every one of `outs`."""
    subjects = [opening.open_subject(model, world.device, asked.given) for model in models]
    names = [one.name for one in subjects]
    if len(set(names)) < len(names):
        raise RecipeError(f"two models would share a column: {', '.join(names)}. Name them: LABEL=MODEL")
    shelf = Shelf(asked.data, asked.cache or outs[0].parent / "features", asked.settings, world)
    outcome = runner.run_all(subjects, asked.tasks, shelf, [out.with_suffix("") for out in outs])
    if outcome.stopped:  # each rank for itself: nobody knows where the others are
        return outcome, runner.finish(outcome, outs, beside) if world.main else {}
    return outcome, world.on_main(lambda: runner.finish(outcome, outs, beside))


def over_checkpoints(run: str, asked: Asked, suite: str, world: World) -> tuple[Outcome, Path]:
    """One kept checkpoint after the other, so that one model is held at a time; the course is written after each."""
    out, whole, points = course.place(Path(run), suite), Outcome(), []
    for model, at in world.on_main(lambda: checkpoints.of_run(run)):
        subject = opening.open_subject(model, world.device, asked.given)
        shelf = Shelf(asked.data, asked.cache or out.parent.parent / "features", asked.settings, world)
        outcome = runner.run_all([subject], asked.tasks, shelf, [out.with_suffix("")])
        whole.take(outcome)
        points.append((at, list(outcome.results.values())))
        if world.main and whole.results:
            keeping.write(out, course.course(run, points))
        if outcome.stopped:
            break
    return whole, out


def default_outs(models: Sequence[str], suite: str) -> list[Path]:
    """In `evaluation/` of every run among the models; of the current folder where none is a run."""
    runs = [Path(opening.parted(model)[1]) for model in models]
    runs = [run if run.exists() else Path(str(run).rpartition("@")[0]) for run in runs]  # RUN@STAGE
    homes = [run / "evaluation" for run in runs if (run / "recipe.yaml").is_file()]
    return [home / f"{suite}.json" for home in dict.fromkeys(homes or [Path("evaluation")])]
