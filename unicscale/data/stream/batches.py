"""The iterator behind `Loader.start`: decodes a few micro-batches ahead, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unicscale.contracts import Batch, Progress
from unicscale.data.stream.fill import Bad, Filler
from unicscale.data.stream.order import Samples
from unicscale.data.stream.workers import Workers
from unicscale.data.views.augment import augment
from unicscale.errors import DataError, LoaderError
from unicscale.rng import Purpose

if TYPE_CHECKING:
    from unicscale.data.loader import Loader


@dataclass
class _Pending:
    samples: Samples
    pixels: Tensor  # (B, S, S, 3) uint8, being filled
    futures: list[Future]
    bad: Bad


class Batches(Iterator[Batch]):
    """An iterator over micro-batches that decodes a few ahead."""

    def __init__(self, loader: Loader, after: Progress, size: Callable[[int], int], steps: int) -> None:
        self.loader, self.size = loader, size
        self._todo = self._plan(replace(after), steps)  # a copy: the loop counts on in the one it was given
        self._pending: deque[_Pending] = deque()
        self._workers = Workers(loader.workers)
        self._given = 0

    def __next__(self) -> Batch:
        loader = self.loader
        if loader.replaced_any and self._given % loader.micro_batches == 0:
            self._or_close(loader.judge)  # nobody has, at the end of the last step
        while len(self._pending) <= loader.section.ahead and (todo := next(self._todo, None)) is not None:
            self._pending.append(self._submit(*todo))
        if not self._pending:
            self.close()
            raise StopIteration
        batch = self._pending.popleft()
        self._or_close(lambda: self._filled(batch))
        loader.note(batch.bad)
        self._given += 1
        pixels = batch.pixels.to(loader.device, non_blocking=True).permute(0, 3, 1, 2).contiguous()  # (B, 3, S, S)
        if loader.train:
            keys = batch.samples.keys(loader.order.seed, Purpose.COLOUR)
            pixels = augment(pixels, keys, loader.section.augment)
        return Batch(
            images=pixels,
            index=numbers(batch.samples.index, loader.device),
            domain=numbers(batch.samples.domain, loader.device),
        )

    def side(self, step: int) -> int:
        """The pixels of a step's square images."""
        side = self.size(step)
        if not isinstance(side, (int, np.integer)):
            raise DataError(f"size {side!r}: images are square, one number of pixels.")
        return int(side)

    def close(self) -> None:
        """End the threads; what was decoded ahead is dropped."""
        self._todo = iter(())
        self._pending.clear()
        self._workers.close()

    def __del__(self) -> None:
        if hasattr(self, "_workers"):
            self.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _filled(self, batch: _Pending) -> None:
        try:
            self._workers.wait(batch.futures)
        except DataError as problem:
            raise LoaderError(f"rank {self.loader.rank}: {problem}") from problem

    def _or_close(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException:
            self.close()
            raise

    def _plan(self, after: Progress, steps: int) -> Iterator[tuple[Samples, int]]:
        loader = self.loader
        for k in range(steps):
            batch = loader.order.global_batch(after.images + k * loader.order.images_per_step)
            side = self.side(after.step + k)
            for first in range(loader.rank * loader.share, (loader.rank + 1) * loader.share, loader.micro):
                yield batch.part(first, first + loader.micro), side

    def _submit(self, samples: Samples, size: int) -> _Pending:
        loader = self.loader
        pin = loader.device.type == "cuda"
        pixels = torch.empty(len(samples.packed), size, size, 3, dtype=torch.uint8, pin_memory=pin)
        filler = Filler(loader.sets, loader.crop, loader.how, self._workers.doing)
        pending = _Pending(samples, pixels, [], {})
        count = len(samples.packed)
        piece = -(-count // max(1, 4 * loader.workers))
        for first in range(0, count, piece):
            part, out = samples.part(first, first + piece), pixels.numpy()[first : first + piece]
            pending.futures.append(
                self._workers.submit(lambda part=part, out=out: filler.fill(part, loader.order.seed, out, pending.bad))
            )
        return pending


def numbers(values: np.ndarray, device: torch.device) -> Tensor:
    """Host integers on the device, without waiting."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
