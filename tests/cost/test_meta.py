"""What a plan says of students without a formula: what torch counts and keeps in a real step."""

from __future__ import annotations

import pytest
import torch

from tests.cost.test_cost import SIZE, engine_of, kept, small
from unicscale.cost import costs, memory
from unicscale.cost.shapes import Shapes
from unicscale.ranks.world import World
from unicscale.recipe import Recipe

STUDENTS = {
    "rope": {"arch": "vit_tiny_patch16_dinov3_qkvb", "options": {"embed_dim": 96, "depth": 4, "num_heads": 3}},
    "maps": {"arch": "convnext_atto", "patch": 16, "options": {"dims": [16, 24, 32, 48]}},
}


def with_student(student: str, **engine: object) -> Recipe:
    return small(**engine).model_copy(
        update={"student": type(small().student).model_validate(STUDENTS[student] | {"drop_path": 0.1})}
    )


@pytest.mark.parametrize("student", STUDENTS)
def test_counted_operations_are_those_of_a_step(student: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    recipe = with_student(student)
    predicted = costs(recipe, 1, 80.0).stages[0].flops
    engine = engine_of(recipe, World())
    engine.student.set_draws((0, 0), torch.arange(1))
    with FlopCounterMode(display=False) as counter:
        answers = engine.student(torch.zeros(1, 3, SIZE, SIZE)).answers
        sum(token.sum() for answer in answers.values() for token in answer).backward()
    assert predicted["student"] + predicted["projector"] == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert costs(recipe, 1, 80.0).parameters["student"] == sum(p.numel() for p in engine.student.trunk.parameters())


@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("student", STUDENTS)
def test_activations_are_what_autograd_keeps(student: str, checkpointing: str) -> None:
    recipe = with_student(student, checkpointing=checkpointing)
    measured = kept(recipe, 4) - kept(recipe, 3)
    predicted = memory.activations(Shapes.of(recipe), SIZE, checkpointing)
    held = sum(predicted.values())
    if checkpointing == "none":
        assert held == pytest.approx(measured, rel=0.25)
    else:
        assert held >= 0.9 * measured
