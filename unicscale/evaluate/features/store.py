"""Features on disk: one safetensors file that all ranks fill row by row, so that memory holds one batch."""

from __future__ import annotations

import glob
import itertools
import json
import os
import platform
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from unicscale.errors import DataError

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.uint8: "U8"}
NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64, torch.uint8: np.uint8}
COUNT = itertools.count()  # of this process's temporary files
Plan = dict[str, tuple[tuple[int, ...], torch.dtype]]  # name -> whole shape, type


def create(path: Path, plan: Plan, metadata: dict[str, str]) -> None:
    """A safetensors file of the final size, holding nothing yet."""
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, (shape, dtype) in plan.items():
        start, end = end, end + int(np.prod(shape)) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins on a multiple of eight
    size = 8 + len(text) + end
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.flush()
            reserve(file.fileno(), size)
    except OSError as problem:
        path.unlink(missing_ok=True)
        raise DataError(
            f"{path.parent}: {size / 2**30:.3g} GiB of features cannot be written: {problem.strerror}.\n"
            "  Make room, or name another folder with --cache or --out."
        ) from None


def reserve(descriptor: int, size: int) -> None:
    """Blocks for the whole file: a disk that is full says so now, and not by a signal in the middle of a map."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def temporary(path: Path) -> Path:
    """A name of this process's own beside the file; what a process of this host left there when it was killed goes."""
    ours = f".{path.name}.{platform.node()}-"
    for left in path.parent.glob(f"{glob.escape(ours)}*.tmp"):
        pid = left.name.removeprefix(ours).partition("-")[0]
        if pid.isdecimal() and not _lives(int(pid)):
            left.unlink(missing_ok=True)
    return path.with_name(f"{ours}{os.getpid()}-{next(COUNT)}.tmp")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


class Filling:
    """Write access to the rows of a file made by `create`; nothing of it stays in this process."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self._file = os.open(path, os.O_RDWR)
        with open(path, "rb") as file:
            self._at = {name: at for name, (_, _, at, _) in contents(file).items()}
        self._plan = plan

    def put(self, first: int, rows: dict[str, Tensor]) -> None:
        """Rows `first`, `first` + 1, ... of every tensor."""
        for name, values in rows.items():
            shape, dtype = self._plan[name]
            if (values.shape[1:], values.dtype) != (shape[1:], dtype):
                raise DataError(
                    f"'{name}' has changed its shape on the way: {tuple(values.shape[1:])} after {shape[1:]}."
                )
            array = values.cpu().contiguous().numpy()
            _write_at(
                self._file,
                memoryview(array.data).cast("B") if array.nbytes else b"",
                self._at[name] + first * _row(shape, dtype),
            )

    def sync(self) -> None:
        """All bytes are on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """All bytes are with the system."""
        os.close(self._file)


def _row(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return int(np.prod(shape[1:])) * dtype.itemsize


def _write_at(descriptor: int, data: memoryview | bytes, at: int) -> None:
    while len(data):
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written


def contents(file: BinaryIO) -> dict[str, tuple[type, tuple[int, ...], int, int]]:
    """Of a safetensors file: name -> numpy's type, shape, where its bytes begin, how many there are."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    types = {NAMES[dtype]: kind for dtype, kind in NUMPY.items()}
    found = {}
    for name, said in header.items():
        start, end = said["data_offsets"]
        found[name] = types[said["dtype"]], tuple(said["shape"]), 8 + length + start, end - start
    return found


def plan_of(path: Path) -> Plan:
    """What `create` was told."""
    kinds = {kind: dtype for dtype, kind in NUMPY.items()}
    with open(path, "rb") as file:
        return {name: (shape, kinds[kind]) for name, (kind, shape, _, _) in contents(file).items()}


def names(path: Path) -> list[str]:
    """Of the images, in their order."""
    with open(path, "rb") as file:
        _, _, at, size = contents(file)["names"]
        file.seek(at)
        return [os.fsdecode(name) for name in file.read(size).split(b"\0")]


def metadata(path: Path) -> dict[str, str]:
    """What a file says of itself."""
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def commit(temporary: Path, path: Path) -> None:
    """From now on the file exists."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read(path: Path, expected: dict[str, str] | None = None) -> dict[str, Tensor]:
    """The tensors, memory-mapped; `expected` metadata that differs means another model's or other data's features."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            for key, wanted in (expected or {}).items():
                if metadata.get(key) != wanted:
                    raise DataError(
                        f"{path}: these features were made with another {key} ({metadata.get(key, 'unknown')[:16]}, "
                        f"not {wanted[:16]}).\n  Remove the file; it will be made again."
                    )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no dict)
    except (OSError, ValueError, RuntimeError) as problem:
        raise DataError(f"{path}: unreadable features: {problem}\n  Remove the file; it will be made again.") from None
    except Exception as problem:
        if type(problem).__name__ != "SafetensorError":
            raise
        raise DataError(f"{path}: unreadable features: {problem}\n  Remove the file; it will be made again.") from None
