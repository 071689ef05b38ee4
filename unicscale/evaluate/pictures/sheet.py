"""A sheet of pictures as a file: rows and columns of small images, and a sentence of what they show. No torch here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from unicscale.run.folder import write_whole

SIDE = 112  # pixels of a picture on a sheet: several stand side by side on a screen, and a page stays small
MOST = 120_000  # letters of one picture; ours have a tenth of that
Encoded = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=MOST)]


class Cell(BaseModel):
    """One picture."""

    image: Encoded  # a PNG or a JPEG
    says: str = Field(default="", max_length=200)


class Row(BaseModel):
    """What one image, or one model, has to show."""

    name: str = Field(max_length=200)
    cells: list[Cell] = Field(max_length=32)


class Sheet(BaseModel):
    """One kind of picture."""

    title: str = Field(max_length=200)
    finding: str = Field(max_length=600)  # what a reader who cannot see them should know
    says: str = Field(default="", max_length=1000)  # how they were made
    columns: list[str] = Field(default=[], max_length=32)
    rows: list[Row] = Field(max_length=64)


def photo(pixels: Any) -> str:
    """An image (H, W, 3) uint8, made as small as a sheet needs it."""
    return _encoded(pixels, "JPEG", Image.Resampling.BICUBIC, quality=85)


def drawing(pixels: Any) -> str:
    """A map of colours (H, W, 3) uint8 whose every pixel counts: a page shows it without smoothing."""
    return _encoded(pixels, "PNG", Image.Resampling.NEAREST)


def _encoded(pixels: Any, form: str, how: Image.Resampling, **options: Any) -> str:
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))
    if (longest := max(image.size)) > SIDE:
        image = image.resize([max(1, round(side * SIDE / longest)) for side in image.size], how)
    stream = io.BytesIO()
    image.save(stream, form, optimize=True, **options)
    return base64.b64encode(stream.getvalue()).decode()


def decoded(cell: Cell) -> Image.Image:
    """The picture itself; of what is none, a ValueError."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(cell.image, validate=True)), formats=("PNG", "JPEG"))
        if max(image.size) > 4 * SIDE:  # looked at before a pixel is decoded
            raise ValueError(f"{image.width} x {image.height} pixels")
        return image.convert("RGB")
    except (OSError, SyntaxError) as problem:
        raise ValueError(f"holds what is no picture: {problem}") from None


def write(folder: Path, sheets: dict[str, Sheet]) -> None:
    """A file each; sheets that were not made this time, and are older, go: all shall be of one checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, sheet in sheets.items():
        write_whole(folder / f"{name}.json", sheet.model_dump_json() + "\n")
    for file in folder.glob("*.json"):
        if file.stem not in sheets:
            file.unlink()


def read(folder: Path, left_out: list[str], order: Sequence[str]) -> dict[str, Sheet]:
    """The sheets of a run, those of `order` first; `left_out` hears of files that are none."""
    found: dict[str, Sheet] = {}
    for file in _sorted(folder.glob("*.json"), order):
        try:
            if file.stat().st_size > 64 * MOST:
                raise ValueError("it is too large")
            sheet = Sheet.model_validate_json(file.read_bytes(), strict=True)
            for row in sheet.rows:
                for cell in row.cells:
                    decoded(cell)
            found[file.stem] = sheet
        except ValidationError as problem:
            first = problem.errors()[0]
            left_out.append(f"{file.name} holds no pictures: {'.'.join(map(str, first['loc']))}: {first['msg']}")
        except (OSError, ValueError) as problem:
            left_out.append(f"{file.name} holds no pictures: {str(problem).splitlines()[0]}")
    return found


def _sorted(files: Iterable[Path], order: Sequence[str]) -> list[Path]:
    return sorted(files, key=lambda file: (order.index(file.stem) if file.stem in order else len(order), file.stem))
