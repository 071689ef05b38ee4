"""The device's limit, which a step's MFU is a share of: FLOPs as torch counts them, over what products reach here."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.cost.test_cost import SHAPE, small
from unicscale.assembly import assemble
from unicscale.cost import costs, limit
from unicscale.dry_run.rehearsal import Synthetic, Unsaved, shortened
from unicscale.errors import ReachedLimit
from unicscale.ranks import device
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.recipe import Recipe, load
from unicscale.recipe.plan import Plan
from unicscale.run.launches import owned_run
from unicscale.run.phases import Phases
from unicscale.train import loop

ROOT = Path(__file__).resolve().parents[2]


class Silent:
    def beat(self, doing: str) -> None:
        """Nobody watches."""


def plan_of(recipe: Recipe) -> Plan:
    return Plan.of(recipe.stages, images_per_epoch=100, images_per_step=recipe.data.images_per_step)


def changed(**changes: object) -> Recipe:
    return Recipe.model_validate(small(dtype="fp32").model_dump(mode="json", by_alias=True) | changes)


def test_the_operations_of_every_step_are_those_that_torch_counts(tmp_path: Path) -> None:
    """Sizes of student and teacher change from step to step."""
    recipe = changed(
        teachers={"a": {**small().teachers["a"].model_dump(), "resolution": [112, 56]}},
        stages=[{"name": "one", "size": [112, 80], "sizes": "random", "steps": 4, "lr": {"peak": 1e-3}}],
        dry_run={"steps": 1, "images_per_step": 2},
    )
    short, world = shortened(recipe, World(), tmp_path / "run"), World()
    short = short.model_copy(update={"stages": [short.stages[0].model_copy(update={"steps": 4})]})
    with owned_run(short, world) as (run, short):
        parts = assemble(short, world, run, loader=Synthetic(short, world), saver=Unsaved())
    counted = limit.Counted(short, parts.plan)
    predicted = [2 * sum(counted(step).values()) for step in range(4)]
    assert len({*predicted}) > 1
    for step in range(4):
        last = contextlib.nullcontext() if step == 3 else pytest.raises(ReachedLimit)
        with FlopCounterMode(display=False) as counter, last:
            loop(parts, Phases(world.device, Silent()), max_steps=step + 1)  # type: ignore[arg-type]
        assert predicted[step] == pytest.approx(counter.get_total_flops(), rel=0.02), step


def test_a_ceiling_is_a_speed_and_moves_no_draws() -> None:
    before = torch.get_rng_state()
    assert limit.ceiling(torch.device("cpu"), "fp32") > 1e9
    assert torch.equal(before, torch.get_rng_state())


def test_parts_in_different_precisions_have_each_their_own_ceiling() -> None:
    tree = small(dtype="bf16").model_dump(mode="json", by_alias=True)
    tree["teachers"]["b"]["dtype"] = "fp32"
    recipe = Recipe.model_validate(tree)
    counted = limit.Counted(recipe, plan_of(recipe))(0)
    assert set(counted) == {"bf16", "fp32"}
    assert counted["fp32"] == costs(recipe, 1, 80.0).stages[0].flops["teacher b"]
    assert limit.seconds({"bf16": 8, "fp32": 6}, {"bf16": 4.0, "fp32": 2.0}) == 2 + 3


SAME = {"scale": [1, 1], "ratio": [1, 1], "jitter": 0, "grey": 0, "blur": 0, "solarize": 0}
UNKNOWN = {
    "a frozen layer's backward": {"student": {"arch": "vit_small", "patch": 16, "freeze": ["stem"]}},
    "what was remembered": {
        "engine": {"device": "cpu", "dtype": "fp32", "remember": 0.1},
        "data": {"train": ["nowhere"], "images_per_step": 8, "augment": SAME},
    },
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_a_formula_would_count_wrongly_is_not_counted(case: str) -> None:
    recipe = changed(**UNKNOWN[case])
    assert limit.limit_of(recipe, plan_of(recipe), World()) is None


ODD = """
import torch
from unicscale_teachers.dino import Dino

class Odd(Dino):
    def build(self, options):
        module = super().build(options)
        module.other = torch.nn.Conv1d(1, 1, 1)
        return module

    def forward(self, module, images):
        raise NotImplementedError("pixels wanted")
"""


def test_what_cannot_be_counted_is_said_and_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    recipe = changed(teachers={"odd": {"adapter": f"{tmp_path}/odd.py:Odd", "size": SHAPE}})
    monkeypatch.setattr(say, "propagate", True)
    with caplog.at_level(logging.INFO, say.name):
        assert limit.limit_of(recipe, plan_of(recipe), World()) is None
    assert "MFU is not logged: " in caplog.text and "pixels wanted" in caplog.text


def test_a_precision_that_is_imitated_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small(dtype="bf16")
    for can in (True, False):
        monkeypatch.setattr(device, "computes_bf16", lambda _, can=can: can)
        monkeypatch.setattr(limit, "ceiling", lambda *_: 1e12)
        assert (limit.limit_of(recipe, plan_of(recipe), World()) is not None) is can


def test_the_demos_is_there_in_a_second() -> None:
    recipe = load(str(ROOT / "recipes" / "demo.yaml"), ["engine.dtype=fp32", "engine.remember=null"])
    begin = time.process_time()
    found = limit.limit_of(recipe, plan_of(recipe), World())
    took = time.process_time() - begin
    assert found is not None and found(0) < found(plan_of(recipe).steps - 1), "the second stage's images are larger"
    assert took < 1.5, f"{took:.2f} s of CPU"
