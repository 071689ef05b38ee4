"""A list of image files as a set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unicscale.data.sets import arrays
from unicscale.errors import DataError


class Files:
    """Image files, wherever they lie, and their labels."""

    reader = "folder"

    def __init__(
        self, path: Path, files: Sequence[Path | str], labels: Any = None, classes: Sequence[str] = ()
    ) -> None:
        self.path = str(path)
        self.files = [str(file) for file in files]
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.classes = list(classes)
        if not self.files:
            raise DataError(f"{path}: no images are listed")
        self.channels = arrays.channels_of(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """The file behind a number."""
        return self.files[index]

    def image(self, index: int) -> np.ndarray:
        """The whole image, (H, W, C) uint8; raises Undecodable."""
        return arrays.alike(arrays.pixels(self.files[index]), self.channels, self.files[index])

    def scratch_bytes(self) -> int:
        """Unknown without opening every file."""
        return 0

    def close(self) -> None:
        """Nothing is held open."""
