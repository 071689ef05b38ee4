"""Where views are cut: the distribution of torchvision's RandomResizedCrop, from the sample's key alone."""

import numpy as np
import torch
from scipy import stats
from torchvision.transforms.v2 import RandomResizedCrop

from unicscale import rng
from unicscale.data.views.crops import DRAWS, RandomCrop

PAPER = RandomCrop((0.08, 1.0), (0.75, 4 / 3), 0.5)


def draws(count, seed=0):
    return rng.uniforms_numpy(rng.keys_numpy(rng.key(seed), np.arange(count)), DRAWS)


def test_boxes_lie_within_the_image_whatever_its_shape():
    for height, width in [(1, 1), (1, 500), (500, 1), (375, 500), (7, 3)]:
        for row in draws(200).tolist():
            box = PAPER.box(row, height, width)
            assert box.height >= 1 and 0 <= box.top <= box.top + box.height <= height
            assert box.width >= 1 and 0 <= box.left <= box.left + box.width <= width


def test_boxes_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    theirs = RandomResizedCrop(224)
    image = torch.empty(3, 375, 500)
    made = [theirs.make_params([image]) for _ in range(4000)]
    expected = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in made])
    ours = np.array([PAPER.box(row, 375, 500)[:4] for row in draws(4000).tolist()])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], expected[:, column]).pvalue > 1e-3


def test_half_of_the_views_are_mirrored():
    assert abs(np.mean([PAPER.box(row, 40, 60).flip for row in draws(4000).tolist()]) - 0.5) < 0.03


def test_an_image_too_long_for_any_allowed_shape_is_cut_at_its_centre():
    box = RandomCrop((1.0, 1.0), (0.75, 4 / 3), 0.0).box(draws(1)[0].tolist(), 100, 1000)
    assert box == (0, 433, 100, 133, False)
