"""The figures of a report: each looks at some runs and draws itself, or finds nothing to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unicscale.report import afterwards, findings, radar, svg
from unicscale.report.curves import (
    AXIS,
    COLOURS,
    DENSITY,
    MANY,
    NARROW,
    QUIET,
    STYLE,
    WIDE,
    canvas,
    curves,
    cut,
    legend,
    look,
    plain,
)
from unicscale.report.story import Story, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHASES = ("data", "teachers", "student", "projector", "loss", "backward", "optimizer", "boundary", "save", "evaluate")


class Kind(NamedTuple):
    """A figure that could be drawn."""

    file: str  # without its end: .png and .svg are written
    title: str
    says: str  # how to read it, one sentence
    draw: Callable[[Sequence[Story], Sequence[str]], Figure | None]
    finds: Callable[[Sequence[Story], Sequence[str]], str] = findings.nothing  # what is to be seen in it


class Drawn(NamedTuple):
    """One that was."""

    kind: Kind
    finding: str
    wide: str  # as SVG for a page on a desk
    narrow: str  # and on a phone


def draw_all(stories: Sequence[Story], names: Sequence[str], out: Path) -> list[Drawn]:
    """Write every figure that these runs have something for; those that were."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    drawn = []
    for kind in KINDS:
        wide, narrow = (_at(width, kind, stories, names) for width in (WIDE, NARROW))
        files = [out / f"{kind.file}.{end}" for end in ("png", "svg")]
        if wide is None or narrow is None:
            for file in files:
                file.unlink(missing_ok=True)  # of an older report: it must not outlive what it showed
            continue
        with matplotlib.rc_context(STYLE):
            wide.savefig(files[0], dpi=DENSITY, metadata={"Software": None})
            wide.set_layout_engine("none")  # it is laid out; once more would take as long as drawing it
            whole = svg.written(wide)
            files[1].write_text(whole, encoding="utf-8")
            pages = [svg.inside(text, f"{kind.file}-{n}") for n, text in enumerate((whole, svg.written(narrow)))]
        drawn.append(Drawn(kind, kind.finds(stories, names), *pages))
    return drawn


def _at(width: float, kind: Kind, stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    import matplotlib

    with matplotlib.rc_context(STYLE | {"figure.figsize": (width, 3.0)}):
        return kind.draw(stories, names)


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
    """Learning rate, momentum of the statistics, norm of the gradient, pace."""
    wanted = (
        ("lr", "learning rate"), ("grad_norm", "norm of the gradient"), ("images_per_second", "images/s"),
        ("mfu", "share of the device's limit"), ("momentum", "momentum of the statistics"),
    )  # fmt: skip
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
    bars = dict(list(bars.items())[: 4 * MANY])
    figure, axes = canvas(1, wide=True, height=1.4 + 0.3 * len(bars))
    left = dict.fromkeys(bars, 0.0)
    handles = {}
    for phase, colour in zip(PHASES, (*COLOURS, QUIET, AXIS), strict=True):
        widths = [bars[label].get(phase, 0.0) for label in bars]
        if not any(widths):
            continue
        places = range(len(bars))
        handles[phase] = axes[0].barh(places, widths, left=list(left.values()), color=colour, height=0.6)
        left = {label: left[label] + width for label, width in zip(bars, widths, strict=True)}
    axes[0].set_yticks(range(len(bars)), [plain(cut(label, 24)) for label in bars])
    axes[0].invert_yaxis()
    axes[0].grid(axis="y", visible=False)
    axes[0].set_xlabel("seconds per step")
    legend(figure, list(handles.values()), list(handles))
    return figure


def _launches(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """Steps over the clock, a line for each launch: where it stands still, nobody was at work."""
    if all(len(story.facts.get("launches", [])) < 2 for story in stories):
        return None
    figure, axes = canvas(1, wide=True)
    handles = []
    for number, story in enumerate(stories):
        records = [r for r in story.steps if "time" in r]
        began = min((r["time"] for r in records), default=0.0)
        line = None
        for launch in dict.fromkeys(r.get("launch", 0) for r in records):
            own = [r for r in records if r.get("launch", 0) == launch]
            across, up = [(r["time"] - began) / 3600 for r in own], [r["step"] for r in own]
            shown = look(number if len(stories) > 1 else len(axes[0].lines))
            line = axes[0].plot(across, up, marker="o" if len(own) == 1 else None, markersize=3, **shown)[0]
        if line is not None:
            handles.append((line, names[number]))
    if not handles:
        return None
    axes[0].set_xlabel("hours since the first record")
    axes[0].set_ylabel("step")
    if len(handles) > 1:
        legend(figure, *map(list, zip(*handles, strict=True)))
    return figure


KINDS = (
    Kind(
        "loss", "Loss",
        "Cosine distance and smooth L1 to the teachers' standardised tokens, as the recipe weighs them.",
        _loss, findings.loss,
    ),
    Kind(
        "teachers", "Loss by teacher",
        "The summary token and the patches apart; of several runs, patches are dashed.",
        _parts, findings.parts,
    ),
    Kind(
        "validation", "Validation", "Measured in eval mode, all teachers teaching; k-NN in per cent.",
        _validation, findings.validation,
    ),
    Kind(
        "keep", "Teacher dropping", "The share of images that each teacher taught; 1 is all of them.",
        _keep, findings.keep,
    ),
    Kind(
        "course", "Course",
        "A new stage starts its own schedule. A dip in images/s is a save, an evaluation or a pause.",
        _course, findings.course,
    ),
    Kind(
        "launches", "Launches", "Steps over the clock, a line for each launch; where none runs, the run waited.",
        _launches, findings.launches,
    ),
    Kind(
        "radar", "Gains over the best teacher",
        "Relative, task by task; dashed: the best teacher of each. Further out is better, errors turned round.",
        radar.radar, findings.radar,
    ),
    Kind(
        "checkpoints", "Scores over checkpoints",
        "What `unicscale evaluate --over-checkpoints` measured of every checkpoint that was kept.",
        afterwards.over_checkpoints,
    ),
    Kind(
        "pairs", "Pairs of tasks", "A point for each run, numbered as in the legend; better is to the right and up.",
        afterwards.pairs, findings.pairs,
    ),
    Kind(
        "spare", "What can be spared",
        "Linear probes after pruning weights and on few principal components: the change against the whole model. "
        "Teachers are dashed.",
        afterwards.spare, findings.spare,
    ),
    Kind(
        "time", "Time",
        "Seconds of a step by phase; the projector forward and backward, the loss's own backward with it.",
        _time, findings.time,
    ),
)  # fmt: skip
