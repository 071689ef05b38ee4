"""Several recipes one after the other, as one: each begins when the one before it has ended with 0."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unicscale.errors import RecipeError
from unicscale.recipe import Recipe
from unicscale.recipe.sections import Launch

from .sweep import variants


def chained(recipe: str, words: Sequence[str], sweeps: Sequence[str]) -> list[Recipe]:
    """`A B C a.b=v`: the recipes in their order, each with every change."""
    files = [recipe, *(word for word in words if "=" not in word)]
    changes = [word for word in words if "=" in word]
    if sweeps or any(Path(file).is_dir() for file in files):
        raise RecipeError("--chain takes recipes, one after the other; a sweep or a folder of them runs at once.")
    if len(files) < 2:
        raise RecipeError("--chain wants two recipes or more: RECIPE RECIPE ... [a.b=v ...] --chain")
    found = [run.recipe for file in files for run in variants(file, changes, [])]
    outs = [os.path.abspath(one.out) for one in found]
    if doubled := next((one.out for one, out in zip(found, outs, strict=True) if outs.count(out) > 1), None):
        raise RecipeError(f"two recipes of the chain have {doubled} as their 'out': each run has a folder of its own.")
    return found


def awaited(recipe: Recipe, before: Sequence[Recipe]) -> str | None:
    """The run of an earlier recipe that this one names, as a teacher or to start from; it may not be there yet."""
    outs = {os.path.abspath(one.out): one.out for one in before}
    for text in _texts(recipe.model_dump(exclude={"out"})):
        path = Path(os.path.abspath(text.removeprefix("checkpoint:")))
        for folder in (path, *path.parents):
            if str(folder) in outs:
                return outs[str(folder)]
    return None


def after(launch: Launch, job: str) -> Launch:
    """Begins when that job has ended with 0; a job that saves and goes back to the queue (75) has not ended.

    One that was stopped for good, or failed, takes those behind it out of the queue: the same command adds them again.
    """
    return launch.model_copy(
        update={"extra": [*launch.extra, f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"]}
    )


def linked(submission: Any, job: str) -> Any:
    """The same submission behind a job; the recipe that it runs knows nothing of that."""
    return replace(submission, launch=after(submission.launch, job))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
