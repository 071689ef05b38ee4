"""A plug-in that leaves is told as what it is: no finished run, and no exit code of its own choosing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.recipe import SHAPE, write_images, write_recipe
from unicscale.errors import PluginLeft
from unicscale.ranks.exits import nobody_leaves

LEAVING = """
from unicscale_teachers.dino import Dino

class Leaving(Dino):
    def {where}
        {when}
            exit({code})
        return {answer}
"""
WAYS = {
    "build": ("build(self, options):", "if True:", "super().build(options)"),
    "spec": ("spec(self, options):", "if True:", "super().spec(options)"),
    "forward": ("forward(self, module, images):", "if not images.is_meta:", "module(images)"),
}


@pytest.mark.parametrize(("way", "code"), [("build", 0), ("spec", 3), ("forward", 0), ("forward", 3)])
def test_a_teacher_that_calls_exit_is_named_and_the_run_has_not_finished(tmp_path: Path, way: str, code: int) -> None:
    where, when, answer = WAYS[way]
    (tmp_path / "leaving.py").write_text(LEAVING.format(where=where, when=when, answer=answer, code=code))
    changes = {"adapter": f"{tmp_path}/leaving.py:Leaving", "weights": "random", "size": SHAPE}
    images = write_images(tmp_path / "images", 8)
    recipe = write_recipe(tmp_path / "r.yaml", images, tmp_path / "run", steps=2, teachers__one=changes,
                          stages=[{"name": "low", "size": 32, "steps": 2, "lr": {"peak": 1e-3}}])  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-m", "unicscale", "train", str(recipe)], capture_output=True, text=True, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 4, ran.stderr
    assert f"{tmp_path}/leaving.py:7 calls exit({code}), which would end the run." in ran.stderr
    assert "Traceback" not in ran.stderr and "finished" not in ran.stdout


def test_what_ends_otherwise_is_left_alone() -> None:
    with pytest.raises(KeyboardInterrupt), nobody_leaves("x"):
        raise KeyboardInterrupt
    with pytest.raises(PluginLeft, match=r"^x: .*test_exits.py:\d+ calls exit\(0?\)"), nobody_leaves("x"):
        sys.exit()  # wandb's, where an earlier test has loaded it, says 0 for nothing


def test_the_caller_is_named_where_a_library_has_put_an_exit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = {}
    exec(compile("def leave(code=None):\n    raise SystemExit(code)", "a_library.py", "exec"), module)
    monkeypatch.setattr(sys, "exit", module["leave"])
    with pytest.raises(PluginLeft, match=r"^x: .*test_exits.py:\d+ calls exit\(7\)"), nobody_leaves("x"):
        sys.exit(7)
