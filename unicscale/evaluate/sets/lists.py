"""The list files of data sets: JSON, MATLAB and pickles, read within bounds; what is damaged is named."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unicscale.errors import DataError

MOST = 2 * 2**30  # bytes of a list; the largest, iNat 2018's, has a tenth of that


def read_json(path: Path) -> Any:
    """A mapping: all of these lists are."""

    def read(data: bytes) -> Any:
        held = json.loads(data)
        if not isinstance(held, dict):
            raise ValueError(f"a mapping is expected, not {type(held).__name__}")
        return held

    return _guarded(path, read)


def read_mat(path: Path) -> Any:
    """MATLAB's arrays by name."""
    from scipy.io import loadmat

    return _guarded(path, lambda data: loadmat(io.BytesIO(data)))


def read_pickle(path: Path) -> Any:
    """Lists, texts and arrays; a pickle that asks for anything else is not read."""

    def read(data: bytes) -> Any:
        _bounded(data)
        return _Plain(io.BytesIO(data)).load()

    return _guarded(path, read)


def _guarded(path: Path, read: Callable[[bytes], Any]) -> Any:
    try:
        if (size := path.stat().st_size) > MOST:
            raise DataError(f"{path}: {size / 2**30:.1f} GiB are no list of files")
        return read(path.read_bytes())
    except DataError:
        raise
    except OSError as problem:
        raise DataError(f"{path}: {problem.strerror or problem}") from None
    except Exception as problem:  # readers of damaged files raise nearly everything, MemoryError among it
        raise DataError(f"{path} is damaged: {type(problem).__name__}: {str(problem)[:200]}") from None


def _bounded(data: bytes) -> None:
    """Refuse what would make the unpickler reserve memory for more than the file holds."""
    for number, (operation, argument, _) in enumerate(pickletools.genops(data)):  # lengths beyond the end raise here
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > number:
            raise ValueError(f"it remembers object {argument} before there are so many")


class _Array:
    """What a pickled array calls itself; making one by its size is not offered."""


def _reconstruct(kind: type, shape: Any, dtype: Any) -> np.ndarray:
    """An empty array, whose state follows in the pickle."""
    return np.ndarray((0,), "b")


class _Plain(pickle.Unpickler):
    """Refuses everything but numpy arrays of plain values."""

    allowed = {"dtype", "scalar", "OrderedDict", "_frombuffer"}
    modules = {"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy._core.numeric", "collections"}

    def find_class(self, module: str, name: str) -> Any:
        if module in self.modules and name == "_reconstruct":
            return _reconstruct
        if module in self.modules and name == "ndarray":
            return _Array
        if module in self.modules and name in self.allowed:
            return super().find_class(module, name)
        raise DataError(f"a list file of CoG asks for {module}.{name}: it is not what it says it is, and was not read")
