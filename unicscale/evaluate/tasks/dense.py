"""ADE20K and NYUd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unicscale.data.sets.decode import FORMATS
from unicscale.errors import DataError
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.metrics.depth import DepthHead, depth_errors, depth_loss
from unicscale.evaluate.metrics.probe import PAPER, fit
from unicscale.evaluate.metrics.segment import SegmentHead, check_masks, miou, segment_loss, tally, upsample
from unicscale.evaluate.score import Score, bootstrap
from unicscale.evaluate.task import Task
from unicscale.evaluate.tasks.windows import Kind, Stream, limited, load_pair, rounded, slide, width_of
from unicscale.evaluate.terms import Settings, Subject

EIGEN = (slice(45, 471), slice(41, 601))  # NYUd's 480 x 640 images have a white frame: the customary crop


def _mask(path: Path) -> np.ndarray:
    """ADE20K: 0 is everything else and ignored, 1..150 are classes 0..149."""
    with Image.open(path, formats=FORMATS) as image:
        return (np.asarray(image).astype(np.int16) - 1).astype(np.uint8)  # 0 - 1 wraps to 255, which is IGNORE


def _metres(path: Path) -> np.ndarray:
    """NYUd: 16-bit millimetres."""
    with Image.open(path, formats=FORMATS) as image:
        return np.asarray(image).astype(np.float32) / 1000


@dataclass(frozen=True)
class Segment(Task):
    """A linear head on ADE20K."""

    name: str = "ade20k"
    classes: int = 150

    @property
    def needs(self) -> tuple[str, ...]:
        return ("ade20k",)

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {
            "head": "batch norm + linear on the last layer's patch tokens, bilinear, cross-entropy",
            "size": settings.dense_size, "steps": settings.dense_steps, "batch": PAPER.batch, "lr": PAPER.lr,
            "train": "shorter side at size, random crop and flip", "test": "sliding windows, a third of overlap",
            "classes": self.classes,
        }  # fmt: skip

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        settings = shelf.settings
        size = rounded(settings.dense_size, subject.patch)
        kind = Kind(_mask, self._check)
        train, test = (limited(shelf.split("ade20k", split), settings) for split in ("train", "test"))
        schedule = PAPER._replace(steps=settings.dense_steps)
        head = SegmentHead(width_of(subject, shelf, size), self.classes).to(shelf.device)
        fit(head, Stream(subject, shelf, train, kind, size)(schedule), segment_loss, schedule)
        tallies = []
        for pair in test:
            image, _ = load_pair(pair, kind, size)
            truth = torch.from_numpy(kind.read(pair[1]))
            logits = slide(subject, shelf, head, image, size)
            guess = upsample(logits[None], truth.shape)[0].argmax(0).cpu()
            tallies.append(tally(guess, truth, self.classes))
        counts = torch.stack(tallies).numpy()  # (images, 3, classes)

        def statistic(sums: np.ndarray) -> np.ndarray:
            return miou(sums.reshape(len(sums), 3, -1))

        low, high = bootstrap(counts, statistic, seed=settings.seed, resamples=settings.resamples)
        yield Score("ade20k/mIoU", float(miou(counts.sum(0))), low, high)

    def _check(self, path: Path, mask: np.ndarray) -> None:
        check_masks(str(path), torch.from_numpy(mask)[None], 1, self.classes)


@dataclass(frozen=True)
class Depth(Task):
    """A linear head on NYUd."""

    name: str = "nyud"
    low: float = 1e-3
    high: float = 10.0

    @property
    def needs(self) -> tuple[str, ...]:
        return ("nyud",)

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {
            "head": "batch norm + linear on patches beside CLS, x4 bilinear, softmax over 256 uniform bins",
            "loss": "scale-invariant log", "range": [self.low, self.high], "size": min(480, settings.dense_size),
            "steps": settings.dense_steps, "batch": PAPER.batch, "lr": PAPER.lr,
            "test": "sliding windows over the width, Eigen crop at 480 x 640, RMSE averaged over images",
        }  # fmt: skip

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        settings = shelf.settings
        size = rounded(min(480, settings.dense_size), subject.patch)
        kind = Kind(_metres, self._check)
        train, test = (limited(shelf.split("nyud", split), settings) for split in ("train", "test"))
        schedule = PAPER._replace(steps=settings.dense_steps)
        head = DepthHead(width_of(subject, shelf, size), self.low, self.high).to(shelf.device)
        fit(head, Stream(subject, shelf, train, kind, size)(schedule), depth_loss, schedule)
        errors = []
        for pair in test:
            image, _ = load_pair(pair, kind, size)
            truth = torch.from_numpy(kind.read(pair[1]))
            guess = upsample(slide(subject, shelf, head, image, size)[None], truth.shape)[0, 0].cpu()
            truth = torch.where(truth <= self.high, truth, 0)
            if truth.shape == (480, 640):
                guess, truth = guess[EIGEN], truth[EIGEN]
            if bool((truth > 0).any()):
                errors.append(depth_errors(guess.clamp(self.low, self.high), truth))
        if not errors:
            raise DataError("nyud: no test image has a measured depth")
        for name in errors[0]:
            each = np.array([one[name] for one in errors])
            low, high = bootstrap(
                each, lambda s: s[:, 0] / len(errors), seed=settings.seed, resamples=settings.resamples
            )
            yield Score(f"nyud/{name}", float(each.mean()), low, high, higher_is_better=name.startswith("delta"))

    def _check(self, path: Path, depth: np.ndarray) -> None:
        if depth.ndim != 2 or not (depth > 0).any():
            raise DataError(f"{path}: a 16-bit map of millimetres with at least one pixel above 0 is expected")
