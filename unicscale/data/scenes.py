"""Drawn scenes with everything known about them: class, texture, segmentation and depth of every image.

Synthetic, so that a laptop has ground truth for each axis on which the paper evaluates. Image i of a seed is the same
however many are drawn, in whatever pieces.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from unicscale.rng import Purpose, key, keys_numpy, uniform_numpy

SHAPES = ("disc", "ring", "square", "triangle", "star", "cross", "crescent", "heart", "bar", "arch")
TEXTURES = ("plain", "stripes", "checks", "dots", "speckle", "rings")
OBJECTS = 3  # at most, per scene; the nearest one gives the scene its class and texture
TURN = 512  # scenes a process writes at a time
UNITS = 10_000  # of a depth of 1, in a file
FOG = 1.1  # optical depth of the farthest point: how much paler things get with distance

Array = np.ndarray


class Scenes(NamedTuple):
    """Some images and all that is true of them."""

    images: Array  # (B, S, S, 3) uint8
    shape: Array  # (B,) int64, the nearest object's: what "class" means here
    texture: Array  # (B,) int64, the nearest object's: never taught to a teacher, so it measures transfer
    mask: Array  # (B, S, S) uint8, 0 for the ground, 1 + shape elsewhere
    depth: Array  # (B, S, S) float32, 0 near to 1 far


def draw(count: int, *, seed: int, size: int = 64, first: int = 0) -> Scenes:
    """Scenes first .. first + count - 1 of a seed."""
    pieces = list(draw_in_pieces(count, seed=seed, size=size, first=first))
    return Scenes(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))


def draw_in_pieces(count: int, *, seed: int, size: int = 64, first: int = 0, piece: int = 64) -> Iterator[Scenes]:
    """As `draw`, a cache-sized piece at a time."""
    for start in range(first, first + count, piece):
        yield _piece(np.arange(start, min(start + piece, first + count)), seed, size)


def write(folder: Path, count: int, *, seed: int, first: int = 0, size: int = 64) -> None:
    """The images as PNG files, one folder per class, on all cores; a folder already written is left alone."""
    done = folder / ".done"
    what = f"{count} scenes of seed {seed} from {first}, {size} px"
    if done.exists() and done.read_text() == what:
        return
    for name in SHAPES:  # what is there belongs to other scenes, or to a writing that was cut short
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    turns = range(first, first + count, TURN)
    # spawned: the caller may hold threads, and this module is light to import
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        sizes = [min(TURN, first + count - start) for start in turns]
        list(pool.map(_write_turn, repeat(folder), turns, sizes, repeat(seed), repeat(size)))
    done.write_text(what)


def write_maps(folder: Path, *, seed: int, train: range, test: range, size: int = 64) -> None:
    """Scenes with their masks and depths, laid out as a dense set of one's own: images/, masks/, depth/, set.yaml."""
    for split, numbers in (("train", train), ("val", test)):
        for name in ("images", "masks", "depth"):
            (folder / name / split).mkdir(parents=True, exist_ok=True)
        scenes = draw(len(numbers), seed=seed, size=size, first=numbers.start)
        depth = np.round(scenes.depth * UNITS).astype(np.uint16)
        for number, image, mask, far in zip(numbers, scenes.images, scenes.mask, depth, strict=True):
            for name, pixels in (("images", image), ("masks", mask), ("depth", far)):
                Image.fromarray(pixels).save(folder / name / split / f"{number:06d}.png", compress_level=1)
    classes = ", ".join(("ground", *SHAPES))
    (folder / "set.yaml").write_text(f"classes: [{classes}]\nunit: {1 / UNITS}\nfar: 1.0\n")


def _write_turn(folder: Path, first: int, count: int, seed: int, size: int) -> None:
    scenes = draw(count, seed=seed, size=size, first=first)
    for number, (image, shape) in enumerate(zip(scenes.images, scenes.shape, strict=True), start=first):
        Image.fromarray(image).save(folder / SHAPES[shape] / f"{number:06d}.png", compress_level=1)


