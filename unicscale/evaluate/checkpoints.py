"""One task over the checkpoints that a run has kept: how a score grew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from unicscale import checkpoint
from unicscale.errors import CheckpointError, RecipeError
from unicscale.ranks.terminal import tell


class Kept(NamedTuple):
    """One checkpoint of a run."""

    model: str  # as `evaluate` takes it: LABEL=PATH
    at: dict[str, Any]  # step, images, stage


def of_run(model: str) -> list[Kept]:
    """The checkpoints of a run, the first step first; damaged ones are passed over, and said to be."""
    run = Path(model)
    folders = checkpoint.committed(run / "checkpoints")
    if not folders:
        raise RecipeError(f"--over-checkpoints {model}: a run folder with checkpoints is expected.")
    kept = list(_whole(run, folders[::-1]))
    if not kept:
        raise CheckpointError(f"{model}: every checkpoint in it is damaged.")
    return kept


def _whole(run: Path, folders: list[Path]) -> Iterator[Kept]:
    for folder in folders:
        try:
            progress = checkpoint.glance(folder).progress
        except CheckpointError:
            tell(f"{folder}: passed over, for its manifest or its recipe is damaged; the others are measured")
            continue
        yield Kept(f"{run.resolve().name}@{folder.name}={folder}", asdict(progress))
