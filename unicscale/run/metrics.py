"""What a run says: metrics.jsonl is the truth, which the mirrors repeat."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unicscale.contracts import Loss, Progress
from unicscale.errors import CheckpointError
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.run.mirrors import Mirror


def ends_whole(file: Path) -> bool:
    """Whether the last line was written to its end."""
    if not file.exists() or not file.stat().st_size:
        return True
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


class Log:
    """Rank 0 writes; other ranks' logs swallow everything. Reading the terms is the step's only wait for the device."""

    def __init__(self, file: Path | None, mirrors: list[Mirror], launch: int = 0) -> None:
        torn = file is not None and not ends_whole(file)
        self.file = file
        self.stream = open(file, "a", buffering=1) if file else None  # noqa: SIM115  (lives as long as the run)
        if self.stream is not None and torn:
            self.stream.write("\n")  # or the first record would join what the killed launch left, and be lost with it
        self.mirrors = mirrors
        self.launch = launch
        self.last_time, self.last_images = time.monotonic(), -1

    def write(self, progress: Progress, terms: dict[str, Tensor | float], **facts: Any) -> dict[str, Any]:
        """One record of this step; returns it as written."""
        numbers = to_numbers(terms)
        record = {"step": progress.step, "images": progress.images, "stage": progress.stage, **facts, **numbers}
        record |= {"images_per_second": self._rate(progress), "time": round(time.time(), 3), "launch": self.launch}
        self.event(record)
        return record

    def event(self, record: dict[str, Any]) -> None:
        """Anything else worth a line: evaluations, restarts, skipped steps."""
        if self.stream is None:
            return
        try:
            self.stream.write(json.dumps(record) + "\n")
        except OSError as problem:
            self._drop()
            raise CheckpointError(
                f"{self.file} cannot be written: {problem.strerror}.\n"
                "  The last checkpoint is intact: make room, and the same command goes on from it."
            ) from None
        for mirror in list(self.mirrors):
            self._tell(mirror, lambda mirror=mirror: mirror.write(record))

    def _tell(self, mirror: Mirror, what: Callable[[], None]) -> None:
        """A mirror that breaks is left out; the run goes on. (Slurm's SIGTERM ends wandb's helper process as well.)"""
        try:
            what()
        except Exception as problem:
            say.warning("%s broke and is left out; metrics.jsonl goes on: %s", type(mirror).__name__, problem)
            self.mirrors.remove(mirror)

    def _rate(self, progress: Progress) -> float | None:
        now, images = time.monotonic(), progress.images
        before, self.last_images = self.last_images, images
        seconds, self.last_time = now - self.last_time, now
        return round((images - before) / seconds, 2) if before >= 0 and seconds > 0 else None

    def close(self) -> None:
        """Flush everything."""
        for mirror in list(self.mirrors):
            self._tell(mirror, mirror.close)
        if self.stream:
            self._drop()

    def _drop(self) -> None:
        """Close the file; what its buffer still holds goes, if the disk takes it."""
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


class Tally:
    """The terms of one step, added up over micro-batches and then over ranks: what the global batch says."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None  # (terms,)
        self.micro_batches = 0

    def add(self, loss: Loss) -> None:
        """One micro-batch of this rank; its loss counts by its weight, as it does in the gradient."""
        summed = loss.terms | {"loss": loss.sum.detach(), "weight": loss.weight}
        self.names = list(summed)
        values = torch.stack([value.float() for value in summed.values()])
        self.sums = values if self.sums is None else self.sums + values
        self.micro_batches += 1

    @property
    def weight(self) -> Tensor:
        """The sum of this rank's weights, what `engine.step` divides by."""
        assert self.sums is not None, "a step has at least one micro-batch"
        return self.sums[self.names.index("weight")]

    def terms(self, world: World) -> dict[str, Tensor]:
        """Means over the global batch; all ranks call this together, at log steps."""
        assert self.sums is not None, "a step has at least one micro-batch"
        total = world.all_sum(self.sums.clone())
        means = dict(zip(self.names, total / (self.micro_batches * world.size), strict=True))
        return means | {"loss": means["loss"] / means["weight"]}


def to_numbers(terms: dict[str, Tensor | float]) -> dict[str, float]:
    """All tensors in one transfer, not one each."""
    tensors = {name: value for name, value in terms.items() if isinstance(value, Tensor)}
    plain = {name: float(value) for name, value in terms.items() if not isinstance(value, Tensor)}
    if not tensors:
        return plain
    values = torch.stack([value.detach().float().reshape(()) for value in tensors.values()]).tolist()
    return plain | dict(zip(tensors, values, strict=True))
