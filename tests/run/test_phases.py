"""Nobody pauses alone to look for garbage, and there is none that would have to be looked for."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch

from tests.kit.recipe import write_images, write_recipe
from unicscale.recipe import load
from unicscale.run.phases import Phases, held_garbage
from unicscale.train import train


class Deaf:
    """A watchdog that nobody feeds."""

    def beat(self, doing: str) -> None:
        """Ignored."""


class Circle:
    """Only a collector finds it."""

    def __init__(self) -> None:
        self.me = self


def phases() -> Phases:
    return Phases(torch.device("cpu"), Deaf())  # type: ignore[arg-type]


def test_circles_wait_for_a_log_step() -> None:
    phase = phases()
    with held_garbage():
        lost = ref(Circle())
        phase("data", 0)
        [Circle() for _ in range(5000)]  # more than makes Python look by itself
        assert lost() is not None
        phase.measured()
        assert lost() is None


@pytest.mark.parametrize("was", [True, False])
def test_the_collector_is_left_as_it_was(was: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if was else gc.disable)()
        with pytest.raises(ValueError), held_garbage():
            assert not gc.isenabled()
            raise ValueError
        assert gc.isenabled() == was
    finally:
        (gc.enable if before else gc.disable)()


@pytest.fixture
def kept_garbage() -> Iterator[list[Any]]:
    """What the collector finds, kept for looking at."""
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()


def test_a_step_leaves_nothing_for_the_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_garbage: list[Any]
) -> None:
    """While it is held, circles would keep activations alive."""
    recipe = write_recipe(
        tmp_path / "r.yaml", write_images(tmp_path / "images"), tmp_path / "run", save__every_steps=100
    )
    found: list[Any] = []

    def call(self: Phases, name: str, step: int | None = None, beat: Any = Phases.__call__) -> None:
        if step in (3, 7):  # in one stage, without a checkpoint between
            gc.collect()
            found.extend(o for o in kept_garbage if torch.is_tensor(o) and step == 7)
            gc.set_debug(gc.DEBUG_SAVEALL if step == 3 else 0)
            kept_garbage.clear()
        beat(self, name, step)

    monkeypatch.setattr(Phases, "__call__", call)
    monkeypatch.setattr(Phases, "measured", lambda self: {})
    train(load(str(recipe), []))
    assert not found
