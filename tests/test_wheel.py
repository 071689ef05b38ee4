"""What somebody gets who installs unicscale without a checkout."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
SEE = "from unicscale import demo, recipe; print(recipe.load(demo.RECIPE, ['out=x']).out, demo.RECIPE)"


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, unpacked."""
    if importlib.util.find_spec("setuptools") is None:  # not imported here: other tests may hold Python's own distutils
        pytest.skip("no setuptools")
    tree, into = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("installed")
    for name in ("unicscale", "teachers", "launch", "recipes"):
        shutil.copytree(repository / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy2(repository / name, tree / name)
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=tree, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [wheel] = (tree / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(into)
    return into


def test_a_wheel_holds_every_module_and_all_that_they_read(installed: Path, repository: Path) -> None:
    folders = {"unicscale": "unicscale", "teachers": "unicscale_teachers", "launch": "unicscale_launch"}
    folders |= {"recipes": "unicscale/recipes"}
    lost = [
        str(path.relative_to(repository))
        for here, there in folders.items()
        for path in (repository / here).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.parent.name != "ablations"
        if not (installed / there / path.relative_to(repository / here)).exists()
    ]
    assert not lost


def test_the_demo_finds_its_recipe_in_a_wheel(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", SEE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["x", f"{installed}/unicscale/recipes/demo.yaml"]
