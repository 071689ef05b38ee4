"""The paper's Figure 1: what a student gains over the best teacher of each task, all around."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unicscale.report.afterwards import headlines
from unicscale.report.curves import NARROW, QUIET, cut, legend, look, plain
from unicscale.report.story import Story

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {  # of Figure 1, in its order
    "imagenet": "ImageNet", "imagenet/imagenet_v2": "ImageNet v2", "domain_shift": "domain shift", "cog": "CoG",
    "long_tail": "long tail", "fine_grained": "fine-grained", "ade20k/mIoU": "ADE20K", "nyud/rmse": "NYUd",
}  # fmt: skip
FILLED = 3  # runs whose areas can still be told apart; of more, outlines


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
    for number, one in enumerate(drawn.values()):
        values = [one[k] for k in axes]
        handles += axis.plot([*around, 0.0], [*values, values[0]], marker="o", markersize=4, **look(number))
        if len(drawn) <= FILLED:
            axis.fill(around, values, color=look(number)["color"], alpha=0.08)
    if len(drawn) > FILLED and width > NARROW:  # on a phone its legend alone has room
        for name, place in _ahead(drawn, axes).items():
            out = 9 * math.cos(around[place]), 9 * math.sin(around[place])
            out = out if abs(out[1]) > 3 else (0.0, 9.0)  # above its corner: beside it stands the axis's own name
            how = {"ha": "left" if out[0] > 1 else "right" if out[0] < -1 else "center", "va": "center", "fontsize": 7}
            where = (around[place], drawn[name][axes[place]])
            axis.annotate(plain(cut(name, 16)), where, xytext=out, textcoords="offset points", **how)
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


def _ahead(drawn: Mapping[str, Mapping[str, float]], axes: Sequence[str]) -> dict[str, int]:
    """Where each run that is ahead of all others anywhere is so by most: there it is named."""
    found: dict[str, tuple[float, int]] = {}
    for place, axis in enumerate(axes):
        first, second = sorted(drawn, key=lambda name: -drawn[name][axis])[:2]
        lead = drawn[first][axis] - drawn[second][axis]
        found[first] = max(found.get(first, (-1.0, 0)), (lead, place))
    return {name: place for name, (_, place) in found.items()}


def _axis(name: str, drawn: Mapping[str, Mapping[str, float]]) -> str:
    label = AXES.get(name, name)
    return f"{label}\n{next(iter(drawn.values()))[name]:+.1f} %" if len(drawn) == 1 else label
