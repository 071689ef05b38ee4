"""What a stage starts from: the weights of the one before at another size, a checkpoint's, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from unicscale.engine import Engine, Piece
from unicscale.errors import CheckpointError
from unicscale.ranks.voice import say
from unicscale.recipe.plan import PlannedStage
from unicscale.recipe.sections import Stage
from unicscale.student.model import Student

Read = Callable[[str], dict[str, Tensor]]  # a path -> whole parameters by name


def refuse_lost_starts(sections: Sequence[Stage]) -> None:
    """A run of two stages must not find out after the first that the second starts from nowhere."""
    for number, section in enumerate(sections):
        path = section.start_from.removeprefix("checkpoint:")
        if path != section.start_from and not Path(path).exists():
            raise CheckpointError(
                f"'stages.{number}.start_from': {path} is not here.\n"
                "  It takes a run folder, one of its checkpoints, an export, or an official UNIC file."
            )


def enter(
    stage: PlannedStage, before: PlannedStage | None, engine: Engine, student: Student, *, seed: int, read: Read,
    anew: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Called once per stage, by all ranks, before its first step; never again when the run is resumed inside it.

    `anew`: what else begins afresh in every stage but the first.
    """
    if before is not None and anew is not None:
        anew()
    source = stage.section.start_from
    if stage.remark:
        say.warning(stage.remark)
    if before is not None and max(before.sizes) != max(stage.sizes):
        engine.resize_positions(max(stage.sizes))
    pieces = engine.pieces()
    if source.startswith("checkpoint:"):
        path = source.removeprefix("checkpoint:")
        _put(pieces, _fitted(read(path), pieces, student, path, seed))
    elif source == "scratch" and before is not None:
        _put(pieces, student.initial_values(seed))
    if before is not None and stage.section.optimizer == "fresh":
        for name, piece in pieces.items():
            if name.startswith(("exp_avg", "optimizer/step")):
                piece.flat.zero_()
    engine.restored()


def _put(pieces: dict[str, Piece], whole: Callable[[str, tuple[int, ...]], Tensor]) -> None:
    with torch.no_grad():
        for name, piece in pieces.items():
            kind, _, parameter = name.partition("/")
            if kind in ("weights", "ema"):  # an average starts from what it averages
                piece.flat.copy_(piece.cut(whole(parameter, piece.shape)))


def _fitted(
    found: dict[str, Tensor], pieces: dict[str, Piece], student: Student, path: str, seed: int
) -> Callable[[str, tuple[int, ...]], Tensor]:
    """Every parameter of the trunk must be there; a projector that is not starts anew, and that is said."""
    names = [name.removeprefix("weights/") for name in pieces if name.startswith("weights/")]
    absent = [name for name in names if name not in found]
    if lost := [name for name in absent if not name.startswith("projector.")]:
        raise CheckpointError(
            f"{path} lacks {lost[0]}{f' and {len(lost) - 1} more' if lost[1:] else ''}, which this student has.\n"
            "  `stages.N.start_from` takes a checkpoint of the same architecture."
        )
    unused = [name for name in found if name not in names]
    if absent or unused:
        say.warning(f"{path}: {len(absent)} parameters of the projector start anew, {len(unused)} there are not used")

    first = student.initial_values(seed) if absent else None

    def whole(name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in found:
            assert first is not None
            return first(name, shape)
        tensor = found[name]
        if name.removeprefix("trunk.") in student.trunk.tables:
            fitted = student.trunk.fit(tensor, shape)
            tensor = tensor if fitted is None else fitted
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{path}: {name} is {tuple(tensor.shape)} there and {shape} in this student.\n"
                "  `stages.N.start_from` takes a checkpoint of the same architecture."
            )
        return tensor.float()

    return whole
