"""Weighted k-nearest-neighbour classification by cosine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unicscale.evaluate.metrics.checks import check_features, check_labels
from unicscale.evaluate.metrics.nearest import nearest

VOTES = 4_096  # queries at a time


def vote(cosines: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:  # (Q, k), (Q, k) -> (Q,)
    """The class with the largest sum of exp(cosine / temperature)."""
    predictions = []
    for some, theirs in zip(cosines.split(VOTES), labels.split(VOTES), strict=True):
        weights = ((some - some[:, :1]) / temperature).exp()  # the nearest weighs 1: no overflow at small temperatures
        votes = weights.new_zeros(len(some), classes).scatter_add_(1, theirs, weights)
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


def knn_predict(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    *,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    classes: int | None = None,
    device: torch.device | str = "cpu",
    own: Tensor | None = None,  # (Q,) the row of the bank that each query is: left out of its own neighbours
) -> dict[int, Tensor]:  # k -> (Q,)
    """Predictions for several k from one search."""
    check_features("k-NN bank", bank)
    check_features("k-NN queries", queries, width=bank.shape[1])
    classes = check_labels("k-NN bank", bank_labels, len(bank), classes)
    cosines, rows = nearest(bank, queries, max(ks) + (own is not None), device=device)
    if own is not None:
        cosines, rows = _others(cosines, rows, own)
    labels = bank_labels.cpu().long()[rows]
    return {k: vote(cosines[:, :k], labels[:, :k], classes, temperature) for k in ks}


def _others(cosines: Tensor, rows: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:  # (Q, k + 1) -> (Q, k)
    """The neighbours of each query without itself."""
    itself = rows == own[:, None].to(rows.device)
    itself[:, -1] |= ~itself.any(dim=1)  # hidden behind exact copies of itself: drop the furthest instead
    k = rows.shape[1] - 1
    return cosines[~itself].view(-1, k), rows[~itself].view(-1, k)


def knn_accuracy(
    bank: Tensor,  # (N, D)
    bank_labels: Tensor,  # (N,)
    queries: Tensor,  # (Q, D)
    labels: Tensor,  # (Q,)
    k: int = 20,
    temperature: float = 0.07,
    classes: int | None = None,
) -> float:
    """Top-1 accuracy in per cent."""
    check_labels("k-NN queries", labels, len(queries), classes)
    predictions = knn_predict(bank, bank_labels, queries, ks=[k], temperature=temperature, classes=classes)[k]
    return 100.0 * (predictions == labels.cpu()).double().mean().item()
