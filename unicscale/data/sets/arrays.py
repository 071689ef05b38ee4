"""A .npy file -> (H, W, C) uint8: images of any number of channels; the header is held against the bytes first."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np

from unicscale.data.sets.decode import MAX_PIXELS, Undecodable, decode, read_bytes
from unicscale.errors import DataError

SUFFIX = ".npy"
MAX_VALUES = 3 * MAX_PIXELS  # what the largest picture holds
TRIED = 16  # files of a set that are asked how many channels it has: the first may be damaged


def is_array(name: str) -> bool:
    """By its suffix."""
    return name.lower().endswith(SUFFIX)


def pixels(path: str) -> np.ndarray:
    """An array or a picture, (H, W, C) uint8; raises Undecodable."""
    data = read_bytes(path)
    return array(data) if is_array(path) else decode(data)


def array(data: bytes) -> np.ndarray:
    """(H, W, C) or (H, W) of uint8, as numpy wrote it; nothing of it is run, and no more is read than there is."""
    try:
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        if dtype != np.uint8:
            raise Undecodable(f"values of {dtype}; images are uint8")
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise Undecodable(f"an array of {shape}; images are (height, width, channels), or (height, width)")
        if shape[0] * shape[1] > MAX_PIXELS or math.prod(shape) > MAX_VALUES:
            raise Undecodable(f"an array of {shape}: more than {MAX_PIXELS:,} pixels, or {MAX_VALUES:,} values")
        if (held := len(data) - stream.tell()) != math.prod(shape):
            raise Undecodable(f"{held:,} values, where its header names {math.prod(shape):,}")
        found = np.load(io.BytesIO(data), allow_pickle=False)
    except Undecodable:
        raise
    except Exception as problem:  # a header is parsed as Python's literals, which may be wrong in any way
        raise Undecodable("not a .npy array") from problem
    return found if found.ndim == 3 else found[..., None]


def channels_of(names: Sequence[str]) -> int:
    """Of pictures three; of arrays what the first readable one has."""
    if not is_array(names[0]):
        return 3
    said = ""
    for name in names[:TRIED]:
        try:
            return pixels(name).shape[2]
        except Undecodable as problem:
            said = said or f"{name}: {problem}"
    raise DataError(f"{said}.\n  Nor can the arrays after it be read.")


def alike(found: np.ndarray, channels: int, name: str) -> np.ndarray:
    """The image, if it has as many channels as its set."""
    if found.shape[2] != channels:
        raise DataError(f"{name}: it has {found.shape[2]} channels; expected {channels}, as in the rest of its set.")
    return found
