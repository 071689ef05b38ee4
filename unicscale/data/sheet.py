"""A contact sheet: what the model sees, so that a person sees it too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from unicscale.contracts import Progress
from unicscale.data.loader import open_loader
from unicscale.errors import DataError
from unicscale.recipe.sections import Data

COLUMNS, GAP, TITLE = 8, 4, 22


def draw_sheet(
    section: Data, seed: int, stages: Sequence[tuple[str, int]], out: str, *, images: int = 32, step: int = 0
) -> None:
    """The first images of a step, augmented, once per (stage, size), each at its own size, to the file `out`."""
    after = Progress(step=step, images=step * section.images_per_step)
    steps = -(-images // section.images_per_step)
    loader = open_loader(section, seed=seed)
    blocks = []
    try:
        for name, size in stages:
            with loader.start(after, lambda _, size=size: size, steps) as batches:
                # of other channels than three a person sees those that stand for colours
                parts = [batch.images[:, section.channels.three].permute(0, 2, 3, 1).numpy() for batch in batches]
            blocks.append(_block(f"{name}, {size} px", np.concatenate(parts)[:images]))
    finally:
        loader.close()
    sheet = Image.new("RGB", (max(b.width for b in blocks), sum(b.height for b in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    try:
        sheet.save(out)
    except (OSError, ValueError) as problem:
        raise DataError(f"{out}: cannot be written: {problem}") from problem


def _block(title: str, pixels: np.ndarray) -> Image.Image:
    """A titled grid of (n, S, S, 3) images."""
    side = pixels.shape[1] + GAP
    columns = min(COLUMNS, len(pixels))
    rows = -(-len(pixels) // columns)
    block = Image.new("RGB", (columns * side + GAP, TITLE + rows * side + GAP), "white")
    ImageDraw.Draw(block).text((GAP, GAP), title, fill="black")
    for place, image in enumerate(pixels):
        block.paste(Image.fromarray(image), (GAP + place % columns * side, TITLE + place // columns * side))
    return block
