"""The paper's Figure 1: what a student gains over the best teacher of each task, all around."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from unicscale.report.afterwards import headlines
from unicscale.report.curves import COLOURS, NARROW, QUIET, legend, plain
from unicscale.report.story import Story

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {  # of Figure 1, in its order
    "imagenet": "ImageNet", "imagenet/imagenet_v2": "ImageNet v2", "domain_shift": "domain shift", "cog": "CoG",
    "long_tail": "long tail", "fine_grained": "fine-grained", "ade20k/mIoU": "ADE20K", "nyud/rmse": "NYUd",
}  # fmt: skip


def radar(stories: Sequence[Story], names: Sequence[str]) -> Figure | None:
    """The gain over the best teacher on the axes of the paper, or on whatever was measured."""
    gains = {
        n: {k: s["gain"] for k, s in story.scores.items() if "gain" in s}
        for n, story in zip(names, stories, strict=True)
    }
    axes = [axis for axis in AXES if any(axis in one for one in gains.values())]
    if len(axes) < 3:
        axes = headlines(gains.values())
    drawn = {name: one for name, one in gains.items() if all(axis in one for axis in axes)}
    if len(axes) < 3 or not drawn:
        return None
    from matplotlib import rcParams
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    width = min(6.4, rcParams["figure.figsize"][0])
    figure = Figure(figsize=(width, 0.8 * width if width > NARROW else 1.05 * width))
    axis: Any = figure.add_subplot(projection="polar")
    around = [2 * math.pi * number / len(axes) for number in range(len(axes))]
    handles: list[Any] = []
    for one, colour in zip(drawn.values(), cycle(COLOURS), strict=False):
        values = [one[k] for k in axes]
        handles += axis.plot([*around, 0.0], [*values, values[0]], color=colour, marker="o", markersize=4)
        axis.fill(around, values, color=colour, alpha=0.08)
    everything = [value for one in drawn.values() for value in (one[k] for k in axes)]
    low, high = min([*everything, 0.0]), max([*everything, 0.0])
    room = 0.25 * (high - low) or 1.0
    axis.plot([2 * math.pi * n / 180 for n in range(181)], [0.0] * 181, color=QUIET, linestyle="--", linewidth=1.0)
    axis.set_ylim(low - room, high + room)
    axis.set_xticks(around, [plain(_axis(k, drawn)) for k in axes])
    axis.tick_params(axis="x", pad=10)
    axis.yaxis.set_major_locator(MaxNLocator(4, prune="both"))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:+g} %" if value else "0 %")
    if len(drawn) > 1:
        legend(figure, handles, list(drawn))
    return figure


def _axis(name: str, drawn: Mapping[str, Mapping[str, float]]) -> str:
    label = AXES.get(name, name)
    return f"{label}\n{next(iter(drawn.values()))[name]:+.1f} %" if len(drawn) == 1 else label
