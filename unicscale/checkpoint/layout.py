"""Who writes what: every rank says which ranges it holds, all compute the same division of the writing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from unicscale.checkpoint.manifest import Entry, Range
from unicscale.engine import Piece

Held = dict[str, "Span"]


class Span(NamedTuple):
    """What one rank holds of one tensor."""

    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: str
    bytes: int


def held(pieces: dict[str, Piece]) -> Held:
    """The spans of one rank's pieces."""
    return {
        name: Span(
            piece.start,
            piece.start + piece.flat.numel(),
            tuple(piece.shape),
            str(piece.flat.dtype).removeprefix("torch."),
            piece.flat.numel() * piece.flat.element_size(),
        )
        for name, piece in pieces.items()
    }


def file_of(rank: int) -> str:
    """The file one rank writes."""
    return f"rank-{rank:04d}.safetensors"


def divide(layouts: Sequence[Held]) -> dict[str, Entry]:
    """One writer per range: replicated ranges go to the least loaded of those who hold them."""
    holders: dict[tuple[str, Span], list[int]] = defaultdict(list)
    for rank, spans in enumerate(layouts):
        for name, span in spans.items():
            if span.stop > span.start or prod(span.shape) == 0:
                holders[name, span].append(rank)
    load = [0] * len(layouts)
    ranges: dict[str, list[Range]] = defaultdict(list)
    kind: dict[str, tuple[tuple[int, ...], str]] = {}
    for (name, span), ranks in sorted(holders.items(), key=lambda item: (-item[0][1].bytes, item[0][0])):
        writer = min(ranks, key=lambda rank: (load[rank], rank))
        load[writer] += span.bytes
        ranges[name].append(Range(span.start, span.stop, file_of(writer)))
        assert kind.setdefault(name, (span.shape, span.dtype)) == (span.shape, span.dtype), f"ranks disagree on {name}"
    return {name: Entry(*kind[name], tuple(sorted(found))) for name, found in ranges.items()}


def missing(entries: dict[str, Entry], names: Sequence[str]) -> list[str]:
    """Those of `names` that the ranges do not cover from the first to the last element."""
    return [name for name in names if name not in entries or not entries[name].whole()]
