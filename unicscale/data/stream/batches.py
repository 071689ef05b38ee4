"""The iterator behind `Loader.start`: decodes a few micro-batches ahead, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unicscale.contracts import Batch, Progress
from unicscale.data.device import numbers, square_pixels
from unicscale.data.sets.images import Images
from unicscale.data.stream.aside import Aside, Handing
from unicscale.data.stream.damage import Bad, Damage
from unicscale.data.stream.fill import Filler
from unicscale.data.stream.order import Order, Samples
from unicscale.data.stream.workers import Workers
from unicscale.data.views.crops import Crop
from unicscale.data.views.dense import Colour
from unicscale.data.views.resize import Filter
from unicscale.errors import DataError, LoaderError
from unicscale.rng import Purpose


@dataclass(frozen=True, slots=True)
class Supply:
    """What every batch of a rank is made from, and how."""

    sets: list[Images]
    order: Order
    crop: Crop
    how: Filter
    colour: Colour
    aside: Aside
    rank: int
    share: int  # images of a step that are this rank's
    micro: int  # of them, how many at a time
    device: torch.device
    ahead: int
    workers: int

    @property
    def channels(self) -> int:
        """Of every image."""
        return self.sets[0].channels

    @property
    def micro_batches(self) -> int:
        """How many make a step."""
        return self.share // self.micro


@dataclass
class _Pending:
    samples: Samples
    pixels: Tensor  # (B, S, S, C) uint8, being filled
    futures: list[Future]
    bad: Bad
    hand: Handing | None = None  # once it was begun


class Batches(Iterator[Batch]):
    """Micro-batches of `steps` steps after `after`; what was replaced on the way is noted in `damage`."""

    def __init__(self, supply: Supply, damage: Damage, after: Progress, size: Callable[[int], int], steps: int) -> None:
        self.supply, self.damage, self.size = supply, damage, size
        self._todo = self._plan(after.step, after.images, steps)
        self._pending: deque[_Pending] = deque()
        self._workers = Workers(supply.workers)
        self._given = 0

    def __next__(self) -> Batch:
        supply = self.supply
        if self.damage.unjudged and self._given % supply.micro_batches == 0:
            self._or_close(self.damage.judge)  # nobody has, at the end of the last step
        while len(self._pending) <= supply.ahead and (todo := next(self._todo, None)) is not None:
            self._pending.append(self._submit(*todo))
        if not self._pending:
            self.close()
            raise StopIteration
        batch = self._pending.popleft()
        self._or_close(lambda: self._filled(batch))
        self.damage.note(batch.bad)
        self._given += 1
        made = self._begun(batch)()
        if self._pending and all(future.done() for future in self._pending[0].futures):
            self._begun(self._pending[0])
        return made

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

    def _begun(self, batch: _Pending) -> Handing:
        if batch.hand is None:
            samples, pixels = batch.samples, batch.pixels  # a batch that held itself would wait for the collector
            batch.hand = self.supply.aside.begin(lambda: self._made(samples, pixels))
        return batch.hand

    def _made(self, samples: Samples, pixels: Tensor) -> Batch:
        supply = self.supply
        return Batch(
            images=supply.colour(pixels, samples.keys(supply.order.seed, Purpose.COLOUR)),
            index=numbers(samples.index, supply.device),
            domain=numbers(samples.domain, supply.device),
        )

    def _filled(self, batch: _Pending) -> None:
        try:
            self._workers.wait(batch.futures)
        except DataError as problem:
            raise LoaderError(f"rank {self.supply.rank}: {problem}") from problem

    def _or_close(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException:
            self.close()
            raise

    def _plan(self, step: int, images: int, steps: int) -> Iterator[tuple[Samples, int]]:
        supply = self.supply
        for k in range(steps):
            batch = supply.order.global_batch(images + k * supply.order.images_per_step)
            side = self.side(step + k)
            for first in range(supply.rank * supply.share, (supply.rank + 1) * supply.share, supply.micro):
                yield batch.part(first, first + supply.micro), side

    def _submit(self, samples: Samples, side: int) -> _Pending:
        supply = self.supply
        count = len(samples.packed)
        pixels = square_pixels(count, side, supply.device, supply.channels)
        filler = Filler(supply.sets, supply.crop, supply.how, self._workers.doing)
        pending = _Pending(samples, pixels, [], {})
        piece = -(-count // max(1, 4 * supply.workers))
        for first in range(0, count, piece):
            part, out = samples.part(first, first + piece), pixels.numpy()[first : first + piece]
            pending.futures.append(
                self._workers.submit(lambda part=part, out=out: filler.fill(part, supply.order.seed, out, pending.bad))
            )
        return pending
