"""The forms in which features are handed over: safetensors as written; npy and parquet made of it in pieces."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unicscale.errors import DataError, RecipeError
from unicscale.evaluate.features import store

PIECE = 64 * 2**20  # bytes of features that are held at a time


def refuse_missing(out: Path) -> None:
    """Before any work: what this form takes."""
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise RecipeError(
            f"--out {out}: parquet needs pyarrow, which is not installed: pip install 'unicscale[parquet]'"
        )


def hand_over(whole: Path, out: Path) -> None:
    """The whole safetensors file becomes `out`, in the form that its name asks for; then it is gone."""
    if out.suffix == ".safetensors":
        store.commit(whole, out)
        return
    try:
        FORMS[out.suffix](whole, out)
    except OSError as problem:
        raise DataError(f"--out {out} cannot be written: {problem.strerror}. {whole} holds the features.") from None
    whole.unlink()


def as_npy(whole: Path, out: Path) -> None:
    """`summary` under the name itself, the others beside it: out.patches.npy, out.labels.npy, out.names.json."""
    with whole.open("rb") as file:
        for name, (dtype, shape, at, size) in store.contents(file).items():
            if name in ("index", "names"):
                continue
            target = out if name == "summary" else out.with_suffix(f".{name}.npy")
            with _replacing(target) as stream:
                head = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, head)
                file.seek(at)
                _copy(file, stream, size)
    with _replacing(out.with_suffix(".names.json")) as stream:
        stream.write(json.dumps(store.names(whole), ensure_ascii=False, indent=0).encode(errors="surrogateescape"))


def as_parquet(whole: Path, out: Path) -> None:
    """A row per image: name, label, summary, and its patches one behind the other (their width is in the metadata)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tensors, names = store.read(whole), store.names(whole)
    wide = {name: tensors[name].flatten(1) for name in ("summary", "patches") if name in tensors}
    types = {name: pa.list_(pa.from_numpy_dtype(t.numpy().dtype), t.shape[1]) for name, t in wide.items()}
    said = {"summary_width": str(tensors["summary"].shape[-1])}
    if "patches" in tensors:
        said["patches_shape"] = json.dumps(list(tensors["patches"].shape[1:]))
    columns = [("name", pa.string()), ("label", pa.int64()), *types.items()]
    schema = pa.schema(columns, metadata=said | store.metadata(whole))
    rows = max(1, PIECE // sum(t.shape[1] * t.element_size() for t in wide.values()))
    with _replacing(out) as stream, pq.ParquetWriter(stream, schema) as writer:
        for first in range(0, len(names), rows):
            part = slice(first, first + rows)
            held = {"name": [_printable(n) for n in names[part]], "label": tensors["labels"][part].numpy()}
            lists = [
                pa.FixedSizeListArray.from_arrays(pa.array(t[part].numpy().reshape(-1)), t.shape[1])
                for t in wide.values()
            ]
            arrays = [pa.array(held["name"], pa.string()), pa.array(held["label"]), *lists]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


FORMS: dict[str, Callable[[Path, Path], None]] = {".npy": as_npy, ".parquet": as_parquet}
SUFFIXES = (".safetensors", *FORMS)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream that takes the place of `path` once all is in it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size:
        data = source.read(min(size, 1 << 20))
        if not data:
            raise DataError("the features ended early")
        target.write(data)
        size -= len(data)


def _printable(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="replace")
