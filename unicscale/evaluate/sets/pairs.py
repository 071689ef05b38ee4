"""Images with a map each, a class for every pixel or a depth; and images of two with points that belong together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unicscale.data.sets.decode import FORMATS, MAX_PIXELS
from unicscale.errors import DataError

Pair = tuple[Path, Path]
Match = tuple[Path, Path, Path]
IGNORE = 255  # of a mask, once it is read
MOST_CLASSES = 255  # fewer than 8 bits can say
MILLIMETRE = 0.001


@dataclass(frozen=True, slots=True)
class Pairs:
    """A split of a dense set: (image, target) files, and what the targets mean."""

    path: str
    files: Sequence[Pair]
    read: Callable[[Path], np.ndarray]  # a target, (H, W)
    classes: int = 0  # of masks
    far: float = 0.0  # metres: the largest depth that counts
    meaning: Any = None  # whatever else decides what `read` gives

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.files)

    def __getitem__(self, number: int) -> Pair:
        return self.files[number]

    def thinned(self, limit: int | None) -> Pairs:
        """Every n-th pair where a limit asks for fewer."""
        return replace(self, files=every_nth(self.files, limit))


class Points(NamedTuple):
    """What is in both of two images, (x, y) in pixels; `reach`: the longer side of the object in the second."""

    source: np.ndarray  # (K, 2)
    target: np.ndarray  # (K, 2)
    reach: float
    category: str


@dataclass(frozen=True, slots=True)
class Matches:
    """A split of images of two: (source, target, points) files."""

    path: str
    files: Sequence[Match]
    read: Callable[[Path], Points]
    meaning: Any = None

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Match]:
        return iter(self.files)

    def thinned(self, limit: int | None) -> Matches:
        """Every n-th where a limit asks for fewer."""
        return replace(self, files=every_nth(self.files, limit))


def every_nth(files: Sequence[Any], limit: int | None) -> Sequence[Any]:
    """At most `limit` of them, evenly."""
    if limit is None or len(files) <= limit:
        return files
    return [files[i * len(files) // limit] for i in range(limit)]


def mask(path: Path, *, first: int = 0, ignore: int = IGNORE, values: Sequence[int] | None = None) -> np.ndarray:
    """Classes 0, 1, ...; `first` is how the file counts the first one, and what lies below it is ignored.

    `values` are how it says each of them, where that is no counting; every other number is ignored."""
    held = _values(path)
    if held.ndim != 2 or held.dtype.kind not in "bui":
        raise DataError(f"{path}: a mask holds one whole number per pixel, and this is {_shape(held)}")
    held = held.astype(np.int64)
    if values is not None:
        order = np.argsort(values)
        place = np.searchsorted(values, held, sorter=order).clip(max=len(values) - 1)
        known = np.asarray(values)[order][place] == held
        return np.where(known, order[place], IGNORE).astype(np.uint8)
    ignored = (held == ignore) | (held < first)
    held -= first
    if (strange := held[~ignored]).size and int(strange.max()) >= MOST_CLASSES:
        raise DataError(f"{path}: holds class {int(strange.max())}, but at most {MOST_CLASSES} classes are understood")
    return np.where(ignored, IGNORE, held).astype(np.uint8)


def metres(path: Path, *, unit: float | None = None) -> np.ndarray:
    """Depth, 0 where it is unknown; `unit` is how far 1 is, which for whole numbers of 16 bits is a millimetre."""
    values = _values(path)
    if values.ndim != 2:
        raise DataError(f"{path}: a depth map holds one number per pixel, and this is {_shape(values)}")
    if unit is None and (values.dtype.kind not in "ui" or values.dtype.itemsize < 2):
        raise DataError(
            f"{path}: numbers of {values.dtype}; only whole ones of 16 bits or more are taken for millimetres.\n"
            "  Where the set is your own, say in its set.yaml how many metres 1 is: unit: 1 for a map in metres."
        )
    scale = np.float32(MILLIMETRE if unit is None else unit)
    return np.nan_to_num(values.astype(np.float32) * scale, nan=0.0, posinf=0.0, neginf=0.0)


def _values(path: Path) -> np.ndarray:
    """What a file holds, whose header is looked at before a pixel is decoded."""
    if path.suffix == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as problem:
            raise DataError(f"{path}: not a readable map: {problem}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warning of large images: the size is checked here
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
                return np.asarray(image)
    except DataError:
        raise
    except Exception as problem:  # Pillow's plug-ins raise nearly everything on broken files
        raise DataError(f"{path}: not a readable map: {problem}") from None


def _shape(values: np.ndarray) -> str:
    return f"{' x '.join(map(str, values.shape))} of {values.dtype}"
