"""How far a long computation is: a bar on a terminal, a line now and then in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unicscale.ranks.voice import say
from unicscale.ranks.world import World

EVERY = 15.0  # seconds between two lines
Advance = Callable[[int], None]


@contextmanager
def progress(what: str, total: int, world: World, unit: str = "images") -> Iterator[Advance]:
    """Rate and remaining time, on rank 0, which counts its own share for all."""
    if not world.main:
        yield lambda count: None
    elif not sys.stderr.isatty():
        yield Lines(what, total, world.size, unit)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TaskProgressColumn as Share

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Share(show_speed=True))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count * world.size)


class Lines:
    """Says where it stands once so much time has passed; what is short says nothing."""

    def __init__(self, what: str, total: int, ranks: int, unit: str) -> None:
        self.what, self.total, self.ranks, self.unit = what, total, ranks, unit
        self.done, self.begun = 0, time.monotonic()
        self.last = self.begun

    def __call__(self, count: int) -> None:
        self.done = min(self.total, self.done + count * self.ranks)
        now = time.monotonic()
        if now - self.last < EVERY or not self.done:
            return
        self.last, rate = now, self.done / (now - self.begun)
        left = time.strftime("%H:%M:%S", time.gmtime((self.total - self.done) / rate))
        say.info(
            "%s: %s of %s %s (%d %%), %.3g/s, %s left",
            self.what, f"{self.done:,}", f"{self.total:,}", self.unit, 100 * self.done // self.total, rate, left,
        )  # fmt: skip
