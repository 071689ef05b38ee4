"""A run of many ranks leaves on one process: the same student, in the memory of one copy of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kit import places, ranks, recipe, sharded
from unicscale import load
from unicscale import recipe as recipes
from unicscale.interop import exporting
from unicscale.interop.exports import target_of
from unicscale.interop.exports.target import Wishes
from unicscale.interop.loading import read
from unicscale.interop.origin import origin_of

OLD = places.GOLDEN / "old_run" / "out"
PEAK = """
import json, sys, torch
from pathlib import Path
from benchmarks.exports import peak
print(json.dumps(peak(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)))
"""


def trained(path: str) -> None:
    from unicscale.train import train

    train(recipes.load(path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp2", "zero3"])
def test_four_ranks_leave_on_one(kind: str, tmp_path: Path) -> None:
    if kind == "zero3":
        pytest.importorskip("deepspeed")
    images = recipe.write_images(tmp_path / "images", 16)
    path = recipe.write_recipe(
        tmp_path / "r.yaml", images, tmp_path / "run", steps=6, engine__kind=kind, data__images_per_step=4
    )
    ranks.run(4, trained, str(path))
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("step-*6"))
    assert len(list(checkpoint.glob("rank-*.safetensors"))) == 4
    opened = read(tmp_path / "run")
    assert exporting.export(opened, origin_of(str(tmp_path / "run")), target_of("timm"), tmp_path / "out", Wishes())
    batch = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(load(tmp_path / "out")(batch), load(tmp_path / "run")(batch), rtol=1e-5, atol=1e-5)


def test_sixty_four_ranks_are_one_student(tmp_path: Path) -> None:
    checkpoint = next((OLD / "checkpoints").glob("step-*"))
    cut = sharded.as_of(64, checkpoint, tmp_path / "run")
    assert len(list(cut.glob("rank-*.safetensors"))) == 64
    many, one = read(tmp_path / "run").student.state_dict(), read(checkpoint).student.state_dict()
    assert many.keys() == one.keys()
    assert all(torch.equal(many[name], one[name]) for name in one)


def test_one_missing_rank_of_sixty_four_is_named(tmp_path: Path) -> None:
    cut = sharded.as_of(64, next((OLD / "checkpoints").glob("step-*")), tmp_path / "run")
    (cut / "rank-0033.safetensors").unlink()
    with pytest.raises(Exception, match=r"rank-0033\.safetensors"):
        read(cut)


@pytest.mark.slow
def test_sixty_four_ranks_take_the_memory_of_one_copy(tmp_path: Path) -> None:
    from benchmarks.exports import untrained

    checkpoint = untrained(tmp_path / "one", "vit_small")
    sharded.as_of(64, checkpoint, tmp_path / "many")
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "many")], cwd=places.REPOSITORY, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["copy_mib"] > 80 and found["copies"] < 1.5, found
