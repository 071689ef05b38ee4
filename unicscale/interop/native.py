"""Our own: run folders, checkpoints, and one safetensors file whose metadata says how to rebuild the student.

Values go from the file straight into the student, a tensor at a time: a run of many ranks is read in the memory of one
copy, and projectors that nobody asked for are never read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unicscale.contracts import Features, Widths
from unicscale.engine import Piece
from unicscale.errors import CheckpointError
from unicscale.interop.description import Description
from unicscale.interop.opened import Opened, Statistics
from unicscale.interop.plausible import refuse_claims
from unicscale.objective import empty_standardizer
from unicscale.objective.standardize import Standardizer
from unicscale.recipe import sections
from unicscale.student.model import Student, build_student, in_memory
from unicscale.student.projector import widths_of
from unicscale.student.trunk import build_trunk
from unicscale.student.trunk.batch_norm import RUNNING

METADATA = "unicscale"
STATISTICS = "statistics/"
PROJECTOR = "projector."


@dataclass(frozen=True)
class Held:
    """Tensors that lie on disk: their shapes are known, their values come when asked for."""

    shapes: dict[str, Tensor]  # on meta
    fill: Callable[[Mapping[str, Tensor]], None]  # into these tensors, in place, whatever their precision


def read(path: Path, *, projectors: bool = True) -> Opened:
    """A run folder, a checkpoint of it, a safetensors file, or an export's folder that holds one."""
    if path.is_dir():
        inner = path / "model.safetensors"
        return _from_file(inner, projectors) if inner.is_file() else _from_run(path, projectors)
    return _from_file(path, projectors)


def write(path: str | Path, opened: Opened, description: Description, *, half: bool = False) -> None:
    """One file: the student's weights, the statistics, and the description in the metadata."""
    tensors = {name: t.half() if half else t for name, t in opened.student.state_dict().items()}
    for teacher, pair in opened.statistics.items():
        for kind, standardizer in zip(Features._fields, pair, strict=True):
            held = {} if standardizer is None else standardizer.state_dict()
            tensors |= {f"{STATISTICS}{teacher}/{kind}.{n}": t for n, t in held.items()}
    if description.widths is None and opened.statistics:
        widths = {name: Widths(*(s and s.dim for s in pair)) for name, pair in opened.statistics.items()}
        description = description.model_copy(update={"widths": widths})
    description = description.model_copy(update={"size": opened.size})
    metadata = {METADATA: description.model_dump_json(), "format": "pt"}
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, str(path), metadata)


def reason(problem: OSError | SafetensorError) -> str:
    """What the system said of a file that could not be written."""
    said = getattr(problem, "strerror", None) or str(problem).removeprefix("Error while serializing: I/O error: ")
    return said.partition(" (os error")[0]


def describes(path: Path) -> bool:
    """Whether a safetensors file is one of ours."""
    with _open(path) as file:
        return METADATA in (file.metadata() or {})


def _from_run(path: Path, projectors: bool) -> Opened:
    from unicscale import checkpoint

    found = checkpoint.locate(path)
    entries = found.manifest.tensors
    averaged = {name.removeprefix("ema/") for name in entries if name.startswith("ema/")}  # where the run keeps them
    where = {name: ("ema/" if name in averaged else "weights/") + name for name in _below(entries, "weights/")}

    def fill(targets: Mapping[str, Tensor]) -> None:
        found.fill({where[n]: Piece(t.detach().view(-1), 0, tuple(t.shape)) for n, t in targets.items()})

    recipe = found.recipe
    statistics = found.tensors("statistics")
    description = Description(
        student=recipe.student.bare,
        size=max(recipe.stages[found.progress.stage].size_list),
        projector=recipe.projector,
        standardize=recipe.standardize,
        widths={name: _widths(statistics, name) for name in recipe.teachers},
        mean=recipe.data.channels.mean,
        std=recipe.data.channels.std,
    )
    shapes = {name: torch.empty(entries[place].shape, device="meta") for name, place in where.items()}
    return _rebuild(Held(shapes, fill), statistics, description, path, projectors)


def _widths(statistics: Mapping[str, Tensor], teacher: str) -> Widths:
    """Every run keeps a mean of each kind of token that it matches."""
    means = (statistics.get(f"{teacher}/{kind}.running_mean") for kind in Features._fields)
    return Widths(*(None if mean is None else len(mean) for mean in means))


def _from_file(path: Path, projectors: bool) -> Opened:
    with _open(path) as file:
        names = set(file.keys())
        said: Any = (file.metadata() or {}).get(METADATA)
        shapes = {
            name: torch.empty(file.get_slice(name).get_shape(), device="meta")
            for name in sorted(names)
            if not name.startswith(STATISTICS)
        }
        statistics = {name: file.get_tensor(STATISTICS + name) for name in _below(names, STATISTICS)}
    if said is None:
        raise CheckpointError(
            f"{path}: its metadata has no '{METADATA}', so nothing says which student this is. "
            "Name the run folder that it came from instead."
        )
    try:
        description = Description.model_validate(json.loads(said))
    except (ValidationError, ValueError, RecursionError) as problem:
        raise CheckpointError(f"{path}: its metadata does not describe a student: {problem}") from problem

    def fill(targets: Mapping[str, Tensor]) -> None:
        with _open(path) as file:
            for name, target in targets.items():
                target.copy_(file.get_tensor(name))

    return _rebuild(Held(shapes, fill), statistics, description, path, projectors)


