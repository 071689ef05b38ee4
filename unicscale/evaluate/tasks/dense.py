"""A linear head on patch tokens: segmentation (ADE20K) and depth (NYUd), or images with maps of one's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unicscale.contracts import there
from unicscale.errors import DataError
from unicscale.evaluate.features.progress import progress
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.metrics.depth import DepthHead, depth_errors, depth_loss
from unicscale.evaluate.metrics.probe import PAPER, fit
from unicscale.evaluate.metrics.segment import SegmentHead, check_masks, miou, segment_loss, tally, upsample
from unicscale.evaluate.score import Score, bootstrap
from unicscale.evaluate.sets.pairs import Pairs, every_nth
from unicscale.evaluate.task import Task
from unicscale.evaluate.tasks.windows import Kind, Stream, load_pair, rounded, slide, widths_of
from unicscale.evaluate.terms import Settings, Subject
from unicscale.ranks.terminal import tell

A_FEW = 64  # maps that show what depths a set has
EIGEN = (slice(45, 471), slice(41, 601))  # NYUd's 480 x 640 images have a white frame: the customary crop


class Guess(NamedTuple):
    """One test image."""

    image: np.ndarray  # (h, w, 3) uint8, as the head saw it
    guess: Tensor  # (H, W) classes, or depth
    truth: Tensor  # (H, W) of the map's own size; of depths 0 is unknown, or too far to count


@dataclass(frozen=True)
class Dense(Task):
    """A task on images with a map each."""

    tokens: tuple[str, ...] = ("patches",)

    def run(self, subject: Subject, shelf: Shelf) -> Iterator[Score]:
        train, test = (shelf.split(self.needs[0], split) for split in ("train", "test"))
        yield from self.measure(subject, train, test, shelf)

    @abstractmethod
    def measure(self, subject: Subject, train: Pairs, test: Pairs, shelf: Shelf) -> Iterator[Score]:
        """The scores of a subject on pairs: what ADE20K, a pruned encoder and one's own images have in common."""

    @abstractmethod
    def guesses(self, subject: Subject, train: Pairs, test: Pairs, shelf: Shelf) -> Iterator[Guess]:
        """What a head that learned from `train` says of each test image, beside the truth."""


@dataclass(frozen=True)
class Segment(Dense):
    """A linear head, mIoU."""

    name: str = "ade20k"
    needs: tuple[str, ...] = ("ade20k",)
    classes: int | None = None  # None: those of the set

    def protocol(self, settings: Settings) -> dict[str, Any]:
        return {
            "head": "batch norm + linear on the last layer's patch tokens, bilinear, cross-entropy",
            "size": settings.dense_size, "steps": settings.dense_steps, "batch": PAPER.batch, "lr": settings.dense_lr,
            "train": "shorter side at size, random crop and flip", "test": "sliding windows, a third of overlap",
            "classes": self.classes or "of the set",
        }  # fmt: skip

    def measure(self, subject: Subject, train: Pairs, test: Pairs, shelf: Shelf) -> Iterator[Score]:
        settings = shelf.settings
        classes = self.classes or train.classes
        tallies = [tally(one.guess, one.truth, classes) for one in self.guesses(subject, train, test, shelf)]
        counts = torch.stack(tallies).numpy()  # (images, 3, classes)

        def statistic(sums: np.ndarray) -> np.ndarray:
            return miou(sums.reshape(len(sums), 3, -1))

        low, high = bootstrap(counts, statistic, seed=settings.seed, resamples=settings.resamples)
        yield Score(f"{self.name}/mIoU", float(miou(counts.sum(0))), low, high)

    def guesses(self, subject: Subject, train: Pairs, test: Pairs, shelf: Shelf) -> Iterator[Guess]:
        settings = shelf.settings
        classes = self.classes or train.classes
        size = rounded(settings.dense_size, subject.patch)
        kind = Kind(train.read, partial(_check_mask, classes))
        schedule = PAPER._replace(steps=settings.dense_steps, lr=settings.dense_lr)
        head = SegmentHead(there(widths_of(subject, shelf, size).patches), classes).to(shelf.device)
        fit(head, Stream(subject, shelf, train, kind, size)(schedule), segment_loss, schedule)
        with progress(f"{subject.name}: {self.name}", len(test), shelf.world, "test images") as advance:
            for pair in test:
                image, _ = load_pair(pair, kind, size)
                truth = torch.from_numpy(kind.read(pair[1]))
                logits = slide(subject, shelf, head, image, size)
                yield Guess(image, upsample(logits[None], truth.shape)[0].argmax(0).cpu(), truth)
                advance(1)


