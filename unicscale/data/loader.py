"""`open_loader`: a recipe's images as an endless stream of batches."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from unicscale.contracts import Batch, Progress
from unicscale.data.sets.beton import Beton
from unicscale.data.sets.images import CompiledImages, ffcv_missing, open_images
from unicscale.data.stream.aside import aside_for
from unicscale.data.stream.batches import Batches, Supply
from unicscale.data.stream.damage import Damage, tell
from unicscale.data.stream.order import Order
from unicscale.data.stream.workers import cores
from unicscale.data.views.crops import RandomCrop
from unicscale.data.views.dense import colour_on
from unicscale.recipe.plan import share
from unicscale.recipe.sections import Data, Source

__all__ = ["Feed", "Loader", "open_loader"]


class Feed(Protocol):
    """What a training loop eats: a Loader's images, or the pixels that a dry run draws."""

    images_per_epoch: int
    micro_batches: int  # of each rank's step
    damage: Damage

    def start(self, after: Progress, size: Callable[[int], int], steps: int) -> Iterator[Batch]:
        """The micro-batches of `steps` steps from where `after` stands; `size(step)` is their side in pixels."""
        ...

    def close(self) -> None:
        """Let go of threads and files; nothing more is asked for."""
        ...


def open_loader(
    section: Data,
    *,
    seed: int,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    compiled: bool = False,
) -> Loader:
    """The training images of a recipe, as rank `rank` of `world` sees them; `compiled` is of colour on a GPU."""
    sources = [s if isinstance(s, Source) else Source(path=s) for s in section.train]
    micro, micro_batches = share(section.images_per_step, world, section.micro_batch)
    how = section.reader, section.max_resolution, section.resize, section.channels.count
    sets = [open_images(s.path, *how) for s in sources]
    order = Order(seed, [len(s) for s in sets], [s.weight for s in sources], section.images_per_step)
    a, device = section.augment, torch.device(device)
    supply = Supply(
        sets,
        order,
        crop=RandomCrop(a.scale, a.ratio, a.flip),
        how="bicubic" if section.resize == "bicubic" else "area",
        colour=colour_on(device, a, channels=section.channels.count, compiled=compiled),
        aside=aside_for(device),
        rank=rank,
        share=micro * micro_batches,
        micro=micro,
        device=device,
        ahead=section.ahead,
        workers=cores() if section.workers == "auto" else section.workers,
    )
    loader = Loader(supply, Damage(section.max_bad, sum(len(s) for s in sets), rank))
    if rank == 0:
        tell(loader.describe())
    return loader


class Loader:
    """Hands out micro-batches; its whole state is `Progress.images`."""

    def __init__(self, supply: Supply, damage: Damage) -> None:
        self.supply, self.damage = supply, damage
        self.images_per_epoch, self.micro_batches = supply.order.images_per_epoch, supply.micro_batches
        self._open: weakref.WeakSet[Batches] = weakref.WeakSet()  # an iterator that is dropped closes itself

    def start(self, after: Progress, size: Callable[[int], int], steps: int) -> Batches:
        """The micro-batches of `steps` steps from where `after` stands; `size(step)` is their side in pixels."""
        for images in self.supply.sets if steps else []:
            if isinstance(images, CompiledImages):
                images.prepare(self.supply.crop)
        batches = Batches(self.supply, self.damage, after, size, steps)
        self._open.add(batches)
        if self.supply.rank == 0 and steps:
            tell(self._memory(batches.side(after.step)))
        return batches

    def close(self) -> None:
        """End the threads of all iterators and let go of the files."""
        for batches in list(self._open):
            batches.close()
        for images in self.supply.sets:
            images.close()

    def describe(self) -> str:
        """Which data sets, and who reads them."""
        sets = self.supply.sets
        lines = [f"data.train: {s.path}: {len(s):,} images, reader {s.reader}" for s in sets]
        if any(s.reader == "beton" for s in sets) and ffcv_missing():
            lines.append(f"data.train: FFCV would be about twice as fast, but: {ffcv_missing()}")
        lines += [
            f"data.train: {s.path}: no checksums, so changed bytes inside its images may go unnoticed; "
            "`unicscale pack` writes them"
            for s in sets
            if isinstance(s, Beton) and s.trailer is None
        ]
        return "\n".join(lines)

    def _memory(self, size: int) -> str:
        """What the iterator will hold."""
        supply = self.supply
        batches = (supply.ahead + 1) * supply.micro * size * size * supply.channels
        threads = sum(s.scratch_bytes() for s in supply.sets) * max(1, supply.workers)
        return (
            f"data: {supply.ahead + 1} batches of {supply.micro} at {size} px and the images of {supply.workers} "
            f"threads hold {(batches + threads) / 2**20:,.0f} MiB per rank"
        )
