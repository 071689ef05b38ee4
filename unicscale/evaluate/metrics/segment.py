"""Semantic segmentation: batch normalisation and a linear layer on patch tokens, mIoU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unicscale.contracts import Features, there
from unicscale.errors import DataError
from unicscale.evaluate.metrics.checks import check_features
from unicscale.evaluate.metrics.probe import QUICK, DenseLinear, Schedule, as_map, draws, fit
from unicscale.evaluate.sets.pairs import IGNORE


class SegmentHead(nn.Module):
    """Patch tokens -> class logits on the patch grid."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = DenseLinear(width, classes)

    def forward(self, features: Features) -> Tensor:  # (B, classes, h, w)
        return self.linear(as_map(there(features.patches).float()))


def segment_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy at the size of the masks; 255 does not count."""
    return F.cross_entropy(upsample(logits, masks.shape[-2:]), masks.long(), ignore_index=IGNORE)


def upsample(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, corners not aligned."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def tally(predictions: Tensor, masks: Tensor, classes: int) -> Tensor:  # (H, W) pairs -> (3, classes) int64
    """Pixels per class that are right, that truly are of it, that were said to be; ignored ones do not count."""
    counted = masks != IGNORE
    guess, truth = predictions[counted].long(), masks[counted].long()
    return torch.stack([torch.bincount(some, minlength=classes) for some in (truth[guess == truth], truth, guess)])


def miou(tallies: np.ndarray) -> np.ndarray:  # (..., 3, classes) -> (...)
    """Mean intersection over union in per cent, over the classes that occur in truth or prediction."""
    both, truth, guess = np.moveaxis(np.asarray(tallies, dtype=np.float64), -2, 0)
    either = truth + guess - both
    return 100 * np.nanmean(np.where(either > 0, both / np.maximum(either, 1), np.nan), axis=-1)


def linear_miou(
    train: Tensor,  # (B, N, D) patch tokens
    train_masks: Tensor,  # (B, H, W) classes, 255 ignored
    test: Tensor,
    test_masks: Tensor,
    classes: int,
    *,
    schedule: Schedule = QUICK,
    seed: int = 22,
) -> float:
    """mIoU in per cent of a linear head trained on tokens in memory."""
    each = linear_tallies(train, train_masks, test, test_masks, classes, schedule=schedule, seed=seed)
    return float(miou(each.sum(0).numpy()))


def linear_tallies(
    train: Tensor, train_masks: Tensor, test: Tensor, test_masks: Tensor, classes: int, *, schedule: Schedule, seed: int
) -> Tensor:  # (B, 3, classes)
    """What `miou` sums, image by image, so that test sets can be resampled."""
    check_features("segmentation train", train)
    check_features("segmentation test", test, width=train.shape[-1])
    check_masks("segmentation train", train_masks, len(train), classes)
    check_masks("segmentation test", test_masks, len(test), classes)

    def batches() -> Iterator[tuple[Features, Tensor]]:
        for rows in draws(len(train), schedule, seed):
            yield Features(train[rows].mean(1), train[rows]), train_masks[rows]

    head = fit(SegmentHead(train.shape[-1], classes), batches(), segment_loss, schedule)
    each = []
    with torch.no_grad():
        for some, masks in zip(test.split(64), test_masks.split(64), strict=True):
            guess = upsample(head(Features(some.mean(1), some)), masks.shape[-2:]).argmax(1)
            each += [tally(ours, theirs, classes) for ours, theirs in zip(guess, masks, strict=True)]
    return torch.stack(each)


def check_masks(what: str, masks: Tensor, count: int, classes: int) -> None:
    """Refuse masks that do not fit their images or name unknown classes."""
    if len(masks) != count:
        raise DataError(f"{what}: {count} images but {len(masks)} masks")
    counted = masks[masks != IGNORE]
    if counted.numel() and (int(counted.min()) < 0 or int(counted.max()) >= classes):
        low, high = int(counted.min()), int(counted.max())
        raise DataError(f"{what}: masks hold classes {low}..{high}, but must be 0..{classes - 1} or {IGNORE} (ignored)")
