"""Encoded bytes -> (H, W, 3) uint8, with one defined result for every kind of image people have."""

from __future__ import annotations

import io
import os
import stat
import warnings
from enum import IntEnum

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 1 << 27  # more is refused by the header, before 0.4 GB are decoded out of a few hundred kB
STRIP = (
    1 << 22
)  # pixels that are converted at a time: as floats, or in layers, a whole image would take many times more
# what is read at all: Pillow knows fifty more, among them PostScript, for which it starts another program
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
GREY = ("I;16", "I;16B", "I;16L", "I", "F")


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
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Undecodable(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
                return to_rgb(ImageOps.exif_transpose(image))
    except Undecodable:
        raise
    except Exception as problem:  # Pillow's plug-ins raise nearly everything on broken files
        raise Undecodable(_reason(problem)) from problem


def to_rgb(image: Image.Image) -> np.ndarray:
    """Any mode as (H, W, 3) uint8."""
    if image.mode == "RGB":
        return np.asarray(image)
    top = 255.0
    if image.mode in GREY:
        sixteen = image.mode.startswith("I;16") or float(image.getextrema()[1]) > 255  # type: ignore[arg-type]
        top = 65535.0 if sixteen else 255.0
    out = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP // image.width)
    for first in range(0, image.height, rows):
        strip = image.crop((0, first, image.width, min(first + rows, image.height)))
        out[first : first + rows] = np.asarray(_strip_to_rgb(strip, top))
    return out


def _strip_to_rgb(image: Image.Image, top: float) -> Image.Image:
    if image.mode in GREY:
        grey = np.asarray(image, dtype=np.float64)
        return Image.fromarray(np.rint(grey.clip(0, top) * (255.0 / top)).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB")
    return image.convert("RGB")


def _reason(problem: Exception) -> str:
    text = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    return "not an image" if "cannot identify image file" in text else text
