"""Recipes one after the other: in Slurm's queue by dependency, on this machine in turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from unicscale_launch.chain import after, awaited, chained

from tests.kit import places
from tests.kit.recipe import write_images, write_recipe
from unicscale.errors import RecipeError
from unicscale.recipe.sections import Launch

pytestmark = pytest.mark.timeout(400)
QUEUE = """#!/bin/bash
number=$(( 12 + $(ls {folder} | grep -c '^job-') ))
cp "${{@: -1}}" {folder}/job-$number
echo Submitted batch job $number
"""


def two(folder: Path, steps: int = 8, **changes: object) -> tuple[Path, Path]:
    """A recipe, and one whose teacher is the first one's run."""
    images = write_images(folder / "images", 16)
    first = write_recipe(folder / "first.yaml", images, folder / "first", steps=steps, **changes)
    teacher = {"plugin": "unicscale", "run": str(folder / "first"), "resolution": "same_grid"}
    second = write_recipe(folder / "second.yaml", images, folder / "second", steps=steps, teachers={"first": teacher})
    return first, second


def door(which: str, folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"launch/{which}.py", *words],
        cwd=places.REPOSITORY, capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(folder)} | environment,
    )  # fmt: skip


def test_what_a_chain_names_of_an_earlier_run_is_known_to_come(tmp_path: Path) -> None:
    first, second = chained(str(two(tmp_path)[0]), [str(tmp_path / "second.yaml"), "seed=7"], [])
    assert (first.seed, second.seed) == (7, 7), "changes are of all"
    assert awaited(second, [first]) == first.out and awaited(first, []) is None
    starts = second.model_copy(
        update={"teachers": {}, "student": second.student.model_copy(update={"init": f"{first.out}/checkpoints"})}
    )
    assert awaited(starts, [first]) == first.out
    assert awaited(starts.model_copy(update={"student": first.student}), [first]) is None


def test_a_job_behind_another_waits_for_its_0_and_leaves_the_queue_where_that_never_comes() -> None:
    assert after(Launch(extra=["--mail-type=END"]), "12").extra == [
        "--mail-type=END", "--dependency=afterok:12", "--kill-on-invalid-dep=yes",
    ]  # fmt: skip


def test_every_link_waits_for_the_job_before_it(tmp_path: Path) -> None:
    recipes = two(tmp_path)
    (tmp_path / "bin").mkdir()
    for name, does in (("srun", "#!/bin/bash\n"), ("squeue", "#!/bin/bash\nexit 1\n"), ("sbatch", QUEUE)):
        (tmp_path / "bin" / name).write_text(does.format(folder=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    words = [*map(str, recipes), "--chain", "--gpus-per-node", "0"]
    shown = door("slurm", tmp_path, *words, "--print-sbatch")
    assert "#SBATCH --dependency=afterok:JOB_OF_first\n" in shown.stdout, shown.stderr
    assert not list(tmp_path.glob("job-*")) and not (tmp_path / "first").exists()
    done = door("slurm", tmp_path, *words, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    one, other = ((tmp_path / f"job-{number}").read_text() for number in (12, 13))
    assert "--dependency" not in one
    assert "#SBATCH --dependency=afterok:12\n" in other and "#SBATCH --kill-on-invalid-dep=yes\n" in other
    assert json.loads((tmp_path / "second" / "run.json").read_text())["queued"] == "13"
    kept = next((tmp_path / "second" / "launch").glob("*/recipe.yaml")).read_text()
    assert "dependency" not in kept, "how it was queued is no part of the recipe"
    assert "each begins when the one before it has ended with 0" in done.stdout


@pytest.mark.parametrize(
    ("words", "sweeps", "text"),
    [
        ([], [], "--chain wants two recipes or more"),
        (["first.yaml"], ["seed=1,2"], "a sweep or a folder of them runs at once"),
        (["."], [], "a sweep or a folder of them runs at once"),
        (["first.yaml"], [], "two recipes of the chain have .* as their 'out'"),
        (["second.yaml", "out=x"], [], "two recipes of the chain have x as their 'out'"),
    ],
)
def test_what_is_no_chain_is_refused(
    words: list[str], sweeps: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=text):
        chained("first.yaml", words, sweeps)


def test_here_one_follows_the_other(tmp_path: Path) -> None:
    words = [*map(str, two(tmp_path)), "--chain", "--ranks", "1"]
    done = door("local", tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"finished: {tmp_path / name}" for name in ("first", "second")]


@pytest.mark.slow
def test_a_chain_that_was_stopped_goes_on_where_it_stood_and_is_finished_once(tmp_path: Path) -> None:
    words = [*map(str, two(tmp_path, steps=40)), "--chain", "--ranks", "1"]
    command = subprocess.Popen(
        [sys.executable, "launch/local.py", *words], cwd=places.REPOSITORY, start_new_session=True,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(tmp_path)},
    )  # fmt: skip
    metrics, deadline = tmp_path / "first" / "metrics.jsonl", time.monotonic() + 150
    while not metrics.exists() or metrics.read_text().count("\n") < 5:
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(command.pid, signal.SIGINT)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 75, said
    assert not (tmp_path / "second").exists()
    done = door("local", tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "first" / "run.json").read_text())["launches"][1]["step"] >= 3
    assert done.stdout.splitlines() == [f"finished: {tmp_path / name}" for name in ("first", "second")]
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("first", "second")]
    assert door("local", tmp_path, *words).returncode == 0
    assert [(tmp_path / name / "metrics.jsonl").read_text() for name in ("first", "second")] == logs
