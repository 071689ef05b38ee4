"""Several images on one canvas: the worked example, and what a teacher of one size says of them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.kit import places
from tests.teacher.test_targets import pixels, section, teachers
from unicscale.contracts import TeacherSpec, Widths
from unicscale.errors import RecipeError
from unicscale.objective.pairs import refuse_unfit
from unicscale.ranks.world import World
from unicscale.recipe import sections
from unicscale.teacher.mosaic import Mosaic, mosaic_of
from unicscale.teacher.targets import Teachers

ZOO = places.GOLDEN / "zoo"
SPEC = TeacherSpec(8, 16, 64, (0.5,) * 3, (0.5,) * 3, "none", fixed_size=True, tokens=("patches",))  # type: ignore[arg-type]


def test_views_are_packed_and_cut_as_in_the_worked_example() -> None:
    x, values = load_file(ZOO / "mosaic.safetensors"), json.loads((ZOO / "values.json").read_text())["mosaic"]
    spec = TeacherSpec(3, 4, 20, (0.5,) * 3, (0.5,) * 3, "none", fixed_size=True)  # type: ignore[arg-type]
    mosaic = mosaic_of(spec, 2)
    assert mosaic == Mosaic(values["per_row"], 2, 5) and mosaic.pitch == values["pitch_patches"]
    canvases = mosaic.packed(x["images"], 4)
    assert torch.equal(canvases, x["canvases"]) and len(canvases) == values["canvases_needed"]
    assert torch.equal(mosaic.cut(x["maps"].flatten(1, 2), 6), x["cut"].flatten(1, 2))


def test_views_smaller_than_their_place_are_found_again() -> None:
    spec = TeacherSpec(3, 4, 44, (0.5,) * 3, (0.5,) * 3, "none", fixed_size=True)  # type: ignore[arg-type]
    mosaic = mosaic_of(spec, 4)
    assert mosaic == Mosaic(2, 4, 11) and mosaic.pitch == 5
    views = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    colours = torch.nn.functional.avg_pool2d(mosaic.packed(views, 4), 4).flatten(2).mT
    torch.testing.assert_close(mosaic.cut(colours, 6), torch.nn.functional.avg_pool2d(views, 4).flatten(2).mT)


@pytest.mark.parametrize(
    ("grid", "expected"), [(1, Mosaic(4, 1, 4)), (2, Mosaic(2, 2, 4)), (3, None), (4, None), (6, None)]
)
def test_images_share_a_canvas_where_two_fit_beside_each_other(grid: int, expected: Mosaic | None) -> None:
    assert mosaic_of(SPEC, grid) == expected


def test_every_image_gets_the_map_of_its_own_pixels() -> None:
    shape = {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": 64, "global_attn_indexes": [], "window_size": 2}
    held = teachers({"sam": section("sam", size="base", mosaic=True, settings=shape)})
    images = pixels(5, 8)  # a student's patch of 4: a grid of 2
    targets = held(images)["sam"]
    assert targets.summary is None and targets.patches is not None and targets.patches.shape == (5, 4, 32)
    # attention stays in windows of 2 x 2 tokens, which are whole views here: company changes nothing, the place does
    torch.testing.assert_close(targets.patches[4], held(images[4:])["sam"].patches[0])  # type: ignore[index]
    among_others = held(torch.cat([pixels(8, 8)[5:], images[3:]]))["sam"].patches
    torch.testing.assert_close(targets.patches[3], among_others[3])  # type: ignore[index]
    assert not torch.allclose(targets.patches[3], held(images[3:])["sam"].patches[0], atol=1e-3)  # type: ignore[index]


def test_what_takes_any_size_is_refused() -> None:
    said = {"dino": section(mosaic=True, tokens=["patches"])}
    with pytest.raises(
        RecipeError, match=r"'teachers\.dino\.mosaic': this teacher takes images of other sizes than 32 pixels"
    ):
        Teachers.survey(said, student_patch=4, sizes=[32], world=World())


def test_a_canvas_has_no_summary() -> None:
    said = {"t": section(mosaic=True)}
    with pytest.raises(RecipeError, match=r"'teachers\.t\.mosaic': a canvas of several images has one summary"):
        refuse_unfit(sections.LossSection(), sections.Standardize(), said, {"t": Widths(8, 8)})
    refuse_unfit(sections.LossSection(), sections.Standardize(), said, {"t": Widths(None, 8)})
