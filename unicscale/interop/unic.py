"""The authors' training checkpoints: read without executing anything of them, sizes read off the tensors."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unicscale.contracts import Widths
from unicscale.errors import CheckpointError
from unicscale.interop.description import Description
from unicscale.interop.measured import DINOV2, trunk_of, without_first_position
from unicscale.interop.opened import Opened
from unicscale.objective.standardize import Standardizer
from unicscale.recipe import sections
from unicscale.student.model import Student
from unicscale.student.projector.ladder import Ladder
from unicscale.teacher.weights import read as read_safely

BLOCK = re.compile(r"blocks\.(?:\d+\.)?(\d+)\.(.+)")  # with or without the number of a chunk
HEAD = re.compile(r"(?:.*\.)?heads\.([^.]+)\.(cls|patch)\.(\d+)\.layers\.(\d+)\.(weight|bias)")
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod)\.")  # of DistributedDataParallel and torch.compile
# what tensors of other names, ranks and shapes lead to
NOT_AS_RELEASED = (LookupError, RuntimeError, StopIteration, ValueError, TypeError, AttributeError, AssertionError,
                   ArithmeticError, CheckpointError)  # fmt: skip


def read(path: str | Path, heads: int | None = None) -> Opened:
    """The student with its ladder, if the file has one, and the teachers' statistics; `heads` where they are known."""
    content = read_safely(path, CheckpointError)
    state = state_of(content, path)
    try:
        heads = heads or getattr(content.get("args"), "num_heads", None)  # our exports say it, the authors never
        student, size, description = _student(state, heads)
    except NOT_AS_RELEASED as problem:
        raise CheckpointError(f"{path}: this is not a UNIC checkpoint as released: {problem}") from problem
    try:
        held = {name: _statistics(kinds) for name, kinds in (content.get("teacher_ft_stats") or {}).items()}
    except (KeyError, AttributeError, TypeError) as problem:
        raise CheckpointError(f"{path}: 'teacher_ft_stats' is not as released: no {problem}") from problem
    return Opened(student, size, held, description)


