"""`load`: one name or path -> a model, frozen and in eval mode unless it is to train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from unicscale.errors import CheckpointError, RecipeError
from unicscale.interop import foreign, native, unic
from unicscale.interop.model import Model
from unicscale.interop.opened import Opened
from unicscale.interop.sources import frozen_section, resolved
from unicscale.ranks.terminal import tell
from unicscale.recipe.sections import TeacherSection
from unicscale.student.model import Student
from unicscale.teacher.frozen import open_frozen

__all__ = ["Model", "both", "first_whole", "load", "read"]


EXPORT = "export.json"  # marks an export's folder


def load(
    source: str | Path,
    projectors: bool = False,
    weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    trainable: bool = False,
) -> nn.Module:
    """A run folder, RUN@STAGE, checkpoint, export, weights file, `teacher:NAME`, `timm:ID` or `./file.py:Class`.

    The model is frozen and in eval mode; `trainable=True` gives a student that trains in your own loop.
    """
    name = str(source)
    if (frozen := frozen_section(name)) is not None:
        if trainable:
            raise RecipeError(f"{name}: a teacher is frozen; trainable=True is for students.")
        teacher, section = frozen
        said = {**section, **(options or {})} if weights is None else {**section, **(options or {}), "weights": weights}
        return open_frozen(teacher, TeacherSection.model_validate({k: _plain(v) for k, v in said.items()}))
    opened = read(name, projectors=projectors)
    if projectors and opened.student.projector is None:
        raise CheckpointError(f"{name}: projectors=True, but there are no projectors in it, only the encoder.")
    return Model(opened, projectors=projectors, trainable=trainable)


def both(opened: Opened) -> tuple[Model, Model | None]:
    """The encoder alone and, where there are projectors, the whole student: two faces of one trunk."""
    student = opened.student
    whole = None if student.projector is None else Model(opened, projectors=True)
    bare = Opened(Student(student.trunk), opened.size, opened.statistics, None, opened.mean, opened.std)
    return Model(bare, projectors=False), whole


def read(source: str | Path, *, projectors: bool = True) -> Opened:
    """A student from a run folder, RUN@STAGE, a checkpoint, an export, a file of ours, or one that others wrote."""
    return first_whole(str(source), projectors=projectors)[1]


def first_whole(source: str, *, projectors: bool = True) -> tuple[str, Opened]:
    """The first whole one of the checkpoints that are meant, and its path: each is hashed once, on its way in."""
    *newer, last = resolved(source)
    for path in newer:
        try:
            return path, _read(Path(path), projectors)
        except CheckpointError as problem:
            tell(f"{source}: {str(problem).splitlines()[0]} The one before it is taken instead.")
    return last, _read(Path(last), projectors)


def _read(path: Path, projectors: bool) -> Opened:
    if not path.exists():
        raise CheckpointError(
            f"'{path}' is neither a file nor a folder here. A teacher is written 'teacher:NAME'; "
            "`unicscale teachers list` names them."
        )
    if (path / EXPORT).is_file() and (only := list(path.glob("*.pth"))):  # DINOv2's layout, or the authors'
        opened = unic.read(only[0], foreign.heads_said(path / EXPORT))
    elif foreign.is_foreign(path):
        opened = foreign.read(path)
    elif (path / EXPORT).is_file() and not (path / "model.safetensors").is_file():
        raise CheckpointError(f"{path}: this export is a program, no student; README.md beside it says how it runs.")
    elif path.is_dir() or path.suffix == ".safetensors":
        opened = native.read(path, projectors=projectors)
    else:
        opened = unic.read(path)
    if not projectors:
        opened.student.projector = None
    return opened


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
