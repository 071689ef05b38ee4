"""What clusters do to jobs: time limits, pre-emption, dead nodes and daemons, and runs that get nowhere."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.kit.recipe import slow_teacher
from tests.slurm.cluster import Cluster
from tests.slurm.driving import QUIET, Driver, weights

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]
SAVING = {"save__every_steps": 10}


@pytest.fixture
def pair(cluster: Cluster, tmp_path: Path):
    """Two runs of one recipe: the one things happen to, and the one that is left alone."""
    for name in ("hit", "plain"):
        (tmp_path / name).mkdir()

    def make(steps: int, **changes: object) -> tuple[Driver, Driver]:
        hit = Driver(cluster, tmp_path / "hit", steps, **changes)
        return hit, Driver(cluster, tmp_path / "plain", steps, **changes)

    return make


def test_three_time_limits_lose_nothing(cluster: Cluster, pair, tmp_path: Path) -> None:
    """Two that somebody warned of, the run's own clock or Slurm, and one that Slurm enforces while the ranks save."""
    run, plain = pair(720, **QUIET, **slow_teacher(tmp_path / "teacher", seconds=0.3))  # no machine is done too early
    plain.submit("--nodes", "2")
    run.submit("--nodes", "2", "--time", "1")
    asked = [run.left()]
    run.requeued(1, "TimeLimit=20")
    run.until_launch(2, steps=5)
    cluster.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=2")  # nearer than the two minutes of warning
    asked.append(run.left())
    run.requeued(2, "TimeLimit=20")
    run.until_launch(3, steps=5)
    time.sleep(max(0.0, 65 - cluster.seconds_since_start(run.job)))
    cluster.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=1")  # over already: SIGTERM, then SIGKILL
    asked.append(run.left())
    assert run.cluster.job(run.job)["Reason"] == "TimeLimit"
    run.requeued(3, "TimeLimit=20")
    run.finish(400)
    plain.finish(400)
    assert asked[0] in ("time limit", "SIGUSR2"), asked
    assert asked[1] == "SIGUSR2", asked
    assert run.status()["state"] == "finished", run.everything_said()
    assert weights(run.out) == weights(plain.out)
    steps = [record["step"] for record in run.records() if "loss" in record]
    assert steps == list(range(1, 721))


def test_twenty_signals_each_commit_within_a_step_and_ten_seconds(cluster: Cluster, pair) -> None:
    run, plain = pair(700, **QUIET)
    run.submit("--nodes", "2", "--max-requeues", "60")
    took = []
    for number in range(1, 21):
        run.until_launch(number, steps=5 + number)
        took.append(run.signal(("USR2", "TERM")[number % 2]))
        run.requeued(number)
    run.finish()
    plain.submit("--nodes", "2")
    plain.finish()
    print("seconds from signal to commit:", [round(seconds, 2) for seconds in took])
    assert max(took) < 10
    assert weights(run.out) == weights(plain.out)


def test_a_node_that_goes_down_costs_at_most_what_was_not_saved(cluster: Cluster, pair) -> None:
    run, plain = pair(150, **SAVING)
    plain.submit("--nodes", "2")
    plain.finish()
    run.submit("--nodes", "2")
    run.until_launch(1, steps=35)
    run.take_down("n2")
    run.requeued(1)
    run.finish()
    assert run.status()["state"] == "finished", run.everything_said()
    first, second = run.facts()["launches"]
    assert second["step"] >= 30
    assert second["submission"] == first["submission"]
    assert weights(run.out) == weights(plain.out)
    replayed = [record["step"] for record in run.records() if record["launch"] == 2]
    assert replayed == list(range(second["step"] + 1, 151))


def test_a_killed_slurmstepd_leaves_no_process_behind_and_the_job_goes_on(cluster: Cluster, pair) -> None:
    run, plain = pair(150, **SAVING)
    plain.submit("--nodes", "2")
    plain.finish()
    run.submit("--nodes", "2")
    run.until_launch(1, steps=35)
    ranks = [pid for pid in ranks_of(run) if pid != run.facts()["launches"][0]["pid"]]
    os.kill(parent(ranks[0]), signal.SIGKILL)
    died = time.monotonic()
    run.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks), 60)
    print(f"orphaned rank gone after {time.monotonic() - died:.1f} s")
    run.requeued(1)
    run.finish()
    assert run.status()["state"] == "finished", run.everything_said()
    assert weights(run.out) == weights(plain.out)


def test_a_job_that_makes_no_progress_stops_after_three_launches(cluster: Cluster, pair) -> None:
    run, _ = pair(100000, **QUIET)
    run.submit("--nodes", "2")
    run.stop_three_times()


def test_preemption_saves_and_requeues_and_a_cancelled_job_stays_cancelled(cluster: Cluster, pair) -> None:
    run, _ = pair(100000, **QUIET)
    run.submit("--nodes", "2")
    run.until_launch(1, steps=5)
    urgent = cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", "-p", "urgent", "-N2", "--exclusive", "--wrap", "sleep 2"
    ).strip()
    ended = run.until(lambda: run.facts()["launches"][0].get("ended"))
    assert (ended["exit"], ended["step"]) == (75, run.step())
    run.until(lambda: cluster.job(urgent).get("JobState") == "COMPLETED")
    run.requeued(1)
    run.until_launch(2, steps=5)
    cluster.run("scancel", run.job)
    ended = run.until(lambda: run.facts()["launches"][1].get("ended"))
    assert ended["exit"] == 75
    run.finish()
    time.sleep(5)
    assert run.state() == "CANCELLED"
    assert run.status()["state"] == "stopped"


def ranks_of(run: Driver) -> list[int]:
    """Processes that work for the run's job."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        of_job = f"SLURM_JOB_ID={run.job}".encode() in environment and str(run.out).encode() in command
        if of_job and b"submitit.core._submit" in command and b"srun" not in command:
            found.append(int(folder.name))
    return found


def parent(pid: int) -> int:
    """Its slurmstepd."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
