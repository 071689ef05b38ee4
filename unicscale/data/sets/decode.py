"""Encoded bytes -> (H, W, 3) uint8, with one defined result for every kind of image people have."""

from __future__ import annotations

import io
import os
import stat
import warnings
from enum import IntEnum

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 500_000_000  # more is refused rather than decoded: 1.5 GB for one image


class Status(IntEnum):
    """How far a compiled reader is with an image."""

    DONE = 0
    WAITING = 1
    BUSY = 2
    SHORT = 3  # the file ended before the image did
    UNDECODABLE = 4


class Undecodable(Exception):
    """This image has no pixels; the text says why."""


def read_bytes(path: str, at: int = 0, size: int = -1) -> bytes:
    """A file or a stretch of it; anything but a regular file is refused, because a pipe would wait for ever."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Undecodable("not a regular file")
        with open(path, "rb") as stream:
            stream.seek(at)
            return stream.read(size)
    except OSError as problem:
        raise Undecodable(problem.strerror or str(problem)) from problem


def decode(data: bytes) -> np.ndarray:
    """RGB pixels: greyscale is repeated, alpha laid on white, CMYK converted, 16 bits scaled, EXIF rotation applied."""
    if not data:
        raise Undecodable("zero bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings of size and metadata: the size is checked here
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Undecodable(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
                return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except Undecodable:
        raise
    except Exception as problem:  # Pillow's plug-ins raise nearly everything on broken files
        raise Undecodable(_reason(problem)) from problem


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB."""
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        grey = np.asarray(image, dtype=np.float64)
        top = 65535.0 if grey.max(initial=0) > 255 or image.mode.startswith("I;16") else 255.0
        return Image.fromarray(np.rint(grey.clip(0, top) * (255.0 / top)).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB")
    return image.convert("RGB")


def _reason(problem: Exception) -> str:
    text = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    return "not an image" if "cannot identify image file" in text else text
