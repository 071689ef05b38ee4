"""Curves over the images that were seen, panel by panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unicscale.report.course import Record
from unicscale.report.story import Story

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f6f9f", "#d1692b", "#3d8f5f", "#9b4f96", "#b8912d", "#5b6670", "#c2405e", "#2aa0a4", "#7a5a3a", "#8083c9")
WIDTH, HEIGHT, DENSITY = 5.2, 3.0, 160  # inches, inches, dots per inch
STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#9aa3ab", "axes.labelcolor": "#3c454d",
    "axes.grid": True, "axes.axisbelow": True, "axes.titlesize": 9, "axes.titlelocation": "left", "axes.labelsize": 8,
    "grid.color": "#e8ebee", "grid.linewidth": 0.8, "xtick.color": "#5b6670", "ytick.color": "#5b6670",
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5, "legend.frameon": False,
    "lines.linewidth": 1.4, "lines.solid_capstyle": "round", "font.size": 8, "figure.constrained_layout.use": True,
}  # fmt: skip

Line = tuple[str, list[Record], str]  # label, records, term


def curves(
    panels: Sequence[Sequence[Line]],
    titles: Sequence[str],
    stories: Sequence[Story],
    *,
    wide: bool = False,
    dots: bool = False,
    pairs: bool = False,
    logarithmic: Sequence[str] = (),
) -> Figure | None:
    """Panels over images seen; `pairs`: every second line belongs to the one before, and is dashed in its colour."""
    shown = [(title, lines) for title, lines in zip(titles, panels, strict=True) if any(map(_points, lines))]
    if not shown:
        return None
    figure, axes = canvas(len(shown), wide=wide)
    handles: list[Any] = []
    for axis, (title, lines) in zip(axes, shown, strict=False):
        drawn = [_line(axis, line, number, dots=dots, pairs=pairs) for number, line in enumerate(lines)]
        handles = handles or drawn
        axis.set_title(plain(title))
        if title in logarithmic:
            axis.set_yscale("log")
        _over_images(axis, stories)
    every = 2 if pairs else 1
    labels = [plain(line[0]) for line in shown[0][1]][::every]
    if len(labels) > 1:
        columns = max(1, min(4, 110 // (8 + max(map(len, labels)))))
        figure.legend(handles[::every], labels, loc="outside upper left", ncols=columns)
    return figure


def _line(axis: Axes, line: Line, number: int, *, dots: bool, pairs: bool) -> Any:
    colour = COLOURS[(number // 2 if pairs else number) % len(COLOURS)]
    style = "--" if pairs and number % 2 else "-"
    points = _points(line)
    marker = "o" if dots or len(points) == 1 else None
    across, up = zip(*points, strict=True) if points else ((), ())
    return axis.plot(across, up, color=colour, linestyle=style, marker=marker, markersize=4)[0]


def plain(text: str) -> str:
    """As it is: matplotlib would take dollars for mathematics, and leave out what begins with an underscore."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _points(line: Line) -> list[tuple[float, float]]:
    _, records, term = line
    return [(r["images"], r[term]) for r in records if isinstance(r.get(term), int | float)]


def canvas(panels: int, *, wide: bool = False, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = 1 if wide or panels == 1 else 2
    rows = -(-panels // columns)
    figure = Figure(figsize=(2 * WIDTH, height if wide or columns == 1 else rows * 0.9 * HEIGHT))
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]
    return figure, axes


def _over_images(axis: Axes, stories: Sequence[Story]) -> None:
    """Images on the x axis, with a dotted line where a stage begins."""
    from matplotlib.ticker import FuncFormatter

    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_xlabel("images")
    for place in {place for story in stories for place in story.boundaries}:
        axis.axvline(place, color="#9aa3ab", linestyle=":", linewidth=1.0)


def short(value: float) -> str:
    """12000 -> 12k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
