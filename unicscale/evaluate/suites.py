"""Names on the command line -> tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from unicscale.errors import RecipeError, nearest
from unicscale.evaluate.sets.names import TRANSFER
from unicscale.evaluate.task import Task
from unicscale.evaluate.tasks import classify, dense, facts, heads, own, points, utility, zero_shot
from unicscale.evaluate.tasks.borrowed import Borrowed
from unicscale.evaluate.terms import Settings

EVERY = (classify, zero_shot, heads, dense, points, utility, facts)  # a new task: its file, and its name here
FACTS = ("prune", "whiten", "prune_ade20k", "whiten_ade20k", "statistics", "speed")
QUICK_LIMIT = 20_000  # images per split in the quick suite


def tasks() -> dict[str, Task]:
    """Every task by its name."""
    return {task.name: task for room in EVERY for task in room.TASKS}


SUITES: dict[str, tuple[str, ...]] = {
    "quick": ("knn", "speed"),
    "dense": ("ade20k", "nyud"),
    "transfer": TRANSFER,
    "zoo": ("knn", "zero_shot", "ade20k", "voc", "nyud", "spair"),  # what papers of the zoo report
}
SUITES["paper"] = ("knn", "imagenet", "zero_shot", "heads", *TRANSFER, *SUITES["dense"], *FACTS)


def select(names: Sequence[str], settings: Settings, data: Path | None = None) -> tuple[list[Task], set[str], Settings]:
    """The tasks of suites and names, which of them were asked for by name, and the settings they imply."""
    every = tasks()
    chosen: dict[str, Task] = {}
    named = set()
    names = [one for name in names for one in name.split(",") if one]
    for name in names:
        if name in SUITES:
            chosen |= {one: every[one] for one in SUITES[name]}
        elif name == "own" and data is not None:
            chosen |= {task.name: task for task in own.suite(data)}
        elif (task := _named(name, every, data)) is not None:
            chosen[name] = task
            named.add(name)
        else:
            known = [*SUITES, "own", *every]
            raise RecipeError(
                f"'{name}' is neither a suite nor a task.{nearest(name, known)}\n"
                f"  suites: {', '.join([*SUITES, 'own'])}\n  tasks: {', '.join(every)}\n"
                f"  of your own data: {', '.join(f'{task}:FOLDER' for task in own.MAKE)}"
            )
    if names == ["quick"] and settings.limit is None:
        settings = settings.model_copy(update={"limit": QUICK_LIMIT})
    return list(chosen.values()), named, settings


def _named(name: str, every: Mapping[str, Task], data: Path | None) -> Task | None:
    """`heads`; `heads:deit3`, which asks one teacher only; `knn:photos`, which measures on a folder of one's own."""
    base, colon, rest = name.partition(":")
    if not colon:
        return every.get(base)
    if base in own.MAKE and data is not None:
        return own.task(name, data)
    task = every.get(base)
    return replace(task, name=name, teacher=rest) if isinstance(task, Borrowed) else None
