"""launch/local.py for real: two ranks, a death, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from unicscale_launch.local import children

from tests.kit import places
from tests.kit.recipe import slow_teacher, write_images, write_recipe

pytestmark = pytest.mark.timeout(400)
REPOSITORY = places.REPOSITORY


def start(folder: Path, *options: str, steps: int, **changes: object) -> subprocess.Popen:
    """The command, with a group of its own as at a terminal."""
    images = write_images(folder / "images")
    recipe = write_recipe(folder / "r.yaml", images, folder / "run", steps=steps, **changes)
    return subprocess.Popen(
        [sys.executable, "launch/local.py", str(recipe), "--ranks", "2", *options],
        cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(folder)},
    )  # fmt: skip


def until_step(folder: Path, launch: int, steps: int, command: subprocess.Popen) -> None:
    """Wait until that launch has logged so many steps."""
    file = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 150
    while True:
        lines = file.read_text().splitlines() if file.exists() else []
        if sum(json.loads(line).get("launch") == launch for line in lines) >= steps:
            return
        assert command.poll() is None, command.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def launches(folder: Path) -> list[dict]:
    """As run.json has them."""
    return json.loads((folder / "run" / "run.json").read_text())["launches"]


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_and_all_go_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    command = start(tmp_path, "--restarts", "1", steps=60)
    until_step(tmp_path, launch=1, steps=10, command=command)
    os.kill(launches(tmp_path)[0]["pid"], signal.SIGKILL)
    killed = time.monotonic()
    until_step(tmp_path, launch=2, steps=1, command=command)
    print(f"training again after {time.monotonic() - killed:.0f} s")
    _, said = command.communicate(timeout=200)
    assert command.returncode == 0, said
    assert "a rank was killed (SIGKILL); 1 restarts left" in said
    first, second = launches(tmp_path)
    assert second["step"] >= 3  # every third step is saved, and a save may have been on its way
    assert first["submission"] == second["submission"]
    assert second["ended"]["exit"] == 0


def test_a_dry_run_is_rehearsed_and_trains_nothing(tmp_path: Path) -> None:
    changes = {"data__train": ["${NOWHERE}/train.beton"], "teachers__one__weights": "nowhere.pth"}
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run", steps=100000, **changes)
    done = subprocess.run(
        [sys.executable, "launch/local.py", str(recipe), "dry_run.steps=1", "--ranks", "2"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "dry run: plain, fp32, checkpointing none, 2 ranks on cpu, 2 images per step" in done.stderr
    assert done.stdout == ""  # nothing is finished
    left = {file.name for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert {name.partition("-")[0] for name in left} == {"local", "rank"}  # the recipe as it was resolved, and the logs


def test_the_recipes_of_a_folder_run_one_after_the_other(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 16)
    (tmp_path / "all").mkdir()
    for name in ("a", "b"):
        write_recipe(tmp_path / "all" / f"{name}.yaml", images, tmp_path / name, steps=8)
    done = subprocess.run(
        [sys.executable, "launch/local.py", str(tmp_path / "all"), "--ranks", "1", "--sweep"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"finished: {tmp_path / name}" for name in ("a", "b")]
    assert f"run 2 of 2: {tmp_path / 'b'}" in done.stderr
    assert (tmp_path / "a" / "logs" / "rank-0000.log").read_text().count("step 8/8") == 1, "once, not twice"
    assert f"student  {tmp_path}/a/checkpoints/step-00000008" in done.stderr


def test_ctrl_c_saves_and_leaves_with_75(tmp_path: Path) -> None:
    command = start(tmp_path, steps=100000)
    until_step(tmp_path, launch=1, steps=5, command=command)
    os.killpg(command.pid, signal.SIGINT)
    sent = time.time()
    _, said = command.communicate(timeout=60)
    assert command.returncode == 75, said
    [launch] = launches(tmp_path)
    assert launch["ended"]["exit"] == 75
    assert launch["ended"]["asked"].startswith("SIGINT")
    assert launch["ended"]["time"] - sent < 10
    assert (tmp_path / "run" / "checkpoints" / f"step-{launch['ended']['step']:08d}" / "manifest.json").exists()
    assert "stopped; the same command goes on" in said


def test_ctrl_c_twice_leaves_at_once_and_nothing_starts_again(tmp_path: Path) -> None:
    command = start(tmp_path, steps=100, **slow_teacher(tmp_path / "teacher", seconds=40))
    ranks = [in_its_teachers(tmp_path, rank, command) for rank in range(2)]
    os.killpg(command.pid, signal.SIGINT)
    time.sleep(1.5)  # what follows within a second is taken for the same Ctrl-C
    assert command.poll() is None
    os.killpg(command.pid, signal.SIGINT)
    again = time.monotonic()
    _, said = command.communicate(timeout=60)
    assert command.returncode == 128 + signal.SIGINT, said
    assert time.monotonic() - again < 30  # the step would have taken longer
    assert "asked again: leaving without saving" in said
    assert "ended without saving; the same command goes on from the last checkpoint" in said
    assert len(launches(tmp_path)) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def test_a_thread_that_ends_while_the_ranks_are_looked_for_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter([Path("/proc/self/task/0/children")]))
    assert children() == []


@pytest.mark.parametrize("door", ["slurm", "local"])
@pytest.mark.parametrize("safe", ["", "1"])
def test_a_door_runs_what_pythonpath_says_not_what_lies_beside_it(tmp_path: Path, door: str, safe: str) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit('first on the path')\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": safe}
    command = [sys.executable, f"launch/{door}.py", "-h"]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "first on the path"


def in_its_teachers(folder: Path, rank: int, command: subprocess.Popen) -> int:
    """Wait until a rank is in the middle of a step; its process."""
    pulse, deadline = folder / f"run/logs/rank-{rank:04d}.pulse", time.monotonic() + 150
    while not (pulse.exists() and (said := json.loads(pulse.read_text()))["doing"].endswith("teachers")):
        assert command.poll() is None, command.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return said["pid"]
