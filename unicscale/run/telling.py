"""A launch of a run begins to tell: metrics.jsonl, the console, and whoever else the recipe names."""

from __future__ import annotations

from unicscale.contracts import Progress
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.recipe import Recipe
from unicscale.recipe.plan import Plan
from unicscale.run.folder import RunFolder
from unicscale.run.launches import note_plan
from unicscale.run.metrics import Log
from unicscale.run.mirrors import Console, Tracked, open_mirrors


def open_log(recipe: Recipe, run: RunFolder, world: World, plan: Plan, progress: Progress) -> Log:
    """Rank 0 speaks; the others keep quiet."""
    if not world.main:
        return Log(None, [])
    facts = note_plan(run, plan)
    launch = facts["launches"][-1]
    if became := launch.get("auto"):
        on = launch.get("device") or "this device"
        said = ", ".join(f"{key} is {str(value).lower()}" for key, value in became.items())
        say.info("auto: %s on %s", said, on)
    if progress.step == 0:
        for stage in plan.stages:
            say.info(stage.said)
    mirrors = open_mirrors(recipe.track, Tracked(run.root, facts["id"], recipe.model_dump(mode="json", by_alias=True)))
    console = Console(plan.steps, progress.step, list(recipe.teachers))
    return Log(run.metrics, [console, *mirrors], launch=len(facts["launches"]))
