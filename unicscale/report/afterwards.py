"""The figures of what was measured after training, from results alone: the paper's Figures 3b, 5, 6 and A."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from unicscale.evaluate.results import course
from unicscale.evaluate.results.compare import DETAIL, NO_CONTEST
from unicscale.report.curves import COLOURS, canvas, curves, legend, plain
from unicscale.report.story import Story

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAIRED = ("imagenet", "transfer", "ade20k/mIoU", "nyud/rmse")  # of Figure 5
SPARE = {  # of Figures 6 and A: what is left of the weights, and of the features
    "prune": "ImageNet, weights pruned (%)", "whiten": "ImageNet, whitened components",
    "prune_ade20k": "ADE20K, weights pruned (%)", "whiten_ade20k": "ADE20K, whitened components",
}  # fmt: skip


def over_checkpoints(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """A panel for each headline that `unicscale evaluate --over-checkpoints` measured."""
    held: dict[str, list[tuple[str, list[dict[str, Any]], str]]] = {}
    for name, story in _both(stories, names):
        for points in course.read(story.folder.evaluation).values():
            records = [{"images": p["images"]} | {k: s["value"] for k, s in p["scores"].items()} for p in points]
            for score in headlines(p["scores"] for p in points):
                held.setdefault(score, []).append((name, records, score))
    return curves(list(held.values()), list(held), stories, dots=True)


def pairs(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """One point per run: what a method gains on one task, and on the other."""
    scores = {name: story.scores for name, story in _both(stories, names)}
    tasks = [task for task in PAIRED if sum(task in one for one in scores.values()) > 2]
    if len(tasks) < 2:
        tasks = [t for t in headlines(scores.values()) if sum(t in one for one in scores.values()) > 2][:4]
    shown = list(combinations(tasks, 2))
    if not shown:
        return None
    figure, axes = canvas(len(shown))
    points = [name for name in scores if any(a in scores[name] and b in scores[name] for a, b in shown)]
    handles = {}
    for axis, (across, up) in zip(axes, shown, strict=True):
        for number, name in enumerate(points):
            if across in scores[name] and up in scores[name]:
                handles[name] = _point(axis, scores[name][across]["value"], scores[name][up]["value"], number)
        for task, turn in ((across, axis.invert_xaxis), (up, axis.invert_yaxis)):
            if not next(one[task] for one in scores.values() if task in one).get("higher_is_better", True):
                turn()  # better is always right and up
        axis.set_xlabel(plain(across))
        axis.set_ylabel(plain(up))
    labels = [f"{n + 1} {name}" for n, name in enumerate(points)]
    legend(figure, [handles[name] for name in points], labels)
    return figure


def _point(axis: Axes, across: float, up: float, number: int) -> Any:
    colour = COLOURS[number % len(COLOURS)]
    axis.annotate(str(number + 1), (across, up), xytext=(5, 3), textcoords="offset points", fontsize=7, color=colour)
    return axis.scatter([across], [up], color=colour, s=22)


def spare(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """How a probe falls as less and less is left of a model: the change against the whole one, in per cent."""
    panels: dict[str, dict[str, dict[float, float]]] = {}
    teachers: set[str] = set()
    for run, story in _both(stories, names):
        for held in story.results.values():
            for score, row in held["scores"].items():
                found = re.fullmatch(rf"({'|'.join(SPARE)})/(\d+) ?%?/change", score)
                for model, cell in row.items() if found else ():
                    teacher = held["models"][model]["teacher"]
                    label = model.removeprefix("teacher:") if teacher or len(stories) == 1 else run
                    teachers |= {label} if teacher else set()
                    if found and (teacher or model in (story.folder.root.resolve().name, "student")):
                        panels.setdefault(found[1], {}).setdefault(label, {})[float(found[2])] = cell["value"]
    shown = [name for name in SPARE if name in panels]
    if not shown:
        return None
    figure, axes = canvas(len(shown))
    labels = list(dict.fromkeys(label for name in shown for label in panels[name]))
    drawn: dict[str, Any] = {}
    for axis, name in zip(axes, shown, strict=True):
        for label, points in panels[name].items():
            start = {0.0: 0.0} if name.startswith("prune") else {}  # nothing pruned, nothing changed
            across, up = zip(*sorted((start | points).items()), strict=True)
            style: Any = {
                "color": COLOURS[labels.index(label) % len(COLOURS)],
                "linestyle": "--" if label in teachers else "-",
                "label": plain(label),
            }
            drawn[label] = axis.plot(across, up, marker="o", markersize=3.5, **style)[0]
        if name.startswith("whiten"):
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_title(SPARE[name])
        axis.set_ylabel("change (%)")
    legend(figure, [drawn[label] for label in labels], labels)
    return figure


def headlines(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    """Scores that are neither facts nor the details of another score."""
    names = dict.fromkeys(name for one in tables for name in one)
    return [n for n in names if not n.startswith(NO_CONTEST) and not any(part in n for part in DETAIL)]


def _both(stories: Sequence[Story], names: Sequence[str]) -> list[tuple[str, Story]]:
    return list(zip(names, stories, strict=True))
