"""What is distilled on, without labels: crops, things pasted on photographs, drawings, rendered frames; one beton."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.real import originals
from unicscale.data.stream.workers import cores

STORED = 160  # pixels: a student is shown 112 of them and fewer
QUALITY = 92
Draw = np.random.Generator


class Sizes(NamedTuple):
    """How many pictures of each kind."""

    crops: int = 3000
    pasted: int = 5000
    drawn: int = 1500
    frames: int = 1200


class Stock(NamedTuple):
    """Decoded once, drawn from often."""

    grounds: list[Image.Image]
    things: list[tuple[int, Image.Image]]  # with the number of its class, -1 of none


def stock(grounds: Sequence[originals.Original], things: Sequence[originals.Original], classes: list[str]) -> Stock:
    """The pixels of both."""
    numbered = [
        (classes.index(one.label) if one.label in classes else -1, image)
        for one, image in originals.readable(list(things))
    ]
    return Stock([originals.photograph(one) for one in grounds], numbered)


def crop(ground: Image.Image, draw: Draw, side: int) -> Image.Image:
    """A random square, of a third to all of the shorter side."""
    cut = int(draw.uniform(0.33, 1) * min(ground.size))
    left, top = (int(draw.integers(0, length - cut + 1)) for length in ground.size)
    return ground.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + cut, top + cut), reducing_gap=2)


def paste(scene: Image.Image, thing: Image.Image, draw: Draw, sizes: tuple[float, float]) -> Image.Image:
    """A thing somewhere on a scene, turned a little; returns where it covers, as an "L" image."""
    scale = draw.uniform(*sizes) * scene.width / max(thing.size)
    thing = thing.resize([max(4, round(side * scale)) for side in thing.size], Image.Resampling.BICUBIC, reducing_gap=2)
    if draw.random() < 0.5:
        thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    thing = thing.rotate(draw.uniform(-15, 15), expand=True, resample=Image.Resampling.BICUBIC)
    out = scene.width // 11  # how far it may stick out
    place = tuple(
        int(draw.integers(min(-out, scene.width - side), max(1, scene.width - side + out))) for side in thing.size
    )
    scene.paste(thing, place, thing)
    covered = Image.new("L", scene.size)
    covered.paste(thing.getchannel("A"), place)
    return covered


def scene(held: Stock, draw: Draw, side: int = STORED, most: int = 3) -> tuple[Image.Image, np.ndarray]:
    """A crop with up to three things on it, and its mask: 0 is ground, class n is n + 1."""
    picture = crop(held.grounds[draw.integers(len(held.grounds))], draw, side)
    mask = np.zeros((side, side), np.uint8)
    for _ in range(draw.integers(1, most + 1)):
        label, thing = held.things[draw.integers(len(held.things))]
        covered = paste(picture, thing, draw, (0.3, 0.75))
        mask[np.asarray(covered) > 127] = label + 1
    return picture, mask


def alone(thing: Image.Image, ground: tuple[int, int, int], side: int = STORED) -> Image.Image:
    """A thing by itself on one colour, whole."""
    small = thing.copy()
    small.thumbnail((round(0.86 * side),) * 2, Image.Resampling.BICUBIC)  # what evaluation's centre crop keeps
    picture = Image.new("RGB", (side, side), ground)
    picture.paste(small, ((side - small.width) // 2, (side - small.height) // 2), small)
    return picture


class Kind(NamedTuple):
    """One kind of pictures to write."""

    name: str
    count: int
    make: Callable[[Stock, Draw, int], Image.Image]


def _crop(held: Stock, draw: Draw, number: int) -> Image.Image:
    return crop(held.grounds[number % len(held.grounds)], draw, STORED)


def _pasted(held: Stock, draw: Draw, number: int) -> Image.Image:
    return scene(held, draw, most=3)[0]


def _drawn(held: Stock, draw: Draw, number: int) -> Image.Image:
    return alone(held.things[number % len(held.things)][1], (255, 255, 255))


def write(packages: dict[str, Path], place: Path, sizes: Sizes) -> None:
    """crops/, pasted/ and drawn/ below a folder; each picture is a function of its kind and number."""
    grounds = originals.learn(originals.photographs(packages))
    things, drawn = originals.learn(originals.cutouts(packages)), originals.learn(originals.drawings(packages))
    jobs = [
        (Kind("crops", sizes.crops, _crop), grounds, []),
        (Kind("pasted", sizes.pasted, _pasted), grounds, things + drawn),
        (Kind("drawn", min(sizes.drawn, len(drawn)), _drawn), [], drawn),
    ]
    for kind, these, those in jobs:
        if (place / kind.name).is_dir() or not kind.count:
            continue
        unfinished = place / f"{kind.name}.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        shares = np.array_split(np.arange(kind.count), cores())
        with ProcessPoolExecutor(cores()) as pool:
            list(
                pool.map(
                    _write,
                    [unfinished] * len(shares),
                    [kind] * len(shares),
                    [these] * len(shares),
                    [those] * len(shares),
                    shares,
                )
            )
        unfinished.rename(place / kind.name)


def _write(place: Path, kind: Kind, grounds: list, things: list, numbers: np.ndarray) -> None:
    held = stock(grounds, things, [])
    for number in map(int, numbers):
        picture = kind.make(held, generator(kind.name, number), number)
        picture.save(place / f"{number:05}.jpg", quality=QUALITY)


def generator(kind: str, number: int) -> Draw:
    """Its own draws for each picture, whoever makes it."""
    return np.random.default_rng([int.from_bytes(kind.encode()[:6]), number])
