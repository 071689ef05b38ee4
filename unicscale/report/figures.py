"""The figures of a report: each looks at some runs and draws itself, or finds nothing to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unicscale.report.story import Record, Story, terms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f6f9f", "#d1692b", "#3d8f5f", "#9b4f96", "#b8912d", "#5b6670", "#c2405e", "#2aa0a4", "#7a5a3a", "#8083c9")
PHASES = ("data", "teachers", "student", "backward", "optimizer", "boundary", "save", "evaluate")
WIDTH, HEIGHT, DENSITY = 5.2, 3.0, 160  # inches, inches, dots per inch


class Drawing(NamedTuple):
    """A figure that was written."""

    file: str
    title: str
    says: str  # what to look for, one sentence


class Kind(NamedTuple):
    """A figure that could be drawn."""

    file: str
    title: str
    says: str
    draw: Callable[[Sequence[Story], Sequence[str]], Figure | None]


def draw_all(stories: Sequence[Story], names: Sequence[str], out: Path) -> list[Drawing]:
    """Write every figure that these runs have something for."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    drawn = []
    with matplotlib.rc_context(STYLE):
        for kind in KINDS:
            figure = kind.draw(stories, names)
            if figure is not None:
                figure.savefig(out / kind.file, dpi=DENSITY, metadata={"Software": None})
                drawn.append(Drawing(kind.file, kind.title, kind.says))
    return drawn


STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#9aa3ab", "axes.labelcolor": "#3c454d",
    "axes.grid": True, "axes.axisbelow": True, "axes.titlesize": 9, "axes.titlelocation": "left", "axes.labelsize": 8,
    "grid.color": "#e8ebee", "grid.linewidth": 0.8, "xtick.color": "#5b6670", "ytick.color": "#5b6670",
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5, "legend.frameon": False,
    "lines.linewidth": 1.4, "lines.solid_capstyle": "round", "font.size": 8, "figure.constrained_layout.use": True,
}  # fmt: skip


