"""What `unicscale pack` leaves between the images and the allocation table: a checksum and the source's name of each.

FFCV follows pointers only, so its readers never look there; and a checksum inside the file cannot be left behind when
the file is copied. Layout: checksums | where each name ends | names | what a reader needs to find these three.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unicscale.errors import DataError

END = np.dtype([("samples", "<u8"), ("names", "<u8"), ("sum", "<u8"), ("mark", "S8")])
MARK = b"unicsum1"
STRIDE = 0x3C6EF362  # even, half of it odd: the first 2**31 weights are odd and all different


def checksum(data: np.ndarray) -> int:
    """The 64-bit sum of all 32-bit words, each times a weight of its place; the last word is filled up with zeros.

    The products are exact, so any single damaged word changes the sum, and random damage goes unseen once in 2**32 at
    worst. CRC-32 says no more and takes eight times as long, which raw pixels would feel; the compiled form of these
    lines is in data/ffcv.py.
    """
    words = np.zeros(-(-data.size // 4), np.uint32)
    words.view(np.uint8)[: data.size] = data
    weights = np.arange(len(words), dtype=np.uint32) * np.uint32(STRIDE) + np.uint32(1)
    return int((words.astype(np.uint64) * weights).sum())


def trailer(sums: np.ndarray, names: Sequence[str]) -> bytes:
    """The bytes that stand before the allocation table."""
    encoded = [name.encode(errors="surrogateescape") for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype="<u8")
    body = sums.astype("<u8").tobytes() + ends.tobytes()
    end = np.array([(len(sums), sum(map(len, encoded)), _sum(body), MARK)], END)
    return b"".join([body, *encoded, end.tobytes()])


class Trailer(NamedTuple):
    """A beton's own; names are read when somebody asks for one."""

    sums: np.ndarray  # (n,) uint64
    ends: np.ndarray  # (n,) uint64, in the text of all names
    names_at: int

    def name(self, file: int, index: int) -> str:
        """The image's name in the source that was packed."""
        first = int(self.ends[index - 1]) if index else 0
        text = os.pread(file, int(self.ends[index]) - first, self.names_at + first)
        return text.decode(errors="surrogateescape")


def read_trailer(file: int, table: int, samples: int, path: str) -> Trailer | None:
    """What stands before the allocation table; None where another program wrote the file."""
    end = np.frombuffer(os.pread(file, END.itemsize, max(0, table - END.itemsize)), END)
    if len(end) == 0 or end["mark"][0] != MARK:
        return None
    names, count = int(end["names"][0]), int(end["samples"][0])
    start = table - END.itemsize - names - 16 * count
    body = os.pread(file, 16 * count, start) if start > 0 and count == samples else b""
    if len(body) != 16 * count or _sum(body) != int(end["sum"][0]):
        raise DataError(f"{path}: not a whole .beton file: its checksums are damaged.\n  Copy or pack it again.")
    sums, ends = np.frombuffer(body, "<u8").reshape(2, count)
    return Trailer(sums, ends, start + 16 * count)


def _sum(body: bytes) -> int:
    return checksum(np.frombuffer(body, np.uint8))
