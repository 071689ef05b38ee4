"""Semantic correspondence (SPair-71k): which keypoint of one object is which of another, with nothing trained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unicscale.contracts import there
from unicscale.data.sets.decode import Undecodable, decode
from unicscale.errors import DataError
from unicscale.evaluate.features.progress import progress
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.metrics.points import FINER, most_similar
from unicscale.evaluate.score import Score, bootstrap
from unicscale.evaluate.task import Task
from unicscale.evaluate.tasks.windows import encode, rounded
from unicscale.evaluate.terms import Settings, Subject

NEAR = 0.1  # of the longer side of the object's box
HELD = 64  # images whose tokens wait for their next pair


@dataclass(frozen=True)
class Correspondence(Task):
    """PCK@0.1: the share of keypoints that are found near enough."""

    name: str = "spair"
    needs: tuple[str, ...] = ("spair",)
    tokens: tuple[str, ...] = ("patches",)

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {
            "size": settings.dense_size, "images": "whole, both sides resized to the size, bicubic",
            "found": f"largest cosine to the last layer's tokens, bilinear at the keypoint, cosines x{FINER} bilinear",
            "near": f"{NEAR} of the longer side of the target's box", "split": "test",
            "pck@0.1": "mean over pairs; also over keypoints, and over categories of the mean over their pairs",
        }  # fmt: skip

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        settings, matches = shelf.settings, shelf.split(self.needs[0], "test")
        seen = Seen(subject, shelf, rounded(settings.dense_size, subject.patch))
        found: list[np.ndarray] = []
        categories: list[str] = []
        with progress(f"{subject.name}: {self.name}", len(matches), shelf.world, "pairs") as advance:
            for source, target, file in matches:
                points = matches.read(file)
                (ours, here), (theirs, there_) = seen(source), seen(target)
                guess = most_similar(ours, theirs, torch.from_numpy(points.source / here)).cpu().numpy() * there_
                found.append(np.linalg.norm(guess - points.target, axis=1) <= NEAR * points.reach)
                categories.append(points.category)
                advance(1)
        counts = np.array([[each.sum(), len(each), each.mean()] for each in found])
        kinds = np.array(categories)
        means = {
            "pck@0.1": counts[:, 2].mean(),
            "per keypoint": counts[:, 0].sum() / counts[:, 1].sum(),
            "per category": np.mean([counts[kinds == kind, 2].mean() for kind in sorted(set(categories))]),
        }
        low, high = bootstrap(
            counts[:, 2], lambda s: s[:, 0] / len(counts), seed=settings.seed, resamples=settings.resamples
        )
        for name, value in means.items():
            sides = (100 * low, 100 * high) if name == "pck@0.1" else (None, None)
            yield Score(f"{self.name}/{name}", 100 * float(value), *sides)


@dataclass(slots=True)
class Seen:
    """Tokens (N, D) of whole images, and their width and height; the last ones are kept, for pairs share images."""

    subject: Subject
    shelf: Shelf
    size: int
    held: OrderedDict[Path, tuple[Tensor, np.ndarray]] = field(default_factory=OrderedDict)

    def __call__(self, file: Path) -> tuple[Tensor, np.ndarray]:
        if file not in self.held:
            try:
                image = decode(file.read_bytes())
            except (Undecodable, OSError) as problem:
                raise DataError(f"{file}: {problem}") from problem
            square = Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].contiguous()
            tokens = there(encode(self.subject, self.shelf, pixels).patches)[0]
            self.held[file] = tokens, np.array([image.shape[1], image.shape[0]])
        self.held.move_to_end(file)
        while len(self.held) > HELD:
            self.held.popitem(last=False)
        return self.held[file]


TASKS: tuple[Task, ...] = (Correspondence(),)
