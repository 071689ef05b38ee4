"""Features on disk: one safetensors file that all ranks fill row by row, so that memory holds one batch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from unicscale.errors import DataError

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64}
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


class Filling:
    """Write access to the rows of a file made by `create`."""

    def __init__(self, path: Path, plan: Plan) -> None:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        self.arrays = {
            name: np.memmap(path, NUMPY[dtype], "r+", 8 + length + header[name]["data_offsets"][0], shape)
            for name, (shape, dtype) in plan.items()
            if np.prod(shape)
        }

    def put(self, first: int, rows: dict[str, Tensor]) -> None:
        """Rows `first`, `first` + 1, ... of every tensor."""
        for name, values in rows.items():
            self.arrays[name][first : first + len(values)] = values.cpu().numpy()

    def close(self) -> None:
        """All bytes are with the system."""
        for array in self.arrays.values():
            array.flush()
        self.arrays = {}


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
