"""What every trunk offers, whatever its architecture: the one face that engines, projectors and readers know."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from unicscale.contracts import Features
from unicscale.recipe.sections import COLOURS, Channels
from unicscale.student.trunk.positions import Grid, check_size, fitted

BLOCK = re.compile(r"blocks\.(\d+)\.")
First = Callable[[str, tuple[int, ...]], Tensor]  # name within the trunk, shape -> initial value in fp32


class Trunk(nn.Module):
    """Normalised images -> every block's or stage's tokens, and the final features."""

    widths: list[int]  # of each block or stage that it gives
    prefix: int  # tokens in front of the patches, the summary first; at least 1
    patch: int  # pixels a side that one cell of its grid stands for
    grid: Grid  # the one that it was built for
    tables: tuple[str, ...] = ()  # parameters that hold one position per cell: another size changes their shape
    uncovered: int = 0  # entries of a table that are no cell's
    unread: frozenset[str] = frozenset()  # parameters that no block's output depends on: nothing could train them
    layer_scale: float = 0.0
    channels: Channels = COLOURS  # of the images that it sees
    notes: tuple[str, ...] = ()  # what of the recipe it does otherwise; said once

    @property
    def width(self) -> int:
        """Of the last block, and of the final features."""
        return self.widths[-1]

    @property
    def depth(self) -> int:
        """How many blocks or stages."""
        return len(self.widths)

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[list[Tensor], Features]:
        """(B, C, H, W) -> raw blocks [(B, prefix + N, width of each)], tokens after whatever ends the trunk."""

    @abstractmethod
    def set_draws(self, key: tuple[int, int], index: Tensor) -> None:
        """What the next training forward drops: a function of (seed, step), sample (B,) and path."""

    @abstractmethod
    def at(self, size: int) -> Trunk:
        """This trunk on meta for another size: the same parameters, but for the shapes of its tables."""

    @abstractmethod
    def resize_positions(self, size: int) -> None:
        """Positions for `size` pixels replace those in place; the parameters stay the same objects."""

    def layer_of(self, name: str) -> int:
        """Which part a parameter belongs to: 0 is the stem, 1 the first block, depth + 1 what follows the last."""
        block = BLOCK.match(name)
        if block:
            return 1 + int(block[1])
        return self.depth + 1 if name.startswith("norm.") else 0

    def check(self, size: int) -> None:
        """Refuse a size that it cannot take, with the nearest that it can."""
        check_size(size, self.patch)

    def check_stages(self, stages: Iterable[Sequence[int]]) -> None:
        """Refuse what a run would find out later: every stage is built for its largest size, and meets its others."""
        for sizes in stages:
            for size in sizes:
                check_size(size, self.patch)
            there = self.at(max(sizes))
            for size in sorted(set(sizes)):
                there.check(size)

    def first(self, seed: int) -> First | None:
        """What its parameters start from; None where the rules of `student.initial` say it."""
        return None

    def fit(self, table: Tensor, shape: Sequence[int]) -> Tensor | None:
        """One of its tables for another size; None where that shape is no table of it."""
        return fitted(table, shape, self.uncovered)
