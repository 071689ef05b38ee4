"""Dense images on their way through an encoder: crops, flips, windows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.kit import tiny_sets
from unicscale.contracts import Features
from unicscale.errors import DataError
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.metrics.probe import Schedule
from unicscale.evaluate.tasks.dense import Depth, Segment
from unicscale.evaluate.tasks.windows import Kind, Stream, load_pair, rounded, slide, widths_of
from unicscale.evaluate.terms import Settings, Subject
from unicscale.ranks.world import World

PATCH = 4


def colours(images: torch.Tensor) -> Features:
    """The plainest encoder: a patch's token is its mean colour."""
    maps = torch.nn.functional.avg_pool2d(images.float(), PATCH)
    return Features(maps.mean((2, 3)), maps.flatten(2).transpose(1, 2))


@pytest.fixture
def subject() -> Subject:
    module = torch.nn.Identity()
    return Subject("colours", module, colours, "", 32, PATCH)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    tiny_sets.ade20k(tmp_path)
    tiny_sets.nyud(tmp_path)
    return Shelf(tmp_path, tmp_path / "cache", Settings(), World())


def test_crops_and_flips_keep_every_pixel_with_its_class(subject, shelf):
    pairs = shelf.split("ade20k", "train")
    kind = Kind(pairs.read, lambda path, mask: None)
    stream = Stream(subject, shelf, pairs, kind, 60)
    flipped = []
    for features, masks in stream(Schedule(steps=6, batch=4, lr=1.0)):
        red = features.patches[..., 0].view(4, 15, 15)
        truth = masks[:, 1::4, 1::4].float()
        truth = torch.where(truth == 255, -1, truth)  # 0 in the file: everything else
        assert (red - (60 * (truth + 1) + 20)).abs().median() < 8
        flipped += [mask.tolist() for mask in masks[:, 0, ::20]]
    assert len({tuple(row) for row in flipped}) > 4  # more than the four images have: some are mirrored


def test_the_shorter_side_gets_the_size_and_targets_keep_their_values(shelf):
    pair = shelf.split("nyud", "train")[0]
    kind = Kind(lambda path: np.asarray(Image.open(path)), lambda path, depth: None)
    image, target = load_pair(pair, kind, 30)
    assert image.shape == (30, 40, 3) and target.shape == (30, 40)
    assert set(np.unique(target)) == set(np.unique(kind.read(pair[1])))


class Asis(torch.nn.Module):
    """A head that says what the tokens say."""

    def forward(self, features: Features) -> torch.Tensor:
        side = round(features.patches.shape[1] ** 0.5)
        return features.patches.transpose(1, 2).unflatten(2, (side, side))


def test_windows_cover_a_wide_image_and_agree_where_they_overlap(subject, shelf):
    ramp = np.linspace(0, 255, 52).astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (32, 52, 3)).copy()
    maps = slide(subject, shelf, Asis(), image, 32)
    assert maps.shape == (3, 32, 52)
    assert (maps[0, 16] - torch.from_numpy(ramp).float()).abs().max() < 10  # half a patch of this ramp
    assert widths_of(subject, shelf, 32) == (3, 3)


@pytest.mark.parametrize(("size", "patch", "expected"), [(512, 16, 512), (512, 14, 518), (480, 14, 490)])
def test_sizes_are_rounded_up_to_whole_patches(size, patch, expected):
    assert rounded(size, patch) == expected


def test_a_linear_head_on_colours_segments_coloured_classes_and_measures_depth(subject, shelf, tmp_path):
    shelf.settings = Settings(dense_size=60, dense_steps=150, resamples=50)
    (score,) = Segment(classes=3).run(subject, shelf)
    assert score.name == "ade20k/mIoU" and score.value > 40  # one class everywhere gives 11
    assert score.low is not None and score.high is not None and score.low <= score.value <= score.high
    shelf.settings = Settings(dense_size=24, dense_steps=20, resamples=50)
    scores = {score.name: score for score in Depth().run(subject, shelf)}
    assert list(scores) == [f"nyud/{name}" for name in ("rmse", "abs_rel", "delta1", "delta2", "delta3")]
    assert [score.higher_is_better for score in scores.values()] == [False, False, True, True, True]
    assert scores["nyud/delta1"].value <= scores["nyud/delta2"].value <= scores["nyud/delta3"].value


def test_depth_is_measured_of_a_network_whose_summary_is_wider_than_its_patches(subject, shelf):
    def convolutional(images: torch.Tensor) -> Features:
        summary, patches = colours(images)
        return Features(summary.repeat(1, 4), patches)

    shelf.settings = Settings(dense_size=24, dense_steps=2, resamples=50)
    scores = list(Depth().run(replace(subject, encode=convolutional), shelf))
    assert scores[0].name == "nyud/rmse" and scores[0].value > 0


def test_masks_and_maps_that_do_not_fit_are_named(subject, shelf, tmp_path):
    with pytest.raises(DataError, match=r"ADE_0000000\d\.png: masks hold classes 0\.\.2, but must be 0\.\.1 or 255"):
        list(Segment(classes=2).run(subject, shelf))
    file = next((tmp_path / "ADEChallengeData2016" / "annotations" / "training").iterdir())
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(file)
    with pytest.raises(DataError, match=r"\(5, 5\) pixels, but its image .* has \(60, 80\)"):
        list(Segment(classes=3).run(subject, shelf))
    file.unlink()
    another = replace(shelf, opened={})  # an evaluation lists a set once
    with pytest.raises(DataError, match=r"png is missing or belongs to no image\nADE20K: the layout is"):
        list(Segment(classes=3).run(subject, another))
