"""FFCV's decoder and resizer, driven by our own threads: the whole of a piece of a batch in one compiled call.

FFCV's Loader is not used: its order and crops depend on threads and world size, its buffers are made anew every epoch,
it decodes garbage silently, and it compiles for tens of seconds at every start. Its C library has none of these
troubles. The library's functions are reached by name, not by address, so that numba may keep what it compiled.
"""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
import threading
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import njit, types

from unicscale import rng
from unicscale.data.sets.beton import JPEG, RAW, Beton, other_size
from unicscale.data.sets.decode import Status, Undecodable
from unicscale.data.sets.trailer import STRIDE
from unicscale.data.views.crops import DRAWS, Crop, RandomCrop, random_box

# numba takes plain integers into its cache, not the enumeration
DONE, BUSY, SHORT, UNDECODABLE = map(int, (Status.DONE, Status.BUSY, Status.SHORT, Status.UNDECODABLE))


def _library() -> ctypes.CDLL:
    """FFCV's shared library alone: importing the package would also import OpenCV's Python side, and take seconds."""
    spec = importlib.util.find_spec("ffcv")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [file for folder in folders for file in glob.glob(os.path.join(folder, "_libffcv*.so"))]
    if not found:
        raise ImportError("FFCV is not installed")
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")  # read when OpenCV loads: our threads are the parallelism
    return ctypes.CDLL(found[0])


lib = _library()
p, n32, flag = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_bool
lib.imdecode.argtypes = [p, ctypes.c_uint64, n32, n32, p, *[n32] * 6, flag, flag]
llvm.add_symbol("unicscale_imdecode", ctypes.cast(lib.imdecode, p).value)
llvm.add_symbol("unicscale_resize", ctypes.cast(lib.resize, p).value)
u32, u64, i64 = types.uint32, types.uint64, types.int64
# the two C bools at the end travel as 32-bit integers: registers and stack slots are then wholly defined
_imdecode = types.ExternalFunction("unicscale_imdecode", types.int32(u64, u64, u32, u32, u64, *[u32] * 8))
_resize = types.ExternalFunction("unicscale_resize", types.void(*[i64] * 11))
_pread = types.ExternalFunction("pread", i64(types.int32, u64, u64, i64))

_mix: Any = njit(cache=True, nogil=True)(rng._mix_numpy)
_random_box: Any = njit(cache=True, nogil=True)(random_box)
GOLDEN = rng.GOLDEN


@njit(cache=True, nogil=True)
def uniform(key: Any, draw: int) -> float:
    """`rng.uniform_numpy` for one key."""
    bits = _mix(np.uint64(key) + np.uint64(draw + 1) * np.uint64(GOLDEN))
    return np.float64(bits >> np.uint64(11)) * (1.0 / (1 << 53))


