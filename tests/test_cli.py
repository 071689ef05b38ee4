"""The command line as a person meets it: text, exit codes, speed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


def unicscale(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "80"}
    command = [sys.executable, "-m", "unicscale", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=120)


def test_help_lists_every_command() -> None:
    said = unicscale("--help").stdout
    names = "demo check plan train pack teachers features evaluate jobs logs stop doctor"
    for name in names.split():
        assert f" {name} " in said, name


@pytest.mark.parametrize("words", [("--help",), ("check", "recipes/unic_l.yaml"), ("teachers", "list"), ("jobs",)])
def test_quick_commands_do_not_import_torch(words: tuple[str, ...], repository: Path) -> None:
    script = f"import sys; sys.argv = ['unicscale', *{list(words)!r}]\nfrom unicscale.cli import main\n"
    script += "try: main()\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    environment = os.environ | {"IMAGENET": "/data"}
    begun = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=repository, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    assert time.monotonic() - begun < 3  # 1 s on a quiet machine; the tests' own machine is not


def test_a_missing_recipe_is_one_line_and_exit_2(tmp_path: Path) -> None:
    ran = unicscale("check", str(tmp_path / "no.yaml"))
    assert ran.returncode == 2
    assert "does not exist" in ran.stderr and "Traceback" not in ran.stderr


def test_nothing_is_left_behind_by_a_recipe_that_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("schema: 1\nout: run\n")
    assert unicscale("train", str(recipe), cwd=tmp_path).returncode == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.yaml"]


def test_an_unknown_command_is_exit_2() -> None:
    ran = unicscale("trian")
    assert ran.returncode == 2 and "Traceback" not in ran.stderr


def test_the_schema_is_json() -> None:
    import json

    assert json.loads(unicscale("check", "--schema").stdout)["title"] == "Recipe"


def test_doctor_prints_what_works_here() -> None:
    ran = unicscale("doctor")
    assert ran.returncode == 0
    assert "torch" in ran.stdout and "FFCV" in ran.stdout and "Slurm" in ran.stdout
