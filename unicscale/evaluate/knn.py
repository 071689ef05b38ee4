"""Weighted k-nearest-neighbour classification by cosine, in chunks, so that memory does not grow with the bank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.errors import DataError
from unicscale.evaluate.inputs import check_features, check_labels

BANK_ROWS, QUERY_ROWS = 16_384, 4_096  # one similarity block is 256 MB of fp32


@torch.no_grad()
def nearest(
    bank: Tensor,  # (N, D) any float type, any device, may be memory-mapped
    queries: Tensor,  # (Q, D)
    k: int,
    *,
    device: torch.device | str = "cpu",
    bank_rows: int = BANK_ROWS,
    query_rows: int = QUERY_ROWS,
) -> tuple[Tensor, Tensor]:  # (Q, k) cosines, largest first; (Q, k) rows of the bank
    """The k nearest rows of the bank for every query, exactly."""
    if k > len(bank):
        raise DataError(f"k-NN: k = {k}, but the bank holds only {len(bank)} features; ask for a smaller k")
    cosines = torch.full((len(queries), k), -torch.inf)
    rows = torch.zeros(len(queries), k, dtype=torch.int64)
    for chunk, first in _chunks(bank, bank_rows, device):  # the bank once: it is what may come from disk
        for some, q in _chunks(queries, query_rows, device):
            where = slice(q, q + len(some))
            found, index = (some @ chunk.T).topk(min(k, len(chunk)), sorted=False)
            both = torch.cat([cosines[where].to(device), found], dim=1)
            index = torch.cat([rows[where].to(device), index + first], dim=1)
            kept, position = both.topk(k)
            cosines[where], rows[where] = kept.cpu(), index.gather(1, position).cpu()
    return cosines, rows


def _chunks(features: Tensor, rows: int, device: torch.device | str) -> Iterator[tuple[Tensor, int]]:
    for first in range(0, len(features), rows):
        yield F.normalize(features[first : first + rows].to(device, torch.float32), dim=1), first


def vote(cosines: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:  # (Q, k), (Q, k) -> (Q,)
    """The class with the largest sum of exp(cosine / temperature)."""
    predictions = []
    for some, theirs in zip(cosines.split(QUERY_ROWS), labels.split(QUERY_ROWS), strict=True):
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
) -> dict[int, Tensor]:  # k -> (Q,)
    """Predictions for several k from one search."""
    check_features("k-NN bank", bank)
    check_features("k-NN queries", queries, width=bank.shape[1])
    classes = check_labels("k-NN bank", bank_labels, len(bank), classes)
    cosines, rows = nearest(bank, queries, max(ks), device=device)
    labels = bank_labels.cpu().long()[rows]
    return {k: vote(cosines[:, :k], labels[:, :k], classes, temperature) for k in ks}


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
