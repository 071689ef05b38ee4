"""A whole run, from recipe to run folder; and what a person reads when it cannot begin."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.commands.test_cli import unicscale
from tests.kit import pictures
from tests.kit.recipe import write_images, write_recipe
from unicscale.errors import CheckpointError, UserError
from unicscale.interop.loading import load as load_model
from unicscale.recipe import load
from unicscale.train import train


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return train(load(str(write_recipe(folder / "r.yaml", images, folder / "out", steps=24)))).root


def records(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_the_folder_of_the_design(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"recipe.yaml", "run.json", "metrics.jsonl", "checkpoints", "logs", "evaluation"} <= names
    assert "lock" not in names  # released
    assert (run / "checkpoints" / "LATEST").read_text().strip() == "step-00000024"
    assert load(str(run / "recipe.yaml")).seed == 5


def test_the_loss_falls_and_both_stages_are_told(run: Path) -> None:
    logged = [r for r in records(run) if "loss" in r]
    early, late = logged[2:6], logged[-4:]
    assert sum(r["loss"] for r in late) < sum(r["loss"] for r in early)
    assert [logged[0]["stage"], logged[-1]["stage"]] == [0, 1]
    assert {"loss/one", "loss/two/cls/cos", "keep/one", "lr", "grad_norm", "time/teachers", "time/projector"} <= logged[
        -1
    ].keys()
    assert all(0 < r["mfu"] < 2 for r in logged), "a share; a busy host's ceiling may be measured too low"


def test_the_log_of_rank_0_has_the_steps_however_the_run_was_started(run: Path) -> None:
    log = (run / "logs" / "rank-0000.log").read_text()
    assert [f"rank 0 INFO step {n}/24  " in log for n in (1, 12, 24)] == [True] * 3


def test_the_log_says_what_auto_became_and_how_each_stage_begins_and_the_run_folder_keeps_it(run: Path) -> None:
    log = (run / "logs" / "rank-0000.log").read_text()
    assert "auto: engine.dtype is fp32, engine.compile is false on cpu" in log
    assert "stage high: 12 steps of 48 px, 2 of them warm-up\n" in log
    kept = load(str(run / "recipe.yaml")).engine
    assert (kept.dtype, kept.compile, kept.open) == ("fp32", False, [])
    launches = json.loads((run / "run.json").read_text())["launches"]
    assert launches[0]["auto"] == {"engine.dtype": "fp32", "engine.compile": False}


def test_the_same_command_again_finds_nothing_to_do(run: Path) -> None:
    before = (run / "metrics.jsonl").read_text()
    train(load(str(run / "recipe.yaml")))
    assert (run / "metrics.jsonl").read_text() == before
    assert len(json.loads((run / "run.json").read_text())["launches"]) >= 2


def test_a_trial_of_three_steps_saves_leaves_with_0_and_the_run_goes_on_to_its_end(
    tmp_path: Path, images: Path
) -> None:
    out = tmp_path / "out"
    recipe = str(write_recipe(tmp_path / "r.yaml", images, out, steps=8, track={"every_steps": 50}))
    said = "stopped at step 3 of 8 (--max-steps 3), saved; the same command without it goes on from there."
    for _ in range(2):  # the second finds nothing to do
        tried = unicscale("train", recipe, "--max-steps", "3")
        assert (tried.returncode, tried.stderr.splitlines()[-1], tried.stdout) == (0, said, ""), tried.stderr
    assert [r["step"] for r in records(out)] == [1, 3], "the last step is logged"
    assert json.loads((out / "run.json").read_text())["launches"][0]["ended"]["exit"] == 75, "stopped, not finished"
    done = unicscale("train", recipe)
    assert (done.returncode, done.stdout) == (0, f"finished: {out}\n"), done.stderr
    assert f"student  {out}/checkpoints/step-00000008\n" in done.stderr
    assert f"unicscale evaluate {out}\n" in done.stderr and f"unicscale export {out} --to timm" in done.stderr


def test_a_student_without_a_projector_trains_and_is_read_back(tmp_path: Path, images: Path) -> None:
    same = {"arch": "vit_tiny", "patch": 8, "options": {"embed_dim": 32, "depth": 2, "num_heads": 2}}
    recipe = write_recipe(tmp_path / "r.yaml", images, tmp_path / "out", projector={"kind": "none"}, student=same)
    for command in ("check", "plan", "train"):
        ran = unicscale(command, str(recipe))
        assert ran.returncode == 0, ran.stderr
    logged = [r for r in records(tmp_path / "out") if "loss" in r]
    assert sum(r["loss"] for r in logged[-4:]) < sum(r["loss"] for r in logged[2:6])
    assert load_model(tmp_path / "out").width == 32
    refused = unicscale("check", str(recipe), "student.options.embed_dim=64")
    assert refused.returncode == 2 and "the student is 64 wide where its teachers are not" in refused.stderr


CUT = {"stages": [{"name": "a", "size": 36, "steps": 2, "lr": {"peak": 1e-3}}]}
WRONG = {
    "a missing folder": ({"data__train": ["/nowhere/train"]}, 3, "/nowhere/train"),
    "an unknown plug-in": ({"teachers__one": {"plugin": "dyno"}}, 4, "no teacher plug-in is called 'dyno'"),
    "a size the patch does not divide": (CUT, 2, "not a multiple of the student's patch, 8. The nearest sizes"),
    "a block that is not there": ({"projector__blocks": [7]}, 2, "there is no block 7; the student has 2"),
    "no projector, and widths that differ": ({"projector": {"kind": "none"}}, 2, "the student is 64 wide where its"),
    "an arch nobody knows": ({"student__arch": "vit_bass"}, 2, "student.arch: 'vit_bass'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_what_cannot_begin_leaves_nothing_behind(tmp_path: Path, images: Path, case: str) -> None:
    changes, code, expected = WRONG[case]
    recipe = write_recipe(tmp_path / "r.yaml", images, tmp_path / "out", **changes)
    with pytest.raises(UserError) as refused:
        train(load(str(recipe)))
    assert refused.value.exit_code == code
    assert expected in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_assembled_leaves_no_data_set_open(tmp_path: Path) -> None:
    packed = pictures.beton(tmp_path, pictures.tree(tmp_path / "images"))
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    (tmp_path / "out" / "checkpoints" / "LATEST").write_text("step-00000008\n")  # refused only when it is looked for
    with pytest.raises(CheckpointError, match="none of it can be used") as refused:
        train(load(str(write_recipe(tmp_path / "r.yaml", Path(packed), tmp_path / "out"))))
    assert refused.tb is not None  # keeps the frames: nothing is closed because it was forgotten
    assert packed not in {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}


def test_images_that_are_no_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(16):
        (tmp_path / "images" / f"{number}.jpg").write_text("not an image")
    ran = unicscale("train", str(write_recipe(tmp_path / "r.yaml", tmp_path / "images", tmp_path / "out")))
    assert (ran.returncode, "Traceback" in ran.stderr) == (3, False), ran.stderr
    assert ".jpg" in ran.stderr


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, images: Path) -> None:
    (tmp_path / "file").write_text("")
    recipe = write_recipe(tmp_path / "r.yaml", images, tmp_path / "file" / "out")
    with pytest.raises(CheckpointError, match="cannot be written"):
        train(load(str(recipe)))