class _Draws:
    """Numbered uniform draws, one per image of a piece and call."""

    def __init__(self, seed: int, index: Array) -> None:
        self.keys = keys_numpy(key(seed, int(Purpose.SYNTHETIC)), index)
        self.used = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Array:  # (B,) float32
        self.used += 1
        return (low + (high - low) * uniform_numpy(self.keys, self.used)).astype(np.float32)

    def integer(self, below: int) -> Array:  # (B,) int64
        self.used += 1
        return np.floor(uniform_numpy(self.keys, self.used) * below).astype(np.int64)

    def noise(self, size: int) -> Array:  # (B, size, size) float32 in [0, 1)
        self.used += 1
        pixels = keys_numpy(0, np.arange(size * size)).reshape(size, size)
        return uniform_numpy(self.keys[:, None, None] ^ pixels, self.used).astype(np.float32)


def _piece(index: Array, seed: int, size: int) -> Scenes:
    draws = _Draws(seed, index)
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1  # pixel centres in (-1, 1)
    x, y = line[None, None, :], line[None, :, None]
    colour, depth = _ground(draws, x, y, draws.noise(size))
    mask = np.zeros(depth.shape, np.uint8)
    speckle = draws.noise(size // 2).repeat(2, axis=1).repeat(2, axis=2)

    # far to near, so that the last one drawn covers the others and names the scene
    far = np.sort(np.stack([draws.uniform(0.05, 0.8) for _ in range(OBJECTS)]), axis=0)[::-1]
    present = draws.integer(OBJECTS)
    shape = texture = np.zeros(len(index), np.int64)
    for number in range(OBJECTS):
        shape, texture = draws.integer(len(SHAPES)), draws.integer(len(TEXTURES))
        seen = present >= OBJECTS - 1 - number  # the nearest is always there
        u, v, scale = _placed(draws, x, y, far[number])
        edge = _by_kind(_SHAPES, shape, u, v)
        cover = np.clip(0.5 - edge * (scale * size / 2)[:, None, None], 0, 1) * seen[:, None, None]
        paint = _painted(draws, texture, u * scale[:, None, None], v * scale[:, None, None], speckle)
        colour += cover[..., None] * (paint - colour)
        inside = cover > 0.5
        mask = np.where(inside, (shape + 1).astype(np.uint8)[:, None, None], mask)
        depth = np.where(inside, far[number][:, None, None], depth)

    haze = np.stack([draws.uniform(0.72, 0.8), draws.uniform(0.76, 0.84), draws.uniform(0.82, 0.9)], -1)
    through = np.exp(-FOG * depth)[..., None]
    colour = colour * through + haze[:, None, None, :] * (1 - through)
    images = np.clip(colour * 255 + 0.5, 0, 255).astype(np.uint8)
    return Scenes(images, shape, texture, mask, depth.astype(np.float32))


def _ground(draws: _Draws, x: Array, y: Array, noise: Array) -> tuple[Array, Array]:
    """A backdrop that recedes upwards, tilted a little, with grain: colour (B, S, S, 3) and depth (B, S, S).

    Objects hang before it whatever its depth: these are drawings, and fog is what tells depth in them.
    """
    near, far, tilt = (draws.uniform(*span)[:, None, None] for span in ((0.5, 0.7), (0.85, 1.0), (-0.1, 0.1)))
    depth = np.clip(near + (far - near) * (1 - y) / 2 + tilt * x, 0, 1)
    tone = np.stack([draws.uniform(0.15, 0.6) for _ in range(3)], -1)[:, None, None, :]
    grain = 0.1 * (noise - 0.5) + draws.uniform(-0.1, 0.1)[:, None, None] * x
    return tone + grain[..., None], depth


def _placed(draws: _Draws, x: Array, y: Array, far: Array) -> tuple[Array, Array, Array]:
    """Coordinates in which an object is about one unit large, and that unit in image coordinates."""
    scale = draws.uniform(0.44, 0.62) * (1.1 - 0.35 * far)
    centre_x, centre_y, angle = draws.uniform(-0.45, 0.45), draws.uniform(-0.45, 0.45), draws.uniform(-0.4, 0.4)
    across, down = x - centre_x[:, None, None], y - centre_y[:, None, None]
    cos, sin = (f(angle)[:, None, None] / scale[:, None, None] for f in (np.cos, np.sin))
    return across * cos + down * sin, down * cos - across * sin, scale


def _painted(draws: _Draws, texture: Array, u: Array, v: Array, speckle: Array) -> Array:
    """Two colours mixed as the texture says: (B, S, S, 3)."""
    first = np.stack([draws.uniform() for _ in range(3)], -1)
    # far enough from the first colour that the texture can be seen
    second = np.mod(first + np.stack([draws.uniform(0.35, 0.65) for _ in range(3)], -1), 1.0)
    pitch = draws.uniform(0.85, 1.2)[:, None, None]
    mix = _by_kind(_TEXTURES, texture, u / pitch, v / pitch, speckle)[..., None]
    return first[:, None, None, :] * (1 - mix) + second[:, None, None, :] * mix


def _by_kind(kinds: tuple[Callable[..., Array], ...], which: Array, *fields: Array) -> Array:
    """Each row's field by its own kind's formula: (B, S, S)."""
    out = np.empty(np.broadcast_shapes(*(f.shape for f in fields)), np.float32)
    for number, formula in enumerate(kinds):
        rows = np.flatnonzero(which == number)
        if len(rows):
            out[rows] = formula(*(f[rows] for f in fields))
    return out


# --- shapes: negative inside, about a distance; v points down ----------------------------------------


def _disc(u: Array, v: Array) -> Array:
    return np.hypot(u, v) - 0.9


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.7) - 0.25


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) - 0.78


