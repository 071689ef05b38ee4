"""The demo's teachers: small, complementary, and made by a script that still runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import train_scenes
from unicscale.data.scenes import SHAPES, Scenes, draw
from unicscale.evaluate.metrics.knn import knn_accuracy
from unicscale.evaluate.metrics.segment import linear_miou
from unicscale.teacher.frozen import open_teacher

KNOWLEDGE = ("classes", "dense")


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return draw(768, seed=77)


@pytest.fixture(scope="module")
def tokens(scenes: Scenes) -> dict[str, tuple[Tensor, Tensor]]:
    images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2).contiguous()
    found = {}
    for knows in KNOWLEDGE:
        teacher = open_teacher("scenes", options={"knows": knows})
        with torch.no_grad():
            found[knows] = tuple(t.clone() for t in teacher(images))
    return found


def test_the_weights_that_travel_with_the_package_are_small(repository: Path) -> None:
    files = list((repository / "teachers").glob("scenes_*.safetensors"))
    assert {file.stem for file in files} == {f"scenes_{knows}" for knows in KNOWLEDGE}
    assert sum(file.stat().st_size for file in files) < 3_000_000


def test_classes_knows_the_nearest_object_and_dense_does_not(scenes: Scenes, tokens: dict) -> None:
    labels, cut = torch.from_numpy(scenes.shape), 512
    found = {}
    for knows, (summary, _) in tokens.items():
        found[knows] = knn_accuracy(summary[:cut], labels[:cut], summary[cut:], labels[cut:])
    assert found["classes"] > found["dense"] + 15


def test_dense_knows_better_what_is_where(scenes: Scenes, tokens: dict) -> None:
    masks, cut, kinds = torch.from_numpy(scenes.mask), 512, 1 + len(SHAPES)
    found = {
        knows: linear_miou(patches[:cut], masks[:cut], patches[cut:], masks[cut:], kinds)
        for knows, (_, patches) in tokens.items()
    }
    assert found["dense"] > found["classes"] + 3


def test_teachers_see_at_both_sizes_of_the_demo() -> None:
    teacher = open_teacher("scenes")
    for size in train_scenes.SIZES:
        patches = teacher(torch.zeros(2, 3, size, size, dtype=torch.uint8)).patches
        assert patches.shape == (2, (size // 8) ** 2, 96)


@pytest.mark.parametrize("knows", KNOWLEDGE)
def test_the_script_that_trained_them_still_runs(knows: str, tmp_path: Path) -> None:
    train_scenes.main([knows, "--steps", "2", "--scenes", "128", "--out", str(tmp_path)])
    file = tmp_path / f"scenes_{knows}.safetensors"
    teacher = open_teacher("scenes", weights=str(file), options={"knows": knows})
    assert torch.isfinite(teacher(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).summary).all()
