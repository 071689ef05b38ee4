"""Small pictures and the folders, betons and faults that the data tests make of them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unicscale.contracts import Batch, Progress
from unicscale.data.loader import open_loader
from unicscale.data.pack import AS_IT_IS, Form, pack
from unicscale.recipe.sections import Data


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
    """The folder, packed."""
    pack(str(source), str(folder / name), form)
    return str(folder / name)


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