def _triangle(u: Array, v: Array) -> Array:
    return np.maximum(v - 0.7, 0.89 * np.abs(u) - 0.45 * (v + 1.0))


def _star(u: Array, v: Array) -> Array:
    turn = 2 * np.pi / 5
    angle = np.abs(np.mod(np.arctan2(u, -v) + turn / 2, turn) - turn / 2)
    return (np.hypot(u, v) * np.cos(angle - 0.9) - 0.62) * 0.9


def _cross(u: Array, v: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(a, b) - 0.95, np.minimum(a, b) - 0.3)


def _crescent(u: Array, v: Array) -> Array:
    return np.maximum(np.hypot(u, v) - 0.95, 0.75 - np.hypot(u, v + 0.45))


def _heart(u: Array, v: Array) -> Array:
    lobes = np.hypot(np.abs(u) - 0.42, v + 0.35) - 0.48
    return np.minimum(lobes, np.maximum(np.abs(u) * 0.74 + v * 0.68 - 0.62, -0.35 - v))


def _bar(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u) - 1.1, np.abs(v) - 0.3)


def _arch(u: Array, v: Array) -> Array:
    outer, inner = np.maximum(np.abs(u) - 0.85, np.abs(v) - 0.8), np.maximum(np.abs(u) - 0.38, -0.25 - v)
    return np.maximum(outer, -inner)


_SHAPES = (_disc, _ring, _square, _triangle, _star, _cross, _crescent, _heart, _bar, _arch)


# --- textures: 0 for the first colour, 1 for the second ----------------------------------------------


def _plain(u: Array, v: Array, speckle: Array) -> Array:
    return np.zeros_like(u)


def _stripes(u: Array, v: Array, speckle: Array) -> Array:
    return _half(np.sin(v * 24))


def _checks(u: Array, v: Array, speckle: Array) -> Array:
    return _half(3 * np.sin(u * 16) * np.sin(v * 16))


def _dots(u: Array, v: Array, speckle: Array) -> Array:
    return _half(2.5 * (np.cos(u * 20) + np.cos(v * 20) - 0.8))


def _speckle(u: Array, v: Array, speckle: Array) -> Array:
    return speckle


def _rings(u: Array, v: Array, speckle: Array) -> Array:
    return _half(np.cos(np.hypot(u, v) * 24))


_TEXTURES = (_plain, _stripes, _checks, _dots, _speckle, _rings)


def _half(wave: Array) -> Array:
    return np.clip(0.5 + wave, 0, 1)
