"""Where a step's time goes: the projector apart, forward and backward, and the share of the device's limit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unicscale.run.phases import Phases


class Clock:
    """Moves when somebody works: other work on the machine does not."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unicscale.run.phases.time", CLOCK)


class Slow(torch.autograd.Function):
    """The identity, which takes so many seconds forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ahead: int, back: int) -> Tensor:
        ctx.back = back
        CLOCK.work(ahead)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        CLOCK.work(ctx.back)
        return gradients[0], None, None


class Trunk(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        first = Slow.apply(x, 1, 4)
        return [first, Slow.apply(first, 1, 4)]


class Projector(nn.Module):
    def forward(self, blocks: list[Tensor]) -> Tensor:
        return torch.stack([Slow.apply(block, 2, 6) for block in blocks]).sum()


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.projector = Trunk(), Projector()

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.trunk(x))


def a_step(phase: Phases, student: nn.Module, trains: bool = True) -> None:
    phase("student", 0)
    with phase.apart(student):
        answer = student(torch.ones(2, requires_grad=trains))
    phase("backward")
    if trains:
        answer.backward()
    phase("optimizer")
    phase("boundary")


def phases(**more: Any) -> Phases:
    return Phases(torch.device("cpu"), SimpleNamespace(beat=lambda doing: None), **more)  # type: ignore[arg-type]


def test_the_projector_stands_apart_forward_and_backward() -> None:
    phase = phases()
    a_step(phase, Student())
    took = phase.measured()
    assert took["time/student"] == 2
    assert took["time/projector"] == 4 + 12
    assert took["time/backward"] == 8
    assert took["time/loss"] == 0


def test_a_forward_outside_of_a_step_is_nobodys_phase() -> None:
    phase, student = phases(), Student()
    a_step(phase, student)
    marks = len(phase.marks)
    student(torch.ones(2, requires_grad=True)).backward()
    assert len(phase.marks) == marks, "an evaluation, which asks the same student"


def test_mfu_is_the_limits_share_of_a_step_without_saves_and_evaluations() -> None:
    phase = phases(limit=lambda step: 1.0 + step)
    for step in range(2):
        phase("data", step)
        CLOCK.work(2)
        phase("optimizer")
        phase("save")
        CLOCK.work(2)
    assert phase.measured()["mfu"] == 3 / 4  # one second, then two, of two each
    phase("data", 0)
    CLOCK.work(2)
    phase("optimizer")
    assert phase.measured()["mfu"] == 1 / 2, "of the steps since the last record alone"


def test_without_a_limit_no_share_is_said() -> None:
    phase = phases()
    a_step(phase, Student())
    assert "mfu" not in phase.measured()
