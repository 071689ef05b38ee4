"""One data set behind a path, whoever reads it."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Protocol, runtime_checkable

import numpy as np

from unicscale.data.sets.beton import Beton
from unicscale.data.sets.folder import Folder
from unicscale.data.views.crops import Crop
from unicscale.errors import DataError


class Images(Protocol):
    """A numbered set of images; `image` may be called from several threads."""

    path: str
    reader: str  # the name of the reader, as in a recipe
    labels: np.ndarray | None  # (n,) int64, where the set has them
    classes: list[str]  # their names, where the set has them

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """For messages: the file, or the beton and its sample."""
        ...

    def image(self, index: int) -> np.ndarray:
        """The whole image, (H, W, 3) uint8; raises Undecodable."""
        ...

    def scratch_bytes(self) -> int:
        """What one thread holds while it decodes the largest image, where that is known."""
        ...

    def close(self) -> None:
        """Let go of the file."""
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


def open_images(path: str, reader: str = "auto", max_resolution: int = 0, resize: str = "auto") -> Images:
    """Open a folder or a beton; `auto` takes the fastest reader that this machine and these wishes allow."""
    if os.path.isdir(path):
        if reader not in ("auto", "folder"):
            raise DataError(f"{path}: a folder, which '{reader}' does not read.\n  Pack it, or say reader: folder.")
        return Folder(path)
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file or folder.")
    if reader == "folder":
        raise DataError(f"{path}: a file, which 'folder' does not read.\n  Say reader: auto.")
    if reader == "ffcv" and resize == "bicubic":
        raise DataError(
            f"{path}: FFCV resizes by area only.\n  Say resize: area, or reader: beton, which is slower but can both."
        )
    if reader == "ffcv" and ffcv_missing():
        raise DataError(f"{path}: reader 'ffcv' cannot run here: {ffcv_missing()}.\n  Say reader: beton.")
    if reader == "ffcv" or (reader == "auto" and resize != "bicubic" and not ffcv_missing()):
        from unicscale.data.sets.ffcv import FFCV

        return FFCV(path, max_resolution)
    return Beton(path, max_resolution)


@functools.cache
def ffcv_missing() -> str:
    """Why FFCV cannot be used here; empty where it can."""
    if importlib.util.find_spec("ffcv") is None:
        return "it is not installed"
    try:
        import unicscale.data.sets.ffcv  # noqa: F401
    except Exception as problem:  # a missing shared library, a numba without this numpy
        return f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
    return ""
