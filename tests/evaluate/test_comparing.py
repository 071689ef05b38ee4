"""`teachers compare`: what is alike is found alike, and nothing is alike by chance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from unicscale.commands.compare import compare
from unicscale.data import scenes
from unicscale.errors import DataError, RecipeError
from unicscale.evaluate import comparing
from unicscale.evaluate.metrics.agreement import cka, effective_rank, mutual_neighbours


def noise(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_a_rotation_and_a_scale_change_nothing() -> None:
    features = noise(100, 20) @ torch.diag(torch.linspace(1, 3, 20))
    turned = 5 * features @ torch.linalg.qr(noise(20, 20, 1)).Q + 7
    assert cka(features, turned) == pytest.approx(1, abs=1e-6)
    assert mutual_neighbours(features, turned) == 1
    assert effective_rank(features) == pytest.approx(effective_rank(turned), rel=1e-6)


def test_few_images_of_wide_features_are_not_alike_by_chance() -> None:
    one, two = noise(60, 500), noise(60, 500, 1)
    assert abs(cka(one, two)) < 0.1  # the biased estimate says 0.89
    assert mutual_neighbours(one, two) == pytest.approx(10 / 59, abs=0.05)


def test_features_that_share_half_of_what_they_say_lie_between() -> None:
    shared = noise(300, 10)
    one, two = (torch.cat([shared, noise(300, 10, seed)], dim=1) for seed in (1, 2))
    assert 0.3 < cka(one, two) < 0.7


def test_the_rank_is_that_of_the_directions_with_anything_in_them() -> None:
    assert effective_rank(noise(400, 5) @ noise(5, 60, 1)) < 5.01
    assert effective_rank(noise(4000, 30)) == pytest.approx(30, rel=0.02)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for number, pixels in enumerate(scenes.draw(64, seed=3).images):
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


def test_two_teachers_of_the_demo(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["classes=scenes", "again=scenes", "dense=scenes", str(drawn)]
    compare(words, option=["classes.knows=classes", "again.knows=classes", "dense.knows=dense"], out=tmp_path / "c.png")
    said = capsys.readouterr().out
    assert "64 images" in said and "Most alike: classes and again." in said
    held = json.loads((tmp_path / "c.json").read_text())
    pairs = {(one["first"], one["second"]): one for one in held["pairs"]}
    assert pairs["classes", "again"]["cka"] == pytest.approx(1) and pairs["classes", "again"]["neighbours"] == 1
    assert pairs["classes", "dense"]["cka"] < 0.95 and pairs["classes", "dense"]["patch_cka"] < 0.99
    assert [one["summary"] for one in held["met"]] == [96, 96, 96] and held["met"][0]["rank"] > 1
    assert Image.open(tmp_path / "c.png").width > 500


def test_a_teacher_without_a_summary_is_compared_by_its_patches(drawn: Path) -> None:
    from unicscale.recipe.sections import TeacherSection

    small = {"model": "test_vit", "weights": "random"}
    sections = {name: TeacherSection.model_validate({"plugin": "timm", **small}) for name in ("one", "two")}
    found = comparing.compare(sections, str(drawn), limit=40, batch=8, device="cpu", size=32)
    assert found.images == 40 and found.pairs[0].patch_cka == pytest.approx(1)


@pytest.mark.parametrize(
    ("words", "more", "error", "says"),
    [
        (["scenes"], {}, RecipeError, "name two teachers or more, then the images"),
        (["scenes", "scenes"], {}, RecipeError, "'scenes' is named twice"),
        (["a=scenes", "b=scenes"], {"option": ["c.knows=dense"]}, RecipeError, "'c', which is not among a, b"),
        (["a=scenes", "b=scenes"], {"limit": 20}, DataError, "20 images; at least 40 are needed"),
        (["a=scenes", "b=scenes"], {"out": Path("c.pdf")}, RecipeError, "a file that ends in .png is written"),
    ],
)
def test_what_makes_no_sense_is_refused(drawn: Path, words, more, error, says) -> None:
    with pytest.raises(error, match=says):
        compare([*words, str(drawn)], **more)
