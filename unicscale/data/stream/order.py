"""Which sample stands where in the endless stream of images: a pure function of (seed, position).

An epoch is one keyed permutation of a weighted multiset of samples, cut into global batches; a rank takes its columns
of each. Nothing here counts, so to resume is to ask for another position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unicscale import rng
from unicscale.errors import DataError
from unicscale.rng import Purpose

# One int64 names a sample: its number, its data set, and which repetition within an epoch it is (a data set of weight 2
# shows every image twice per epoch, and the two must not share their crops; 8 bits are left, so 256 is the largest).
INDEX_BITS, DOMAIN_BITS = 40, 16


class Samples(NamedTuple):
    """Some consecutive samples of one epoch."""

    epoch: int
    packed: np.ndarray  # (n,) int64

    @property
    def index(self) -> np.ndarray:
        """The samples' numbers within their data sets."""
        return self.packed & ((1 << INDEX_BITS) - 1)

    @property
    def domain(self) -> np.ndarray:
        """Which data set each comes from."""
        return (self.packed >> INDEX_BITS) & ((1 << DOMAIN_BITS) - 1)

    def keys(self, seed: int, purpose: Purpose) -> np.ndarray:
        """One key per sample for its draws in this epoch."""
        return rng.keys_numpy(rng.key(seed, purpose, self.epoch), self.packed)

    def part(self, start: int, stop: int) -> Samples:
        """A range of these."""
        return Samples(self.epoch, self.packed[start:stop])


class Order:
    """Cuts the stream into global batches of `images_per_step`; the tail of an epoch is dropped."""

    def __init__(
        self,
        seed: int,
        counts: Sequence[int],
        weights: Sequence[float],
        images_per_step: int,
    ) -> None:
        self.seed, self.images_per_step = seed, images_per_step
        self.counts, self.weights = list(counts), list(weights)
        entries = sum(_shown(n, w) for n, w in zip(self.counts, self.weights, strict=True))
        self.images_per_epoch = entries // images_per_step * images_per_step
        if self.images_per_epoch == 0:
            raise DataError(
                f"an epoch has {entries} images, fewer than one step takes ({images_per_step}).\n"
                "  Lower data.images_per_step, add images, or give the data set a larger weight."
            )
        self._kept: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def global_batch(self, position: int) -> Samples:
        """The samples of the step that begins after `position` images."""
        if position % self.images_per_step:
            raise DataError(
                f"the run stands at image {position}, which is no multiple of data.images_per_step "
                f"({self.images_per_step}).\n  Continue with the images_per_step the run was started with."
            )
        epoch, offset = divmod(position, self.images_per_epoch)
        if self._kept[0] != epoch:
            self._kept = (epoch, self.epoch(epoch))
        return Samples(epoch, self._kept[1][offset : offset + self.images_per_step])

    def epoch(self, number: int) -> np.ndarray:
        """All samples of an epoch, packed, in their order."""
        entries = np.concatenate([self._entries(number, domain) for domain in range(len(self.counts))])
        shuffled = _permutation(rng.key(self.seed, Purpose.ORDER, number), len(entries))
        return entries[shuffled][: self.images_per_epoch]

    def _entries(self, epoch: int, domain: int) -> np.ndarray:
        """What one data set brings to an epoch: whole repetitions, and a fresh keyed subset for the fraction."""
        count = self.counts[domain]
        shown = _shown(count, self.weights[domain])
        copies, rest = divmod(shown, count)
        place = np.arange(shown, dtype=np.int64)
        index = place % count
        if rest:
            subset = _permutation(rng.key(self.seed, Purpose.MIXTURE, epoch, domain), count)[:rest]
            index[copies * count :] = np.sort(subset)
        return index | (domain << INDEX_BITS) | ((place // count) << (INDEX_BITS + DOMAIN_BITS))


def _shown(count: int, weight: float) -> int:
    return max(1, round(count * weight)) if count else 0


def _permutation(base: int, count: int) -> np.ndarray:
    # Sorting keys, not numpy's Generator: its streams may change between numpy versions, this order may not.
    return np.argsort(rng.keys_numpy(base, np.arange(count, dtype=np.int64)), kind="stable")
