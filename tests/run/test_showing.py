"""What is measured after training reaches the trackers under the run's own id, or costs nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.kit.recipe import write_images, write_recipe
from tests.run.test_metrics import told_in, wandb_of
from unicscale.commands.evaluation import _tell
from unicscale.evaluate.results import compare
from unicscale.recipe import dump, load
from unicscale.run.folder import RunFolder
from unicscale.run.lock import Lock
from unicscale.run.mirrors import Shown
from unicscale.run.showing import show

TRACK = {"wandb": {"mode": "offline", "project": "mine"}, "tensorboard": True}


def a_run(folder: Path, **track: Any) -> RunFolder:
    """Trained, as far as trackers know."""
    run = RunFolder(folder / "out")
    run.evaluation.mkdir(parents=True)
    recipe = load(str(write_recipe(folder / "r.yaml", write_images(folder / "images", 8), run.root, track=track)))
    run.recipe.write_text(dump(recipe))
    run.facts.write_text(json.dumps({"id": "abc123", "launches": [{"time": 1.0}]}))
    run.metrics.write_text('{"step": 16, "images": 128, "stage": 1, "loss": 0.5}\n')
    return run


def result(model: str, teacher: bool, value: float) -> dict[str, Any]:
    scores = [{"name": "knn", "value": value, "low": value - 1, "high": value + 1, "higher_is_better": True}]
    return {"model": model, "teacher": teacher, "task": "knn", "sha256": "0", "scores": scores}


def test_a_suites_table_and_pictures_land_in_the_run_that_trained(tmp_path: Path) -> None:
    run = a_run(tmp_path, **TRACK)
    whole = compare.summary([result("out", False, 66.0), result("teacher:one", True, 60.0)])
    _tell(whole, [run.evaluation / "quick.json", tmp_path / "elsewhere.json"])
    show(run, [Shown("pictures/patches", pictures={"what they see": Image.new("RGB", (8, 8), "red")})])
    told = [one for file in told_in(run.root) for one in wandb_of(file)]
    assert {one["id"] for one in told if "id" in one} == {"abc123"}
    assert next(one for one in told if "evaluation/quick/knn" in one)["evaluation/quick/knn"] == "66"
    assert all(one["step"] == "16" for one in told if "step" in one), "of the step that was measured"
    (table,) = run.root.glob("wandb/offline-run-*/files/media/table/evaluation/quick_*.table.json")
    held = json.loads(table.read_text())
    assert held["columns"] == ["score", "out", "teacher:one", "best teacher", "gain"]
    assert held["data"] == [["knn", "66.0 ±1.0", "60.0 ±1.0", "one", "+10.0 %"]]
    assert list(run.root.glob("wandb/offline-run-*/files/media/images/pictures/patches_*.png"))
    assert _events(run.root / "events") == {"evaluation/quick/knn": 66.0, "pictures/patches/0": (8, 8)}


def _events(folder: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    said = b"".join(events.Tensors("evaluation/quick/text_summary")[0].tensor_proto.string_val)
    assert b"| knn | 66.0 " in said
    numbers = {tag: events.Scalars(tag)[-1].value for tag in tags["scalars"]}
    return numbers | {tag: (events.Images(tag)[0].width, events.Images(tag)[0].height) for tag in tags["images"]}


def test_a_run_that_still_trains_keeps_its_trackers_to_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path, tensorboard=True)
    lock = Lock(run.root)
    lock.take()
    show(run, [Shown("evaluation/quick", numbers={"knn": 1.0})])
    assert not (run.root / "events").exists()
    assert capfd.readouterr().err == (
        f"{run.root}: trackers were not told: it still trains. Once it has ended, the same command tells them; "
        "it measures nothing twice.\n"
    )
    lock.release()
    show(run, [Shown("evaluation/quick", numbers={"knn": 1.0})])
    assert (run.root / "events").exists()


def test_a_tracker_that_breaks_costs_no_result(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path, tensorboard=True)
    (run.root / "events").write_text("in the way")
    show(run, [Shown("evaluation/quick", numbers={"knn": 1.0})])
    assert "trackers were not told: FileExistsError" in capfd.readouterr().err


def test_a_run_without_trackers_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    begin = time.perf_counter()
    show(a_run(tmp_path), [Shown("evaluation/quick", numbers={"knn": 1.0})])
    assert capfd.readouterr().err == "" and time.perf_counter() - begin < 2
