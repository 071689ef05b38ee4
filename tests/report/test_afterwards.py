"""Figures of what was measured: each is drawn where there are results for it, and only there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from unicscale.evaluate.results.compare import summary
from unicscale.report import Story, afterwards, radar
from unicscale.report.course import Course
from unicscale.report.figures import draw_all
from unicscale.run.folder import RunFolder
from unicscale.run.states import State
from unicscale.run.status import Status

matplotlib.use("Agg", force=False)
EIGHT = ("imagenet", "imagenet/imagenet_v2", "domain_shift", "cog", "long_tail", "fine_grained", "ade20k/mIoU")


def measure(model: str, *, teacher: bool = False, **scores: float) -> dict[str, Any]:
    cells = [
        {"name": n, "value": v, "low": None, "high": None, "higher_is_better": "rmse" not in n}
        for n, v in scores.items()
    ]
    return {"model": model, "sha256": "0", "teacher": teacher, "task": model, "scores": cells}


def story(folder: Path, name: str, *measured: dict[str, Any]) -> Story:
    """A run that was evaluated, as a report reads it."""
    held = {"all": summary(measured)} if measured else {}
    return Story(RunFolder(folder / name), Status(name, State.FINISHED), {}, {}, Course(), held)


def own(value: float) -> dict[str, float]:
    return {**{axis: value + n for n, axis in enumerate(EIGHT)}, "nyud/rmse": 1 / value}


def spared(steep: float) -> dict[str, float]:
    pruned = {f"prune/{p}%/change": -steep * p for p in range(10, 80, 10)}
    whitened = {f"whiten/{2**k}/change": -steep * 100 / 2**k for k in range(3, 10)}
    ade = {f"{name.replace('/', '_ade20k/', 1)}": 1.2 * value for name, value in (pruned | whitened).items()}
    return pruned | whitened | ade


def titles(figure: Any) -> list[str]:
    return [axis.get_title() for axis in figure.axes]


def test_a_radar_has_the_papers_eight_axes_and_the_gains_over_the_best_teacher(tmp_path: Path) -> None:
    teacher = measure("teacher:dino", teacher=True, **own(50.0))
    one = story(tmp_path, "a", measure("a", **own(55.0)), teacher)
    [axis] = radar.radar([one], ["a"]).axes
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert [label.split("\n")[0] for label in labels] == list(radar.AXES.values())
    assert labels[0].endswith("+10.0 %") and labels[-1].endswith("+9.1 %")  # of an error, less is better
    assert radar.radar([story(tmp_path, "b", measure("b", **own(55.0)))], ["b"]) is None  # nobody to gain over
    assert radar.radar([story(tmp_path, "c")], ["c"]) is None


@pytest.mark.parametrize(("runs", "areas", "named"), [(3, 3, set()), (4, 0, {"run-0", "run-3"})])
def test_of_more_than_three_runs_a_radar_has_outlines_named_where_they_lead(
    tmp_path: Path, runs: int, areas: int, named: set[str]
) -> None:
    teacher = measure("teacher:dino", teacher=True, **own(50.0))
    names = [f"run-{n}" for n in range(runs)]
    held = [own(55.0 + n) | {"cog": 70.0 - 10 * n} for n in range(runs)]  # the last leads, but for the first at one
    stories = [story(tmp_path, n, measure(n, **one), teacher) for n, one in zip(names, held, strict=True)]
    [axis] = radar.radar(stories, names).axes
    assert len(axis.patches) == areas
    assert {text.get_text() for text in axis.texts} == named


def test_a_radar_of_other_data_has_the_axes_that_were_measured(tmp_path: Path) -> None:
    scores = {"k-NN class": 60.0, "mIoU": 30.0, "linear": 50.0}
    one = story(tmp_path, "a", measure("student", **scores), measure("t", teacher=True, **scores))
    [axis] = radar.radar([one], ["a"]).axes
    assert [label.get_text().split("\n")[0] for label in axis.get_xticklabels()] == list(scores)


def test_pairs_of_tasks_want_three_runs_and_turn_errors_round(tmp_path: Path) -> None:
    runs = [
        story(tmp_path, n, measure(n, **{"imagenet": v, "nyud/rmse": v}))
        for n, v in (("a", 1.0), ("b", 2.0), ("c", 3.0))
    ]
    [axis] = afterwards.pairs(runs, ["a", "b", "c"]).axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("imagenet", "nyud/rmse")
    assert axis.yaxis_inverted() and not axis.xaxis_inverted()
    assert afterwards.pairs(runs[:2], ["a", "b"]) is None


def test_curves_of_what_can_be_spared_begin_at_the_whole_model(tmp_path: Path) -> None:
    one = story(tmp_path, "a", measure("a", **spared(0.1)), measure("teacher:dino", teacher=True, **spared(0.3)))
    figure = afterwards.spare([one], ["a"])
    assert titles(figure) == list(afterwards.SPARE.values())
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    assert list(lines) == ["a", "dino"] and lines["dino"][0].tolist() == [0.0, 0.0]
    assert lines["dino"][-1].tolist() == [70.0, pytest.approx(-21.0)]


def test_scores_over_checkpoints_are_drawn_over_images(tmp_path: Path) -> None:
    one = story(tmp_path, "a")
    folder = one.folder.evaluation / "course"
    folder.mkdir(parents=True)
    points = [
        {
            "step": n,
            "images": 100 * n,
            "stage": 0,
            "scores": {"imagenet": {"value": 70.0 + n}, "imagenet/k=5": {"value": 1}},
        }
        for n in (1, 2, 3)
    ]
    (folder / "imagenet.json").write_text(json.dumps({"schema": 1, "course": "a", "points": points}))
    figure = afterwards.over_checkpoints([one], ["a"])
    assert titles(figure) == ["imagenet"]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[100.0, 71.0], [200.0, 72.0], [300.0, 73.0]]


def test_the_page_gets_them_as_pictures_with_something_on_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = []
    for number in range(4):
        teacher = measure("teacher:dino", teacher=True, **own(50.0), transfer=70.0, **spared(0.3))
        student = measure(
            f"run{number}", **own(50.0 + rng.normal() * 3), transfer=72.0 + rng.normal(), **spared(0.1 + 0.05 * number)
        )
        runs.append(story(tmp_path, f"run{number}", student, teacher))
    drawn = {one.kind.file for one in draw_all(runs, [f"run{n}" for n in range(4)], tmp_path)}
    assert drawn == {"radar", "pairs", "spare"}
    for file in drawn:
        assert np.asarray(Image.open(tmp_path / f"{file}.png")).std() > 10
