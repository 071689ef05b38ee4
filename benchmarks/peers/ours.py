"""Ours, by its own loop: `unicscale.train` on a recipe."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.peers.clock import Asked, Clock
from unicscale.engine.plain import PlainEngine
from unicscale.recipe import Recipe
from unicscale.train import train

VIT_S = {"embed_dim": 384, "depth": 12, "num_heads": 6, "patch_size": 14, "img_size": 224}


def recipe(asked: Asked) -> Recipe:
    """UNIC's own ablation, with a small student."""
    teacher = {"plugin": "dino", "size": VIT_S, "weights": "random"}
    said: dict[str, Any] = {
        "schema": 1, "out": asked.out, "seed": 0,
        "data": {"train": [asked.images], "images_per_step": asked.batch, "reader": "folder"},
        "student": {"arch": "vit_small", "patch": 14},
        "teachers": {f"t{number}": teacher for number in range(asked.teachers)},
        "projector": {"kind": "ladder"},
        "loss": {"balance": {"kind": "teacher_dropping", "p": 0.5}},
        "stages": [{"name": "only", "size": asked.size, "steps": 1000, "lr": {"peak": 3e-4, "end": 1e-6}}],
        "engine": {"kind": "plain", "dtype": asked.dtype, "compile": False, "device": "cpu"},
        "save": {"every_minutes": None},
    }  # fmt: skip
    return Recipe.model_validate(said)


def main(asked: Asked) -> None:
    """Until the clock ends it."""
    clock, step = Clock(asked), PlainEngine.step

    def timed(self: PlainEngine, *given: Any, **more: Any) -> Any:
        norm = step(self, *given, **more)
        clock.tick()
        return norm

    PlainEngine.step = timed  # type: ignore[method-assign]
    train(recipe(asked))


if __name__ == "__main__":
    main(Asked.from_argument(sys.argv[1]))
