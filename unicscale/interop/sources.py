"""What a MODEL may be called: which path, teacher or file a name means, before anything is read."""

from __future__ import annotations

import contextlib
from pathlib import Path

from unicscale import checkpoint
from unicscale.errors import CheckpointError, RecipeError, nearest


def resolved(source: str) -> list[str]:
    """`RUN@STAGE` means the checkpoints of that stage that the run has kept, the newest first; `RUN@best` the one that
    measured best; everything else is a path.
    """
    run, found, wanted = source.rpartition("@")
    if not found or Path(source).exists() or not Path(run).is_dir():
        return [source]
    names = [stage.name for stage in checkpoint.glance(run).recipe.stages]
    if wanted == "best" and wanted not in names:
        return [_best(run)]
    if wanted not in names:
        raise RecipeError(
            f"{source}: no stage of {run} is called '{wanted}'.{nearest(wanted, names)}\n  stages: {', '.join(names)}"
        )
    kept = []
    for folder in checkpoint.committed(Path(run) / "checkpoints"):
        with contextlib.suppress(CheckpointError):
            if checkpoint.glance(folder).progress.stage == names.index(wanted):
                kept.append(str(folder))
    if not kept:
        raise CheckpointError(
            f"{source}: {run} holds no checkpoint of stage '{wanted}'.\n"
            "  The end of every stage is kept for ever: this run has not reached it yet, or lost it."
        )
    return kept


def _best(run: str) -> str:
    folder = Path(run) / "checkpoints"
    best = checkpoint.best_of(folder)
    if best is None:
        raise CheckpointError(
            f"{run}@best: no checkpoint of {run} was marked as the best.\n"
            "  A recipe asks for it with save: {best: {task: knn}} and evaluate: {every_epochs: 10, tasks: [knn]}."
        )
    return str(folder / f"step-{best.step:08d}")


def frozen_section(source: str) -> tuple[str, dict[str, str]] | None:
    """`teacher:NAME`, `timm:ID` and `./file.py:Class` as a name and a section of `teachers:`, or None."""
    if source.startswith("teacher:"):
        return source.removeprefix("teacher:"), {}
    if source.startswith("timm:"):
        return source, {"plugin": "timm", "model": source.removeprefix("timm:")}
    file, found, name = source.rpartition(":")
    if found and file.endswith(".py"):
        return name, {"adapter": source}
    return None