@contextmanager
def _open(path: Path) -> Any:
    try:
        with safe_open(str(path), "pt") as file:
            yield file
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"{path}: not a readable safetensors file: {problem}") from problem


def _below(names: Iterable[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _rebuild(
    held: Held, statistics: Mapping[str, Tensor], description: Description, path: Path, projectors: bool
) -> Opened:
    """Sizes of tables come from the tensors: a run may have changed its resolution since it began."""
    shapes = {name: t for name, t in held.shapes.items() if projectors or not name.startswith(PROJECTOR)}
    answers = description.projector is not None and projectors and _answers(held, description.projector)
    refuse_claims(description if answers else description.student, shapes, path)
    _refuse_another_depth(shapes, description.student, path)
    size = description.size or _size(shapes, description.student)
    widths = widths_of(held.shapes) if description.widths is None else description.widths
    if description.projector is None or not answers:
        student = Student(build_trunk(description.student, size, description.channels))
    else:
        student = build_student(description.student, description.projector, widths, size, description.channels)
    _match(shapes, student, path)
    in_memory(student, "cpu")
    with torch.no_grad():
        held.fill(_stored(student))
    kept = description if student.projector is not None else description.model_copy(update={"projector": None})
    told = _statistics(statistics, description.standardize, widths, path)
    return Opened(student, size, told, kept, description.mean, description.std)


def _answers(held: Held, projector: sections.Projector) -> bool:
    return projector.kind == "none" or any(name.startswith(PROJECTOR) for name in held.shapes)


def _stored(student: Student) -> dict[str, Tensor]:
    """Parameters, and running statistics; a table that a constructor computes is in nobody's file."""
    buffers = {name for name, _ in student.named_buffers() if name.rpartition(".")[2] not in RUNNING}
    return {name: t for name, t in student.state_dict().items() if name not in buffers}


def _match(shapes: Mapping[str, Tensor], student: Student, path: Path) -> None:
    """Before any memory is asked for: what a file says of itself may be wrong by any factor."""
    wanted = {name: tuple(t.shape) for name, t in _stored(student).items()}
    computed = student.state_dict().keys() - wanted.keys()  # a whole state dict, as an export has it, holds them too
    found = {name: tuple(t.shape) for name, t in shapes.items() if name not in computed}
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} has no place" for name in found if name not in wanted]
    wrong += [f"{n} is {found[n]} instead of {wanted[n]}" for n in wanted if n in found and found[n] != wanted[n]]
    if wrong:
        more = f" and {len(wrong) - 4} more" if wrong[4:] else ""
        raise CheckpointError(f"{path}: its weights do not fit the student it describes: {', '.join(wrong[:4])}{more}")


def _refuse_another_depth(shapes: Mapping[str, Tensor], section: sections.Student, path: Path) -> None:
    blocks = {name.split(".")[2] for name in shapes if name.startswith("trunk.blocks.")}
    if section.known_depth is not None and section.known_depth != len(blocks):
        raise CheckpointError(f"{path}: it describes {section.known_depth} blocks and holds {len(blocks)}.")


def _size(weights: Mapping[str, Tensor], section: sections.Student) -> int:
    patch = section.known_patch or weights["trunk.patch_embed.proj.weight"].shape[-1]
    trunk: Any = build_trunk(section, patch)  # a grid of one, to see how many positions are no patch's
    others = trunk.pos_embed.shape[1] - 1
    return math.isqrt(weights["trunk.pos_embed"].shape[1] - others) * patch


def _statistics(
    tensors: Mapping[str, Tensor], section: sections.Standardize, widths: Mapping[str, Widths], path: Path
) -> Statistics:
    read: Statistics = {}
    for teacher, wide in widths.items():
        pair: list[Standardizer | None] = []
        for kind, width in zip(Features._fields, wide, strict=True):
            prefix = f"{teacher}/{kind}."
            state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            state.pop("running_dispersion", None)  # of angles, which nobody measures any more
            if state and width is not None and not 0 < width <= sum(t.numel() for t in state.values()):
                raise CheckpointError(
                    f"{path}: it says that {teacher}'s {kind} is {width:,} wide, and holds none such."
                )
            standardizer = empty_standardizer(section, width, kind) if state and width is not None else None
            if standardizer is not None:
                try:
                    standardizer.load_state_dict(state)
                except (RuntimeError, ValueError, TypeError) as problem:
                    said = " ".join(str(problem).split())[:200]
                    raise CheckpointError(f"{path}: the statistics of {teacher}'s {kind} do not fit: {said}") from None
            pair.append(standardizer)
        if any(s is not None for s in pair):
            read[teacher] = (pair[0], pair[1])
    return read