def _loss(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """One run: the whole and each teacher. Several: the whole of each."""
    if len(stories) == 1:
        story = stories[0]
        lines = [("all teachers", "loss"), *((name, f"loss/{name}") for name in story.teachers)]
        return _curves([[(label, story.steps, term) for label, term in lines]], ["loss"], stories, wide=True)
    return _curves([[(n, s.steps, "loss") for n, s in zip(names, stories, strict=True)]], ["loss"], stories, wide=True)


def _parts(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """A panel for each teacher: summary and patches, for every run."""
    teachers = list(dict.fromkeys(teacher for story in stories for teacher in story.teachers))
    several = len(stories) > 1
    panels = [
        [
            (name if several else part, story.steps, f"loss/{teacher}/{token}")
            for name, story in zip(names, stories, strict=True)
            for token, part in (("cls", "summary"), ("patch", "patches"))
        ]
        for teacher in teachers
    ]
    return _curves(panels, [f"loss of {teacher}" for teacher in teachers], stories, pairs=several)


def _keep(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """How often each teacher taught an image; nothing where all always do."""
    moving = [s for s in stories if any(r[term] < 1 for r in s.steps for term in r if term.startswith("keep/"))]
    kept = [(name, story) for name, story in zip(names, stories, strict=True) if story in moving]
    panels = [[(teacher, story.steps, f"keep/{teacher}") for teacher in story.teachers] for _, story in kept]
    return _curves(panels, [name if len(stories) > 1 else "share of images" for name, _ in kept], stories)


def _validation(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """What was measured while training."""
    wanted = [term for term in terms(stories, "val/") if term.count("/") == 1 and term != "val/seconds"]
    panels = [[(n, s.validations, term) for n, s in zip(names, stories, strict=True)] for term in wanted]
    return _curves(panels, [term.removeprefix("val/") for term in wanted], stories, dots=True)


def _course(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """Learning rate, norm of the gradient, pace."""
    wanted = (("lr", "learning rate"), ("grad_norm", "norm of the gradient"), ("images_per_second", "images/s"))
    panels = [[(n, s.steps, term) for n, s in zip(names, stories, strict=True)] for term, _ in wanted]
    return _curves(panels, [title for _, title in wanted], stories, logarithmic=("norm of the gradient",))


def _time(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """Where a step's seconds went, on the average of its stage: a bar for each run and stage."""
    bars: dict[str, dict[str, float]] = {}
    for name, story in zip(names, stories, strict=True):
        for stage in dict.fromkeys(record["stage"] for record in story.steps):
            held = [r for r in story.steps if r["stage"] == stage][1:]  # the first step compiles and opens files
            label = f"stage {stage + 1}" if len(stories) == 1 else f"{name}, stage {stage + 1}"
            means = {p: [r[f"time/{p}"] for r in held if f"time/{p}" in r] for p in PHASES}
            bars[label] = {phase: sum(v) / len(held) for phase, v in means.items() if v}
    bars = {label: parts for label, parts in bars.items() if parts}
    if not bars:
        return None
    figure, axes = _page(1, wide=True, height=0.9 + 0.34 * len(bars))
    left = dict.fromkeys(bars, 0.0)
    for phase, colour in zip(PHASES, COLOURS, strict=False):
        widths = [bars[label].get(phase, 0.0) for label in bars]
        if not any(widths):
            continue
        axes[0].barh(list(bars), widths, left=list(left.values()), color=colour, label=phase, height=0.6)
        left = {label: left[label] + width for label, width in zip(bars, widths, strict=True)}
    axes[0].invert_yaxis()
    axes[0].grid(axis="y", visible=False)
    axes[0].set_xlabel("seconds per step")
    figure.legend(loc="outside upper center", ncols=len(PHASES))
    return figure


KINDS = (
    Kind(
        "loss.png",
        "Loss",
        "Cosine distance and smooth L1 to the teachers' standardised tokens, as the recipe weighs them.",
        _loss,
    ),
    Kind(
        "teachers.png",
        "Loss by teacher",
        "The summary token and the patches apart; of several runs, patches are dashed.",
        _parts,
    ),
    Kind(
        "validation.png", "Validation", "Measured in eval mode, all teachers teaching; k-NN in per cent.", _validation
    ),
    Kind("keep.png", "Teacher dropping", "The share of images that each teacher taught; 1 is all of them.", _keep),
    Kind(
        "course.png",
        "Course",
        "A new stage starts its own schedule. A dip in images/s is a save, an evaluation or a pause.",
        _course,
    ),
    Kind(
        "time.png", "Time", "Host seconds of a step by phase; on a GPU, work of one phase may end in the next.", _time
    ),
)


# --- drawing ----------------------------------------------------------------------------------------

Line = tuple[str, list[Record], str]  # label, records, term


def _curves(
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
    figure, axes = _page(len(shown), wide=wide)
    for axis, (title, lines) in zip(axes, shown, strict=False):
        for number, line in enumerate(lines):
            colour = COLOURS[(number // 2 if pairs else number) % len(COLOURS)]
            style = "--" if pairs and number % 2 else "-"
            points = _points(line)
            marker = "o" if dots or len(points) == 1 else None
            axis.plot(*zip(*points, strict=True) if points else ((), ()), color=colour, linestyle=style, marker=marker,
                      markersize=4, label=line[0])  # fmt: skip
        axis.set_title(title)
        if title in logarithmic:
            axis.set_yscale("log")
        _over_images(axis, stories)
    every = 2 if pairs else 1
    labels = [line[0] for line in shown[0][1]][::every]
    if len(labels) > 1:
        handles = axes[0].get_legend_handles_labels()[0][::every]
        figure.legend(
            handles, labels, loc="outside upper left", ncols=max(1, min(4, 110 // (8 + max(map(len, labels)))))
        )
    return figure


def _points(line: Line) -> list[tuple[float, float]]:
    _, records, term = line
    return [(r["images"], r[term]) for r in records if isinstance(r.get(term), int | float)]


def _page(panels: int, *, wide: bool = False, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
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
