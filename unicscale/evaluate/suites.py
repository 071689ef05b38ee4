"""Names on the command line -> tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from unicscale.errors import RecipeError, nearest
from unicscale.evaluate.sets.names import LARGE, SHIFTED, TRANSFER
from unicscale.evaluate.task import Task
from unicscale.evaluate.tasks.classify import Knn, Logistic
from unicscale.evaluate.tasks.dense import Depth, Segment
from unicscale.evaluate.tasks.facts import Speed, Statistics
from unicscale.evaluate.tasks.heads import Heads
from unicscale.evaluate.tasks.utility import Prune, Whiten
from unicscale.evaluate.tasks.zero_shot import ZeroShot
from unicscale.evaluate.terms import Settings

FACTS = ("prune", "whiten", "statistics", "speed")
OF_A_TEACHER: dict[str, Callable[[str, str], Task]] = {"zero_shot": ZeroShot, "heads": Heads}  # heads:deit3
QUICK_LIMIT = 20_000  # images per split in the quick suite


def tasks() -> dict[str, Task]:
    """Every task by its name."""
    every: list[Task] = [Knn(), Logistic("imagenet", "imagenet", "sgd", SHIFTED), ZeroShot(), Heads()]
    every += [Logistic(name, name, "sgd" if name in LARGE else "lbfgs") for name in TRANSFER]
    every += [Segment(), Depth(), Prune(), Whiten(), Statistics(), Speed()]
    return {task.name: task for task in every}


SUITES: dict[str, tuple[str, ...]] = {
    "quick": ("knn", "speed"),
    "dense": ("ade20k", "nyud"),
    "transfer": TRANSFER,
}
SUITES["paper"] = ("knn", "imagenet", "zero_shot", "heads", *TRANSFER, *SUITES["dense"], *FACTS)


def select(names: Sequence[str], settings: Settings) -> tuple[list[Task], set[str], Settings]:
    """The tasks of suites and names, which of them were asked for by name, and the settings they imply."""
    every = tasks()
    chosen: dict[str, Task] = {}
    named = set()
    names = [one for name in names for one in name.split(",") if one]
    for name in names:
        if name in SUITES:
            chosen |= {one: every[one] for one in SUITES[name]}
        elif (base := name.partition(":")[0]) in every and (base == name or base in OF_A_TEACHER):
            chosen[name] = every[base] if base == name else OF_A_TEACHER[base](name, name.partition(":")[2])
            named.add(name)
        else:
            known = [*SUITES, *every]
            raise RecipeError(
                f"'{name}' is neither a suite nor a task.{nearest(name, known)}\n"
                f"  suites: {', '.join(SUITES)}\n  tasks: {', '.join(every)}"
            )
    if names == ["quick"] and settings.limit is None:
        settings = replace(settings, limit=QUICK_LIMIT)
    return list(chosen.values()), named, settings
