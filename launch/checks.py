"""What would fail on the cluster fails here, before anything waits in a queue."""

from __future__ import annotations

import os
from pathlib import Path

from unicscale.errors import CheckpointError, DataError, RecipeError
from unicscale.ranks.scheduler import Phase
from unicscale.ranks.slurm import Slurm
from unicscale.recipe import Recipe
from unicscale.recipe.secrets import refuse_secrets
from unicscale.recipe.sections import Launch, Source
from unicscale.run.folder import RunFolder, facts_of
from unicscale.run.launches import refuse_early


def check(recipe: Recipe, launch: Launch, *, paths: bool = True, awaited: str | None = None) -> list[str]:
    """Raise the first thing that cannot work; return what was found good, for people to read.

    `awaited`: a run of the same chain that this one takes something from, and that is not there yet.
    """
    refuse_secrets(recipe, launch)
    split(recipe, launch)
    folder(recipe)
    if paths:
        data(recipe)
    if paths and awaited is None:
        teachers(recipe)
    return [
        *(memory(recipe, launch) if awaited is None else [f"models and memory are looked at once {awaited} is there"]),
        f"{launch.ranks} rank{'s' * (launch.ranks > 1)}, "
        f"{recipe.data.images_per_step // launch.ranks} images each per step",
    ]


def split(recipe: Recipe, launch: Launch) -> None:
    """images_per_step over all ranks, and the micro-batch over a rank's share."""
    share, rest = divmod(recipe.data.images_per_step, launch.ranks)
    where = f"{launch.nodes} node{'s' * (launch.nodes > 1)} × {launch.tasks} ranks"
    if rest or not share:
        raise RecipeError(
            f"'data.images_per_step' is {recipe.data.images_per_step}, which {where} cannot share evenly."
        )
    micro = recipe.data.micro_batch
    if micro and share % micro:
        raise RecipeError(
            f"'data.micro_batch' is {micro}, which does not divide the {share} images a rank has ({where})."
        )


def data(recipe: Recipe) -> None:
    """Every path the recipe names can be read from here."""
    if recipe.dry_run is not None:
        return  # synthetic pixels
    named = [*recipe.data.train, *recipe.data.val, *([recipe.evaluate.data] if recipe.evaluate.data else [])]
    for source in named:
        path = source.path if isinstance(source, Source) else source
        if not os.access(path, os.R_OK):
            there = "cannot be read" if os.path.exists(path) else "does not exist"
            raise DataError(
                f"{path} {there} here. Compute nodes usually see what the login node sees;\n"
                f"  if this path lives on the nodes alone, say so with --skip-checks."
            )


def teachers(recipe: Recipe) -> None:
    """Plug-ins import, their options hold, their weights lie where the job will look for them."""
    from unicscale.teacher import files
    from unicscale.teacher.described import describe

    for name, section in recipe.teachers.items():
        described = describe(name, section)
        file = described.file if recipe.dry_run is None else None  # whose weights are random
        if file is not None:
            files.require(file, name)


def memory(recipe: Recipe, launch: Launch) -> list[str]:
    """The plan's largest stage fits the devices; a CPU job is not judged."""
    if launch.gpus_per_node == 0:
        return []
    from unicscale.cost import costs, cure

    found = costs(recipe, launch.ranks, launch.gpu_gib)
    largest = max(sum(stage.memory.values()) for stage in found.stages) / 2**30
    if largest > launch.gpu_gib:
        raise RecipeError(
            f"a rank needs {largest:.1f} GiB by plan, and 'launch.gpu_gib' is {launch.gpu_gib:g}: {cure(recipe)}\n"
            f"  `unicscale plan RECIPE --gpus {launch.ranks} --memory {launch.gpu_gib:g}` shows what takes the room."
        )
    return [f"{largest:.1f} of {launch.gpu_gib:g} GiB per rank by plan, {found.hours:,.0f} GPU-hours"]


def folder(recipe: Recipe) -> None:
    """The run folder is ours, writable, free, and no job of it waits in the queue."""
    refuse_early(recipe, main=True)
    run = RunFolder(Path(recipe.out))
    job = facts_of(run).get("queued")
    phase = Slurm().phase(job) if job else None
    if phase in (Phase.WAITING, Phase.RUNNING, Phase.LEAVING):
        raise CheckpointError(
            f"{run.root} already has job {job}, {phase}.\n"
            f"  Wait, or end it with `unicscale stop {run.root}`, or choose another folder with out=FOLDER."
        )
