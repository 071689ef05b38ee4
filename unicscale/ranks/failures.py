"""What a crash inside the loop means to the person who started it: no memory, a lost rank, numbers that blew up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from unicscale.errors import BlewUp, OutOfMemory, RankLost
from unicscale.ranks.exits import nobody_leaves
from unicscale.ranks.watchdog import Watchdog

NO_MEMORY = ("can't allocate memory", "out of memory", "Cannot allocate memory")
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "Socket", "Timed out waiting")


@contextmanager
def explained(rank: int, watchdog: Watchdog) -> Iterator[None]:
    """Turn errors of the machine into errors that say which rank, what happened, and the way out."""
    try:
        with nobody_leaves(f"rank {rank}, in '{watchdog.doing}'"):
            yield
    except (MemoryError, RuntimeError) as problem:  # torch.OutOfMemoryError is a RuntimeError
        said = str(problem)
        if isinstance(problem, MemoryError | torch.OutOfMemoryError) or any(text in said for text in NO_MEMORY):
            raise OutOfMemory(
                f"rank {rank} ran out of memory in '{watchdog.doing}': {said.split(chr(10))[0] or 'MemoryError'}\n"
                "  The last checkpoint is intact. Lower data.micro_batch, or set engine.checkpointing or engine.kind;\n"
                "  `unicscale plan RECIPE` shows what takes the room."
            ) from problem
        if any(text in said for text in LOST):
            raise RankLost(
                f"rank {rank} lost {watchdog.lost()} in '{watchdog.doing}': {said.splitlines()[0]}\n"
                "  That rank's log says why it left; the same command goes on from the last checkpoint."
            ) from problem
        raise


class Streak:
    """Counts steps that all ranks skipped because the gradient was not finite; the host looks at log steps only."""

    def __init__(self, device: torch.device, dtype: str) -> None:
        self.patience = 20 if dtype == "fp16" else 3  # fp16 finds its loss scale by overflowing
        self.current, self.worst, self.total = (torch.zeros((), device=device) for _ in range(3))

    def see(self, norm: Tensor) -> None:
        """The norm is the global one, so all ranks count alike."""
        broken = (~torch.isfinite(norm)).float()
        self.current = (self.current + 1) * broken
        self.worst = torch.maximum(self.worst, self.current)
        self.total = self.total + broken

    def terms(self) -> dict[str, Tensor]:
        """For the log."""
        return {"skipped": self.total, "skipped_in_a_row": self.worst}

    def judge(self, step: int, teachers: dict[str, Tensor]) -> None:
        """Raise, on all ranks, once too many steps in a row were skipped."""
        worst = int(self.worst)
        if worst < self.patience:
            return
        bad = [name for name, broken in teachers.items() if bool(broken)]
        cause = f"Teacher {', '.join(bad)} gave non-finite tokens." if bad else "The student's own loss blew up."
        raise BlewUp(
            f"step {step}: the gradient was not finite {worst} times in a row; all ranks skipped those steps.\n"
            f"  {cause} The checkpoint is of before. Lower lr.peak, lengthen the warm-up, or set engine.clip."
        )
