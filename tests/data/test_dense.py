"""Colour as one graph: the bits of row by row whatever was drawn, in few kernels, and only where it belongs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._inductor import config

from tests.kit.inductor import Counted
from unicscale import rng
from unicscale.data.device import planes
from unicscale.data.views import dense
from unicscale.data.views.augment import Draws, augment, colour, draw
from unicscale.data.views.dense import Asked, colour_on, in_one, paint, table
from unicscale.recipe.sections import Augment

PAPER, HOST, GPU = Augment(), torch.device("cpu"), torch.device("cuda")
NEVER: dict[str, Any] = {"jitter": 0, "grey": 0, "blur": 0, "solarize": 0}


def decoded(count: int, side: int = 24, seed: int = 0) -> Tensor:
    """Noise, patches of one colour, and an image of one grey: hues that are not there, and extremes."""
    pixels = torch.randint(0, 256, (count, side, side, 3), generator=torch.Generator().manual_seed(seed))
    pixels[:, : side // 2, : side // 3] = pixels[:, :1, :1]
    pixels[0] = 90
    pixels[:, 0, 0] = torch.tensor([0, 255, 0])
    return pixels.to(torch.uint8)


def drawn(section: Augment, count: int, seed: int = 0) -> Draws:
    return draw(rng.keys_numpy(rng.key(seed), np.arange(count)), section)


def row_by_row(pixels: Tensor, draws: Draws, section: Augment) -> Tensor:
    return colour(planes(pixels, HOST), draws, section)


def at_once(pixels: Tensor, draws: Draws, section: Augment) -> Tensor:
    return paint(pixels, torch.from_numpy(table(draws, section)), Asked.of(section))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"jitter": 1, "grey": 1, "blur": 1, "solarize": 1},
        {"jitter": 1, "grey": 0, "blur": 0, "solarize": 0, "hue": 0.5, "brightness": 3, "contrast": 3, "saturation": 3},
        {"grey": 0},
        {"jitter": 0, "solarize": 1, "solarize_threshold": 0},
        {"blur": 1, "blur_kernel": 1},
        {"blur": 1, "blur_kernel": 23, "solarize_threshold": 0.3},
        NEVER,
    ],
    ids=str,
)
@pytest.mark.parametrize("side", [13, 24, 42])
def test_pixels_are_those_of_row_by_row_to_the_bit(changes: dict[str, Any], side: int) -> None:
    section = PAPER.model_copy(update=changes)
    for seed in range(3):
        pixels, draws = decoded(32, side, seed), drawn(section, 32, seed)
        found = at_once(pixels, draws, section)
        assert found.is_contiguous() and torch.equal(found, row_by_row(pixels, draws, section))


def test_contrast_in_every_place_of_every_order() -> None:
    orders = np.array([o for o in np.ndindex(4, 4, 4, 4) if len(set(o)) == 4])
    draws = drawn(PAPER, len(orders))._replace(order=orders, jitter=np.ones(len(orders), bool))
    pixels = decoded(len(orders))
    assert torch.equal(at_once(pixels, draws, PAPER), row_by_row(pixels, draws, PAPER))


def test_a_batch_of_one_is_that_row_of_a_batch_of_many() -> None:
    pixels, keys = decoded(9, 42), rng.keys_numpy(rng.key(3), np.arange(9))
    paints = in_one(paint, PAPER, HOST)
    whole = paints(pixels, keys)
    assert torch.equal(whole, augment(planes(pixels, HOST), keys, PAPER))
    for row in range(9):
        assert torch.equal(paints(pixels[row : row + 1], keys[row : row + 1])[0], whole[row])


def test_it_is_one_graph_of_at_most_6_kernels() -> None:
    counted = Counted()
    graph = counted.compiled(paint)
    pixels, draws = decoded(64, 224), drawn(PAPER, 64)
    with config.patch(force_pointwise_cat=True):  # a GPU stacks the planes in a kernel of its own
        found = graph(pixels, torch.from_numpy(table(draws, PAPER)), Asked.of(PAPER))
    assert torch.equal(found, row_by_row(pixels, draws, PAPER)), "as lowered for the compiler"
    assert len(counted.forward) == 1 and counted.forward[0] <= 6, counted.forward
    assert counted.backward == []


def test_what_a_recipe_never_asks_for_is_in_no_kernel() -> None:
    counted = Counted()
    section = PAPER.model_copy(update=NEVER | {"grey": 0.2, "solarize": 0.2})
    counted.compiled(paint)(decoded(2), torch.from_numpy(table(drawn(section, 2), section)), Asked.of(section))
    assert counted.forward[0] <= 2, "neither sums nor blur"


def test_all_draws_travel_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Tensor] = []

    def noted(tensor: Tensor, device: torch.device) -> Tensor:
        sent.append(tensor)
        return tensor

    monkeypatch.setattr(dense, "sent", noted)
    in_one(paint, PAPER, HOST)(decoded(8), rng.keys_numpy(rng.key(3), np.arange(8)))
    assert [tuple(tensor.shape) for tensor in sent] == [(8, 13 + 5)] and sent[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "compiled", "channels", "changes", "graphs"),
    [
        (GPU, True, 3, {}, 1),
        (GPU, True, 3, NEVER | {"solarize": 0.1, "solarize_threshold": 0}, 1),
        (GPU, False, 3, {}, 0),
        (HOST, True, 3, {}, 0),
        (GPU, True, 4, {"jitter": 0, "grey": 0}, 0),
        (GPU, True, 3, NEVER, 0),
    ],
)
def test_the_graph_is_for_gpus_that_compile_and_three_channels(
    device: torch.device, compiled: bool, channels: int, changes: dict[str, Any], graphs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **how: asked.append(function) or function)
    with torch._dynamo.config.patch(recompile_limit=8):
        colour_on(device, PAPER.model_copy(update=changes), channels=channels, compiled=compiled)
    assert asked == [paint] * graphs


def test_the_options_are_ones_that_this_torch_knows() -> None:
    assert torch.compile(paint, options=dense.AS_WRITTEN) is not None
    with pytest.raises(RuntimeError, match="Unexpected optimization option"):
        torch.compile(paint, options={"nothing_of_the_kind": True})
