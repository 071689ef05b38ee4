"""One data set behind a path, whoever reads it."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Protocol, runtime_checkable

import numpy as np

from unicscale.data.sets.arrays import is_array
from unicscale.data.views.crops import Crop
from unicscale.errors import DataError
from unicscale.recipe.building import imported
from unicscale.recipe.sections.data import READERS


class Images(Protocol):
    """A numbered set of images; `image` may be called from several threads."""

    path: str
    reader: str  # the name of the reader, as in a recipe
    channels: int  # of every image
    labels: np.ndarray | None  # (n,) int64, where the set has them
    classes: list[str]  # their names, where the set has them

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """For messages: the file, or the beton and its sample."""
        ...

    def image(self, index: int) -> np.ndarray:
        """The whole image, (H, W, channels) uint8; raises Undecodable."""
        ...

    def scratch_bytes(self) -> int:
        """What one thread holds while it decodes the largest image, where that is known."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class Reader(Images, Protocol):
    """Images that lie at a path, made of it and of the largest side: what `data.reader` names."""

    @classmethod
    def refuses(cls, path: str, resize: str) -> str:
        """Why it does not read this path, or not this way, and the way out; empty where it does."""
        ...


@runtime_checkable
class CompiledImages(Images, Protocol):
    """Images that also fill a piece of a batch in one call, outside the interpreter."""

    def prepare(self, crop: Crop) -> None:
        """Whatever takes long before the first image, so that a stalled thread can be told from a compiling one."""
        ...

    def fill(self, index: np.ndarray, keys: np.ndarray, crop: Crop, out: np.ndarray, status: np.ndarray) -> np.ndarray:
        """Views of these samples into `out` (n, S, S, 3); a Status per image, and the boxes (n, 5) as a result."""
        ...


def open_images(
    path: str, reader: str = "auto", max_resolution: int = 0, resize: str = "auto", channels: int | None = None
) -> Images:
    """Open a folder or a beton; `auto` takes the first reader that this machine and these wishes allow.

    `channels`: what data.channels says; None takes them as they are.
    """
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file or folder.")
    refusal = ""
    for name in READERS if reader == "auto" else [reader]:
        refusal = unfit(name, path, resize)
        if not refusal:
            return _of(imported(READERS[name])(path, max_resolution), channels)
    raise DataError(f"{path}: {refusal}")


def _of(images: Images, channels: int | None) -> Images:
    """The set, if its images have these."""
    if channels is None or images.channels == channels:
        return images
    if is_array(images.name(0)):
        way = f"Say data.channels: {{mean: [...], std: [...]}}, {images.channels} numbers each, or mend the data."
    else:
        way = "Pictures and betons have three. Others are .npy arrays in folders, (height, width, channels) of uint8."
    raise DataError(
        f"{images.name(0)}: {images.channels} channels; expected {channels}, as data.channels says.\n  {way}"
    )


def unfit(reader: str, path: str, resize: str) -> str:
    """Why this reader does not serve, and the way out; empty where it does."""
    if missing(reader):
        return f"reader '{reader}' cannot run here: {missing(reader)}.\n  Say reader: beton."
    return imported(READERS[reader]).refuses(path, resize)


@functools.cache
def missing(reader: str) -> str:
    """Why a reader cannot be used here; empty where it can."""
    try:
        imported(READERS[reader])
    except Exception as problem:  # a missing shared library, a numba without this numpy
        return f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
    return ""


def ffcv_missing() -> str:
    """The same of FFCV, which also packs."""
    return "it is not installed" if importlib.util.find_spec("ffcv") is None else missing("ffcv")
