"""The authors' training checkpoints: read without executing anything of them, sizes read off the tensors."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unicscale.contracts import Widths
from unicscale.errors import CheckpointError
from unicscale.interop.opened import Opened
from unicscale.objective.standardize import Standardizer
from unicscale.recipe import sections
from unicscale.student.model import Student
from unicscale.student.projector.ladder import Ladder
from unicscale.student.trunk import build_trunk
from unicscale.teacher.weights import read as read_safely

BLOCK = re.compile(r"blocks\.(?:\d+\.)?(\d+)\.(.+)")  # with or without the number of a chunk
HEAD = re.compile(r"(?:.*\.)?heads\.([^.]+)\.(cls|patch)\.(\d+)\.layers\.(\d+)\.(weight|bias)")
HEAD_WIDTH = 64  # per attention head, in every released model


def read(path: str | Path) -> Opened:
    """The student with its ladder, if the file has one, and the teachers' statistics."""
    content = read_safely(path, CheckpointError)
    state = state_of(content, path)
    try:
        student, size = _student(state)
    except (KeyError, RuntimeError, StopIteration) as problem:
        raise CheckpointError(f"{path}: this is not a UNIC checkpoint as released: {problem}") from problem
    try:
        held = {name: _statistics(kinds) for name, kinds in (content.get("teacher_ft_stats") or {}).items()}
    except (KeyError, AttributeError, TypeError) as problem:
        raise CheckpointError(f"{path}: 'teacher_ft_stats' is not as released: no {problem}") from problem
    return Opened(student, size, held)


def state_of(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The student's tensors under the authors' names, without `module.` and the like."""
    for key in ("model", "state_dict", "student"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {k.removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
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
            inner = name.removeprefix("encoder.").replace("register_tokens", "reg_token")
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


def _student(state: dict[str, Tensor]) -> tuple[Student, int]:
    weights = rename(state)
    width, _, patch, _ = weights["trunk.patch_embed.proj.weight"].shape
    registers = weights["trunk.reg_token"].shape[1] if "trunk.reg_token" in weights else 0
    if registers:  # their positions are for patches only, as in timm; CLS takes its own along
        first, weights["trunk.pos_embed"] = weights["trunk.pos_embed"].split(
            [1, weights["trunk.pos_embed"].shape[1] - 1], dim=1
        )
        weights["trunk.cls_token"] = weights["trunk.cls_token"] + first
    grid = math.isqrt(weights["trunk.pos_embed"].shape[1])
    depth = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("trunk.blocks."))
    options = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": max(width // HEAD_WIDTH, 1),
        "mlp_ratio": len(weights["trunk.blocks.0.mlp.fc1.weight"]) / width,
        "qkv_bias": "trunk.blocks.0.attn.qkv.bias" in weights,
    }
    section = sections.Student(
        patch=patch,
        drop_path=0.0,
        registers=registers,
        layer_scale=float("trunk.blocks.0.ls1.gamma" in weights),
        options=options,
    )
    trunk = build_trunk(section, grid * patch)
    projector = _ladder(weights, _structure(state), trunk.widths, trunk.prefix)
    student = Student(trunk, projector).to_empty(device="cpu")
    student.load_state_dict(weights)
    return student, grid * patch


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


def _statistics(kinds: Mapping[str, Mapping[str, Tensor]]) -> tuple[Standardizer, Standardizer]:
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
