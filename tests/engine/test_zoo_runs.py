"""Whole runs of other papers' methods: engines and ranks agree, and a killed run ends in the same bits."""

from __future__ import annotations

import time
from typing import Any

import pytest
from torch import Tensor

from tests.faults.launching import Launch, records
from tests.faults.table import STEPS, Ground, finish, kill
from tests.kit.recipe import SHAPE
from unicscale.interop.loading import read

pytestmark = pytest.mark.timeout(600)
ONE = {"plugin": "dino", "weights": "random", "size": SHAPE}
TWO = {"plugin": "dinov2", "weights": "random", "size": SHAPE | {"ffn": "swiglu"}}
SAM = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 128, "global_attn_indexes": [1], "window_size": 2}
DRAWN = [
    {"name": name, "size": [32, 48], "sizes": "random", "steps": STEPS // 2, "warmup_steps": 2, "lr": {"peak": peak}}
    for name, peak in (("low", 1e-3), ("high", 5e-4))
]
# two runs: a relation is between summaries, and refuses the teacher of patches alone that the second one has
RUNS: dict[str, dict[str, Any]] = {
    # both sides drawn, statistics that start anew, summaries related to each other
    "relation": {
        "stages": DRAWN,
        "teachers": {"one": ONE, "two": TWO | {"resolution": [32, 48]}},
        "standardize": {"kind": "running", "patches": "phi_s", "freeze_after": "5 steps", "restart": "stage"},
        "loss": {"summary": {"cosine": 1.0}, "patches": {"mse": 1.0}, "grid": "larger", "relation": {"kind": "arkd"}},
    },
    # a teacher of patches alone whose size is drawn, angles, windows that move
    "patches": {
        "teachers": {
            "one": ONE,
            "two": TWO | {"tokens": ["patches"], "weight": {"patches": 2.0}, "resolution": [32, 48]},
        },
        "standardize": {"kind": "phi_s", "summary": "none", "freeze_after": "5 steps", "restart": "stage"},
        "loss": {"summary": {"angle": 1.0}, "patches": {"mse": 1.0}},
        "data__shift": 0.5,
    },
}
# which images share a canvas follows from the number of ranks, so this one is compared with itself alone
RUNS["mosaic"] = RUNS["patches"] | {
    "teachers": {"one": ONE, "sam": {"plugin": "sam", "weights": "random", "settings": SAM, "mosaic": True}}
}

Trained = tuple[list[float], dict[str, Tensor], list[float]]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("zoo"))


def trained(ground: Ground, name: str, kind: str, ranks: int) -> Trained:
    """Losses by step, the final student, and the losses that only these methods have."""
    recipe = ground.recipe(f"{name}-{kind}-{ranks}", engine__kind=kind, **RUNS[name])
    launch = Launch(recipe, ranks=ranks)
    assert launch.wait(300) == [0] * ranks, launch.said()
    logged = [record for record in records(launch.run) if "loss" in record]
    own = [value for record in logged for term, value in record.items() if term.endswith(("arkd", "angle", "mse"))]
    return [record["loss"] for record in logged], dict(read(launch.run).student.state_dict()), own


@pytest.fixture(scope="module")
def alone(ground: Ground) -> dict[str, Trained]:
    return {name: trained(ground, name, "plain", 1) for name in ("relation", "patches")}


QUICK = [("relation", "plain", 2), ("patches", "fsdp2", 2)]
CASES = [
    pytest.param(name, kind, ranks, marks=[] if (name, kind, ranks) in QUICK else [pytest.mark.slow])
    for name in ("relation", "patches")
    for kind in ("plain", "fsdp2", "zero3")
    for ranks in (1, 2, 4)
    if (kind, ranks) != ("plain", 1)
]


@pytest.mark.parametrize(("name", "kind", "ranks"), CASES)
def test_neither_engine_nor_ranks_change_a_run(
    name: str, kind: str, ranks: int, ground: Ground, alone: dict[str, Trained]
) -> None:
    losses, weights, own = trained(ground, name, kind, ranks)
    expected, held, theirs = alone[name]
    assert len(losses) == STEPS and losses == pytest.approx(expected, rel=1e-4)
    assert own and own == pytest.approx(theirs, rel=2e-3, abs=1e-5)
    off = sum(float((weights[n].double() - held[n].double()).square().sum()) for n in held)
    whole = sum(float(held[n].double().square().sum()) for n in held)
    assert (off / whole) ** 0.5 < 1e-3


@pytest.mark.parametrize(
    ("name", "kind", "ranks", "at"),
    [
        ("mosaic", "plain", 1, 10),
        pytest.param("relation", "plain", 2, 3, marks=pytest.mark.slow),
        pytest.param("relation", "fsdp2", 2, 12, marks=pytest.mark.slow),
        pytest.param("patches", "zero3", 2, 7, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_in_the_bits_of_one_that_nobody_disturbed(
    name: str, kind: str, ranks: int, at: int, ground: Ground
) -> None:
    changes = RUNS[name] | {"engine__kind": kind}
    expected = ground.reference(ranks, **changes)
    recipe = ground.recipe("killed", **changes)
    launch = Launch(recipe, ranks=ranks)
    launch.until(lambda: launch.steps() >= at)
    time.sleep(0.02)
    kill(launch)
    assert launch.steps() < STEPS, "it was killed in time"
    finish(recipe, ranks, expected)
