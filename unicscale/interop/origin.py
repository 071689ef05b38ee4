"""Where a model comes from, for its card: its recipe, its teachers' licences, how far it was trained, its scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unicscale import checkpoint
from unicscale.errors import CheckpointError, UserError
from unicscale.interop.sources import resolved
from unicscale.recipe import Recipe
from unicscale.run.folder import RunFolder, facts_of
from unicscale.teacher.described import describe

UNKNOWN = "unknown: its plug-in is not installed here"


@dataclass(frozen=True, slots=True)
class Taught:
    """One teacher, as a card names it."""

    name: str
    licence: str
    citation: str = ""
    plugin: str = ""

    @property
    def called(self) -> str:
        """Its name in the recipe, and what it is where that says something else."""
        return self.name if self.plugin in ("", self.name) else f"{self.name} (plug-in {self.plugin})"


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known; everything may be missing."""

    source: str
    recipe: Recipe | None = None
    taught: list[Taught] = field(default_factory=list)
    step: int | None = None
    steps: int | None = None  # of the whole run
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> value, low, high

    @property
    def unfinished(self) -> bool:
        """Whether its run was to go on."""
        return self.step is not None and self.steps is not None and self.step < self.steps


def origin_of(source: str) -> Origin:
    """Of a run, a stage or a checkpoint everything; of a file its name."""
    path = Path(resolved(source)[0])
    if not path.is_dir():
        return Origin(path.name)
    try:
        found = checkpoint.glance(path)
    except CheckpointError:
        return Origin(path.name)
    root = path.parent.parent if path.parent.name == "checkpoints" else path
    folder, steps = RunFolder(root), None
    with suppress(UserError):
        steps = facts_of(folder).get("steps")
    return Origin(
        source=root.name,
        recipe=found.recipe,
        taught=[_taught(name, section) for name, section in found.recipe.teachers.items()],
        step=found.progress.step,
        steps=steps if isinstance(steps, int) else None,
        scores=_scores(folder, {root.resolve().name, path.resolve().stem, f"{root.resolve().name}@{path.name}"}),
    )


def _taught(name: str, section: Any) -> Taught:
    try:
        spec = describe(name, section).spec
    except UserError:
        return Taught(name, UNKNOWN, plugin=section.plugin or name)
    return Taught(name, spec.licence, spec.citation, section.plugin or name)


def _scores(folder: RunFolder, names: set[str]) -> dict[str, dict[str, Any]]:
    """What the summaries of `unicscale evaluate` say of this model, the newest last; damaged ones are passed over."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.evaluation.glob("*.json"), key=lambda path: path.stat().st_mtime):
        with suppress(ValueError, OSError, AttributeError, TypeError, RecursionError):
            for score, models in json.loads(file.read_text(encoding="utf-8"))["scores"].items():
                for model, held in models.items():
                    if model in names and isinstance(held, Mapping) and isinstance(held.get("value"), int | float):
                        found[score] = dict(held)
    return found
