"""Whole runs of students that are no plain ViTs: stopped, gone on, opened again; the same bytes and features."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.kit.recipe import write_images, write_recipe
from unicscale import checkpoint, load
from unicscale.interop import native
from unicscale.recipe import load as load_recipe
from unicscale.train import train

STUDENTS = {
    "rope": {
        "arch": "vit_tiny_patch16_dinov3_qkvb", "patch": 8, "drop_path": 0.2,
        "options": {"embed_dim": 40, "depth": 2, "num_heads": 2},
    },
    "convolutions": {
        "arch": "convnext_atto", "drop_path": 0.2,
        "options": {"output_stride": 8, "depths": [1, 1, 1, 1], "dims": [8, 12, 16, 24], "ls_init_value": 0.1},
    },
    "batch norms": {
        "arch": "resnet10t", "drop_path": 0.2, "patch": 16,
        "options": {"channels": [8, 12, 16, 24], "stem_width": 8, "output_stride": 16},
    },
}  # fmt: skip


def digests(path: Path) -> dict[str, bytes]:
    found = checkpoint.locate(path)
    return {
        f"{kind}/{name}": tensor.numpy().tobytes()
        for kind in ("weights", "exp_avg", "ema")
        for name, tensor in found.tensors(kind).items()
    }


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_run_that_goes_on_equals_one_that_never_stopped_and_opens_as_it_was(tmp_path: Path, kind: str) -> None:
    images = write_images(tmp_path / "images", count=32)
    more = {"student": STUDENTS[kind], "engine__ema": 0.9}

    def run(name: str) -> Path:
        write_recipe(tmp_path / f"{name}.yaml", images, tmp_path / name, steps=8, **more)
        train(load_recipe(tmp_path / f"{name}.yaml"))
        return tmp_path / name

    whole = run("whole")
    assert (whole / "checkpoints" / "step-00000006").is_dir()
    # as after a kill between two saves: the checkpoint in the middle of the second stage is the newest
    halfway = tmp_path / "halfway"
    run("halfway")
    shutil.rmtree(halfway / "checkpoints" / "step-00000008")
    train(load_recipe(tmp_path / "halfway.yaml"))
    assert digests(halfway) == digests(whole)

    model, picture = load(whole), torch.randn(2, 3, 48, 48)
    features = model(picture)
    opened = native.read(whole)
    native.write(tmp_path / "model.safetensors", opened, opened.description)  # type: ignore[arg-type]
    torch.testing.assert_close(load(tmp_path / "model.safetensors")(picture), features)
