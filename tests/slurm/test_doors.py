"""The other ways in and out: sweeps, `unicscale stop`, plain srun, torchrun over two nodes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.driving import QUIET, REPOSITORY, Driver, weights

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def runs(cluster: Cluster, tmp_path: Path):
    """Runs of one recipe, each in its own folder."""

    def make(name: str, steps: int = 20) -> Driver:
        (tmp_path / name).mkdir()
        return Driver(cluster, tmp_path / name, steps, **QUIET)

    return make


def test_a_sweep_is_an_array_of_runs_in_folders_of_their_own(runs) -> None:
    run = runs("sweep")
    run.submit("--sweep", "seed=1,2,3", "--array", "2")
    folders = [run.out.parent / f"run-sweep/seed{seed}" for seed in (1, 2, 3)]

    def statuses() -> list[dict]:
        return [json.loads(line) for line in run.unicscale("jobs", "--json", *map(str, folders)).splitlines()]

    first = statuses()
    assert [status["job"] for status in first] == [f"{run.job}_{index}" for index in range(3)]
    run.until(lambda: all(status["state"] == "finished" for status in statuses()), 240)
    assert len({weights(folder) for folder in folders}) == 3
    assert all(f"seed: {seed}" in (folders[seed - 1] / "recipe.yaml").read_text() for seed in (1, 2, 3))
    said = run.unicscale("report", str(folders[0].parent)).splitlines()
    assert [line.split()[:4] for line in said[1:4]] == [[f"seed{n}", str(n), "finished", "20/20"] for n in (1, 2, 3)]


def test_a_task_of_a_sweep_goes_back_to_the_queue_alone(runs, cluster: Cluster) -> None:
    run = runs("tasks", steps=100000)
    run.submit("--sweep", "seed=1,2")
    tasks = [run.task(seed - 1, run.out.parent / f"run-sweep/seed{seed}") for seed in (1, 2)]
    for task in tasks:
        task.until_launch(1, steps=3)
    left_alone, hit = tasks  # Slurm calls the last task by the number of the whole array
    hit.signal("USR2")
    hit.requeued(1)
    hit.until_launch(2, steps=3)
    assert cluster.job(left_alone.job)["Restarts"] == "0"
    assert run.unicscale("stop", *(str(task.out) for task in tasks)).count("asked to stop") == 2
    for task in tasks:
        task.finish()
    assert [len(task.facts()["launches"]) for task in tasks] == [1, 2]
    assert [task.facts()["launches"][0]["ended"]["asked"].split()[0] for task in tasks] == ["unicscale", "SIGUSR2"]


def test_stop_ends_a_running_job_cleanly_and_for_good_and_takes_a_queued_one_away(runs) -> None:
    run = runs("stop", steps=100000)
    run.submit("--nodes", "2")
    run.until_launch(1, steps=3)
    assert "asked to stop" in run.unicscale("stop", str(run.out))
    run.finish()
    [launch] = run.facts()["launches"]
    assert (launch["ended"]["exit"], launch["ended"]["step"]) == (75, run.step())
    assert launch["ended"]["asked"] == "unicscale stop"
    assert "not requeued: `unicscale stop` asked for it" in run.everything_said()
    assert run.status()["state"] == "stopped"
    run.submit("--nodes", "2", "--extra=--hold")
    assert run.status()["state"] == "requeued"
    assert "cancelled" in run.unicscale("stop", str(run.out))
    assert run.state() == "CANCELLED"
    run.submit("--nodes", "2")
    run.until_launch(2, steps=3)  # yesterday's request does not stop today's launch
    run.unicscale("stop", str(run.out))
    run.finish()


def test_a_folder_whose_job_is_queued_takes_no_second_one(runs) -> None:
    run = runs("twice")
    run.submit("--nodes", "2", "--extra=--hold")
    with pytest.raises(AssertionError, match=rf"run already has job {run.job}, waiting"):
        run.submit("--nodes", "2")
    run.unicscale("stop", str(run.out))


def test_plain_srun_and_torchrun_over_two_nodes_give_the_same_weights(runs, cluster: Cluster) -> None:
    front, plain, elastic = runs("front"), runs("plain"), runs("elastic")
    train = [sys.executable, "-m", "unicscale", "train", str(plain.recipe)]
    srun = ["srun", "--nodes", "2", "--ntasks-per-node", "1", "--kill-on-bad-exit=1", "--chdir", str(REPOSITORY)]
    done = subprocess.run([*srun, *train], env=plain.env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    torchrun = ["torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--local-addr", "127.0.0.1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:29777"]
    train = [sys.executable, "-m", *torchrun, "-m", "unicscale", "train", str(elastic.recipe)]
    done = subprocess.run([*srun, *train], env=plain.env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    front.submit("--nodes", "2")
    front.finish()
    assert len({weights(run.out) for run in (front, plain, elastic)}) == 1


def test_plain_srun_that_is_asked_to_stop_saves_and_exits_with_75(runs, cluster: Cluster) -> None:
    run = runs("asked", steps=100000)
    srun = ["srun", "--nodes", "2", "--ntasks-per-node", "2", "--kill-on-bad-exit=1", "--chdir", str(REPOSITORY)]
    train = [sys.executable, "-m", "unicscale", "train", str(run.recipe)]
    step = subprocess.Popen([*srun, *train], env=run.env, stderr=subprocess.PIPE, text=True)
    run.until_launch(1, steps=5)
    run.job = run.facts()["launches"][0]["job"]
    run.signal("USR2")
    _, said = step.communicate(timeout=60)
    assert step.returncode == 75, said


def test_two_tasks_on_each_of_two_nodes_stop_and_go_on_to_the_same_weights(runs) -> None:
    plain, run = runs("plain", steps=60), runs("hit", steps=60)
    for one in (plain, run):
        one.submit("--nodes", "2", "--tasks-per-node", "2")
    run.until_launch(1, steps=10)
    run.signal("USR2")
    run.requeued(1)
    run.finish()
    plain.finish()
    assert run.status()["state"] == "finished", run.everything_said()
    assert [launch["ranks"] for launch in run.facts()["launches"]] == [4, 4]
    assert sorted(path.name for path in run.out.glob("logs/rank-*.log")) == [f"rank-000{n}.log" for n in range(4)]
    assert weights(run.out) == weights(plain.out)  # sums of four numbers: their order must not change


def test_a_second_command_in_the_folder_is_refused_within_ten_seconds(runs, cluster: Cluster) -> None:
    run = runs("held", steps=100000)
    run.submit("--nodes", "2")
    run.until_launch(1, steps=3)
    command = f"timeout 10 {shlex.join([sys.executable, '-m', 'unicscale', 'train', str(run.recipe)])}"
    done = subprocess.run(command, shell=True, env=run.env, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert f"is in use: job {run.job}, process" in done.stderr
    run.unicscale("stop", str(run.out))
    run.finish()
