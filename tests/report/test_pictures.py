"""What `unicscale look` makes of a run and some images, and what the report makes of that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.kit import tiny_sets
from tests.kit.recipe import write_images, write_recipe
from unicscale.cli import app
from unicscale.contracts import Features
from unicscale.data import scenes
from unicscale.errors import CheckpointError, DataError
from unicscale.evaluate.pictures import colours, crew, sheet
from unicscale.evaluate.pictures.sheet import Cell, Row, Sheet
from unicscale.recipe import load
from unicscale.train import train

QUICK = ["--device", "cpu", "--dtype", "fp32", "--dense-size", "32", "--dense-steps", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps with two random teachers."""
    folder = tmp_path_factory.mktemp("look")
    recipe = write_recipe(folder / "r.yaml", write_images(folder / "images", 16), folder / "run", steps=6)
    return train(load(str(recipe))).root


def look(*arguments: Any) -> str:
    done = CliRunner().invoke(app, ["look", *map(str, arguments), *QUICK], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*arguments: Any) -> str:
    done = CliRunner().invoke(app, ["look", *map(str, arguments), *QUICK])
    assert isinstance(done.exception, DataError | CheckpointError), done.output
    return str(done.exception)


def test_student_and_teachers_are_shown_side_by_side(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    tiny_sets.folders(photos, ["a", "b"], 8)
    said = look(run, photos, "--count", "3")
    assert "Of the colours that all models share, each can paint: student" in said
    held = sheet.read(run / "pictures", [], ("patches",))
    assert list(held) == ["patches", "neighbours", "worst"]
    patches = held["patches"]
    assert patches.columns == ["image", "student", "one", "two"] and len(patches.rows) == 3
    assert {row.name for row in patches.rows} == {"a", "b"}, "of each class some"
    assert sheet.decoded(patches.rows[0].cells[1]).size == (6, 6), "a pixel for each patch of the student"
    assert [row.name for row in held["neighbours"].rows[:3]] == ["student", "one", "two"]
    assert "of the query's class" in held["neighbours"].finding
    for row in held["worst"].rows:
        distances = [float(cell.says) for cell in row.cells]
        assert distances == sorted(distances, reverse=True) and len(distances) == 8


def test_a_run_that_was_trained_says_its_stages_and_epochs_to_those_who_watch(run: Path) -> None:
    said = CliRunner().invoke(app, ["watch", "--once", str(run)], catch_exceptions=False).output
    assert f"{run}  finished  stage high (2/2)  step 6/6  epoch 3.00" in said
    assert "saved at 6" in said


def test_without_images_it_looks_at_the_runs_own(run: Path, tmp_path: Path) -> None:
    look(run, "--out", tmp_path / "out")
    assert "Of 16 images, the 8 farthest." in sheet.read(tmp_path / "out", [], ())["worst"].says


def test_maps_stand_beside_the_truth(run: Path, tmp_path: Path) -> None:
    scenes.write_maps(tmp_path / "maps", seed=0, train=range(6), test=range(6, 8), size=32)
    look(run, tmp_path / "maps", "--alone", "--out", tmp_path / "out")
    held = sheet.read(tmp_path / "out", [], ())
    assert {"segmentation", "depth", "patches"} <= set(held) and "worst" not in held
    truth = np.asarray(sheet.decoded(held["segmentation"].rows[0].cells[1]))
    mask = np.asarray(Image.open(tmp_path / "maps" / "masks" / "val" / "000006.png"))
    assert np.array_equal(truth, colours.palette(1 + len(scenes.SHAPES))[mask])
    depth = np.asarray(sheet.decoded(held["depth"].rows[0].cells[1])).astype(int).sum(-1)
    far = np.asarray(Image.open(tmp_path / "maps" / "depth" / "val" / "000006.png"))
    assert depth[far == far.min()].min() > depth[far == far.max()].max(), "near is bright"
    assert held["depth"].columns == ["image", "truth", "student"]


def test_pictures_of_another_checkpoint_go(run: Path, tmp_path: Path) -> None:
    tiny_sets.folders(tmp_path / "photos", ["a", "b"], 8)
    out = tmp_path / "out"
    look(run, tmp_path / "photos", "--out", out)
    assert (out / "worst.json").exists()
    look(run, tmp_path / "photos", "--alone", "--out", out)
    assert not (out / "worst.json").exists()


def test_what_cannot_be_looked_at_is_said(run: Path, tmp_path: Path) -> None:
    assert refused(run, tmp_path / "nowhere") == f"{tmp_path}/nowhere: no such file or folder."
    assert "is no run folder" in refused(tmp_path, tmp_path)
    for name in ("a", "b"):
        tiny_sets.folders(tmp_path / name, ["x", "y"], 2)
    assert "one folder of images at a time" in refused(run, tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "x" / "torn.jpg").write_bytes(b"\xff\xd8torn")
    assert "torn.jpg" in refused(run, tmp_path / "a")


def test_models_that_say_the_same_have_the_same_colours_and_noise_has_none() -> None:
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(600, 4, generator=generator)
    turned = {n: content @ torch.randn(4, width, generator=generator) for n, width in (("a", 16), ("b", 40))}
    painted, share = colours.shared(turned)
    assert share["a"] > 0.999 and share["b"] > 0.999
    assert (painted["a"].int() - painted["b"].int()).abs().max() <= 1
    _, share = colours.shared(turned | {"noise": torch.randn(600, 16, generator=generator)})
    assert share["noise"] < 0.1 < 0.9 < share["a"]


def test_a_right_guess_is_at_distance_0_and_an_unrelated_one_at_1() -> None:
    target = Features(torch.eye(4)[:2], torch.eye(4).expand(2, 4, 4))
    assert crew.distance(target, target).abs().max() < 1e-6
    turned = Features(target.summary.roll(1, -1), target.patches.roll(1, -1))
    assert torch.allclose(crew.distance(turned, target), torch.ones(2))
    half = Features(target.summary, turned.patches)
    assert torch.allclose(crew.distance(half, target), torch.full((2,), 0.5))


# --- the report ------------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder without a run, and room for pictures in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    (tmp_path / "r" / "pictures").mkdir(parents=True)
    (tmp_path / "r" / "run.json").write_text('{"launches": []}')
    return tmp_path / "r"


def page_of(folder: Path) -> str:
    done = CliRunner().invoke(app, ["report", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return (folder / "report" / "index.html").read_text()


def test_the_report_shows_them_with_words(told: Path) -> None:
    cell = Cell(image=sheet.drawing(np.zeros((4, 4, 3))), says="0.5")
    one = Sheet(
        title="What the patch tokens see",
        finding="They agree.",
        columns=["image"],
        rows=[Row(name="cat", cells=[cell])],
    )
    sheet.write(told / "pictures", {"patches": one})
    page = page_of(told)
    assert "<b>They agree.</b>" in page
    assert 'alt="image of cat, 0.5"' in page and "class=map" in page
    assert Image.open(told / "report" / "patches.png").width > 100
    (told / "pictures" / "patches.json").unlink()
    page_of(told)
    assert not (told / "report" / "patches.png").exists(), "of an older page"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image": "x' onerror='alert(1)"}, "should match pattern"),
        ({"image": "AAAA"}, "holds what is no picture"),
        ({"image": "A" * 200_000}, "at most 120000 characters"),
        ({"image": 5}, "valid string"),
    ],
)
def test_a_file_that_holds_no_picture_is_named_and_left_out(told: Path, change: dict[str, Any], why: str) -> None:
    cell = {"image": sheet.drawing(np.zeros((4, 4, 3)))} | change
    held = {"title": "t", "finding": "f", "rows": [{"name": "a", "cells": [cell]}]}
    (told / "pictures" / "patches.json").write_text(json.dumps(held))
    page = page_of(told)
    assert "patches.json holds no pictures" in page and why in page
    assert "onerror" not in page


def test_hostile_words_of_a_sheet_stay_words(told: Path) -> None:
    evil = "<script>alert(1)</script>\"'"
    cell = Cell(image=sheet.drawing(np.zeros((4, 4, 3))), says=evil)
    row = Row(name=evil, cells=[cell])
    sheet.write(told / "pictures", {"patches": Sheet(title=evil, finding=evil, says=evil, columns=[evil], rows=[row])})
    page = page_of(told)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 6


def test_the_report_shows_pictures_without_torch(told: Path) -> None:
    see = "import sys; from unicscale.cli import app; app(['report', 'r'], standalone_mode=False)"
    see += "; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", see], capture_output=True, text=True, cwd=told.parent, check=False)
    assert done.returncode == 0, done.stderr