@dataclass(frozen=True)
class Depth(Dense):
    """A linear head, RMSE."""

    name: str = "nyud"
    needs: tuple[str, ...] = ("nyud",)
    tokens: tuple[str, ...] = ("summary", "patches")
    low: float = 1e-3
    own: bool = False  # no frame is cut off as of NYUd's images, and heads begin at the depths that the maps hold

    def protocol(self, settings: Settings) -> dict[str, Any]:
        whole = (
            "sliding windows over the width, RMSE averaged over images; what lies too far is neither learnt nor asked"
        )
        return {
            "head": "batch norm + linear on patches beside CLS, x4 bilinear, softmax over 256 uniform bins"
            + (", beginning at the training maps' own distribution" if self.own else ""),
            "loss": "scale-invariant log", "nearest": self.low, "size": min(480, settings.dense_size),
            "steps": settings.dense_steps, "batch": PAPER.batch, "lr": settings.dense_lr,
            "test": whole
            if self.own
            else "sliding windows over the width, Eigen crop at 480 x 640, RMSE averaged over images",
        }  # fmt: skip

    def measure(self, subject: Subject, train: Pairs, test: Pairs, shelf: Shelf) -> Iterator[Score]:
        settings, far = shelf.settings, train.far
        usual, errors, blind = float(_depths(train).median()), [], []
        for _, guess, truth in self.guesses(subject, train, test, shelf):
            if not self.own and truth.shape == (480, 640):
                guess, truth = guess[EIGEN], truth[EIGEN]
            if bool((truth > 0).any()):
                errors.append(depth_errors(guess, truth))
                blind.append(depth_errors(torch.full_like(truth, usual), truth)["rmse"])
        if not errors:
            raise DataError(f"{self.name}: no test image has a measured depth up to {far:g} m")
        if shelf.world.main and (found := mean(one["rmse"] for one in errors)) >= mean(blind):
            tell(
                f"{subject.name}: {self.name}: an RMSE of {found:.3g} m, and whoever says {usual:.3g} m of every pixel "
                f"has {mean(blind):.3g} m: the head has not learnt this set.\n"
                "  Give it more --dense-steps, or another --dense-lr."
            )
        for name in errors[0]:
            each = np.array([one[name] for one in errors])
            low, high = bootstrap(
                each, lambda s: s[:, 0] / len(errors), seed=settings.seed, resamples=settings.resamples
            )
            yield Score(f"{self.name}/{name}", float(each.mean()), low, high, higher_is_better=name.startswith("delta"))

    def guesses(self, subject: Subject, train: Pairs, test: Pairs, shelf: Shelf) -> Iterator[Guess]:
        settings, far = shelf.settings, train.far
        size = rounded(min(480, settings.dense_size), subject.patch)
        kind = Kind(train.read, _check_depth)
        schedule = PAPER._replace(steps=settings.dense_steps, lr=settings.dense_lr)
        widths = widths_of(subject, shelf, size)
        head = DepthHead(there(widths.patches), self.low, far, summary=widths.summary).to(shelf.device)
        if self.own:
            head.begin_at(_depths(train))
        fit(head, Stream(subject, shelf, train, kind, size)(schedule), partial(depth_loss, far=far), schedule)
        with progress(f"{subject.name}: {self.name}", len(test), shelf.world, "test images") as advance:
            for pair in test:
                image, _ = load_pair(pair, kind, size)
                truth = torch.from_numpy(kind.read(pair[1]))
                guess = upsample(slide(subject, shelf, head, image, size)[None], truth.shape)[0, 0].cpu()
                yield Guess(image, guess.clamp(self.low, far), torch.where(truth <= far, truth, 0))
                advance(1)


def _depths(train: Pairs) -> Tensor:
    """Those of a few training maps, (N,)."""
    maps = [torch.from_numpy(train.read(target)).flatten() for _, target in every_nth(train.files, A_FEW)]
    depths = torch.cat([depth[(depth > 0) & (depth <= train.far)] for depth in maps])
    if not len(depths):
        raise DataError(f"{train.path}: no training image has a measured depth up to {train.far:g} m")
    return depths


def _check_mask(classes: int, path: Path, mask: np.ndarray) -> None:
    check_masks(str(path), torch.from_numpy(mask)[None], 1, classes)


def _check_depth(path: Path, depth: np.ndarray) -> None:
    if not (depth > 0).any():
        raise DataError(f"{path}: a map of distances with at least one pixel above 0 is expected")


TASKS: tuple[Task, ...] = (Segment(classes=150), Depth(), Segment("voc", ("voc",), classes=21))
