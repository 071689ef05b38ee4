"""Images to extract features of: a folder, a beton, tars, a list, or one picture."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import numpy as np

from unicscale.data.pack.gather import COMPRESSED, LISTS, gather
from unicscale.data.sets.arrays import SUFFIX
from unicscale.data.sets.decode import decode, read_bytes
from unicscale.data.sets.folder import SUFFIXES
from unicscale.data.sets.images import Images, open_images
from unicscale.errors import DataError
from unicscale.evaluate.sets.files import Files


def open_pictures(path: Path) -> Images:
    """Whatever it is."""
    if path.is_file() and path.suffix.lower() in {*SUFFIXES, SUFFIX}:
        return Files(path.parent, [path])
    shards = (
        path.is_dir() and any(path.glob("*.tar*")) and not any(p.suffix.lower() in SUFFIXES for p in path.iterdir())
    )
    if shards or not path.exists() or path.suffix.lower() in {".tar", *COMPRESSED, *LISTS}:
        return Pieces(str(path))
    return open_images(str(path))


class Pieces:
    """Images that lie in tars, one after the other, or in files of a list; their places are listed once, at open."""

    reader, channels = "pieces", 3

    def __init__(self, source: str) -> None:
        packed = [file for file in [source, *glob.glob(os.path.join(glob.escape(source), "*.tar*"))] if _packed(file)]
        if packed:
            raise DataError(
                f"{packed[0]}: a compressed tar has no places in it, only a beginning.\n"
                "  Unpack it first (gunzip, bunzip2, unxz), or `unicscale pack` it."
            )
        found = gather(source, "")
        self.path, self.stored, self.labels, self.classes = source, found.images, found.labels, found.classes
        self.containers = sorted({image.path for image in found.images})  # files on the disk

    def __len__(self) -> int:
        return len(self.stored)

    def name(self, index: int) -> str:
        """The tar and what it is called there, or the file."""
        one = self.stored[index]
        return one.path if one.size < 0 else one.name

    def image(self, index: int) -> np.ndarray:
        """The whole image, (H, W, 3) uint8; raises Undecodable."""
        one = self.stored[index]
        return decode(read_bytes(one.path, one.at, one.size))

    def scratch_bytes(self) -> int:
        """Unknown without opening every file."""
        return 0

    def close(self) -> None:
        """Nothing is held open."""


def _packed(file: str) -> bool:
    return os.path.isfile(file) and os.path.splitext(file)[1].lower() in COMPRESSED
