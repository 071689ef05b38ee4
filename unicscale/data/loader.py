"""`open_loader`: a recipe's images as an endless stream of batches; `open_eval`: one data set, once, as it is."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable

import torch

from unicscale.contracts import Progress
from unicscale.data.once import open_eval
from unicscale.data.sets.beton import Beton
from unicscale.data.sets.images import CompiledImages, Images, ffcv_missing, open_images
from unicscale.data.stream.batches import Batches
from unicscale.data.stream.fill import Bad
from unicscale.data.stream.order import Order
from unicscale.data.stream.workers import cores
from unicscale.data.views.crops import CentreCrop, Crop, RandomCrop
from unicscale.data.views.resize import Filter
from unicscale.errors import DataError
from unicscale.recipe.plan import share
from unicscale.recipe.sections import Data, Source

__all__ = ["Loader", "open_eval", "open_loader"]


def open_loader(
    section: Data, *, seed: int, rank: int = 0, world: int = 1, device: torch.device | str = "cpu", train: bool = True
) -> Loader:
    """The images of a recipe; without `train` its validation sets, in order, centre-cropped, uncoloured."""
    sources = [s if isinstance(s, Source) else Source(path=s) for s in (section.train if train else section.val)]
    if not sources:
        raise DataError("data.val is empty: name a validation set, or do without validation.")
    micro, micro_batches = share(section.images_per_step, world, section.micro_batch)
    sets = [open_images(s.path, section.reader, section.max_resolution, section.resize) for s in sources]
    order = Order(
        seed,
        [len(s) for s in sets],
        [s.weight for s in sources],
        section.images_per_step,
        shuffle=train,
    )
    loader = Loader(
        section,
        sets,
        order,
        rank=rank,
        share=micro * micro_batches,
        micro=micro,
        device=torch.device(device),
        train=train,
    )
    if rank == 0:
        tell(loader.describe())
    return loader


class Loader:
    """Hands out micro-batches; its whole state is `Progress.images`."""

    def __init__(
        self,
        section: Data,
        sets: list[Images],
        order: Order,
        *,
        rank: int,
        share: int,
        micro: int,
        device: torch.device,
        train: bool,
    ) -> None:
        self.section, self.sets, self.order = section, sets, order
        self.rank, self.share, self.micro, self.device, self.train = rank, share, micro, device, train
        self.images_per_epoch = order.images_per_epoch
        self.micro_batches = share // micro
        self.workers = cores() if section.workers == "auto" else section.workers
        self.how: Filter = "bicubic" if section.resize == "bicubic" else "area"
        a = section.augment
        self.crop: Crop = RandomCrop(a.scale, a.ratio, a.flip) if train else CentreCrop()
        self.bad: Bad = {}  # images that were replaced, on any rank
        self._found: Bad = {}  # on this one, since the last `judge`
        self._open: weakref.WeakSet[Batches] = weakref.WeakSet()  # an iterator that is dropped closes itself

    def start(self, after: Progress, size: Callable[[int], int], steps: int) -> Batches:
        """The micro-batches of `steps` steps from where `after` stands; `size(step)` is their side in pixels."""
        for images in self.sets if steps else []:
            if isinstance(images, CompiledImages):
                images.prepare(self.crop)
        batches = Batches(self, after, size, steps)
        self._open.add(batches)
        if self.rank == 0 and steps:
            tell(self._memory(batches.side(after.step)))
        return batches

    def close(self) -> None:
        """End the threads of all iterators and let go of the files."""
        for batches in list(self._open):
            batches.close()
        for images in self.sets:
            images.close()

    def describe(self) -> str:
        """Which data sets, and who reads them."""
        kind = "train" if self.train else "val"
        lines = [f"data.{kind}: {s.path}: {len(s):,} images, reader {s.reader}" for s in self.sets]
        if any(s.reader == "beton" for s in self.sets) and ffcv_missing():
            lines.append(f"data.{kind}: FFCV would be about twice as fast, but: {ffcv_missing()}")
        lines += [
            f"data.{kind}: {s.path}: no checksums, so changed bytes inside its images may go unnoticed; "
            "`unicscale pack` writes them"
            for s in self.sets
            if isinstance(s, Beton) and s.trailer is None
        ]
        return "\n".join(lines)

    def _memory(self, size: int) -> str:
        """What the iterator will hold."""
        batches = (self.section.ahead + 1) * self.micro * size * size * 3
        threads = sum(s.scratch_bytes() for s in self.sets) * max(1, self.workers)
        return (
            f"data: {self.section.ahead + 1} batches of {self.micro} at {size} px and the images of {self.workers} "
            f"threads hold {(batches + threads) / 2**20:,.0f} MiB per rank"
        )

    def note(self, bad: Bad) -> None:
        """Keep what this rank had to replace until the end of the step."""
        self._found |= {place: text for place, text in bad.items() if place not in self.bad}

    @property
    def replaced_any(self) -> bool:
        """Whether this rank has met images that nobody has counted yet."""
        return bool(self._found)

    def judge(self, everybody: Callable[[Bad], list[Bad]] = lambda mine: [mine]) -> None:
        """Count the replaced images of a whole step; too many stop the run.

        The ranks of a world call this together after a step in which any of them `replaced_any`, with `everybody` to
        exchange what they found: then a run ends after the same step, with the same words, however many ranks share
        it. Without such a call the next step begins with it, over this rank's images alone.
        """
        found = {place: text for rank in everybody(self._found) for place, text in rank.items()}
        new = [found[place] for place in sorted(found.keys() - self.bad.keys())]
        self.bad |= found
        self._found = {}
        if self.rank == 0:
            for text in new:
                tell(f"data: replaced {text}")
        limit = int(self.section.max_bad * sum(len(s) for s in self.sets))
        if len(self.bad) > limit:
            some = "\n".join(f"  {self.bad[place]}" for place in sorted(self.bad)[:5])
            raise DataError(
                f"{len(self.bad)} images cannot be decoded, data.max_bad allows {limit}:\n{some}\n"
                "  Mend or remove them (`unicscale pack` lists them all), or raise data.max_bad."
            )


def tell(text: str) -> None:
    """To the run's log, or to the terminal where no run has opened one."""
    say = logging.getLogger("unicscale")
    if say.handlers:
        say.info(text)
    else:
        print(text, file=sys.stderr, flush=True)
