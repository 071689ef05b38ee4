"""From a run folder to a running engine: never a silent restart, never somebody else's run."""

from __future__ import annotations

from pathlib import Path

from unicscale.checkpoint.reading import Checkpoint, newest, pointer
from unicscale.checkpoint.retention import tidy
from unicscale.errors import CheckpointError
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.recipe import Recipe
from unicscale.recipe.difference import differences


def find(
    folder: Path, world: World, facts: dict[str, int] | None = None, recipe: Recipe | None = None
) -> Checkpoint | None:
    """The checkpoint a launch goes on from; None for a run that never saved. Only for who holds the run folder."""
    if world.main:
        tidy(folder)
    found, skipped = newest(folder, world)
    if found is None:
        if world.main:
            say.info(f"{folder.parent} has no checkpoint: starting with the first step")
        return None
    if world.main:
        for line in [*skipped, pointer(folder, found)]:
            if line:
                say.warning(line)
        say.info(f"going on from {found.path}")
    if recipe is not None:
        same_run(found, recipe)
    same_data(found, facts or {})
    return found


def same_run(found: Checkpoint, recipe: Recipe) -> None:
    """Refuse what another recipe saved, however it came into this run's folder."""
    changed = differences(found.recipe, recipe)
    if changed:
        raise CheckpointError(
            f"{found.path} was saved by another recipe:\n    " + "\n    ".join(changed) + "\n"
            "  Move it out of this folder, or start over with --fresh, which sets it aside."
        )


def same_data(found: Checkpoint, facts: dict[str, int]) -> None:
    """Refuse to go on with another number of images: the order of samples would be another one."""
    for name, now in facts.items():
        before = found.facts.get(name, now)
        if before != now:
            raise CheckpointError(
                f"{found.path} was trained with {name.replace('_', ' ')} {before:,}; the data now have {now:,}.\n"
                "  Bring the data set back as it was, or start over with --fresh."
            )
