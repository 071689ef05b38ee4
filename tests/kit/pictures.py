"""Small pictures and the folders, betons and faults that the data tests make of them."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unicscale.contracts import Batch, Progress
from unicscale.data.loader import open_loader
from unicscale.data.pack.writing import AS_IT_IS, Form, pack
from unicscale.data.sets import beton as format
from unicscale.data.sets.folder import listing
from unicscale.data.sets.images import ffcv_missing
from unicscale.data.sets.trailer import checksum, trailer
from unicscale.recipe.sections import Data

needs_ffcv = pytest.mark.skipif(bool(ffcv_missing()), reason=f"FFCV is not to be had here: {ffcv_missing()}")
READERS = [pytest.param("ffcv", marks=needs_ffcv), "beton", "folder"]


def picture(number: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth, coloured image that no other number gives."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(image: np.ndarray, **options) -> bytes:
    """An encoded image."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def tree(folder: Path, count: int = 24, classes: int = 3, **shape) -> Path:
    """JPEGs in one folder per class, of several shapes."""
    for number in range(count):
        file = folder / f"class{number % classes}" / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        height, width = shape.get("height", 50 + 7 * (number % 4)), shape.get("width", 80 - 9 * (number % 3))
        file.write_bytes(jpeg(picture(number, height, width)))
    return folder


def beton(folder: Path, source: Path, name: str = "set.beton", form: Form = AS_IT_IS) -> str:
    """The folder, packed; without FFCV by the lines below, so that what reads betons is tested there as well."""
    if not ffcv_missing():
        pack(str(source), str(folder / name), form)
    elif form == AS_IT_IS:
        written_without_ffcv(source, folder / name)
    else:
        pytest.skip(needs_ffcv.kwargs["reason"])
    return str(folder / name)


def written_without_ffcv(source: Path, target: Path) -> None:
    """A folder of JPEGs as a beton, byte by byte as the format says, with its checksums and its manifest."""
    names, classes, labels = listing(str(source))
    kept = [n for n, name in enumerate(names) if (source / name).read_bytes()[:2] == b"\xff\xd8"]
    names = [names[n] for n in kept]
    files = [(source / name).read_bytes() for name in names]
    metadata = np.zeros(len(files), np.dtype([("", format.IMAGE), ("", "<i8")], align=True))
    fields = np.zeros(2, format.FIELD)
    for place, (name, kind) in enumerate([("image", format.IMAGE_FIELD), ("label", format.INT_FIELD)]):
        fields[place]["type"] = kind
        fields[place]["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
    page = 1 << 16
    first = -(-(format.HEADER.itemsize + fields.nbytes + metadata.nbytes) // page) * page
    at = first + np.cumsum([0, *map(len, files)])
    for number, data in enumerate(files):
        with Image.open(io.BytesIO(data)) as image:
            metadata["f0"][number] = (format.JPEG, *image.size, at[number])
    metadata["f1"] = -1 if labels is None else labels[kept]
    sums = np.array([checksum(np.frombuffer(data, np.uint8)) for data in files], np.uint64)
    ours = trailer(sums, names)
    table = np.array([(n, at[n], len(data)) for n, data in enumerate(files)], format.ALLOCATION)
    header = np.array((format.VERSION, 2, page, len(files), at[-1] + len(ours)), format.HEADER)
    index = header.tobytes() + fields.tobytes() + metadata.tobytes()
    target.write_bytes(index.ljust(first, b"\0") + b"".join([*files, ours, table.tobytes()]))
    manifest = {"classes": classes, "checksums": True, "index": format.Beton(str(target)).index}
    Path(format.manifest_path(str(target))).write_text(json.dumps(manifest))


def section(path: str | Path, **options) -> Data:
    """A data section with small batches."""
    return Data.model_validate({"train": [str(path)], "images_per_step": 8, "workers": 2} | options)


def stream(
    data: Data, *, world: int = 1, after: int = 0, steps: int = 4, size=lambda step: 32, seed: int = 1
) -> list[Batch]:
    """The global batches of some steps, put together from every rank's micro-batches."""
    parts: list[list[Batch]] = []
    for rank in range(world):
        loader = open_loader(data, seed=seed, rank=rank, world=world)
        try:
            progress = Progress(step=after // data.images_per_step, images=after)
            batches = list(loader.start(progress, size, steps))
        finally:
            loader.close()
        micro = loader.micro_batches
        parts.append([joined(batches[i : i + micro]) for i in range(0, len(batches), micro)])
    return [joined(list(step)) for step in zip(*parts, strict=True)]


def joined(batches: list[Batch]) -> Batch:
    """Several batches as one."""
    return Batch(*(torch.cat([getattr(b, name) for b in batches]) for name in ("images", "index", "domain")))


def digest(batches: list[Batch]) -> str:
    """sha256 of order and pixels."""
    total = hashlib.sha256()
    for batch in batches:
        for tensor in (batch.images, batch.index, batch.domain):
            total.update(tensor.numpy().tobytes())
    return total.hexdigest()
