"""Decode, cut and resize the samples of a piece of a batch into its memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unicscale import rng
from unicscale.data.sets.decode import Status, Undecodable
from unicscale.data.sets.images import CompiledImages, Images
from unicscale.data.stream.damage import Bad
from unicscale.data.stream.order import Samples
from unicscale.data.views.crops import DRAWS, Crop
from unicscale.data.views.resize import Filter, view
from unicscale.errors import DataError
from unicscale.rng import Purpose

NEIGHBOURS = 16  # an undecodable image is replaced by the next decodable one, not further than this


class Filler:
    """What the pieces of all batches have in common."""

    def __init__(self, sets: list[Images], crop: Crop, how: Filter, doing: Callable[[Callable[[], str]], None]) -> None:
        self.sets, self.crop, self.doing = sets, crop, doing
        self.how: Filter = how

    def fill(self, samples: Samples, seed: int, out: np.ndarray, bad: Bad) -> None:
        """Pixels of these samples into `out` (n, S, S, C); images that had to be replaced are noted in `bad`."""
        keys = samples.keys(seed, Purpose.CROP)
        index, domain = samples.index, samples.domain
        left = []  # places that the compiled readers leave to the interpreter
        for number in np.unique(domain):
            images, places = self.sets[number], np.flatnonzero(domain == number)
            if isinstance(images, CompiledImages):
                places = places[self._compiled(images, index[places], keys[places], places, out) != Status.DONE]
            left += places.tolist()
        draws = rng.uniforms_numpy(keys[left], DRAWS)
        for place, row in zip(left, draws.tolist(), strict=True):
            self._one(int(domain[place]), int(index[place]), row, out[place], bad)

    def _compiled(
        self, images: CompiledImages, index: np.ndarray, keys: np.ndarray, places: np.ndarray, out: np.ndarray
    ) -> np.ndarray:
        status = np.full(len(index), Status.WAITING, np.int64)

        def at() -> str:
            busy = np.flatnonzero(status == Status.BUSY)
            return place_of(images, int(index[busy[0] if len(busy) else 0]))

        self.doing(at)
        whole = len(places) == len(out)
        target = out if whole else np.empty((len(places), *out.shape[1:]), np.uint8)
        try:
            images.fill(index, keys, self.crop, target, status)
        except DataError:
            raise
        except Exception as problem:
            raise DataError(f"{at()}: {type(problem).__name__}: {problem}") from problem
        if not whole:
            out[places] = target
        return status

    def _one(self, domain: int, index: int, draws: list[float], out: np.ndarray, bad: Bad) -> None:
        images = self.sets[domain]
        for step in range(NEIGHBOURS):
            at = (index + step) % len(images)
            self.doing(lambda at=at: place_of(images, at))
            try:
                image = images.image(at)
            except Undecodable as problem:
                bad[domain, at] = f"{place_of(images, at)}: {problem}"
                continue
            except DataError:
                raise
            except Exception as problem:
                raise DataError(f"{place_of(images, at)}: {type(problem).__name__}: {problem}") from problem
            box = self.crop.box(draws, image.shape[0], image.shape[1])
            out[...] = view(image, box, out.shape[0], self.how)
            return
        raise DataError(f"{place_of(images, index)} and the {NEIGHBOURS - 1} after it cannot be decoded.")


def place_of(images: Images, index: int) -> str:
    """For messages: an image's number and where it lies."""
    return f"image {index} ({images.name(index)})"
