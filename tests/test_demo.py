"""The demo: the whole story in small, and what it says at its end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import components
from tests.kit import places
from unicscale import demo
from unicscale.errors import CheckpointError
from unicscale.ranks import device
from unicscale.recipe import dump, load

FEW = ["stages.0.steps=4", "stages.1.steps=2", "track.every_steps=2"]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One demo of six steps."""
    out = tmp_path_factory.mktemp("demo") / "run"
    return demo.run(out, seed=1, sizes=demo.Sizes(train=256, bank=192, test=96, probe_steps=2), overrides=FEW).root


def test_the_demo_leaves_a_run_folder(story: Path) -> None:
    for part in (
        "recipe.yaml",
        "run.json",
        "metrics.jsonl",
        "checkpoints/LATEST",
        "logs/rank-0000.log",
        "pictures/patches.json",
        "pictures/segmentation.json",
        "pictures/worst.json",
        "report/index.html",
    ):
        assert (story / part).exists(), part
    assert len(list((story / "scenes" / "seed-1").rglob("*.png"))) == 256


def test_its_page_tells_the_story_in_its_own_numbers(story: Path) -> None:
    page = (story / "report" / "index.html").read_text()
    held = json.loads((story / "evaluation" / "demo.json").read_text())
    assert "256 images of 48 pixels, then 128 images of 64 pixels" in page
    assert "What the patch tokens see" in page and "Depth beside the truth" in page
    better = "classes" if held["scores"]["classes"]["mIoU"] > held["scores"]["dense"]["mIoU"] else "dense"
    assert re.search(f"&#x27;{better}&#x27; is the better one on [^;.]*mIoU", page)


def test_its_page_says_what_the_second_stage_and_each_part_bring(story: Path) -> None:
    page = (story / "report" / "index.html").read_text()
    assert "after stage &#x27;low&#x27;, 48 px" in page and "after stage &#x27;high&#x27;, 64 px" in page
    assert "What each part of the method adds" in page and "Not this run: each row adds a part" in page
    own = json.loads((story / "evaluation" / "demo.json").read_text())
    last = own["beside"][0]["rows"][2]
    assert last[1:] == [axis.form.format(own["scores"]["student"][axis.name]) for axis in demo.AXES]


def test_what_each_part_adds_is_what_was_measured() -> None:
    measured = json.loads((places.REPOSITORY / "benchmarks" / "results" / "components.json").read_text())
    shown = json.loads(demo.PARTS.read_text())
    assert shown == components.parts(measured["rows"], 480, 96, measured["machine"], measured["date"])
    assert list(shown["rows"])[-1] == "+ teacher dropping"


def test_both_stages_ran_at_their_own_size(story: Path) -> None:
    lines = [json.loads(line) for line in (story / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps[-1] == 6
    assert [stage.size for stage in load(story / "recipe.yaml").stages] == [48, 64]


def test_every_model_is_scored_on_every_axis(story: Path) -> None:
    found = json.loads((story / "evaluation" / "demo.json").read_text())
    assert found["synthetic"] is True
    assert set(found["scores"]) == {"classes", "dense", "student"}
    for scores in found["scores"].values():
        assert list(scores) == [axis.name for axis in demo.AXES]
    assert list(found["gain"]) == [axis.name for axis in demo.AXES]


def test_the_table_fits_a_terminal_and_calls_the_scenes_synthetic(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {name: dict.fromkeys((a.name for a in demo.AXES), 0.5) for name in ("classes", "dense", "student")}
    demo.show(scores, demo.Clock(), student_saw=64_000)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "ynthetic" in shown
    for word in ("teacher classes", "teacher dense", "student", "k-NN", "RMSE", "gain", "64,000"):
        assert word in shown


def test_a_folder_that_holds_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds thesis\.tex, and is no run folder"):
        demo.run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_it_computes_in_what_this_cpu_has_and_goes_on_in_what_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for can, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(device, "computes_bf16", lambda _, can=can: can)
        assert demo.precision(tmp_path / "new", []) == expected
        (begun := tmp_path / expected).mkdir()
        (begun / "recipe.yaml").write_text(dump(load(demo.RECIPE, [f"engine.dtype={expected}"])))
    assert demo.precision(tmp_path / "bf16", []) == "bf16"
    assert demo.precision(tmp_path / "new", ["engine.dtype=bf16"]) == "bf16"
    assert capfd.readouterr().err.count("This CPU only imitates bf16: the demo computes in fp32") == 1


def test_the_axes_share_the_cores_one_thread_each_and_give_the_threads_back() -> None:
    before = torch.get_num_threads()
    with demo.sharing_cores() as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == before


def test_the_mean_over_axes_is_held_against_the_best_teacher_of_each() -> None:
    names = [axis.name for axis in demo.AXES]
    scores = {
        "classes": dict(zip(names, (50.0, 50.0, 50.0, 40.0, 0.20), strict=True)),
        "dense": dict(zip(names, (25.0, 50.0, 50.0, 50.0, 0.10), strict=True)),
        "student": dict(zip(names, (55.0, 45.0, 50.01, 50.0, 0.09), strict=True)),
    }
    told = " ".join(demo.told(scores, load(demo.RECIPE)))
    assert "student +2.0 %, dense -10.0 %, classes -24.0 %" in told
    assert "The student goes beyond both on k-NN class (+10.0 %), depth RMSE (+10.0 %)." in told


def test_a_smaller_error_is_a_gain() -> None:
    names = [axis.name for axis in demo.AXES]
    scores = {
        "classes": dict(zip(names, (50.0, 50.0, 50.0, 40.0, 0.20), strict=True)),
        "dense": dict(zip(names, (20.0, 20.0, 50.0, 50.0, 0.10), strict=True)),
        "student": dict(zip(names, (55.0, 45.0, 50.0, 50.0, 0.09), strict=True)),
    }
    assert demo.gains(scores) == pytest.approx(dict(zip(names, (10.0, -10.0, 0.0, 0.0, 10.0), strict=True)))


def test_a_student_that_is_larger_than_its_teachers_is_said_to_be() -> None:
    from unicscale_teachers import scenes

    recipe = load(demo.RECIPE)
    assert (recipe.student.options["depth"], recipe.student.options["num_heads"]) == (scenes.DEPTH, scenes.HEADS)
    said = f"A student of {recipe.student.options['embed_dim']} channels and {scenes.DEPTH} blocks, where each teacher"
    assert demo.sized(recipe) == f"{said} has {scenes.DIM} channels,"


def test_what_the_demo_says_its_teachers_saw_is_what_their_files_say() -> None:
    import inspect

    from safetensors import safe_open
    from unicscale_teachers import scenes

    from benchmarks import train_scenes

    batch = inspect.signature(train_scenes.train).parameters["batch"].default
    for knows in ("classes", "dense"):
        with safe_open(scenes.Scenes().bundled(scenes.Scenes.Options(knows=knows)), "pt") as file:
            assert int(file.metadata()["steps"]) * batch == demo.TEACHERS_SAW
