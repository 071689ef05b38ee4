"""What a crash inside the loop says, and when skipped steps become an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from unicscale.errors import OutOfMemory, RunError
from unicscale.ranks.failures import Streak, explained
from unicscale.ranks.watchdog import Watchdog
from unicscale.run.phases import Phases

CPU = torch.device("cpu")


@pytest.fixture
def watchdog(tmp_path: Path) -> Iterator[Watchdog]:
    with Watchdog(tmp_path, rank=1, size=2, timeout=1.0) as dog:
        dog.beat("step 7: backward")
        yield dog


def test_an_allocation_that_fails_names_rank_and_phase_and_the_way_out(watchdog: Watchdog) -> None:
    with pytest.raises(OutOfMemory) as error, explained(1, watchdog):
        torch.empty(1 << 52)
    assert str(error.value).startswith("rank 1 ran out of memory in 'step 7: backward':")
    assert "data.micro_batch" in str(error.value) and error.value.exit_code == 6


def test_a_broken_connection_names_the_rank_that_stopped_writing(watchdog: Watchdog, tmp_path: Path) -> None:
    (tmp_path / "rank-0000.pulse").write_text(
        '{"rank": 0, "host": "node7", "pid": 41, "beats": 3, "writes": 9, "doing": "step 7: backward"}'
    )
    with pytest.raises(RunError) as error, explained(1, watchdog):
        raise RuntimeError("[pair.cc:545] Read error [10.0.0.7]: Connection reset by peer")
    assert str(error.value).startswith("rank 1 lost rank 0 (node7, pid 41) in 'step 7: backward': [pair.cc")


def test_an_error_of_ours_stays_what_it_is(watchdog: Watchdog) -> None:
    with pytest.raises(RuntimeError, match="shapes"), explained(1, watchdog):
        raise RuntimeError("shapes cannot be multiplied")


def test_two_skipped_steps_are_counted_and_three_in_a_row_stop_the_run() -> None:
    streak, nan = Streak(CPU, "fp32"), torch.tensor(float("nan"))
    for norm in (nan, nan, torch.tensor(1.0), nan, nan):
        streak.see(norm)
    streak.judge(5, {})
    assert float(streak.terms()["skipped"]) == 4 and float(streak.terms()["skipped_in_a_row"]) == 2
    streak.see(nan)
    with pytest.raises(RunError, match="step 6: the gradient was not finite 3 times in a row"):
        streak.judge(6, {})


def test_a_teacher_that_gave_the_bad_numbers_is_named() -> None:
    streak = Streak(CPU, "fp32")
    for _ in range(3):
        streak.see(torch.tensor(float("inf")))
    with pytest.raises(RunError, match="Teacher two gave non-finite tokens"):
        streak.judge(3, {"one": torch.tensor(False), "two": torch.tensor(True)})


def test_fp16_may_overflow_until_it_has_found_its_scale() -> None:
    streak = Streak(CPU, "fp16")
    for _ in range(12):  # from a scale of 4096 down to 1
        streak.see(torch.tensor(float("inf")))
    streak.judge(12, {})


def test_phases_share_out_the_time_of_a_step_and_tell_the_watchdog(watchdog: Watchdog) -> None:
    phase = Phases(CPU, watchdog)
    for step in range(2):
        for name in ("data", "optimizer"):
            phase(name, step)
    measured = phase.measured()
    assert watchdog.doing == "step 1: optimizer"
    assert set(measured) == {"time/data", "time/optimizer", "memory_gib"} and all(t >= 0 for t in measured.values())
