"""The nearest rows of a bank by cosine: exact, in chunks, so that memory does not grow with the bank.

Where the CPU computes in bf16, rounded copies of both sides are multiplied first, at more than twice the rate.
How far their cosine can be from the true one follows from how far each vector was moved by rounding. Only rows that
could still be among the nearest are multiplied again in fp32; what comes out is what fp32 alone would have found.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.errors import DataError
from unicscale.ranks.device import computes_bf16

BANK_ROWS, QUERY_ROWS = 16_384, 512  # a block of similarities is 16 to 32 MB: the allocator hands it out again
CROWDED = 16  # one in so many hits of a row: then the whole product costs less than picking


@torch.no_grad()
def nearest(
    bank: Tensor,  # (N, D) any float type, any device, may be memory-mapped
    queries: Tensor,  # (Q, D)
    k: int,
    *,
    device: torch.device | str = "cpu",
    bank_rows: int = BANK_ROWS,
    query_rows: int = QUERY_ROWS,
    screen: bool | None = None,  # None: where it is faster
) -> tuple[Tensor, Tensor]:  # (Q, k) cosines, largest first; (Q, k) rows of the bank
    """The k nearest rows of the bank for every query, exactly."""
    if k > len(bank):
        raise DataError(f"k-NN: k = {k}, but the bank holds only {len(bank)} features; ask for a smaller k")
    screen = screens(device) if screen is None else screen
    blocks = [Best(directions, k) for directions, _ in _chunks(queries, query_rows, device, screen)]
    for chunk, first in _chunks(bank, bank_rows, device, screen):  # the bank once: it is what may come from disk
        for block in blocks:
            block.meet(chunk, first)
    return torch.cat([block.cosines.cpu() for block in blocks]), torch.cat([block.rows.cpu() for block in blocks])


def screens(device: torch.device | str) -> bool:
    """Whether this is a CPU that computes in bf16; imitated, it is slower than fp32."""
    return torch.device(device).type == "cpu" and computes_bf16(device)


class Directions(NamedTuple):
    """Features of unit length, and their bf16 copies where these screen."""

    exact: Tensor  # (N, D) fp32
    rounded: Tensor | None  # (N, D) bf16
    moved: Tensor | None  # (N,) how far rounding moved each

    @classmethod
    def of(cls, features: Tensor, screen: bool) -> Directions:
        exact = F.normalize(features.float(), dim=1)
        if not screen:
            return cls(exact, None, None)
        rounded = exact.bfloat16()
        return cls(exact, rounded, (rounded.float() - exact).norm(dim=1))


def _chunks(features: Tensor, rows: int, device: torch.device | str, screen: bool) -> Iterator[tuple[Directions, int]]:
    for first in range(0, len(features), rows):
        yield Directions.of(features[first : first + rows].to(device), screen), first


class Best:
    """The nearest rows so far of a block of queries."""

    def __init__(self, queries: Directions, k: int) -> None:
        self.queries, self.k = queries, k
        count, device = len(queries.exact), queries.exact.device
        self.cosines = torch.full((count, k), -torch.inf, device=device)  # largest first
        self.rows = torch.zeros(count, k, dtype=torch.int64, device=device)

    def meet(self, bank: Directions, first: int) -> None:
        """Take what is near of these rows of the bank, the `first`-th and those behind it."""
        hits = self._hits(bank)
        if hits is None:
            found, index = (self.queries.exact @ bank.exact.T).topk(min(self.k, len(bank.exact)), sorted=False)
        else:
            found, index = picked(self.queries.exact, bank.exact, hits)
        cosines, rows = torch.cat([self.cosines, found], 1), torch.cat([self.rows, index + first], 1)
        self.cosines, position = cosines.topk(self.k)
        self.rows = rows.gather(1, position)

    def _hits(self, bank: Directions) -> Hits | None:
        """Rows of the bank that may be nearer than the k-th so far; None where that cannot be told or is no gain."""
        ours, theirs = self.queries, bank
        if ours.rounded is None or ours.moved is None or theirs.rounded is None or theirs.moved is None:
            return None
        if bool(self.cosines[:, -1].isinf().any()):  # too few rows so far
            return None
        most = theirs.moved.max()
        slack = ours.moved * (1 + most) + most + ours.exact.shape[1] * 2**-23  # Cauchy-Schwarz; fp32 sums
        # rounding is monotonic, so the rounded product of a row that belongs here is not below the rounded floor
        floor = (self.cosines[:, -1] - slack).bfloat16()
        hits = Hits.of(ours.rounded @ theirs.rounded.T >= floor[:, None])
        return hits if int(hits.counts.max()) * CROWDED <= len(theirs.exact) else None


class Hits(NamedTuple):
    """The entries of a (queries, bank) matrix that are worth a second look."""

    query: Tensor  # (H,) ascending
    row: Tensor  # (H,)
    counts: Tensor  # (Q,) per query

    @classmethod
    def of(cls, mask: Tensor) -> Hits:  # (Q, N) bool
        where = mask.flatten().nonzero().squeeze(1)  # flat: several times as fast as by coordinates
        query = where // mask.shape[1]
        return cls(query, where - query * mask.shape[1], query.bincount(minlength=len(mask)))


def picked(queries: Tensor, bank: Tensor, hits: Hits) -> tuple[Tensor, Tensor]:  # (Q, most) each
    """Cosines and rows of the hits, a line per query, filled up with -inf."""
    starts = F.pad(hits.counts.cumsum(0), (1, 0))
    size, zeros = (len(queries), len(bank)), queries.new_zeros(len(hits.row))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(starts, hits.row, zeros, size, check_invariants=False)
    place = torch.arange(len(hits.row), device=starts.device) - starts[hits.query]
    shape = len(queries), int(hits.counts.max())
    cosines, rows = queries.new_full(shape, -torch.inf), starts.new_zeros(shape)
    # only the products that the pattern names, without copying the vectors together
    cosines[hits.query, place] = torch.sparse.sampled_addmm(pattern, queries, bank.T, beta=0.0).values()
    rows[hits.query, place] = hits.row
    return cosines, rows
