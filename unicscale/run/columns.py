"""Rows of words as columns of equal width: every table that a command prints."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "


def columns(rows: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    """A line for each row; `right` puts all columns but the first flush right, as numbers want to stand."""
    widths = widths_of(rows)
    return [
        GAP.join(
            cell.rjust(width) if right and place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def fitting(rows: Sequence[Sequence[str]], width: int) -> int:
    """How many columns, from the left, stand side by side in `width`; at least one."""
    widths = widths_of(rows)
    reached = (sum(widths[:count]) + len(GAP) * (count - 1) for count in range(1, len(widths) + 1))
    return max(1, sum(end <= width for end in reached))


def widths_of(rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column, that of its longest cell."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]
