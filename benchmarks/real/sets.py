"""What is measured on: classes, masks and depth in the layouts that `unicscale evaluate` reads of anybody."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from PIL import Image

from benchmarks.real import originals, pictures

SIDES = {"train": originals.learn, "val": originals.test}


class Sizes(NamedTuple):
    """How many images the probes learn from, and everything is measured on."""

    train: int
    val: int

    def of(self, split: str) -> int:
        return getattr(self, split)


FASHION, SCENES = Sizes(1000, 1000), Sizes(1000, 300)
VIEWS = Sizes(4, 4)  # of each cut-out


def write(packages: dict[str, Path], place: Path) -> None:
    """Every set whose package is here, each whole or not at all."""
    makers: dict[str, Callable[[dict[str, Path], Path], None]] = {"objects": objects, "scenes": scenes}
    makers |= {"fashion": fashion} if "dataset-fashion-mnist" in packages else {}
    makers |= {"drawings": drawings} if "openclipart-png" in packages else {}
    for name, make in makers.items():
        if not (place / name).is_dir():
            unfinished = place / f"{name}.tmp"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            make(packages, unfinished)
            unfinished.rename(place / name)


def objects(packages: dict[str, Path], place: Path) -> None:
    """One cut-out on a photograph, its class among twelve; nothing of a test picture was learnt from."""
    for split, side in SIDES.items():
        held = pictures.stock(side(originals.photographs(packages)), [], [])
        for one, thing in originals.readable([one for one in side(originals.cutouts(packages)) if one.label]):
            for view in range(VIEWS.of(split)):
                draw = pictures.generator("object", hash_of(one, view))
                picture = pictures.crop(held.grounds[draw.integers(len(held.grounds))], draw, pictures.STORED)
                pictures.paste(picture, thing, draw, (0.55, 0.85))
                save(picture, place / split / str(one.label) / f"{one.file.stem}-{view}.jpg")


def scenes(packages: dict[str, Path], place: Path) -> None:
    """One to three cut-outs on a photograph, and which pixel is what."""
    names = list(originals.CLASSES)
    for split, side in SIDES.items():
        things = [one for one in side(originals.cutouts(packages)) if one.label]
        held = pictures.stock(side(originals.photographs(packages)), things, names)
        for number in range(SCENES.of(split)):
            picture, mask = pictures.scene(held, pictures.generator(f"sc-{split}", number))
            save(picture, place / "images" / split / f"{number:04}.jpg")
            save(Image.fromarray(mask), place / "masks" / split / f"{number:04}.png")
    (place / "set.yaml").write_text(yaml.safe_dump({"classes": ["ground", *names]}))


def fashion(packages: dict[str, Path], place: Path) -> None:
    """The first of Fashion-MNIST, with the margin that evaluation's centre crop takes off again."""
    root = packages["dataset-fashion-mnist"] / "usr/share/datasets/fashion-mnist"
    for split, name in (("train", "train"), ("val", "t10k")):
        images = _idx(root / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = _idx(root / f"{name}-labels-idx1-ubyte.gz", 8)
        for number in range(FASHION.of(split)):
            picture = Image.fromarray(np.pad(images[number], 2))
            save(picture, place / split / str(labels[number]) / f"{number:05}.png")


def drawings(packages: dict[str, Path], place: Path) -> None:
    """Clip art on white, classes by its folders."""
    for split, side in SIDES.items():
        for one, thing in originals.readable(side(originals.drawings(packages))):
            picture = pictures.alone(thing, (255, 255, 255))
            save(picture, place / split / str(one.label) / f"{one.file.stem}.jpg")


def hash_of(one: originals.Original, view: int) -> int:
    """A number of its own for each view of a thing."""
    import zlib

    return zlib.crc32(one.file.name.encode()) * 16 + view


def save(picture: Image.Image, file: Path) -> None:
    """With its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, **({"quality": pictures.QUALITY} if file.suffix == ".jpg" else {}))


def _idx(file: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=header)
