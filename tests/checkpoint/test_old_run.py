"""A run folder that 0.1.0 wrote, before every file had moved: today's code loads it and goes on from it to the bit.

tests/golden/old_run: `out` as it stood when it was stopped after step 3 of 8, in its first stage; `losses.json` and
`end.safetensors` are what the old code then came to, across the change of stage.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import unicscale
from unicscale import checkpoint
from unicscale.recipe import load
from unicscale.train import train

KINDS = ("weights", "statistics", "balance")


@pytest.fixture
def old(tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run beside its images, which are lossless: no two decoders disagree about them."""
    shutil.copytree(golden / "old_run" / "out", tmp_path / "out")
    (tmp_path / "images" / "all").mkdir(parents=True)
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "all" / f"{number:02d}.png")
    monkeypatch.chdir(tmp_path)  # its recipe says `images` and `out`
    return tmp_path / "out"


def test_an_old_run_loads(old: Path) -> None:
    seen = unicscale.load(old, projectors=True)(torch.zeros(1, 3, 32, 32))
    assert {name: answer.patches.shape for name, answer in seen.answers.items()} == {
        "classes": (1, 16, 96), "dense": (1, 16, 96),
    }  # fmt: skip
    assert torch.isfinite(seen.features.summary).all()


def test_an_old_run_goes_on_to_where_the_old_code_came(old: Path, golden: Path) -> None:
    train(load(str(old / "recipe.yaml")))
    expected = json.loads((golden / "old_run" / "losses.json").read_text())
    records = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
    told = {str(r["step"]): r for r in records if "loss" in r}
    assert told.keys() == expected.keys()
    for step, terms in expected.items():
        assert {name: told[step][name] for name in terms} == pytest.approx(terms, rel=1e-5), step
    end = checkpoint.locate(old)
    assert (end.progress.step, end.progress.stage) == (8, 1)
    found = {f"{kind}/{name}": tensor for kind in KINDS for name, tensor in end.tensors(kind).items()}
    torch.testing.assert_close(found, load_file(golden / "old_run" / "end.safetensors"), rtol=1e-5, atol=1e-7)
