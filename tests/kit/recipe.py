"""A run of seconds: 64 tiny images, two tiny teachers with random weights, a ViT of 64 channels, two stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

SHAPE = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8, "img_size": 32}
SLOW = """
import time
from unicscale_teachers.dino import Dino

class Slow(Dino):
    def forward(self, module, images):
        if not images.is_meta:  # where a plan counts its operations
            time.sleep({seconds})
        return module(images)
"""


def write_images(folder: Path, count: int = 64, side: int = 40) -> Path:
    """JPEGs of noise in an image folder."""
    (folder / "all").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "all" / f"{number:03d}.jpg", quality=90)
    return folder


def write_arrays(
    folder: Path, channels: int, count: int = 32, side: int = 40, classes: tuple[str, ...] = ("all",)
) -> Path:
    """Noise of so many channels as .npy arrays, brighter from class to class."""
    for number in range(count):
        place = folder / classes[number % len(classes)] / f"{number:03d}.npy"
        place.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 100, (side, side, channels), dtype=np.uint8)
        np.save(place, noise + np.uint8(100 * (number % len(classes))))
    return folder


def write_recipe(path: Path, images: Path, out: Path, *, steps: int = 16, **changes: Any) -> Path:
    """The recipe of that run; `a__b=v` changes key a.b."""
    first = steps // 2
    tree: dict[str, Any] = {
        "schema": 1,
        "out": str(out),
        "seed": 5,
        "data": {"train": [str(images)], "images_per_step": 8, "workers": 1, "ahead": 1},
        "student": {
            "arch": "vit_tiny", "patch": 8, "drop_path": 0.1,
            "options": {"embed_dim": 64, "depth": 2, "num_heads": 2},
        },
        "teachers": {
            "one": {"plugin": "dino", "weights": "random", "size": SHAPE},
            "two": {"plugin": "dinov2", "weights": "random", "size": SHAPE | {"ffn": "swiglu"}},
        },
        "projector": {"kind": "ladder", "hidden": 32, "last_hidden": 64},
        "stages": [
            {"name": "low", "size": 32, "steps": first, "warmup_steps": 2, "lr": {"peak": 1e-3}},
            {"name": "high", "size": 48, "steps": steps - first, "warmup_steps": 2, "lr": {"peak": 5e-4}},
        ],
        "engine": {"kind": "plain", "device": "cpu", "timeout_seconds": 60},
        "track": {"every_steps": 1},
        "save": {"every_minutes": None, "every_steps": 3, "keep": 3},
    }  # fmt: skip
    for name, value in changes.items():
        *branches, leaf = name.split("__")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[leaf] = value
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def slow_teacher(folder: Path, seconds: float) -> dict[str, Any]:
    """Changes of a recipe that give it a teacher which takes its time, so that a step lasts as long on any machine."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slow.py").write_text(SLOW.format(seconds=seconds))
    return {"teachers__one": {"adapter": f"{folder}/slow.py:Slow", "weights": "random", "size": SHAPE}}
