"""Where a step's time goes, by phase; on a GPU measured by events, so that nothing waits until a log step asks."""

from __future__ import annotations

import gc
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from unicscale.ranks.watchdog import Watchdog


@contextmanager
def held_garbage() -> Iterator[None]:
    """Python looks for circles only when a log step asks, on all ranks at once: one that pauses makes all others wait.

    What is alive now, tens of thousands of objects of libraries, is not looked through again.
    """
    held = not gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if not held:
            gc.enable()


class Phases:
    """`phases("teachers")` ends one phase and begins the next; the watchdog hears of each."""

    def __init__(self, device: torch.device, watchdog: Watchdog) -> None:
        self.gpu, self.watchdog = device.type == "cuda", watchdog
        self.step = 0
        self.marks: list[tuple[str, Any]] = []

    def __call__(self, name: str, step: int | None = None) -> None:
        """From here on the loop does `name`."""
        self.step = self.step if step is None else step
        self.watchdog.beat(f"step {self.step}: {name}")
        self.marks.append((name, self._now()))

    def _now(self) -> Any:
        if not self.gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def unwatched(self, name: str) -> Iterator[None]:
        """A phase that may take as long as it likes, on all ranks."""
        self(name)
        self.watchdog.paused = True
        yield

    def measured(self) -> dict[str, float]:
        """`time/<phase>` per step since the last call, and peak memory; only where the device is waited for anyway."""
        gc.collect()
        steps = sum(name == "optimizer" for name, _ in self.marks)
        self.marks.append(("", self._now()))
        total: dict[str, float] = defaultdict(float)
        for (name, begin), (_, end) in zip(self.marks, self.marks[1:], strict=False):
            total[f"time/{name}"] += self._between(begin, end) / max(steps, 1)
        self.marks.clear()
        return total | {"memory_gib": self._peak() / 2**30}

    def _peak(self) -> float:
        if self.gpu:
            return float(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0

    def _between(self, begin: Any, end: Any) -> float:
        if not self.gpu:
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) / 1000
