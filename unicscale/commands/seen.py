"""How far `check` can see: it refuses what `train` would refuse, as long as that takes no weights, and torch only for
students that timm alone knows.
"""

from __future__ import annotations

import os

from unicscale.errors import RecipeError
from unicscale.recipe import Recipe
from unicscale.recipe.plan import Plan, share
from unicscale.recipe.sections import SHORT_NAMES, Source, Student

FREE = {"loss", "knn"}  # tasks of `evaluate.tasks` that every run can measure: others are asked about with torch


def unseen(recipe: Recipe, *, full: bool = False) -> list[str]:
    """What was not looked at, in words; an error for what was seen and cannot work. `full`: betons are opened too."""
    seen = [*_data(recipe, full), *_ranks(recipe), *_evaluation(recipe, full), *_statistics(recipe), *_student(recipe)]
    return [*seen, "weights"]


def verdict(recipe: Recipe, *, full: bool = False) -> str:
    """The last line of `check`."""
    return f"valid; not looked at: {', '.join(unseen(recipe, full=full))}"


def _data(recipe: Recipe, full: bool) -> list[str]:
    if recipe.dry_run is not None:
        return ["data (a dry run draws its own)"]
    sources = [one if isinstance(one, Source) else Source(path=one) for one in recipe.data.train]
    for source in sources:
        if not os.path.exists(source.path):
            return [f"data ({source.path} is not on this machine)"]
        if not os.path.isdir(source.path) and not full:
            return [f"data ({source.path} is opened when the run begins, or by --full)"]
    from unicscale.data.sets.images import open_images
    from unicscale.data.stream.order import Order

    section = recipe.data
    how = section.reader, section.max_resolution, section.resize, section.channels.count
    counts = [len(open_images(s.path, *how)) for s in sources]
    order = Order(recipe.seed, counts, [s.weight for s in sources], section.images_per_step)
    Plan.of(
        recipe.stages,
        images_per_epoch=order.images_per_epoch,
        images_per_step=section.images_per_step,
        standardize=recipe.standardize,
    )
    return []


def _ranks(recipe: Recipe) -> list[str]:
    share(recipe.data.images_per_step, recipe.launch.ranks, recipe.data.micro_batch)
    return []


def _statistics(recipe: Recipe) -> list[str]:
    path = recipe.standardize.path if "file" in recipe.standardize.kinds else None
    return [f"standardize.path ({path})"] if path else []


def _evaluation(recipe: Recipe, full: bool) -> list[str]:
    section, val = recipe.evaluate, recipe.data.val
    if not section.ever:
        return []
    if not section.data and not val:
        raise RecipeError("evaluate: no images to measure on: name evaluate.data or data.val, or drop evaluate")
    path, labels = section.data or val[0], set(section.tasks) - {"loss"}
    if set(section.tasks) - FREE:
        from unicscale.evaluate.during import asked_for

        asked_for(section, val)
    if not (os.path.isdir(path) or (full and os.path.exists(path))):
        return ["data of evaluate"]
    if labels:
        from unicscale.evaluate.during import refuse_unfit

        refuse_unfit(section, val, recipe.data.channels.count)
    return []


def _plain(student: Student) -> bool:
    """Whether it is one of the short names with a width, depth and heads that fit: nobody has to build it to know."""
    said, patch = student.options, student.known_patch or 0
    if student.arch not in SHORT_NAMES or (student.stem == "convolutions" and patch & (patch - 1)):
        return False
    if not said:
        return True
    if said.keys() - {"depth"} != {"embed_dim", "num_heads"} or not all(
        type(n) is int and n > 0 for n in said.values()
    ):
        return False
    return said["embed_dim"] % said["num_heads"] == 0


def _student(recipe: Recipe) -> list[str]:
    if _plain(recipe.student):
        return []
    from unicscale.student.trunk import build_trunk  # which brings torch

    trunk = build_trunk(recipe.student, recipe.sizes[0], recipe.data.channels)
    trunk.check_stages([stage.size_list for stage in recipe.stages])
    return []
