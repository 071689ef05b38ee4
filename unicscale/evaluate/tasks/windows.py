"""Dense images: crops stream through the frozen encoder while a linear head learns; windows slide at test."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unicscale.contracts import Features, Widths
from unicscale.data.sets.decode import Undecodable, decode
from unicscale.data.stream.workers import Workers, cores
from unicscale.errors import DataError
from unicscale.evaluate.features.progress import progress
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.metrics.probe import Schedule, draws
from unicscale.evaluate.metrics.segment import upsample
from unicscale.evaluate.sets.pairs import Pairs
from unicscale.evaluate.terms import Subject

OVERLAP = 1 / 3  # of neighbouring windows at test


class Kind(NamedTuple):
    """What distinguishes one dense data set from another."""

    read: Callable[[Path], np.ndarray]  # the target, (H, W)
    check: Callable[[Path, np.ndarray], None]


def rounded(size: int, patch: int) -> int:
    """The next multiple of the patch: 512 stays 512 for patch 16 and becomes 518 for patch 14."""
    return -(-size // patch) * patch


@dataclass(slots=True)
class Stream:
    """Random crops of the training pairs as features, decoded by threads ahead of the encoder."""

    subject: Subject
    shelf: Shelf
    pairs: Pairs
    kind: Kind
    size: int

    def __call__(self, schedule: Schedule) -> Iterator[tuple[Features, Tensor]]:
        seed = self.shelf.settings.seed
        generator = np.random.Generator(np.random.Philox(seed + 1))
        todo = ([(int(row), generator.random(3)) for row in rows] for rows in draws(len(self.pairs), schedule, seed))
        workers, pending = Workers(cores()), deque()
        what = f"{self.subject.name}: head on {self.pairs.path}"
        try:
            with progress(what, schedule.steps, self.shelf.world, "steps") as advance:
                while True:
                    while len(pending) < 3 and (batch := next(todo, None)) is not None:
                        pending.append([workers.submit(lambda one=one: self._crop(*one)) for one in batch])
                    if not pending:
                        return
                    workers.wait(futures := pending.popleft())
                    images, targets = zip(*(future.result() for future in futures), strict=True)
                    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
                    yield (
                        encode(self.subject, self.shelf, pixels),
                        torch.from_numpy(np.stack(targets)).to(self.shelf.device),
                    )
                    advance(1)
        finally:
            workers.close()

    def _crop(self, row: int, draw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image, target = load_pair(self.pairs[row], self.kind, self.size)
        top, left = (int(u * (side - self.size + 1)) for u, side in zip(draw, target.shape, strict=False))
        where = (slice(top, top + self.size), slice(left, left + self.size))
        image, target = image[where], target[where]
        if draw[2] < 0.5:
            image, target = image[:, ::-1], target[:, ::-1]
        return np.ascontiguousarray(image), np.ascontiguousarray(target)


def load_pair(pair: tuple[Path, Path], kind: Kind, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and target with the shorter side at `size`: bicubic for the image, nearest for the target."""
    try:
        image = decode(pair[0].read_bytes())
        target = kind.read(pair[1])
    except (Undecodable, OSError) as problem:
        raise DataError(f"{pair[0]} with {pair[1]}: {problem}") from problem
    kind.check(pair[1], target)
    if image.shape[:2] != target.shape:
        raise DataError(f"{pair[1]}: {target.shape} pixels, but its image {pair[0]} has {image.shape[:2]}")
    scale = size / min(target.shape)
    width, height = (max(size, round(side * scale)) for side in (target.shape[1], target.shape[0]))
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    rows = (np.arange(height) * target.shape[0] // height, np.arange(width) * target.shape[1] // width)
    return resized, target[rows[0][:, None], rows[1][None]]


def encode(subject: Subject, shelf: Shelf, pixels: Tensor) -> Features:
    """Frozen features of uint8 crops, in fp32, fit for a graph behind them."""
    dtype = shelf.dtype
    with torch.no_grad(), torch.autocast(shelf.device.type, dtype, enabled=dtype != torch.float32):
        features = subject.encode(pixels.to(shelf.device))
    return Features(*(None if tokens is None else tokens.float() for tokens in features))


def widths_of(subject: Subject, shelf: Shelf, size: int) -> Widths:
    """Of its tokens; a convolutional network's summary is wider than its patches."""
    seen = encode(subject, shelf, torch.zeros(1, 3, size, size, dtype=torch.uint8))
    return Widths(*(None if tokens is None else tokens.shape[-1] for tokens in seen))


@torch.no_grad()
def slide(subject: Subject, shelf: Shelf, head: nn.Module, image: np.ndarray, size: int) -> Tensor:  # (C, H, W)
    """The head's maps over a whole image, averaged where windows overlap."""
    places = [(top, left) for top in _places(image.shape[0], size) for left in _places(image.shape[1], size)]
    windows = np.stack([image[top : top + size, left : left + size] for top, left in places])
    maps = head(encode(subject, shelf, torch.from_numpy(windows).permute(0, 3, 1, 2).contiguous()))
    maps = upsample(maps if maps.ndim == 4 else maps[:, None], (size, size))  # depth has no channels
    total = maps.new_zeros(maps.shape[1] + 1, *image.shape[:2])  # the last one counts
    for (top, left), one in zip(places, maps, strict=True):
        total[:-1, top : top + size, left : left + size] += one
        total[-1, top : top + size, left : left + size] += 1
    return total[:-1] / total[-1]


def _places(length: int, size: int) -> list[int]:
    count = 1 + max(0, -(-(length - size) // max(1, round(size * (1 - OVERLAP)))))
    return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]
