"""Figures 3, 4 and 6 of the paper on the study's scenes, as one picture: means over seeds, 95 % intervals as bands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study_page import AS_LONG, Cells, interval, seeds_of
from unicscale.report.curves import STYLE, WIDE, canvas, look

UNIC, UNDROPPED = "table_1/8_dropping", f"table_1/7_ladder{AS_LONG}"
TAUGHT = ("classes", "dense")
Points = Sequence[Sequence[float]]  # across, up
Line = tuple[str, list[Points]]  # a label, and one course per seed


def draw(cells: Cells, file: Path) -> bool:
    """False where no seed has what it takes."""
    from matplotlib import rc_context

    seeds = [s for s in seeds_of(cells, UNIC) if {"less", "course"} <= cells[f"{UNIC} / {s}"].keys()]
    seeds = [s for s in seeds if "course" in cells.get(f"{UNDROPPED} / {s}", {})]
    if not seeds:
        return False

    def course(row: str, key: str) -> list[Points]:
        return [cells[f"{row} / {seed}"]["course"][key] for seed in seeds]

    def less(key: str) -> list[Line]:
        student = ("student", [cells[f"{UNIC} / {seed}"]["less"][key] for seed in seeds])
        return [student, *((f"teacher {n}", [cells[f"teachers / {s}"]["less"][n][key] for s in seeds]) for n in TAUGHT)]

    rows = {"dropping": UNIC, "no dropping": UNDROPPED}
    panels: list[tuple[str, str, list[Line]]] = [
        ("Figure 3a: loss of each teacher", "step", _pairs(course, rows, "loss")),
        ("Figure 3b: k-NN class, %", "step", [(how, course(row, "k-NN class")) for how, row in rows.items()]),
        ("Figure 4: share of images that a teacher teaches", "step", _pairs(course, {"dropping": UNIC}, "keep")),
        ("Figure 6a: linear class after pruning, %", "share of weights at nought", less("pruned")),
        ("Figure 6b: linear class, %", "whitened principal components", less("components")),
    ]
    with rc_context(STYLE | {"figure.figsize": (WIDE, 3.0)}):
        figure, axes = canvas(len(panels), height=2.9)
        for axis, (title, across, lines) in zip(axes, panels, strict=True):
            for number, (label, seen) in enumerate(lines):
                _band(axis, seen, label, look(number))
            axis.set(title=title, xlabel=across)
            axis.legend()
        figure.savefig(file, dpi=110)
    return True


def _pairs(course: Callable[[str, str], list[Points]], rows: dict[str, str], what: str) -> list[Line]:
    many = len(rows) > 1
    return [
        (f"{name}, {how}" if many else name, course(row, f"{what}/{name}"))
        for name in TAUGHT
        for how, row in rows.items()
    ]


def _band(axis: Any, seen: list[Points], label: str, style: dict[str, Any]) -> None:
    across = [point[0] for point in seen[0]]
    means, halves = zip(*(interval([one[n][1] for one in seen]) for n in range(len(across))), strict=True)
    axis.plot(across, means, label=label, **style)
    low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
    axis.fill_between(across, low, high, color=style["color"], alpha=0.15, linewidth=0)