def state_of(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The student's tensors under the authors' names, without what wrappers put before them."""
    for key in ("model", "state_dict", "student"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {WRAPPERS.sub("", k): v for k, v in content.items() if isinstance(v, Tensor)}
    if "pos_embed" in state:  # the encoder alone
        state = {f"encoder.{k}": v for k, v in state.items()}
    if "encoder.pos_embed" not in state:
        raise CheckpointError(
            f"{path}: no 'encoder.pos_embed' in it, so it is not a UNIC student. It has {_few(state)}."
        )
    return state


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' parameter names -> ours. Mask tokens are dropped: distillation masks nothing."""
    structure = _structure(state)
    renamed = {}
    for name, tensor in state.items():
        head = HEAD.fullmatch(name)
        if head:
            teacher, kind, block, layer, leaf = head.groups()
            ours = structure[teacher, kind, block][int(layer)]
            renamed[f"projector.rungs.{block}.heads.{teacher}.{kind}.{ours}.{leaf}"] = tensor
        elif name.startswith("encoder.") and not name.endswith("mask_token"):
            inner = name.removeprefix("encoder.")
            for theirs, ours in DINOV2:
                inner = inner.replace(theirs, ours)
            block_name = BLOCK.fullmatch(inner)
            renamed["trunk." + (f"blocks.{block_name[1]}.{block_name[2]}" if block_name else inner)] = tensor
    return renamed


def _structure(state: Mapping[str, Tensor]) -> dict[tuple[str, str, str], dict[int, str]]:
    """For every head, the layers' positions and our names: matrices are linear layers, vectors are norms."""
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    for name in state:
        head = HEAD.fullmatch(name)
        if head and head[5] == "weight":
            found.setdefault((head[1], head[2], head[3]), {})[int(head[4])] = name
    for layers in found.values():
        linear = 0
        for position in sorted(layers):
            if state[layers[position]].dim() == 2:
                linear += 1
                layers[position] = f"fc{linear}"
            else:
                layers[position] = "norm" if linear == 0 else f"norm{linear}"
    return found


def _student(state: dict[str, Tensor], heads: int | None) -> tuple[Student, int, Description]:
    weights = rename(state)
    if "encoder.register_tokens" in state:
        without_first_position(weights)
    trunk, section, size = trunk_of(weights, heads)
    projector = _ladder(weights, _structure(state), trunk.widths, trunk.prefix)
    student = Student(trunk, projector).to_empty(device="cpu")
    student.load_state_dict(weights)
    return student, size, Description(student=section, projector=_ladder_section(projector))


def _ladder(
    weights: dict[str, Tensor],
    structure: dict[tuple[str, str, str], dict[int, str]],
    widths: list[int],
    prefix: int,
) -> Ladder | None:
    if not structure:
        return None
    blocks = sorted({int(block) for _, _, block in structure})
    teachers = list(dict.fromkeys(teacher for teacher, _, _ in structure))
    layers = next(iter(structure.values()))

    def rows(block: int, layer: str, teacher: str, kind: str = "cls") -> int:
        return len(weights[f"projector.rungs.{block}.heads.{teacher}.{kind}.{layer}.weight"])

    section = sections.Ladder(
        blocks=blocks,
        pre_norm="norm" in layers.values(),
        mid_norm="norm1" in layers.values(),
    )
    answered = {t: Widths(*(rows(blocks[0], "fc2", t, kind) for kind in ("cls", "patch"))) for t in teachers}
    with torch.device("meta"):
        hidden = {block: rows(block, "fc1", teachers[0]) for block in blocks}
        ladder = Ladder(section, widths=widths, prefix=prefix, teachers=answered, hidden=hidden)
    position = {ours: theirs for theirs, ours in layers.items()}
    if section.mid_norm and position["norm1"] > position["fc1"] + 1:
        _norm_after_gelu(ladder)
    return ladder


def _ladder_section(ladder: Ladder | None) -> sections.Ladder | None:
    """The ladder as a recipe would ask for it; None where no recipe can: other widths per block, norms behind GELU."""
    if ladder is None:
        return None
    heads = [next(iter(rung.get_submodule("heads").children())).get_submodule("cls") for rung in ladder.rungs.values()]
    order = [name for name, _ in heads[-1].named_children()]
    hidden = {len(head.get_parameter("fc1.weight")) for head in heads[:-1]}
    if len(hidden) > 1 or ("norm1" in order and order.index("norm1") > order.index("act1")):
        return None
    return sections.Ladder(
        blocks=ladder.blocks,
        hidden=next(iter(hidden), None),
        last_hidden=len(heads[-1].get_parameter("fc1.weight")),
        pre_norm="norm" in order,
        mid_norm="norm1" in order,
    )


def _norm_after_gelu(ladder: Ladder) -> None:
    """The middle norm stands behind the activation in this file: put ours there too."""
    ladder.fused = False  # that form ends in GELU and linear
    for rung in ladder.rungs.values():
        for kinds in rung.get_submodule("heads").children():
            for kind, head in list(kinds.named_children()):
                order = [name for name, _ in head.named_children()]
                i = order.index("norm1")
                order[i], order[i + 1] = order[i + 1], order[i]
                kinds.add_module(kind, nn.Sequential(OrderedDict((n, head.get_submodule(n)) for n in order)))


def _statistics(kinds: Mapping[str, Mapping[str, Tensor]]) -> tuple[Standardizer | None, Standardizer | None]:
    made = []
    for kind in ("cls", "patch"):
        mean, deviation = (kinds[kind][part].flatten().float() for part in ("mean", "std"))
        standardizer = Standardizer(len(mean))
        standardizer.running_mean.copy_(mean)
        standardizer.running_deviation.copy_(deviation)
        made.append(standardizer)
    return made[0], made[1]


def _few(state: Mapping[str, Tensor]) -> str:
    names = list(state)
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "no tensors"
