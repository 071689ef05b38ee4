"""Pixels on a CUDA device against the host's, and nobody waits on their way; UNICSCALE_GPU_TESTS=cpu tries this."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.gpu.test_cuda import DEVICE, pytestmark  # noqa: F401
from tests.kit.pictures import section, tree
from unicscale.contracts import Batch, Progress
from unicscale.data.loader import Loader, open_loader

WARM = 4  # batches after which everything is compiled and all memory is held


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree(tmp_path_factory.mktemp("set") / "tree", 64)


def opened(images: Path, device: str, *, compiled: bool) -> Loader:
    return open_loader(section(images, images_per_step=16), seed=1, device=device, compiled=compiled)


def batches(loader: Loader, steps: int, side: int = 96) -> Iterator[Batch]:
    try:
        yield from loader.start(Progress(), lambda _: side, steps)
    finally:
        loader.close()


@contextmanager
def waits_are_errors() -> Iterator[None]:
    if DEVICE != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("side", [96, 61])
def test_a_device_sees_the_pixels_of_the_host(images: Path, compiled: bool, side: int) -> None:
    here = list(batches(opened(images, "cpu", compiled=False), 6, side))
    there = list(batches(opened(images, DEVICE, compiled=compiled), 6, side))
    for ours, theirs in zip(there, here, strict=True):
        assert ours.images.is_contiguous() and ours.images.device.type == DEVICE
        assert torch.equal(ours.index.cpu(), theirs.index) and torch.equal(ours.domain.cpu(), theirs.domain)
        apart = (ours.images.cpu().int() - theirs.images.int()).abs()
        assert apart.max() <= 1 and (apart > 0).float().mean() < 0.01


@pytest.mark.parametrize("compiled", [True, False])
def test_the_host_waits_for_nothing(images: Path, compiled: bool) -> None:
    stream = batches(opened(images, DEVICE, compiled=compiled), 16)
    for _ in range(WARM):
        next(stream)
    with waits_are_errors():
        assert sum(1 for batch in stream if batch.images.ndim == 4) == 16 - WARM


def test_a_batch_is_whole_when_the_computing_stream_reads_it(images: Path) -> None:
    """Long work before it is read, and its memory given back soon: nobody writes over it meanwhile."""
    expected = [batch.images for batch in batches(opened(images, "cpu", compiled=False), 12)]
    busy, found = torch.randn(2048, 2048, device=DEVICE), []
    for batch in batches(opened(images, DEVICE, compiled=False), 12):
        busy = (busy @ busy).clamp(-1, 1)
        found.append(batch.images.int())
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.cpu() - theirs.int()).abs().max() <= 1
