"""A run's teachers are found from other folders than the one it was started in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.recipe import write_recipe
from unicscale.recipe import load
from unicscale.recipe.anchored import anchored
from unicscale.recipe.difference import differences


def test_paths_of_teachers_become_whole_and_the_run_stays_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").write_bytes(b"")
    teachers = {
        "one": {"adapter": "./mine.py:Mine", "weights": "w.pth"},
        "two": {"plugin": "dino", "weights": "auto"},
        "three": {"plugin": "dino", "weights": "hf:org/repo"},
    }
    before = load(write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run", teachers=teachers))
    after = anchored(before)
    one = after.teachers["one"]
    assert (one.adapter, one.weights) == (f"{tmp_path}/mine.py:Mine", f"{tmp_path}/w.pth")
    assert [after.teachers[name].weights for name in ("two", "three")] == ["auto", "hf:org/repo"]
    assert differences(before, after) == []
