"""A run on images of four channels, from arrays to an export; and of one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.kit.recipe import write_arrays, write_recipe
from tests.test_students import STUDENTS, digests
from unicscale import load
from unicscale.commands.evaluation import evaluate
from unicscale.commands.look import look
from unicscale.contracts import normalise
from unicscale.cost.report import costs
from unicscale.data.sheet import draw_sheet
from unicscale.errors import CheckpointError, DataError, RecipeError, TeacherError
from unicscale.interop.exporting import export
from unicscale.interop.exports import target_of
from unicscale.interop.exports.target import Wishes
from unicscale.interop.loading import read
from unicscale.interop.origin import origin_of
from unicscale.interop.starting import start_of
from unicscale.interop.verify import Difference
from unicscale.recipe import dump
from unicscale.recipe import load as load_recipe
from unicscale.recipe.sections import Standardize
from unicscale.student.trunk import build_trunk
from unicscale.teacher.frozen import open_frozen
from unicscale.teacher.targets import Teachers
from unicscale.train import train

MEAN, STD = [0.2, 0.3, 0.25, 0.4], [0.15, 0.2, 0.25, 0.3]
FOUR = {
    "data__channels": {"mean": MEAN, "std": STD},
    "data__augment": {"jitter": 0, "grey": 0},
    "teachers__two__channels": [3, 0, 3],
}
KINDS: dict[str, dict[str, Any]] = {"plain": {}, "stem of convolutions": {"student__stem": "convolutions"}} | {
    kind: {"student": section} for kind, section in STUDENTS.items()
}


def written(tmp_path: Path, name: str, steps: int = 6, **more: Any) -> Path:
    images = write_arrays(tmp_path / "images", 4, classes=("dark", "light"))
    return write_recipe(tmp_path / f"{name}.yaml", images, tmp_path / name, steps=steps, **(FOUR | more))


def exported(run: Path, name: str, out: Path) -> list[Difference]:
    opened = read(run / "whole", projectors=False)
    return export(opened, origin_of(str(run / "whole")), target_of(name), out / name, Wishes())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    images = str(folder / "images")
    tasks = {"every_steps": 6, "tasks": ["loss", "knn"], "data": images}
    train(load_recipe(written(folder, "whole", evaluate=tasks)))
    return folder


def test_a_run_on_four_channels_resumes_bit_for_bit_and_measures_itself(finished: Path) -> None:
    train(load_recipe(written(finished, "halfway", evaluate={"every_steps": 6, "data": str(finished / "images")})))
    shutil.rmtree(finished / "halfway" / "checkpoints" / "step-00000006")
    train(load_recipe(finished / "halfway.yaml"))
    assert digests(finished / "halfway") == digests(finished / "whole")
    assert '"val/knn": 100.0' in (finished / "whole" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plain"])
def test_every_kind_of_student_learns_of_four_channels_and_opens_as_it_was(tmp_path: Path, kind: str) -> None:
    train(load_recipe(written(tmp_path, "run", **KINDS[kind])))
    model = load(tmp_path / "run")
    assert model(torch.rand(2, 4, 48, 48)).patches.shape[2] == model.width


def test_a_teacher_sees_the_channels_that_the_recipe_names_in_its_own_normalisation(finished: Path) -> None:
    recipe = load_recipe(finished / "whole.yaml")
    images = torch.randint(0, 256, (2, 4, 32, 32), dtype=torch.uint8)
    for name, channels in (("one", [0, 1, 2]), ("two", [3, 0, 3])):
        teacher = open_frozen(name, recipe.teachers[name])
        seen = normalise(images[:, channels], teacher.spec.mean, teacher.spec.std)
        assert torch.equal(teacher(images).summary, teacher(seen).summary)
        targets = Teachers({name: teacher}, {name: teacher}, {name: "same_grid"}, Standardize(kind="none"),
                           recipe.loss, 8, torch.device("cpu"), None)  # fmt: skip
        assert torch.equal(targets(images)[name].summary, teacher(seen).summary)
    with pytest.raises(
        TeacherError, match=r"teacher 'two' sees three channels, here \[3, 0, 3\], and .* have 3, from 0"
    ):
        teacher(images[:, :3])


def test_the_model_normalises_by_the_means_of_its_recipe_and_takes_arrays(finished: Path) -> None:
    model = load(finished / "whole")
    assert (model.mean, model.std) == (tuple(MEAN), tuple(STD))
    pixels = torch.randint(0, 256, (2, 4, 48, 48), dtype=torch.uint8)
    floats = (pixels / 255 - torch.tensor(MEAN).view(4, 1, 1)) / torch.tensor(STD).view(4, 1, 1)
    torch.testing.assert_close(model(pixels), model(floats), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.student(pixels).features, model(pixels))
    assert model(str(finished / "images" / "dark" / "000.npy")).summary.shape == (1, 64)
    model.save(finished / "model.safetensors")
    torch.testing.assert_close(load(finished / "model.safetensors")(pixels), model(pixels))
    with pytest.raises(DataError, match=r"images are \(B, 4, H, W\) or one \(4, H, W\)"):
        model(pixels[:, :3])
    with pytest.raises(DataError, match="a picture: it has 3 channels; this model sees 4"):
        model(Image.new("RGB", (50, 50)))


@pytest.mark.parametrize("name", ["timm", "onnx", "torch", "safetensors"])
def test_exports_hold_all_four_channels(finished: Path, name: str, tmp_path: Path) -> None:
    found = exported(finished, name, tmp_path)
    assert all(one.by_its_own_positions < 1e-4 for one in found)  # read by its own library, in a process of its own
    assert "(B, 4, 48, 48)" in (tmp_path / name / "README.md").read_text()
    if name in ("timm", "safetensors"):
        again, images = load(tmp_path / name), torch.randint(0, 256, (1, 4, 48, 48), dtype=torch.uint8)
        torch.testing.assert_close(again(images), load(finished / "whole")(images))


@pytest.mark.parametrize("name", ["hf", "dinov2", "unic"])
def test_libraries_of_pictures_take_no_such_student(finished: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"--to {name}: the student sees 4 channels, and .* pictures of three"):
        exported(finished, name, tmp_path)


def test_features_of_arrays_are_classified(finished: Path) -> None:
    fast = {"out": finished / "scores.json", "cache": finished / "cache", "device": "cpu", "batch": 16, "trials": 2}
    evaluate([str(finished / "whole")], data=finished / "images", suite=["own", "speed"], teachers=True, **fast)
    scores = json.loads((finished / "scores.json").read_text())["scores"]
    for task in ("knn:images", "linear:images"):
        assert {name: held["value"] for name, held in scores[task].items()} == dict.fromkeys(
            ("whole", "teacher:one", "teacher:two"), 100.0
        )


def test_a_person_is_shown_three_of_the_channels(finished: Path, tmp_path: Path) -> None:
    recipe = load_recipe(finished / "whole.yaml")
    draw_sheet(recipe.data, 0, [("low", 32)], str(tmp_path / "sheet.png"))
    assert Image.open(tmp_path / "sheet.png").mode == "RGB"
    look(str(finished / "whole"), [finished / "images"], out=tmp_path / "pictures", device="cpu")
    assert list((tmp_path / "pictures").glob("*.json"))


def test_weights_of_three_channels_start_all_but_the_stem(finished: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "three.yaml"
    write_recipe(pictures, finished / "images", tmp_path / "three")
    three, four = load_recipe(pictures), load_recipe(finished / "whole.yaml")
    small = build_trunk(three.student, 32)
    torch.save({n: torch.zeros(p.shape) for n, p in small.named_parameters()}, tmp_path / "three.pth")
    start = start_of(str(tmp_path / "three.pth"), build_trunk(four.student, 32, four.data.channels), four.teachers)
    assert start.absent == ["patch_embed.proj.weight"] and "start anew: patch_embed.proj.weight" in start.said("three")


def test_plan_counts_the_stem_of_four_channels(finished: Path) -> None:
    four = load_recipe(finished / "whole.yaml")
    three = load_recipe(
        write_recipe(finished / "three.yaml", finished / "images", finished / "three", steps=6), unset="keep"
    )
    one, other = costs(four, 1, None), costs(three, 1, None)
    patches, weights = (48 // 8) ** 2, 64 * 8 * 8
    assert one.stages[1].flops["student"] - other.stages[1].flops["student"] == 2 * 2 * patches * weights
    assert one.parameters["student"] - other.parameters["student"] == weights
    assert 3 * one.stages[1].host == 4 * other.stages[1].host


def test_one_channel_is_shown_to_a_teacher_three_times(tmp_path: Path) -> None:
    images = tmp_path / "grey"
    images.mkdir()
    for number in range(8):
        np.save(images / f"{number}.npy", np.random.default_rng(number).integers(0, 256, (40, 40), np.uint8))
    grey = {
        "data__channels": {"mean": [0.5], "std": [0.2]},
        "data__augment": {"jitter": 0, "grey": 0},
        "teachers__one__channels": [0, 0, 0],
    }
    with pytest.raises(
        RecipeError, match=r"teachers.two sees three channels, and data.channels names 1. Say .*\[0, 0, 0\]"
    ):
        load_recipe(write_recipe(tmp_path / "run.yaml", images, tmp_path / "run", steps=6, **grey))
    write_recipe(tmp_path / "run.yaml", images, tmp_path / "run", steps=6, **grey, teachers__two__channels=[0, 0, 0])
    train(load_recipe(tmp_path / "run.yaml"))
    assert load(tmp_path / "run").mean == (0.5,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__augment": {}}, r"augment.jitter and augment.grey mix red, green and blue, and data.channels names 4"),
        ({"data__reader": "ffcv"}, "reader: 'ffcv' opens betons, which hold three channels"),
        ({"data__channels": {"mean": MEAN, "std": [0.2]}}, "mean names 4 channels and std 1"),
        ({"data__channels": {"mean": [99, 1, 1, 1], "std": STD}}, "mean and std are of values from 0 to 1. Divide"),
        ({"teachers__two__channels": [0, 1]}, "a teacher sees three channels, and 2 are named"),
        ({"teachers__two__channels": [0, 1, 4]}, "teachers.two.channels: there is no channel 4; data.channels names 4"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_words(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe(written(tmp_path, "run", **changes))


def test_recipes_of_pictures_stay_what_they_were(tmp_path: Path) -> None:
    assert "channels" not in dump(load_recipe(write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "out")))
