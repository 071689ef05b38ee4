"""Depth: patch tokens upsampled x4 with CLS beside them, linear to 256 uniform bins, RMSE."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unicscale.contracts import Features, there
from unicscale.errors import DataError
from unicscale.evaluate.metrics.checks import check_features
from unicscale.evaluate.metrics.probe import DenseLinear, Schedule, as_map, draws, fit
from unicscale.evaluate.metrics.segment import upsample

BINS = 256
TEST_BATCH = 16  # at once: the bins of each point stay in a CPU's cache
QUICK = Schedule(steps=120, batch=8, lr=2e-2)  # the fine grid costs: 256 numbers for each of 16 points per patch


class DepthHead(nn.Module):
    """Features -> depth on a grid four times as fine as the patches; the expected value over uniform bins."""

    def __init__(self, width: int, low: float, high: float, bins: int = BINS, summary: int | None = None) -> None:
        super().__init__()  # a ViT's summary is as wide as its patches, a convolutional network's is not
        self.linear = DenseLinear(width + (width if summary is None else summary), bins)
        edges = torch.linspace(low, high, bins + 1)
        self.register_buffer("centres", (edges[1:] + edges[:-1]) / 2)

    def begin_at(self, depth: Tensor) -> None:
        """At what a set's maps hold, (N,), before any image: the loss cares little for scale, which is found late."""
        bins = self.get_buffer("centres")
        place = torch.bucketize(depth.to(bins), (bins[1:] + bins[:-1]) / 2)
        share = torch.bincount(place, minlength=len(bins)) / max(len(depth), 1)
        with torch.no_grad():
            self.linear.bias.copy_((share + 1 / len(bins) ** 2).log())  # what no map holds stays possible

    def forward(self, features: Features) -> Tensor:  # (B, 4h, 4w)
        patches = as_map(there(features.patches).float())
        summary = there(features.summary).float()[:, :, None, None].expand(-1, -1, *patches.shape[2:])
        # a linear layer commutes with bilinear weights, which sum to one: 16 times less to multiply before upsampling
        logits = self.linear(torch.cat([patches, summary], dim=1))
        # bins innermost: a CPU upsamples and normalises neighbouring numbers six times as fast
        logits = logits.contiguous(memory_format=torch.channels_last)
        logits = upsample(logits, (4 * logits.shape[2], 4 * logits.shape[3]))
        return logits.permute(0, 2, 3, 1).softmax(dim=-1) @ self.get_buffer("centres")


def depth_loss(predicted: Tensor, truth: Tensor, *, far: float = math.inf) -> Tensor:
    """The scale-invariant log loss (arXiv:1406.2283, weighed as AdaBins does) over the pixels that have depth."""
    predicted = resize_depth(predicted, truth.shape[-2:])
    known = (truth > 0) & (truth <= far)  # behind it a head has no bins
    wrong = (predicted.clamp_min(1e-6).log() - truth.clamp_min(1e-6).log()) * known
    count = known.sum().clamp_min(1)
    mean = wrong.sum() / count
    variance = wrong.square().sum() / count - mean.square()
    return (variance + 0.15 * mean.square() + 1e-8).sqrt()


def resize_depth(depth: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:  # (B, h, w) -> (B, *size)
    """Bilinear, to the size of the measured map."""
    return F.interpolate(depth[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def depth_errors(predicted: Tensor, truth: Tensor) -> dict[str, float]:  # (H, W) each
    """RMSE, relative error and the usual deltas (per cent within 1.25, 1.25^2, 1.25^3) over pixels that have depth."""
    known = truth > 0
    ours, theirs = predicted[known].double(), truth[known].double()
    ratio = torch.maximum(ours / theirs, theirs / ours.clamp_min(1e-6))
    errors = {
        "rmse": (ours - theirs).square().mean().sqrt().item(),
        "abs_rel": ((ours - theirs).abs() / theirs).mean().item(),
    }
    return errors | {f"delta{n}": 100.0 * (ratio < 1.25**n).double().mean().item() for n in (1, 2, 3)}


def linear_rmse(
    train: Features,  # summary (B, D), patches (B, N, D)
    train_depth: Tensor,  # (B, H, W), 0: unknown
    test: Features,
    test_depth: Tensor,
    *,
    low: float,
    high: float,
    schedule: Schedule = QUICK,
    seed: int = 22,
) -> float:
    """RMSE, averaged over images, of a linear head trained on features in memory."""
    each = linear_errors(train, train_depth, test, test_depth, low=low, high=high, schedule=schedule, seed=seed)
    return sum(one["rmse"] for one in each) / len(each)


def linear_errors(
    train: Features,
    train_depth: Tensor,
    test: Features,
    test_depth: Tensor,
    *,
    low: float,
    high: float,
    schedule: Schedule,
    seed: int,
) -> list[dict[str, float]]:
    """The errors image by image, so that test sets can be resampled."""
    width = there(train.patches).shape[-1]
    for name, features, depth in (("depth train", train, train_depth), ("depth test", test, test_depth)):
        check_features(name, there(features.patches), width=width)
        check_depth(name, depth, len(there(features.patches)), high)

    def batches() -> Iterator[tuple[Features, Tensor]]:
        for rows in draws(len(train_depth), schedule, seed):
            yield train.each(lambda tokens, rows=rows: tokens[rows]), train_depth[rows]

    summary = there(train.summary).shape[-1]
    head = fit(DepthHead(width, low, high, summary=summary), batches(), depth_loss, schedule)
    errors = []
    with torch.no_grad():
        for first in range(0, len(test_depth), TEST_BATCH):
            some = slice(first, first + TEST_BATCH)
            predicted = head(test.each(lambda tokens, some=some: tokens[some]))
            predicted = resize_depth(predicted, test_depth.shape[-2:])
            errors += [depth_errors(ours, theirs) for ours, theirs in zip(predicted, test_depth[some], strict=True)]
    return errors


def check_depth(what: str, depth: Tensor, count: int, high: float) -> None:
    """Refuse depth maps that do not fit their images, hold nothing, or are in another unit."""
    if len(depth) != count:
        raise DataError(f"{what}: {count} images but {len(depth)} depth maps")
    if not bool((depth > 0).any()):
        raise DataError(f"{what}: no pixel has a depth above 0")
    if float(depth.max()) > 1.001 * high:
        raise DataError(f"{what}: depth reaches {float(depth.max()):.3g}, but the bins end at {high:g}; another unit?")
