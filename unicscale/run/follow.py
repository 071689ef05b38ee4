"""The end of a log, and what is appended to it."""

from __future__ import annotations

import codecs
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def follow(file: Path, lines: int, *, forever: bool, patience: float = 0.5) -> Iterator[str]:
    """The last lines of a file, then what is appended to it; survives the file's truncation and replacement."""
    stream = file.open("rb")
    try:
        yield from (line.decode(errors="replace") for line in deque(stream, maxlen=lines))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a letter may come in two halves
        while forever:
            if text := stream.readline():
                yield decoder.decode(text)
            elif _is_another(stream, file):
                stream.close()
                stream = file.open("rb")
            else:
                time.sleep(patience)
    finally:
        stream.close()


def _is_another(stream: BinaryIO, file: Path) -> bool:
    """Whether the name now stands for a file other than the open one, or for less of it than was read."""
    ours = os.fstat(stream.fileno())
    try:
        there = os.stat(file)
    except OSError:  # between a removal and the next launch
        return False
    return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) or there.st_size < stream.tell()
