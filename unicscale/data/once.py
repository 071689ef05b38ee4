"""A data set once, in order, as it is: what evaluation reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unicscale.data.device import numbers, planes, square_pixels
from unicscale.data.sets.decode import Undecodable
from unicscale.data.sets.images import Images, open_images
from unicscale.data.stream.fill import place_of
from unicscale.data.stream.workers import Workers, cores
from unicscale.errors import DataError

CROP_SHARE = 224 / 256
LONGEST = 32  # sides of the crop: of a longer image only what the crop shows is resized


def open_eval(
    path: str,
    *,
    size: int,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    batch: int = 128,
    reader: str = "auto",
    crop: bool = True,
    limit: int | None = None,
) -> Once:
    """This rank's contiguous part of a folder or beton, each image once: (images uint8, labels, index) per batch.

    The shorter side is resized to size * 256 / 224 (bicubic, antialiased) and the centre cut out; without `crop` the
    whole image is resized to the square. Labels are -1 where the set has none.
    """
    images = open_images(path, reader)
    count = len(images) if limit is None else min(limit, len(images))
    return Once(
        images, range(rank * count // world, (rank + 1) * count // world), size, batch, torch.device(device), crop
    )


class Once:
    """Iterable any number of times; `labels` and `classes` are those of the whole set."""

    def __init__(self, images: Images, part: range, size: int, batch: int, device: torch.device, crop: bool) -> None:
        self.images, self.part, self.size, self.batch, self.device, self.crop = images, part, size, batch, device, crop
        self.labels, self.classes = images.labels, images.classes
        self.total = len(images)  # over all ranks; len() counts this rank's batches

    def __len__(self) -> int:
        return -(-len(self.part) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        workers, ahead = Workers(cores()), 3
        pending: deque = deque()
        todo = (self.part[i : i + self.batch] for i in range(0, len(self.part), self.batch))
        try:
            while True:
                while len(pending) <= ahead and (index := next(todo, None)) is not None:
                    pending.append(self._submit(workers, index))
                if not pending:
                    return
                index, pixels, futures = pending.popleft()
                workers.wait(futures)
                at = np.asarray(index, dtype=np.int64)
                labels = np.full(len(at), -1, np.int64) if self.labels is None else self.labels[at]
                yield planes(pixels, self.device), numbers(labels, self.device), numbers(at, self.device)
        finally:
            workers.close()

    def _submit(self, workers: Workers, index: range) -> tuple[range, Tensor, list]:
        pixels = square_pixels(len(index), self.size, self.device, self.images.channels)
        out = pixels.numpy()

        def fill(place: int) -> None:
            at = index[place]
            workers.doing(lambda: place_of(self.images, at))
            try:
                out[place] = whole(self.images.image(at), self.size, self.crop)
            except Undecodable as problem:
                raise DataError(
                    f"{place_of(self.images, at)}: {problem}\n  Evaluation replaces no image: mend or remove it."
                ) from problem

        return index, pixels, [workers.submit(lambda place=place: fill(place)) for place in range(len(index))]


def whole(image: np.ndarray, size: int, crop: bool) -> np.ndarray:
    """torchvision's Resize(size * 256 / 224) and CenterCrop(size) of a (H, W, C) image, or a resize to the square."""
    if image.ndim == 3 and image.shape[2] != 3:  # Pillow takes four for colours behind an alpha, and five for none
        return np.stack([whole(band, size, crop) for band in np.moveaxis(image, 2, 0)], axis=2)
    picture = Image.fromarray(image)
    if not crop:
        return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
    short = round(size / CROP_SHARE)
    width, height = picture.size
    if width <= height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    left, top = round((width - size) / 2), round((height - size) / 2)
    if max(width, height) > LONGEST * size:  # a strip: resized whole, one row of 60,000 pixels would fill gigabytes
        across, down = picture.width / width, picture.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box))
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))
