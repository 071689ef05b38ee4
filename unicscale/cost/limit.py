"""How long a step would take if the device did nothing but products: what a step's MFU is the share of."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from unicscale.cost import flops
from unicscale.cost.shapes import Shapes
from unicscale.ranks.device import slow_in
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.recipe import Recipe
from unicscale.recipe.plan import Plan
from unicscale.teacher.frozen import DTYPES
from unicscale.teacher.grid import drawn, every_size, input_size

SIDE = {"cuda": 8192, "cpu": 1024}  # of the square products: large enough for full speed, over in milliseconds
TRIES, SECONDS = 3, 0.3  # at least and about; the best counts, for a busy machine only ever slows a product down

Limit = Callable[[int], float]  # a step -> seconds


def limit_of(recipe: Recipe, plan: Plan, world: World) -> Limit | None:
    """Of this rank's part of each step; None where a formula would not say what a step really computes."""
    if recipe.student.freeze or recipe.engine.remember is not None:
        return None  # a frozen layer's backward, and what was remembered, cost less than is counted
    dtypes = sorted({*_dtypes(recipe).values(), recipe.engine.dtype})
    if any(slow_in(name, world.device) for name in dtypes):
        return None  # products that are imitated say nothing of what the device can do
    try:
        # on all ranks, and before one of them counts: they shall be as busy with one another as in a step
        speed = {name: ceiling(world.device, name) for name in dtypes}
        counted = Counted(recipe, plan) if world.main else None
    except Exception as problem:  # a number beside the run is not worth the run
        say.info("MFU is not logged: %s: %s", type(problem).__name__, problem)
        return None
    if counted is None:
        return None
    images = recipe.data.images_per_step / world.size
    fastest = ", ".join(f"{value / 1e12:.3g} TFLOP/s in {name}" for name, value in speed.items())
    say.info("MFU is a share of %s, the best of some large products on this device", fastest)
    return lambda step: images * seconds(counted(step), speed)


def seconds(counts: dict[str, int], speed: dict[str, float]) -> float:
    """Operations by precision, each at its own speed."""
    return sum(count / speed[dtype] for dtype, count in counts.items())


class Counted:
    """FLOPs of one image in a step, by precision; the models are built once more, on meta, and let go."""

    def __init__(self, recipe: Recipe, plan: Plan) -> None:
        self.recipe, self.plan, self.dtypes = recipe, plan, _dtypes(recipe)
        shapes = Shapes.of(recipe)
        self.patch = shapes.trunk.patch
        self.specs = {name: one.spec for name, one in shapes.teachers.items()}
        sizes = {size for stage in plan.stages for size in stage.sizes}
        self.student = {size: sum(flops.of_student(shapes, size).values()) for size in sizes}
        self.teachers = {
            (name, size, side): flops.of_teacher(shapes, section, name, size, side)
            for name, section in recipe.teachers.items()
            for size in sizes
            for side in {*every_size(self.specs[name], section.resolution, size, self.patch, name)}
        }

    def __call__(self, step: int) -> dict[str, int]:
        """At the sizes that are drawn for it."""
        size = self.plan.size(step, self.recipe.seed)
        found = dict.fromkeys({*self.dtypes.values()}, 0) | {self.recipe.engine.dtype: self.student[size]}
        for name, section in self.recipe.teachers.items():
            policy = drawn(section.resolution, name, (self.recipe.seed, step))
            side = input_size(self.specs[name], policy, size, self.patch, name)
            found[self.dtypes[name]] += self.teachers[name, size, side]
        return found


def _dtypes(recipe: Recipe) -> dict[str, str]:
    """What each teacher computes in; products in fp8 are counted as bf16's, twice as slow."""
    asked = {name: section.dtype for name, section in recipe.teachers.items()}
    return {n: {"auto": recipe.engine.dtype, "fp8": "bf16"}.get(dtype, dtype) for n, dtype in asked.items()}


def ceiling(device: torch.device, dtype: str) -> float:
    """FLOP/s of the best of some large products."""
    side = SIDE[device.type]
    draws = torch.Generator(device).manual_seed(0)  # its own: the run's draws are not moved
    a, b = (torch.randn(side, side, generator=draws, device=device).to(DTYPES[dtype]) for _ in range(2))
    took: list[float] = []
    while len(took) <= TRIES or sum(took) < SECONDS:
        _wait(device)
        begin = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        took.append(time.perf_counter() - begin)
    return 2 * side**3 / min(took)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
