"""Logging takes less than half a per cent of a step."""

from __future__ import annotations

import torch

from benchmarks import telling

MOST = 0.005  # of a step's CPU seconds, which other work on the machine does not stretch as it does the clock


def test_logging_takes_less_than_half_a_per_cent_of_a_step_of_the_demo() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step, record = telling.of_the_demo(6)
        share = min(telling.told(record, 200, {}) for _ in range(2)) / step
    finally:
        torch.set_num_threads(threads)
    assert share < MOST, f"{100 * share:.2f} % of {1e3 * step:.0f} ms"
