"""The contract of the engines for students that are no plain ViTs: the numbers of one process, whoever holds what."""

from __future__ import annotations

import pytest
import torch

from tests.engine.test_engines import ENGINES, assert_same, on
from tests.kit import contract
from tests.kit.contract import Case

HARD = [("fp32", "full", 2), ("bf16", "none", 1)]


@pytest.mark.parametrize("student", ["rope", "maps"])
def test_every_engine_takes_the_steps_of_the_plain_one(student: str) -> None:
    alone = on(1, contract.traces, [Case(student=student)], 4)[0]
    cases = [Case(kind, *rest, student=student) for kind in ENGINES for rest in HARD]
    for case, ours in zip(cases, on(2, contract.traces, cases, 4), strict=True):
        assert_same(case, ours, alone)


def test_batch_norms_see_the_same_micro_batches_under_every_engine() -> None:
    """Two ranks of four images are one rank that accumulates twice four: statistics belong to a micro-batch."""
    alone = on(1, contract.traces, [Case(accumulation=2, student="batch_norm")], 4)[0]
    cases = [Case(kind, checkpointing=how, student="batch_norm") for kind in ENGINES for how in ("none", "full")]
    for case, ours in zip(cases, on(2, contract.traces, cases, 4), strict=True):
        assert_same(case, ours, alone)
        moved = [name for name in ours.last if name.endswith("running_var")]
        assert len(moved) > 5
        for name in moved:
            assert not torch.equal(ours.last[name], torch.ones_like(ours.last[name])), (case, name)
            torch.testing.assert_close(ours.last[name], alone.last[name], rtol=1e-5, atol=1e-6)


def test_a_step_that_is_skipped_leaves_running_statistics_alone() -> None:
    cases = [Case(kind, student="batch_norm") for kind in ENGINES]
    for case, found in zip(cases, on(2, contract.poisoned, cases), strict=True):
        for name, value in found["before"].items():
            assert torch.equal(value, found["after"][name]), (case, name)


@pytest.mark.parametrize("student", ["rope", "maps", "batch_norm"])
def test_another_size_changes_nothing_where_there_are_no_positions(student: str) -> None:
    cases = [Case(kind, options=(("ema", 0.9),), student=student) for kind in ENGINES]
    found = on(2, contract.resized, cases, 32)
    for case, (before, after, loss, _) in zip(cases, (f.values() for f in found), strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert torch.equal(value, after[name]), (case, name)
        assert loss == pytest.approx(found[0]["loss"], rel=1e-6), case


@pytest.mark.parametrize("student", ["rope", "maps", "batch_norm"])
def test_no_step_waits_for_a_number(student: str) -> None:
    cases = [Case("plain", student=student), Case("fsdp2", "bf16", "full", student=student)]
    assert on(2, contract.looks, cases) == [0, 0]
