"""Where a step's time goes, by phase; on a GPU measured by events, so that nothing waits until a log step asks."""

from __future__ import annotations

import gc
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unicscale.ranks.watchdog import Watchdog

BESIDE = ("save", "evaluate")  # what lies between steps


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

    def __init__(self, device: torch.device, watchdog: Watchdog, limit: Callable[[int], float] | None = None) -> None:
        """`limit`: seconds that a step would take at the device's own limit."""
        self.gpu, self.watchdog, self.limit = device.type == "cuda", watchdog, limit
        self.step = 0
        self.marks: list[tuple[str, Any]] = []
        self.least = 0.0  # seconds of the steps since the last call of `measured`, at the limit

    def __call__(self, name: str, step: int | None = None) -> None:
        """From here on the loop does `name`."""
        self.step = self.step if step is None else step
        self.watchdog.beat(f"step {self.step}: {name}")
        self.marks.append((name, self._now()))
        if name == "optimizer" and self.limit is not None:
            self.least += self.limit(self.step)

    @contextmanager
    def apart(self, student: Any) -> Iterator[None]:
        """A forward of the student whose projector is a phase of its own; behind it begins the loss."""
        projector: nn.Module = student.projector
        hook = projector.register_forward_pre_hook(self._enter, prepend=True)
        try:
            yield
        finally:
            hook.remove()
        self("loss")

    def _enter(self, projector: nn.Module, given: tuple[list[Tensor]]) -> None:
        self("projector")
        last = given[0][-1]
        if last.requires_grad:
            last.register_hook(self._leave)

    def _leave(self, gradient: Tensor) -> None:
        """Whatever reads the blocks came after them, so all of its backward is over when the last one's begins."""
        name, begin = self.marks[-1]
        self.marks[-1] = ("projector" if name == "backward" else name, begin)
        self("backward")

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
        """`time/<phase>` per step since the last call, `mfu`, and peak memory; where the device is waited for anyway.

        `time/projector` is its forward, and backward with the loss's.
        """
        gc.collect()
        steps = sum(name == "optimizer" for name, _ in self.marks)
        self.marks.append(("", self._now()))
        total: dict[str, float] = defaultdict(float)
        for (name, begin), (_, end) in zip(self.marks, self.marks[1:], strict=False):
            total[f"time/{name}"] += self._between(begin, end) / max(steps, 1)
        self.marks.clear()
        inside = sum(seconds for name, seconds in total.items() if name.removeprefix("time/") not in BESIDE)
        share = {"mfu": self.least / steps / inside} if self.least and inside > 0 else {}
        self.least = 0.0
        return total | share | {"memory_gib": self._peak() / 2**30}

    def _peak(self) -> float:
        if self.gpu:
            return float(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0

    def _between(self, begin: Any, end: Any) -> float:
        if not self.gpu:
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) / 1000
