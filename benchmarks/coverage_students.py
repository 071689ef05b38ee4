"""Which encoders of timm can be students: the smallest model of every family takes one step, or is refused in words.

python benchmarks/coverage_students.py [FAMILY ...]      about a quarter of an hour on two cores; writes results/
"""

from __future__ import annotations

import json
import sys
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch

from unicscale.contracts import Features
from unicscale.errors import UserError
from unicscale.objective.loss import distil
from unicscale.recipe import sections
from unicscale.student.model import Student, build_student, in_memory
from unicscale.student.trunk.timm_model import Wish

OUT = Path(__file__).parent / "results" / "coverage_students.json"
SMALL = ("test_", "femto", "atto", "pico", "nano", "xxs", "tiny", "_t", "_s0", "_b0", "_m0", "_0", "18", "small", "_s")
IMAGES, WIDTH, TRIED = 2, 8, 4  # names of a family that look small and are counted


def student_coverage(families: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Family -> its smallest model, and whether it learns: what it gives, or the reason why not."""
    found: dict[str, dict[str, Any]] = {}
    for family in families or timm.list_modules():
        began = time.monotonic()
        # a process of its own, which memory may run out of without taking the table along
        with ProcessPoolExecutor(1, get_context("fork")) as pool:
            try:
                found[family] = pool.submit(of_family, family).result()
            except BrokenProcessPool:
                found[family] = {"student": False, "traceback": "the process was killed: out of memory?"}
        print(f"{family:22} {time.monotonic() - began:5.1f} s  {json.dumps(found[family])[:200]}", flush=True)
    return found


def of_family(family: str) -> dict[str, Any]:
    """Its smallest model, judged."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
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
            return {"student": True} | step(arch, size)
        except UserError as problem:
            said = {"student": False, "size": size, "reason": str(problem).splitlines()[0]}
        except Exception:  # what this script is there to find
            return {"student": False, "size": size, "traceback": traceback.format_exc().splitlines()[-1]}
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


def main() -> None:
    """All families, or those named; the table goes to results/."""
    found = student_coverage(sys.argv[1:] or None)
    if not sys.argv[1:]:
        OUT.write_text(json.dumps({"timm": timm.__version__, "families": found}, indent=1) + "\n")
    learn, broken = (sum(bool(each.get(key)) for each in found.values()) for key in ("student", "traceback"))
    print(f"{learn} of {len(found)} families learn; {broken} end in a traceback")


if __name__ == "__main__":
    main()
