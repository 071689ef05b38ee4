"""Drawn scenes: the same for a seed however they are drawn, and true to their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unicscale.data.scenes import FOG, SHAPES, TEXTURES, Scenes, draw, draw_in_pieces, write


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return draw(600, seed=3)


def test_a_scene_is_the_same_however_many_are_drawn_around_it(scenes: Scenes) -> None:
    alone = draw(5, seed=3, first=130)
    for ours, theirs in zip(scenes, alone, strict=True):
        np.testing.assert_array_equal(ours[130:135], theirs)
    cut = [piece.images for piece in draw_in_pieces(50, seed=3, piece=7)]
    np.testing.assert_array_equal(np.concatenate(cut), scenes.images[:50])


def test_another_seed_draws_other_scenes(scenes: Scenes) -> None:
    other = draw(20, seed=4)
    assert (np.abs(scenes.images[:20].astype(int) - other.images).mean(axis=(1, 2, 3)) > 3).all()


def test_the_class_is_the_nearest_object_of_the_mask(scenes: Scenes) -> None:
    objects = np.where(scenes.mask > 0, scenes.depth, 2.0)  # the backdrop may be nearer than what hangs before it
    nearest = objects.reshape(600, -1).argmin(axis=1)
    covered = scenes.mask.reshape(600, -1)[np.arange(600), nearest]
    np.testing.assert_array_equal(covered, scenes.shape + 1)


def test_every_class_and_texture_occurs_about_equally_often(scenes: Scenes) -> None:
    for labels, kinds in ((scenes.shape, SHAPES), (scenes.texture, TEXTURES)):
        counts, expected = np.bincount(labels, minlength=len(kinds)), 600 / len(kinds)
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_one_two_and_three_objects_occur_and_none_fills_the_image(scenes: Scenes) -> None:
    objects = [len(np.unique(depth[mask > 0])) for depth, mask in zip(scenes.depth, scenes.mask, strict=True)]
    assert set(objects) == {1, 2, 3}
    assert (scenes.mask == 0).mean(axis=(1, 2)).min() > 0.2


def test_what_is_far_is_paler() -> None:
    scenes = draw(400, seed=5)
    plain = scenes.texture == TEXTURES.index("plain")
    spread, depth = [], []
    for image, mask, far in zip(scenes.images[plain], scenes.mask[plain], scenes.depth[plain], strict=True):
        inside = far == far.min()
        spread.append(np.abs(image[inside].mean(0) - image[mask == 0].mean(0)).max())
        depth.append(far.min())
    assert FOG > 0
    assert np.corrcoef(spread, depth)[0, 1] < -0.3


def test_written_scenes_are_the_drawn_ones_and_are_written_once(tmp_path: Path, scenes: Scenes) -> None:
    write(tmp_path, 12, seed=3, first=100)
    files = sorted(tmp_path.rglob("*.png"), key=lambda file: file.name)
    assert [file.parent.name for file in files] == [SHAPES[i] for i in scenes.shape[100:112]]
    np.testing.assert_array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), scenes.images[100:112])
    files[0].unlink()
    write(tmp_path, 12, seed=3, first=100)
    assert not files[0].exists(), "a finished folder is not written again"
    write(tmp_path, 11, seed=3, first=100)
    assert len(list(tmp_path.rglob("*.png"))) == 11, "other scenes replace them"
