"""Whole runs on a CUDA device against the same runs on the host; UNICSCALE_GPU_TESTS=cpu tries the tests themselves.

    python -m pytest tests/gpu

The recipes are those of the fault table: seconds each. One GPU is enough, except where a test says otherwise.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.launching import digest, records
from tests.kit.recipe import write_images, write_recipe

DEVICE = os.environ.get("UNICSCALE_GPU_TESTS", "cuda")
GPUS = torch.cuda.device_count() if DEVICE == "cuda" else 2
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.timeout(600),
]
CUDA_ONLY = pytest.mark.skipif(DEVICE != "cuda", reason="a host refuses it")
RECIPES = Path(__file__).resolve().parent.parent.parent / "recipes"


class Bench:
    """A folder of runs over the same images."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, write_images(folder / "images")

    def recipe(self, name: str, **changes: Any) -> Path:
        """A run's recipe, on the device unless it says otherwise."""
        (self.folder / name).mkdir()
        # a teacher that is dropped or not by a hair would part two runs that round differently
        changes = {"engine__device": DEVICE, "loss__balance": {"kind": "none"}} | changes
        return write_recipe(self.folder / name / "recipe.yaml", self.images, self.folder / name / "run", **changes)

    def train(self, name: str, *overrides: str, ranks: int = 1, **changes: Any) -> Path:
        """A run to its end; its folder."""
        recipe = self.recipe(name, **changes)
        done = start(recipe, *overrides, ranks=ranks)
        said = done.communicate(timeout=400)[0]
        assert done.returncode == 0, said
        return recipe.parent / "run"


def start(recipe: Path, *overrides: str, ranks: int = 1) -> subprocess.Popen[str]:
    """`unicscale train` under torchrun."""
    command = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "unicscale", "train"]
    return subprocess.Popen(
        [sys.executable, "-m", *command, str(recipe), *overrides],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def losses(run: Path) -> list[float]:
    """Step by step."""
    return [record["loss"] for record in records(run) if "loss" in record]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(scope="module")
def expected(bench: Bench) -> list[float]:
    """The losses of the plain engine, on the host, in fp32."""
    return losses(bench.train("host", engine__device="cpu"))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("plain", {}),
        ("fsdp2", {"engine__kind": "fsdp2"}),
        ("zero3", {"engine__kind": "zero3"}),
        ("offloaded", {"engine__kind": "zero3", "engine__offload": {"optimizer": True}, "engine__clip": 100.0}),
        ("recomputed", {"engine__kind": "fsdp2", "engine__checkpointing": "full", "data__micro_batch": 4}),
        ("compiled", {"engine__kind": "fsdp2", "engine__compile": True}),
        pytest.param("replayed", {"engine__cuda_graphs": True, "data__micro_batch": 4}, marks=CUDA_ONLY),
        pytest.param("replayed-compiled", {"engine__cuda_graphs": True, "engine__compile": True}, marks=CUDA_ONLY),
        ("efficient", {"engine__attention": "efficient", "engine__checkpointing": "full"}),
        ("measured", {"engine__attention": "auto", "engine__checkpointing": "full"}),
    ],
)
def test_a_device_takes_the_steps_of_the_host(bench: Bench, expected: list[float], name: str, changes: dict) -> None:
    found = losses(bench.train(name, **changes))
    assert found == pytest.approx(expected, rel=2e-3), "TF32 is off: only the order of sums differs"


@pytest.mark.parametrize("kind", ["plain", "fsdp2", "zero3"])
def test_bf16_stays_near(bench: Bench, expected: list[float], kind: str) -> None:
    found = losses(bench.train(f"bf16-{kind}", engine__kind=kind, engine__dtype="bf16"))
    assert found == pytest.approx(expected, rel=5e-2)


@pytest.mark.parametrize("kind", ["plain", "fsdp2", "zero3"])
def test_a_killed_run_ends_in_the_same_bits_where_only_deterministic_kernels_run(bench: Bench, kind: str) -> None:
    changes = {"engine__kind": kind, "engine__deterministic": True}
    whole = bench.train(f"whole-{kind}", **changes)
    recipe = bench.recipe(f"killed-{kind}", **changes)
    run = recipe.parent / "run"
    first = start(recipe, "track.every_steps=1")
    while len(records(run)) < 7:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    first.kill()  # the ranks see that their launcher is gone
    first.communicate(timeout=60)
    second = start(recipe)
    said = second.communicate(timeout=400)[0]
    assert second.returncode == 0, said
    assert digest(run) == digest(whole)


@pytest.mark.skipif(GPUS < 2, reason="needs two devices")
def test_an_error_on_one_rank_ends_the_others_soon(bench: Bench) -> None:
    recipe = bench.recipe("lost", engine__kind="fsdp2", engine__timeout_seconds=120)
    run = recipe.parent / "run"
    launched = start(recipe, "stages.0.steps=100000", ranks=2)
    while not records(run):
        assert launched.poll() is None, launched.communicate()[0]
        time.sleep(0.05)
    (bench.images / "all").rename(bench.images / "gone")
    began = time.monotonic()
    try:
        launched.communicate(timeout=90)
    finally:
        (bench.images / "gone").rename(bench.images / "all")
        launched.kill()
    assert launched.returncode != 0 and time.monotonic() - began < 60


@pytest.mark.parametrize("kind", ["fsdp2", "zero3"])
def test_the_dry_run_of_a_recipe_takes_about_the_memory_that_was_planned(kind: str) -> None:
    command = [sys.executable, "-m", "unicscale", "train", str(RECIPES / "unic_s.yaml"), "dry_run.steps=2"]
    command += [f"engine.kind={kind}", f"engine.device={DEVICE}", "dry_run.images_per_step=16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, env=os.environ | {"MASTER_PORT": "0"})
    assert done.returncode == 0, done.stderr
    numbers = {line[:40].strip(): line[40:].split() for line in done.stdout.splitlines()}
    planned = max(map(float, numbers["planned: total"]))
    line = next(line for line in done.stdout.splitlines() if line.startswith("GiB at the peak, rank by rank"))
    peak, program = (float(part.split()[-1]) for part in line.split(";"))
    assert peak - program == pytest.approx(planned, rel=0.25)
