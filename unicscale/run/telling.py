"""A launch of a run begins to tell: metrics.jsonl, the console, and whoever else the recipe names."""

from __future__ import annotations

from unicscale.contracts import Progress
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
    mirrors = open_mirrors(recipe.track, Tracked(run.root, facts["id"], recipe.model_dump(mode="json", by_alias=True)))
    console = Console(plan.steps, progress.step, list(recipe.teachers))
    return Log(run.metrics, [console, *mirrors], launch=len(facts["launches"]))
