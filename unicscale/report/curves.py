"""Curves over the images that were seen, panel by panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unicscale.report.course import Record
from unicscale.report.story import Story

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# one after the other far apart for every kind of colour vision (after Okabe and Ito), readable on white and on black
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5539c", "#d99a00", "#3fa2dc", "#8a6d3b", "#7a7f87")
STYLES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)))  # those of the next eight lines
WIDE, NARROW = 10.4, 3.4  # inches: a page on a desk, a page on a phone
PANEL = 4.0  # inches: two panels stand side by side where there is room for two of these
HEIGHT, DENSITY = 3.0, 160  # inches, dots per inch
POINTS = 40_000  # of all lines of a figure: more are no longer seen, and a page shall stay small
MANY = 12  # lines that a legend still tells apart
AXIS, INK, GRID, QUIET = "#9aa3ab", "#3c454d", "#e8ebee", "#5b6671"
STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": AXIS, "axes.labelcolor": INK,
    "axes.grid": True, "axes.axisbelow": True, "axes.titlesize": 9, "axes.titlelocation": "left", "axes.labelsize": 8,
    "grid.color": GRID, "grid.linewidth": 0.8, "xtick.color": QUIET, "ytick.color": QUIET,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5, "legend.frameon": False,
    "lines.linewidth": 1.4, "lines.solid_capstyle": "round", "font.size": 8, "figure.constrained_layout.use": True,
    "svg.fonttype": "none", "svg.hashsalt": "unicscale",
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
    most = POINTS // sum(len(lines) for _, lines in shown)
    handles: list[Any] = []
    for axis, (title, lines) in zip(axes, shown, strict=False):
        drawn = [_line(axis, line, number, most, dots=dots, pairs=pairs) for number, line in enumerate(lines)]
        handles = handles or drawn
        axis.set_title(plain(title))
        if title in logarithmic:
            axis.set_yscale("log")
        _over_images(axis, stories)
    every = 2 if pairs else 1
    labels = [line[0] for line in shown[0][1]][::every]
    if len(labels) > 1:
        legend(figure, handles[::every], labels)
    return figure


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Above the panels, in as many columns as fit; of very many lines the first."""
    from matplotlib.lines import Line2D

    handles, labels = list(handles), list(labels)
    if len(labels) > MANY:
        rest = len(labels) - MANY + 1
        handles, labels = handles[: MANY - 1], [*labels[: MANY - 1], f"and {rest} more"]
        handles.append(Line2D([], [], linestyle="none"))
    room = 10.5 * figure.get_size_inches()[0]  # letters side by side
    labels = [cut(label, int(room) - 8) for label in labels]
    columns = max(1, min(4, int(room // (8 + max(map(len, labels))))))
    figure.legend(handles, [plain(label) for label in labels], loc="outside upper left", ncols=columns)


def cut(text: str, length: int) -> str:
    """Its two ends, where it is longer: names of runs differ in either."""
    half = max(2, (length - 1) // 2)
    return text if len(text) <= 2 * half + 1 else f"{text[:half]}…{text[-half:]}"


def look(number: int) -> dict[str, Any]:
    """Colour and dashes of a figure's n-th line."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number // len(COLOURS) % len(STYLES)]}


def _line(axis: Axes, line: Line, number: int, most: int, *, dots: bool, pairs: bool) -> Any:
    style = {"color": look(number // 2)["color"], "linestyle": "--" if number % 2 else "-"} if pairs else look(number)
    points = thinned(_points(line), most)
    marker = "o" if dots or len(points) == 1 else None
    across, up = zip(*points, strict=True) if points else ((), ())
    return axis.plot(across, up, marker=marker, markersize=4, **style)[0]


def thinned(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Of every stretch its lowest and its highest point, in their order, so that no spike is lost; and the last."""
    size = -(-2 * len(points) // max(4, most))
    if size <= 2:
        return points
    kept = []
    for first in range(0, len(points), size):
        some = points[first : first + size]
        low, high = (how(range(len(some)), key=lambda n: some[n][1]) for how in (min, max))
        kept += [some[n] for n in sorted({low, high})]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def plain(text: str) -> str:
    """As it is: matplotlib would take dollars for mathematics, and leave out what begins with an underscore."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _points(line: Line) -> list[tuple[float, float]]:
    _, records, term = line
    return [(r["images"], r[term]) for r in records if isinstance(r.get(term), int | float)]


def canvas(panels: int, *, wide: bool = False, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    """Panels as wide as the style says the page is; one above the other on a phone."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    width = rcParams["figure.figsize"][0]
    columns = 1 if wide or panels == 1 or width < 2 * PANEL else 2
    rows = -(-panels // columns)
    tall = height if rows == 1 else rows * 0.9 * height
    figure = Figure(figsize=(width, tall))
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]
    return figure, axes


def _over_images(axis: Axes, stories: Sequence[Story]) -> None:
    """Images on the x axis, with a dotted line where a stage begins."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_xlabel("images")
    if len(stories) > MANY:
        return  # their boundaries would be a curtain
    for place in {place for story in stories for place in story.boundaries}:
        axis.axvline(place, color=AXIS, linestyle=":", linewidth=1.0)


def short(value: float) -> str:
    """12000 -> 12k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
