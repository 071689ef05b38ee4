"""Our own: run folders, checkpoints, and one safetensors file whose metadata says how to rebuild the student."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unicscale.contracts import Features, Widths
from unicscale.errors import CheckpointError
from unicscale.interop.opened import Opened, Statistics
from unicscale.objective.standardize import Standardizer
from unicscale.objective.standardizers import empty_standardizer
from unicscale.recipe import sections
from unicscale.student.model import Student, build_student
from unicscale.student.projector import widths_of
from unicscale.student.trunk import build_trunk

METADATA = "unicscale"
STATISTICS = "statistics/"


class Description(BaseModel):
    """What the metadata of a safetensors file says of its student."""

    student: sections.Student
    projector: sections.Projector | None = None
    standardize: sections.Standardize = sections.Standardize()
    widths: dict[str, Widths] | None = None  # of the tokens it answers; None in older files, whose parameters tell


def read(path: Path) -> Opened:
    """A run folder, a checkpoint of it, a safetensors file, or an export's folder that holds one."""
    if path.is_dir():
        inner = path / "model.safetensors"
        return _from_file(inner) if inner.is_file() else _from_run(path)
    return _from_file(path)


def write(path: str | Path, opened: Opened, description: Description) -> None:
    """One file: the student's weights, the statistics, and the description in the metadata."""
    tensors = dict(opened.student.state_dict())
    for teacher, pair in opened.statistics.items():
        for kind, standardizer in zip(Features._fields, pair, strict=True):
            held = {} if standardizer is None else standardizer.state_dict()
            tensors |= {f"{STATISTICS}{teacher}/{kind}.{n}": t for n, t in held.items()}
    if description.widths is None and opened.statistics:
        widths = {name: Widths(*(s and s.dim for s in pair)) for name, pair in opened.statistics.items()}
        description = description.model_copy(update={"widths": widths})
    metadata = {METADATA: description.model_dump_json(), "format": "pt"}
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, str(path), metadata)


def _from_run(path: Path) -> Opened:
    from unicscale import checkpoint

    found = checkpoint.locate(path)
    recipe = found.recipe
    weights = found.tensors("weights") | found.tensors("ema")  # averaged weights, where the run keeps them
    statistics = found.tensors("statistics")
    description = Description(
        student=recipe.student,
        projector=recipe.projector,
        standardize=recipe.standardize,
        widths={name: _widths(statistics, name) for name in recipe.teachers},
    )
    return _rebuild(weights, statistics, description, path)


def _widths(statistics: Mapping[str, Tensor], teacher: str) -> Widths:
    """Every run keeps a mean of each kind of token that it matches."""
    means = (statistics.get(f"{teacher}/{kind}.running_mean") for kind in Features._fields)
    return Widths(*(None if mean is None else len(mean) for mean in means))


def _from_file(path: Path) -> Opened:
    try:
        with safe_open(str(path), "pt") as file:
            said: Any = (file.metadata() or {}).get(METADATA)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"{path}: not a readable safetensors file: {problem}") from problem
    if said is None:
        raise CheckpointError(
            f"{path}: its metadata has no '{METADATA}', so nothing says which student this is. "
            "Name the run folder that it came from instead."
        )
    try:
        description = Description.model_validate(json.loads(said))
    except (ValidationError, ValueError) as problem:
        raise CheckpointError(f"{path}: its metadata does not describe a student: {problem}") from problem
    weights = {name: t for name, t in tensors.items() if not name.startswith(STATISTICS)}
    statistics = {n.removeprefix(STATISTICS): t for n, t in tensors.items() if n.startswith(STATISTICS)}
    return _rebuild(weights, statistics, description, path)


def _rebuild(weights: dict[str, Tensor], statistics: dict[str, Tensor], description: Description, path: Path) -> Opened:
    """Sizes of tables come from the tensors: a run may have changed its resolution since it began."""
    size = _size(weights, description.student)
    dims = widths_of(weights) if description.widths is None else description.widths
    if description.projector is None or not any(name.startswith("projector.") for name in weights):
        student = Student(build_trunk(description.student, size))
    else:
        student = build_student(description.student, description.projector, dims, size)
    student.to_empty(device="cpu")
    try:
        student.load_state_dict({name: t.float() for name, t in weights.items()})
    except RuntimeError as problem:
        raise CheckpointError(f"{path}: its weights do not fit the student it describes: {problem}") from problem
    return Opened(student, size, _statistics(statistics, description.standardize, dims))


def _size(weights: Mapping[str, Tensor], section: sections.Student) -> int:
    patch = section.known_patch or weights["trunk.patch_embed.proj.weight"].shape[-1]
    trunk = build_trunk(section, patch)  # a grid of one, to see how many positions are no patch's
    others = trunk.pos_embed.shape[1] - 1
    return math.isqrt(weights["trunk.pos_embed"].shape[1] - others) * patch


def _statistics(
    tensors: Mapping[str, Tensor], section: sections.Standardize, widths: Mapping[str, Widths]
) -> Statistics:
    read: Statistics = {}
    for teacher, wide in widths.items():
        pair: list[Standardizer | None] = []
        for kind, width in zip(Features._fields, wide, strict=True):
            prefix = f"{teacher}/{kind}."
            state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            state.pop("running_dispersion", None)  # of angles, which nobody measures any more
            standardizer = empty_standardizer(section, width, kind) if state and width is not None else None
            if standardizer is not None:
                standardizer.load_state_dict(state)
            pair.append(standardizer)
        if any(s is not None for s in pair):
            read[teacher] = (pair[0], pair[1])
    return read
