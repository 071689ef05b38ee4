"""Some images of a set: fewer of each class, not fewer classes."""

from __future__ import annotations

import numpy as np

from unicscale.data.sets.images import Images


class Some:
    """Some images of a set, under new numbers."""

    def __init__(self, images: Images, rows: np.ndarray) -> None:
        self.images, self.rows = images, rows
        self.path, self.reader, self.classes = images.path, images.reader, images.classes
        self.channels = images.channels
        self.labels = None if images.labels is None else np.asarray(images.labels)[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """As in the whole set."""
        return self.images.name(int(self.rows[index]))

    def image(self, index: int) -> np.ndarray:
        """As in the whole set."""
        return self.images.image(int(self.rows[index]))

    def scratch_bytes(self) -> int:
        """As for the whole set."""
        return self.images.scratch_bytes()

    def close(self) -> None:
        """Let go of the whole set."""
        self.images.close()


def thin(images: Images, limit: int | None, seed: int) -> Images:
    """At most `limit` images, spread evenly over the classes, or over the list where there are none."""
    if limit is None or len(images) <= limit:
        return images
    if images.labels is None:
        return Some(images, np.arange(limit) * len(images) // limit)
    return Some(images, evenly(np.asarray(images.labels), limit, seed))


def evenly(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """`limit` rows, as many of each class as of any other where there are enough; sorted."""
    generator = np.random.Generator(np.random.Philox(seed))
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[by_class]
    starts = np.r_[0, np.flatnonzero(np.diff(sorted_labels)) + 1]
    place = np.arange(len(labels)) - np.repeat(starts, np.diff(np.r_[starts, len(labels)]))
    return np.sort(by_class[np.argsort(place, kind="stable")[:limit]])
