"""Colour on the device: the pixels of torchvision v2 for fixed parameters, and its distribution over keys."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import functional as v2

from unicscale import rng
from unicscale.data.views import augment as augmentation
from unicscale.data.views.augment import Draws, augment, colour, draw, gaussian
from unicscale.recipe.sections import Augment

PAPER = Augment()


def pictures(count=6, side=24):
    grid = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (count, 3, 6, 6), generator=grid).float()
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 255)
    images[0, :, :12] = 90  # a grey patch: no hue there
    return images.to(torch.uint8)


def nothing(count):
    no = np.zeros(count, bool)
    factors = np.tile([1.0, 1.0, 1.0, 0.0], (count, 1))
    return Draws(no, np.tile(np.arange(4), (count, 1)), factors, no, no, np.full(count, 1.0), no)


def rounded(floats):
    return (floats * 255).round().to(torch.uint8)


def same(ours, theirs):
    # rounding once, from float32 sums of another order: a tie may fall the other way
    assert (ours.int() - theirs.int()).abs().max() <= 1
    assert (ours != theirs).float().mean() < 1e-3


def test_without_any_operation_pixels_stay():
    images = pictures()
    assert torch.equal(colour(images.clone(), nothing(len(images)), PAPER), images)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_jitter_is_torchvisions_in_any_order(order):
    images = pictures()
    n = len(images)
    factors = np.array([[0.6 + 0.13 * i, 1.4 - 0.15 * i, 0.8 + 0.07 * i, -0.1 + 0.04 * i] for i in range(n)])
    draws = nothing(n)._replace(jitter=np.ones(n, bool), order=np.tile(order, (n, 1)), factors=factors)
    apply = [v2.adjust_brightness, v2.adjust_contrast, v2.adjust_saturation, v2.adjust_hue]
    expected = []
    for image, parameters in zip(images.float() / 255, factors, strict=True):
        for operation in order:
            image = apply[operation](image, float(parameters[operation]))
        expected.append(rounded(image))
    same(colour(images.clone(), draws, PAPER), torch.stack(expected))


def test_grey_is_torchvisions():
    images = pictures()
    draws = nothing(len(images))._replace(grey=np.ones(len(images), bool))
    same(
        colour(images.clone(), draws, PAPER), rounded(v2.rgb_to_grayscale(images.float() / 255, num_output_channels=3))
    )


def test_blur_is_torchvisions_with_one_sigma_per_image():
    images = pictures()
    sigma = np.linspace(0.1, 5.0, len(images))
    draws = nothing(len(images))._replace(blur=np.ones(len(images), bool), sigma=sigma)
    expected = [v2.gaussian_blur(x, [9, 9], [s, s]) for x, s in zip(images.float() / 255, sigma.tolist(), strict=True)]
    same(colour(images.clone(), draws, PAPER), rounded(torch.stack(expected)))


def test_solarize_is_torchvisions():
    images = pictures()
    draws = nothing(len(images))._replace(solarize=np.ones(len(images), bool))
    same(colour(images.clone(), draws, PAPER), rounded(v2.solarize(images.float() / 255, 0.5)))


def test_only_chosen_images_change():
    images = pictures()
    chosen = np.array([True, False, True, False, False, False])
    out = colour(images.clone(), nothing(6)._replace(solarize=chosen), PAPER)
    assert [bool((a != b).any()) for a, b in zip(out, images, strict=True)] == chosen.tolist()


def test_draws_have_the_papers_distribution():
    d = draw(rng.keys_numpy(rng.key(5), np.arange(40000)), PAPER)
    assert np.allclose(
        [d.jitter.mean(), d.grey.mean(), d.blur.mean(), d.solarize.mean()], [0.8, 0.2, 0.2, 0.2], atol=0.01
    )
    assert np.allclose(d.factors.min(0), [0.6, 0.6, 0.8, -0.1], atol=1e-3)
    assert np.allclose(d.factors.max(0), [1.4, 1.4, 1.2, 0.1], atol=1e-3)
    assert np.allclose(d.factors.mean(0), [1, 1, 1, 0], atol=0.01)
    assert np.allclose([d.sigma.min(), d.sigma.max(), d.sigma.mean()], [0.1, 5.0, 2.55], atol=0.03)
    assert np.allclose([(d.order[:, 0] == k).mean() for k in range(4)], 0.25, atol=0.01)
    assert np.abs(np.corrcoef(np.c_[d.factors, d.sigma, d.grey, d.blur].T) - np.eye(7)).max() < 0.02


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "operation", ["brightness_", "contrast_", "saturation_", "hue_", "grey_", "blur_", "solarize_"]
)
def test_an_operation_gives_the_same_bits_in_any_batch_and_layout(operation, threads):
    images = torch.rand(9, 3, 42, 42, generator=torch.Generator().manual_seed(0))  # 42 * 42 is no multiple of a vector
    each = np.linspace(0.05, 1.9, 9)
    parameter = each[:, None] if operation != "blur_" else gaussian(each, 9)
    parameter = torch.from_numpy(parameter.astype(np.float32))[:, :, None, None]
    extra = {"grey_": lambda _: (), "solarize_": lambda _: (0.5,)}.get(operation, lambda part: (parameter[part],))
    before = torch.get_num_threads()
    results = []
    try:
        torch.set_num_threads(threads)
        for layout, size in itertools.product((torch.contiguous_format, torch.channels_last), (9, 1, 4)):
            results.append(images.clone(memory_format=layout))
            for first in range(0, 9, size):
                part = slice(first, first + size)
                getattr(augmentation, operation)(results[-1][part], *extra(part))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_sample_is_coloured_the_same_in_any_batch():
    images, keys = pictures(), rng.keys_numpy(rng.key(9), np.arange(6))
    whole = augment(images.clone(), keys, PAPER)
    assert torch.equal(whole[2:5], augment(images[2:5].clone(), keys[2:5], PAPER))


class Recorder(TorchDispatchMode):
    """Notes which operations ran."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.seen.add(str(operation))
        return operation(*args, **(kwargs or {}))


def test_colour_asks_the_device_nothing():
    with Recorder() as recorder:
        augment(pictures(32), rng.keys_numpy(rng.key(9), np.arange(32)), PAPER)
    asked = [name for name in recorder.seen if "local_scalar" in name or "nonzero" in name or "masked_select" in name]
    assert len(recorder.seen) > 20 and asked == []
