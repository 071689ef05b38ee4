"""One batch ahead: made early on a device's side stream, handed over, counted and refused as if it had not been."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kit.pictures import beton, digest, joined, picture, section, tree
from unicscale.contracts import Batch, Progress
from unicscale.data.loader import Loader, open_loader
from unicscale.data.stream.aside import SideStream, WhenAsked, aside_for
from unicscale.data.stream.batches import Batches
from unicscale.errors import DataError

HOST = torch.device("cpu")
BOTH = pytest.mark.parametrize("early", [False, True], ids=["when asked", "a batch ahead"])


class Watched:
    """A loader whose colour is noted; `early`: the host stands where a GPU would."""

    def __init__(self, path: str | Path, *, early: bool, **options: Any) -> None:
        self.loader: Loader = open_loader(section(path, **options), seed=1)
        self.made = 0  # batches coloured so far
        colour = self.loader.supply.colour

        def noted(pixels: Tensor, keys: np.ndarray) -> Tensor:
            self.made += 1
            return colour(pixels, keys)

        aside = SideStream(HOST) if early else WhenAsked()
        self.loader.supply = replace(self.loader.supply, colour=noted, aside=aside)

    def start(self, steps: int, after: int = 0) -> Batches:
        return self.loader.start(Progress(step=after, images=8 * after), lambda _: 32, steps)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("set")
    return beton(folder, tree(folder / "tree", 24))


def test_only_a_gpu_has_a_side_stream() -> None:
    assert isinstance(aside_for(HOST), WhenAsked)


@pytest.mark.parametrize(("early", "made"), [(False, [1, 2, 3, 4]), (True, [2, 3, 4, 4])])
def test_the_next_batch_is_made_while_this_one_is_computed(images: str, early: bool, made: list[int]) -> None:
    watched = Watched(images, early=early, workers=0)
    assert [watched.made for _ in watched.start(4)] == made


def test_pixels_order_and_resumption_do_not_depend_on_it(images: str) -> None:
    found = set()
    for early, workers, micro in ((False, 2, 8), (True, 2, 8), (True, 0, 4), (True, 2, 2)):
        watched = Watched(images, early=early, workers=workers, micro_batch=micro)
        per = watched.loader.micro_batches
        for after in (0, 3):
            batches = list(watched.start(5 - after, after))
            assert len(batches) == (5 - after) * per
            found.add((after, digest(of_steps(batches, per)[-2:])))
    assert len(found) == 2 and len({text for _, text in found}) == 1, "both ends are the same two steps"


def of_steps(batches: list[Batch], per: int) -> list[Batch]:
    return [joined(batches[at : at + per]) for at in range(0, len(batches), per)]


class Gated:
    """Images that wait, from number 8 on, for a gate to open; then number 8 cannot be decoded."""

    path, reader, channels, labels, classes = "gated", "gated", 3, None, []

    def __init__(self, gate: threading.Event, problem: type[Exception] | None = None) -> None:
        self.gate, self.problem, self.reads = gate, problem, 0

    def __len__(self) -> int:
        return 24

    def name(self, index: int) -> str:
        return f"file {index}"

    def image(self, index: int) -> np.ndarray:
        self.reads += 1
        if self.reads > 8:
            self.gate.wait(20)
            if self.problem is not None:
                raise self.problem("no more")
        return picture(index)

    def scratch_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    found = threading.Event()
    yield found
    found.set()


def test_a_batch_that_is_not_decoded_is_not_waited_for(images: str, gate: threading.Event) -> None:
    watched = Watched(images, early=True, workers=1)
    watched.loader.supply.sets[:] = [Gated(gate)]  # type: ignore[list-item]
    batches = watched.start(2)
    next(batches)  # would hang if it looked for the second
    assert watched.made == 1
    gate.set()
    next(batches)
    assert watched.made == 2
    watched.loader.close()


@BOTH
def test_an_error_comes_with_its_own_batch(images: str, early: bool, gate: threading.Event) -> None:
    gate.set()
    watched = Watched(images, early=early, workers=0)
    watched.loader.supply.sets[:] = [Gated(gate, MemoryError)]  # type: ignore[list-item]
    batches = watched.start(3)
    assert len(next(batches).index) == 8
    with pytest.raises(DataError, match="MemoryError: no more"):
        next(batches)


@BOTH
def test_damage_is_noted_when_its_batch_is_handed_over(tmp_path: Path, early: bool) -> None:
    source = tree(tmp_path / "tree", 24)
    order = [int(i) for batch in Watched(source, early=False).start(3) for i in batch.index]
    names = sorted(source.rglob("*.jpg"))
    spoiled = names[order[8]]  # in the second batch
    spoiled.write_bytes(spoiled.read_bytes()[:200])
    watched = Watched(source, early=early, workers=0, max_bad=0.1)
    batches, unjudged = watched.start(3), []
    for _ in batches:
        unjudged.append(watched.loader.damage.unjudged)
    assert unjudged == [False, True, False], "judged as the third step begins"


def test_closing_drops_what_was_made_early(images: str) -> None:
    watched = Watched(images, early=True, workers=0)
    batches = watched.start(4)
    next(batches)
    watched.loader.close()
    assert watched.made == 2 and list(batches) == []
