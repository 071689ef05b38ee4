"""What is compiled is compiled once: no graph breaks, and nothing new after a stage's first step and first look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch._dynamo.utils import counters

from tests.kit.recipe import SHAPE as TINY
from tests.kit.recipe import write_images, write_recipe
from unicscale.assembly import assemble, survey
from unicscale.engine import Engine, build_engine
from unicscale.errors import ReachedLimit
from unicscale.objective.loss import compared, distil
from unicscale.ranks.watchdog import Watchdog
from unicscale.ranks.world import World
from unicscale.recipe import load, sections
from unicscale.run.launches import owned_run
from unicscale.run.phases import Phases
from unicscale.student.model import build_student
from unicscale.teacher.targets import Teachers
from unicscale.train import loop

SHAPE = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 14, "img_size": 56, "ffn": "swiglu"}
CLIP = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 14, "img_size": 28, "clip_embed_dim": 48}
TEXT = {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 2, "layers": 2}
TEACHERS = {
    "dinov2": sections.TeacherSection.model_validate({"plugin": "dinov2", "size": SHAPE, "weights": "random"}),
    "metaclip": sections.TeacherSection.model_validate(
        {"plugin": "metaclip", "size": {**CLIP, "text": TEXT}, "weights": "random"}
    ),
}


@pytest.fixture
def graphs() -> Iterator[Callable[[], int]]:
    """How many have been made; Dynamo works as always, behind it nothing is generated."""
    torch._dynamo.reset()
    counters.clear()
    with patch.object(torch, "compile", partial(torch.compile, backend="aot_eager")):
        yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


class Step:
    """The loop's, at the least size that has all its parts."""

    def __init__(self, fused: bool) -> None:
        self.section = sections.EngineSection(dtype="bf16", compile=True, device="cpu")
        student = sections.Student(arch="vit_large", patch=14, options={"embed_dim": 32, "depth": 4, "num_heads": 2})
        built = build_student(student, sections.Ladder(), Teachers.widths_of(TEACHERS), 28)
        built.projector.fused = fused  # type: ignore[union-attr]
        made: dict[str, Any] = {"seed": 0, "world": World(), "micro_batches": 1, "size": 28}
        self.engine: Engine = build_engine(self.section, built, **made)
        placed: dict[str, Any] = {"engine": self.engine, "engine_section": self.section, "world": World()}
        self.teachers = Teachers.build(TEACHERS, sections.Standardize(), student_patch=14, **placed)
        self.compare = compared(self.section)

    def __call__(self, number: int, size: int) -> None:
        images, index = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8), torch.arange(4)
        self.engine.student.set_draws((0, number), index)  # type: ignore[attr-defined]
        targets, scales = self.teachers(images, late=True), self.teachers.scales()
        answers = self.engine.student(images).answers
        loss = distil(answers, targets, scales=scales, compare=self.compare, key=(0, number), index=index)
        self.engine.backward(loss.sum, last=True)
        self.engine.step(1e-4, loss.weight)
        self.teachers.update(0.5)

    def look(self, size: int) -> None:
        """An evaluation."""
        images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
        with torch.no_grad():
            self.engine.student.eval()  # type: ignore[attr-defined]
            self.engine.student(images)
            self.teachers(images, observe=False)
            self.engine.student.train()  # type: ignore[attr-defined]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fused", [True, False])
def test_a_stage_is_compiled_in_its_first_step_and_its_first_evaluation(graphs: Callable[[], int], fused: bool) -> None:
    torch.manual_seed(0)
    step = Step(fused)
    number = 0
    for size in (28, 42):
        if size == 42:
            step.engine.resize_positions(42)
        before = graphs()
        step(number, size)
        first = graphs()
        blocks = 1 + 1 + 1  # the student's, its first one too, which drops no path; and each teacher's
        of_tokens = 1 + 1  # what is measured of all teachers, and the loss
        assert first - before == blocks + of_tokens + (0 if fused else 2), "the last rung is wider than the others"
        step(number + 1, size)
        assert graphs() == first, "nothing is compiled again"
        step.look(size)
        looked = graphs()
        step(number + 2, size)
        step.look(size)
        assert graphs() == looked, "not after an evaluation either"
        number += 3
    assert not counters["graph_break"]


SAM = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 128, "global_attn_indexes": [1], "window_size": 2}
ONE = {"plugin": "dino", "weights": "random", "size": TINY}
MOVING: dict[str, dict[str, Any]] = {
    "windows": {"data__shift": 0.5},
    "mosaic": {
        "teachers": {"one": ONE, "sam": {"plugin": "sam", "weights": "random", "settings": SAM, "mosaic": True}}
    },
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", MOVING)
def test_windows_that_move_and_canvases_are_compiled_in_a_stages_first_step_alone(
    graphs: Callable[[], int], name: str, tmp_path: Path
) -> None:
    file = write_recipe(tmp_path / "recipe.yaml", write_images(tmp_path / "images"), tmp_path / "run", **MOVING[name])
    recipe, world = load(file, ["engine.compile=true", "save.every_steps=null"]), World()
    made = []
    with closing(survey(recipe, world)) as loader, owned_run(recipe, world, fresh=False) as (run, recipe):
        parts = assemble(recipe, world, run, loader=loader)
        watchdog = Watchdog(run.logs, rank=0, size=1, timeout=60)
        for last in (1, 8, 9, 16):  # the first step of a stage, and its last
            with suppress(ReachedLimit):
                loop(parts, Phases(world.device, watchdog), last)
            made.append(graphs())
        parts.saver.settle()
        parts.log.close()
    assert parts.progress.step == 16
    assert 0 < made[0] == made[1] < made[2] == made[3]
    assert not counters["graph_break"]
