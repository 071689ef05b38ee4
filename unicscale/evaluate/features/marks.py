"""What features and results are kept under: hashes of weights, of images, of whatever else a number depends on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from unicscale.data.sets.images import Images
from unicscale.errors import DataError
from unicscale.evaluate.sets.pairs import Matches, Pairs

WHOLE = 256 * 2**20  # bytes of a set that are read whole; of a larger one, every file's size, time and first bytes
HEAD = 4096
AT_ONCE, THREADS = 512, 16  # a network's file system answers many questions as fast as one


def sha_of(module: nn.Module) -> str:
    """Of every weight and buffer, by name; and of whatever else decides what it says: normalisation, options."""
    digest = hashlib.sha256(meaning.encode() if (meaning := getattr(module, "meaning", "")) else b"")
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


def sha_of_images(images: Images) -> str:
    """Of names, contents and labels."""
    digest, root = hashlib.sha256(), str(images.path)
    names = [images.name(number) for number in range(len(images))]
    for name in names:
        digest.update(os.fsencode(name.removeprefix(root)) + b"\0")
    # a beton is one file, and its samples have no names of their own; tars hold many
    for mark in marks(getattr(images, "containers", None) or ([root] if os.path.isfile(root) else names)):
        digest.update(mark)
    digest.update(b"" if images.labels is None else np.asarray(images.labels, dtype=np.int64).tobytes())
    return digest.hexdigest()


def sha_of_pairs(pairs: Pairs | Matches) -> str:
    """Of names and contents, images and targets alike, and of what the targets mean."""
    digest = hashlib.sha256(repr(pairs.meaning).encode())
    files = [str(file) for pair in pairs for file in pair]
    for name, mark in zip(files, marks(files), strict=True):
        digest.update(os.fsencode(name.removeprefix(pairs.path)) + b"\0" + mark)
    return digest.hexdigest()


def marks(files: Sequence[str]) -> Iterator[bytes]:
    """One for each file: the hash of its contents in a small set; else of its size, time of change and first bytes."""
    pieces = [files[first : first + AT_ONCE] for first in range(0, len(files), AT_ONCE)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = [stat for piece in pool.map(_stats, pieces) for stat in piece]
        whole = sum(stat.st_size for stat in found) <= WHOLE
        for piece in pool.map(lambda piece: [_mark(name, whole) for name in piece], pieces):
            yield from piece


def _stats(files: Sequence[str]) -> list[os.stat_result]:
    try:
        return [os.stat(name) for name in files]
    except OSError as problem:
        raise DataError(f"{problem.filename}: {problem.strerror}.") from None


def _mark(name: str, whole: bool) -> bytes:
    try:
        with open(name, "rb") as file:
            if whole:
                return hashlib.file_digest(file, "sha256").digest()
            now = os.fstat(file.fileno())
            return hashlib.sha256(f"{now.st_size} {now.st_mtime_ns} ".encode() + file.read(HEAD)).digest()
    except OSError as problem:
        raise DataError(f"{name}: {problem.strerror}.") from None
