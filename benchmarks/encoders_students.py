"""Whether an encoder of timm can be a student: the smallest of a family takes one step, or is refused in words."""

from __future__ import annotations

from typing import Any

import timm
import torch

from unicscale.contracts import Features
from unicscale.errors import UserError
from unicscale.objective.loss import distil
from unicscale.recipe import sections
from unicscale.student.model import Student, build_student, in_memory
from unicscale.student.trunk.timm_model import Wish

SMALL = ("test_", "femto", "atto", "pico", "nano", "xxs", "tiny", "_t", "_s0", "_b0", "_m0", "_0", "18", "small", "_s")
IMAGES, WIDTH, TRIED = 2, 8, 4  # names of a family that look small and are counted


def of_family(family: str) -> dict[str, Any]:
    """Its smallest model, judged."""
    arch = smallest(family)
    return {"arch": arch} | judged(arch)


def smallest(family: str) -> str:
    """By parameters, among those whose names sound small: counting all of timm would take an hour."""
    names = timm.list_models(module=family)
    names.sort(key=lambda name: (next((i for i, s in enumerate(SMALL) if s in name), len(SMALL)), len(name)))
    return min(names[:TRIED], key=lambda n: sum(p.numel() for p in Wish(n, {}).weightless().parameters()))


def judged(arch: str) -> dict[str, Any]:
    """One step at the smallest of some sizes that it takes, or at the one it was made for."""
    native = timm.get_pretrained_cfg(arch).input_size[-1]  # type: ignore[union-attr]
    said: dict[str, Any] = {}
    for size in dict.fromkeys((64, 56, 96, 112, 224, native)):  # small first: a step at 546 pixels takes 17 GB
        try:
            return {"verdict": "yes"} | step(arch, size)
        except UserError as problem:
            said = {"verdict": "no", "size": size, "reason": str(problem).splitlines()[0]}
    return said


def step(arch: str, size: int) -> dict[str, Any]:
    """Forward, loss, backward; every parameter that is to learn has a finite gradient."""
    section = sections.Student(arch=arch)
    student = build_student(section, sections.Ladder(hidden=WIDTH, last_hidden=WIDTH), {"a": WIDTH}, size)
    trunk = filled(student).train().trunk
    cells, index = (size // trunk.patch) ** 2, torch.arange(IMAGES)
    student.set_draws((0, 0), index)
    seen = student(torch.randn(IMAGES, 3, size, size))
    truth = {"a": Features(torch.randn(IMAGES, WIDTH), torch.randn(IMAGES, cells, WIDTH))}
    distil(seen.answers, truth, key=(0, 0), index=index).total.backward()
    learns = [p.grad for p in student.parameters() if p.requires_grad]
    if any(g is None or not torch.isfinite(g).all() for g in learns):
        raise AssertionError("a parameter that is to learn has no finite gradient")
    return {
        "size": size,
        "kind": type(trunk).__name__,
        "patch": trunk.patch,
        "widths": trunk.widths if len(set(trunk.widths)) > 1 else [trunk.width, f"x {trunk.depth}"],
        "parameters": sum(p.numel() for p in trunk.parameters()),
        "notes": list(trunk.notes),
    }


@torch.no_grad()
def filled(student: Student) -> Student:
    """With its initial values."""
    in_memory(student, "cpu")
    first = student.initial_values(0)
    for name, parameter in student.named_parameters():
        parameter.copy_(first(name, tuple(parameter.shape)))
    return student
