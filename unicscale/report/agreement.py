"""The picture of a comparison of teachers: how alike each two are, and what each costs and has to say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unicscale.evaluate.comparing import Comparison, Pair
from unicscale.report.curves import COLOURS, DENSITY, STYLE, plain


def draw(found: Comparison, out: Path) -> None:
    """A PNG."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure

        names = [one.name for one in found.met]
        wide = max(3.0, 0.8 * len(names) + 1.6)
        figure = Figure(figsize=(3 * wide, wide), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        _alike(left, names, found.pairs, "cka", "CKA of summaries")
        _alike(middle, names, found.pairs, "neighbours", "same nearest images")
        for number, one in enumerate(found.met):
            colour = COLOURS[number % len(COLOURS)]
            right.scatter(one.million, one.rank, color=colour, s=50)
            right.annotate(plain(one.name), (one.million, one.rank), xytext=(5, 5), textcoords="offset points")
        right.set_xscale("log")
        right.set_xlabel("million parameters")
        right.set_title("effective rank of summaries")
        right.margins(0.25)
        figure.savefig(out, dpi=DENSITY, metadata={"Software": None})


def _alike(axis: Any, names: Sequence[str], pairs: Sequence[Pair], what: str, title: str) -> None:
    grid = [[1.0] * len(names) for _ in names]
    for pair in pairs:
        one, two = names.index(pair.first), names.index(pair.second)
        grid[one][two] = grid[two][one] = getattr(pair, what)
    axis.imshow(grid, vmin=0, vmax=1, cmap="Blues")
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            if row != column:
                axis.text(
                    column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black"
                )
    labels = [plain(name) for name in names]
    axis.set_xticks(range(len(names)), labels, rotation=30, ha="right")
    axis.set_yticks(range(len(names)), labels)
    axis.set_title(title)
    axis.grid(False)
