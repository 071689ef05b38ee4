"""`save.best`: the checkpoint that measured best stays, and nothing else is spared for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkpoint.test_checkpoint import NAMES, Shelf, recipe
from tests.kit.recipe import write_images, write_recipe
from unicscale import checkpoint, load
from unicscale.checkpoint import Best, best_of
from unicscale.contracts import Progress
from unicscale.errors import CheckpointError, RecipeError
from unicscale.evaluate.score import Score
from unicscale.ranks.world import World
from unicscale.recipe import load as load_recipe
from unicscale.recipe.sections import Save
from unicscale.recipe.sections.around import Best as MeasuredBy
from unicscale.train import train


def kept(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in checkpoint.committed(folder))


@pytest.mark.parametrize(("higher", "best"), [(True, 3), (False, 2)])
def test_the_best_stays_beside_the_newest(tmp_path: Path, higher: bool, best: int) -> None:
    asked = recipe(keep=1).model_copy(update={"save": Save(keep=1, best=MeasuredBy(task="knn"))})
    saver = checkpoint.Saver(tmp_path, asked, World(), parameters=NAMES)
    for step, value in enumerate([40.0, 30.0, 70.0, float("nan"), 70.0, 60.0], start=1):
        saver.save(Progress(0, step, 4 * step), Shelf(step), {})
        saver.judge(step, Score("knn", value, higher_is_better=higher))
    saver.save(Progress(0, 7, 28), Shelf(7), {}, wait=True)
    assert best_of(tmp_path) == Best(best, "knn", {3: 70.0, 2: 30.0}[best], higher)
    assert kept(tmp_path) == [best, 7]


def test_another_task_begins_anew() -> None:
    assert Best(9, "loss", 0.4, False).beats(Best(3, "knn", 99.0, True))
    assert not Best(9, "loss", float("inf"), False).beats(None)


@pytest.mark.parametrize("text", ["", "[]", '{"step": 1}', '{"step": 1e999, "task": 1, "value": "x"}', "[" * 100_000])
def test_a_damaged_mark_spares_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "BEST").write_text(text)
    assert best_of(tmp_path) is None


def test_a_run_keeps_the_step_that_its_metrics_call_the_best(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 16)
    path = write_recipe(
        tmp_path / "r.yaml", images, tmp_path / "run", steps=6, data__val=[str(images)],
        evaluate={"every_steps": 1, "tasks": ["loss"]},
        save={"every_minutes": None, "keep": 1, "best": {"task": "loss"}},
        stages=[{"name": "low", "size": 32, "steps": 6, "lr": {"peak": 0.3}}],
    )  # fmt: skip
    train(load_recipe(path))
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = {record["step"]: record["val/loss"] for record in records if "val/loss" in record}
    best = min(losses, key=lambda step: losses[step])
    assert best < 6, "a rate of 0.3 was to make the last one worse"
    assert kept(tmp_path / "run/checkpoints") == [best, 6]
    theirs, ours = load(f"{tmp_path}/run@best"), load(f"{tmp_path}/run/checkpoints/step-{best:08d}")
    assert all((theirs.state_dict()[name] == value).all() for name, value in ours.state_dict().items())
    (tmp_path / "run/checkpoints/BEST").unlink()
    with pytest.raises(CheckpointError, match=r"@best: no checkpoint of .* was marked as the best"):
        load(f"{tmp_path}/run@best")


REFUSED = {
    "save.best={task: knn}": "save.best.task: knn is never measured. Say evaluate: {every_epochs: 10, tasks: [knn]}",
    "save.best={}": "'save.best.task' is missing.",
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_best_that_nobody_measures_is_refused(tmp_path: Path, change: str) -> None:
    path = write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run")
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, [change])
    assert REFUSED[change] in str(refused.value)
    with pytest.raises(RecipeError, match=r"save.best.task: 'loss' is not one of evaluate.tasks: knn"):
        load_recipe(path, ["evaluate={every_steps: 1, tasks: [knn]}", "save.best={task: loss}"])
