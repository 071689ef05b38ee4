"""Images as files, in one folder per class or in a flat one; an image's number is its place in the sorted list."""

from __future__ import annotations

import os

import numpy as np

from unicscale.data.sets import arrays
from unicscale.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".jpe"}


class Folder:
    """A directory of images, listed once at open."""

    reader = "folder"

    @classmethod
    def refuses(cls, path: str, resize: str) -> str:
        """Files."""
        return "" if os.path.isdir(path) else "a file, which 'folder' does not read.\n  Say reader: auto."

    def __init__(self, path: str, max_resolution: int = 0) -> None:
        self.path = path
        self.files, self.classes, labels = listing(path)
        self.labels = labels
        self.channels = arrays.channels_of([self.name(n) for n in range(min(len(self), arrays.TRIED))])

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """The file behind a number, for messages."""
        return os.path.join(self.path, self.files[index])

    def image(self, index: int) -> np.ndarray:
        """The whole image, (H, W, C) uint8; raises Undecodable."""
        return arrays.alike(arrays.pixels(self.name(index)), self.channels, self.name(index))

    def scratch_bytes(self) -> int:
        """Unknown without opening every file."""
        return 0

    def close(self) -> None:
        """Nothing is held open."""


def listing(path: str) -> tuple[list[str], list[str], np.ndarray | None]:
    """Relative paths in sorted order, class names, and a label per file where the tree has classes.

    A tree has classes when every image lies below a first-level folder; files directly inside make it flat. Arrays
    are images where no pictures are: beside those they mean something else.
    """
    if not os.path.isdir(path):
        raise DataError(f"{path}: no such folder.")
    found: list[str] = []
    other: list[str] = []
    for folder, inner, files in os.walk(path, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in inner:
            refuse_loop(folder, name)
        below = os.path.relpath(folder, path)
        shown = [name if below == "." else f"{below}/{name}" for name in files if not name.startswith(".")]
        found += [name for name in shown if os.path.splitext(name)[1].lower() in SUFFIXES]
        other += [name for name in shown if arrays.is_array(name)]
    found = sorted(found or other)
    if not found:
        looked = ", ".join([*sorted(SUFFIXES), arrays.SUFFIX])
        raise DataError(f"{path}: no images below this folder (looked for {looked}).")
    classes, labels = by_first_folder(found)
    return found, classes, labels


def refuse_loop(folder: str, name: str) -> None:
    """A link to a folder around it would show the same images again and again, up to as deep as the system allows."""
    link = os.path.join(folder, name)
    if os.path.islink(link) and f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(link)}/"):
        raise DataError(f"{link}: this link leads to a folder that it lies in. Remove it, or point it elsewhere.")


def by_first_folder(names: list[str]) -> tuple[list[str], np.ndarray | None]:
    """Class names and labels from first-level folders; none where an image lies outside of any."""
    if any("/" not in name for name in names):
        return [], None
    classes = sorted({name.split("/", 1)[0] for name in names})
    number = {name: i for i, name in enumerate(classes)}
    return classes, np.array([number[name.split("/", 1)[0]] for name in names], dtype=np.int64)