@njit(cache=True, nogil=True)
def checksum(data: Any, size: int) -> Any:
    """`trailer.checksum` of the first bytes of a buffer whose length is a multiple of four."""
    words, total = data.view(np.uint32), np.uint64(0)
    for i in range(size // 4):
        total += np.uint64(words[i]) * np.uint64(np.uint32(np.uint32(i) * np.uint32(STRIDE)) + np.uint32(1))
    last = np.uint64(0)
    for place in range(size // 4 * 4, size):
        last |= np.uint64(data[place]) << np.uint64(8 * (place % 4))
    return total + last * np.uint64(np.uint32(np.uint32(size // 4) * np.uint32(STRIDE)) + np.uint32(1))


@njit(cache=True, nogil=True)
def said_by(data: Any, size: int) -> Any:
    """Height and width that a JPEG says it has, (0, 0) where it does not: the decoder would scale it to any others."""
    at = 2
    while at + 9 <= size and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC:  # a start of frame
            return int(data[at + 5]) * 256 + int(data[at + 6]), int(data[at + 7]) * 256 + int(data[at + 8])
        if marker == 0xFF:  # a byte that only fills
            at += 1
        else:
            at += 2 + int(data[at + 2]) * 256 + int(data[at + 3])
    return 0, 0


def decoded(data: np.ndarray, height: int, width: int) -> np.ndarray | None:
    """The (H, W, 3) pixels of a JPEG of these sides; None where the decoder has as much as a warning."""
    if tuple(map(int, said_by(data, data.size))) != (height, width):
        return None
    out = np.empty((height, width, 3), np.uint8)
    sides = (height, width)
    status = lib.imdecode(data.ctypes.data, data.size, *sides, out.ctypes.data, *sides, 0, 0, 1, 1, False, False)
    return None if status else out


class FFCV(Beton):
    """A beton whose pieces are filled without the interpreter."""

    reader, channels = "ffcv", 3

    @classmethod
    def refuses(cls, path: str, resize: str) -> str:
        """Folders, and every filter but one."""
        slow = "FFCV resizes by area only.\n  Say resize: area, or reader: beton, which is slower but can both."
        return super().refuses(path, resize) or (slow if resize == "bicubic" else "")

    def __init__(self, path: str, max_resolution: int = 0) -> None:
        super().__init__(path, max_resolution)
        self._own = threading.local()  # one thread's buffers

    def image(self, index: int) -> np.ndarray:
        """The whole image, (H, W, 3) uint8; raises Undecodable."""
        data = self.encoded(index)
        height, width = int(self.heights[index]), int(self.widths[index])
        if self.modes[index] == RAW:
            return data.reshape(height, width, 3)
        found = tuple(map(int, said_by(data, data.size)))
        if found not in ((0, 0), (height, width)):
            raise Undecodable(other_size(found, (height, width)))
        out = decoded(data, height, width)
        if out is None:
            raise Undecodable("corrupt JPEG")
        return out

    def prepare(self, crop: Crop) -> None:
        """Compile, or read what an earlier run compiled: half a minute on a busy machine, and no thread is at fault."""
        none = np.empty(0, np.int64)
        self.fill(none, none.view(np.uint64), crop, np.empty((0, 1, 1, 3), np.uint8), none)

    def fill(self, index: np.ndarray, keys: np.ndarray, crop: Crop, out: np.ndarray, status: np.ndarray) -> np.ndarray:
        """Decode, cut and resize into `out` (n, S, S, 3); returns the boxes (n, 5) and leaves a status per image."""
        packed, pixels = self._scratch()
        boxes = np.zeros((len(index), 5), np.int64)
        if not isinstance(crop, RandomCrop):
            raise TypeError(f"no compiled form of {type(crop).__name__}")
        stored = (self.at[index], self.sizes[index], self.modes[index], self.heights[index], self.widths[index])
        sums = self.trailer.sums[index] if self.trailer else np.empty(0, np.uint64)
        _fill(self.file, stored, sums, keys, crop.scale, crop.ratio, crop.flip, packed, pixels, out, boxes, status)
        if (status == SHORT).any():
            raise self.changed()
        return boxes

    def _scratch(self) -> tuple[np.ndarray, np.ndarray]:
        if not hasattr(self._own, "buffers"):
            sizes = int(self.sizes.max(initial=1)), int((self.heights * self.widths).max(initial=1)) * 3
            packed, pixels = (np.empty(-(-size // 4) * 4, np.uint8) for size in sizes)  # whole words, for checksums
            self._own.buffers = packed, pixels
        return self._own.buffers


@njit(cache=True, nogil=True)
def _fill(
    file: int,
    stored: tuple[np.ndarray, ...],
    sums: np.ndarray,  # empty where the file has none
    keys: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: float,
    packed: np.ndarray,
    pixels: np.ndarray,
    out: np.ndarray,
    boxes: np.ndarray,
    status: np.ndarray,
) -> None:
    at, sizes, modes, heights, widths = stored
    draws: Any = np.empty(DRAWS)
    side = out.shape[1]
    for k in range(len(keys)):
        status[k] = BUSY
        h, w = heights[k], widths[k]
        source = pixels if modes[k] == RAW else packed
        if _pread(file, source.ctypes.data, sizes[k], at[k]) != sizes[k]:
            status[k] = SHORT
            return
        if len(sums) and checksum(source, sizes[k]) != sums[k]:
            status[k] = UNDECODABLE
            continue
        if modes[k] == JPEG and (
            said_by(packed, sizes[k]) != (h, w)
            or _imdecode(packed.ctypes.data, sizes[k], h, w, pixels.ctypes.data, h, w, 0, 0, 1, 1, 0, 0)
        ):
            status[k] = UNDECODABLE
            continue
        for d in range(DRAWS):
            draws[d] = uniform(keys[k], d)
        box = _random_box(draws, h, w, scale, ratio, flip)
        top, left, high, wide, mirrored = box
        boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3], boxes[k, 4] = top, left, high, wide, mirrored
        _resize(0, pixels.ctypes.data, h, w, top, top + high, left, left + wide, out[k].ctypes.data, side, side)
        if mirrored:
            _mirror(out[k])
        status[k] = DONE


@njit(cache=True, nogil=True)
def _mirror(image: np.ndarray) -> None:
    for row in range(image.shape[0]):
        left, right = 0, image.shape[1] - 1
        while left < right:
            for c in range(3):
                image[row, left, c], image[row, right, c] = image[row, right, c], image[row, left, c]
            left, right = left + 1, right - 1
