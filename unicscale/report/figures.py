"""The figures of a report: each looks at some runs and draws itself, or finds nothing to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unicscale.report import afterwards, radar
from unicscale.report.curves import COLOURS, DENSITY, STYLE, canvas, curves
from unicscale.report.story import Story, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHASES = ("data", "teachers", "student", "backward", "optimizer", "boundary", "save", "evaluate")


class Kind(NamedTuple):
    """A figure that could be drawn."""

    file: str
    title: str
    says: str  # what to look for, one sentence
    draw: Callable[[Sequence[Story], Sequence[str]], Figure | None]


def draw_all(stories: Sequence[Story], names: Sequence[str], out: Path) -> list[Kind]:
    """Write every figure that these runs have something for; those that were."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    drawn = []
    with matplotlib.rc_context(STYLE):
        for kind in KINDS:
            figure = kind.draw(stories, names)
            if figure is None:
                (out / kind.file).unlink(missing_ok=True)  # of an older report: it must not outlive what it showed
            else:
                figure.savefig(out / kind.file, dpi=DENSITY, metadata={"Software": None})
                drawn.append(kind)
    return drawn


def _loss(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """One run: the whole and each teacher. Several: the whole of each."""
    if len(stories) == 1:
        story = stories[0]
        lines = [("all teachers", "loss"), *((name, f"loss/{name}") for name in story.teachers)]
        return curves([[(label, story.steps, term) for label, term in lines]], ["loss"], stories, wide=True)
    return curves([[(n, s.steps, "loss") for n, s in zip(names, stories, strict=True)]], ["loss"], stories, wide=True)


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
    return curves(panels, [f"loss of {teacher}" for teacher in teachers], stories, pairs=several)


def _keep(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """How often each teacher taught an image; nothing where all always do."""
    moving = [s for s in stories if any(r[term] < 1 for r in s.steps for term in r if term.startswith("keep/"))]
    kept = [(name, story) for name, story in zip(names, stories, strict=True) if story in moving]
    panels = [[(teacher, story.steps, f"keep/{teacher}") for teacher in story.teachers] for _, story in kept]
    return curves(panels, [name if len(stories) > 1 else "share of images" for name, _ in kept], stories)


def _validation(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """What was measured while training."""
    wanted = measured(stories)
    panels = [[(n, s.validations, term) for n, s in zip(names, stories, strict=True)] for term in wanted]
    return curves(panels, [term.removeprefix("val/") for term in wanted], stories, dots=True)


def _course(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """Learning rate, norm of the gradient, pace."""
    wanted = (("lr", "learning rate"), ("grad_norm", "norm of the gradient"), ("images_per_second", "images/s"))
    panels = [[(n, s.steps, term) for n, s in zip(names, stories, strict=True)] for term, _ in wanted]
    return curves(panels, [title for _, title in wanted], stories, logarithmic=("norm of the gradient",))


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
    figure, axes = canvas(1, wide=True, height=0.9 + 0.34 * len(bars))
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
        "radar.png",
        "Gains over the best teacher",
        "Relative, task by task; dashed: the best teacher of each. Further out is better, errors turned round.",
        radar.radar,
    ),
    Kind(
        "checkpoints.png",
        "Scores over checkpoints",
        "What `unicscale evaluate --over-checkpoints` measured of every checkpoint that was kept.",
        afterwards.over_checkpoints,
    ),
    Kind(
        "pairs.png",
        "Pairs of tasks",
        "A point for each run, numbered as in the legend; better is to the right and up.",
        afterwards.pairs,
    ),
    Kind(
        "spare.png",
        "What can be spared",
        "Linear probes after pruning weights and on few principal components: the change against the whole model. "
        "Teachers are dashed.",
        afterwards.spare,
    ),
    Kind(
        "time.png", "Time", "Host seconds of a step by phase; on a GPU, work of one phase may end in the next.", _time
    ),
)
