"""Images to extract features of: a folder, a beton, or one picture."""

from __future__ import annotations

from pathlib import Path

from unicscale.data.sets.folder import SUFFIXES
from unicscale.data.sets.images import Images, open_images
from unicscale.evaluate.sets.files import Files


def open_pictures(path: Path) -> Images:
    """Whatever it is."""
    return Files(path.parent, [path]) if path.is_file() and path.suffix.lower() in SUFFIXES else open_images(str(path))
