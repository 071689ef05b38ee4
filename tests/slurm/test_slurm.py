"""A real Slurm, real jobs: submitted, signalled, requeued, finished."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.driving import QUIET, REPOSITORY, Driver, weights

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(420)]
WANDB = {"track__wandb": {"project": "test", "mode": "offline"}}


def test_a_queued_job_runs_the_code_as_it_was_and_jobs_tells_the_truth_throughout(
    cluster: Cluster, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    for package, name in (("unicscale", "unicscale"), ("launch", "launch"), ("teachers", "teachers")):
        shutil.copytree(REPOSITORY / package, tree / name)
    (tree / "unicscale_launch").symlink_to("launch")
    (tree / "unicscale_teachers").symlink_to("teachers")
    run = Driver(cluster, tmp_path, steps=30, **QUIET)
    run.env |= {"PYTHONPATH": str(tree)}
    printed = run.printed("--nodes", "2", "--extra=--hold", tree=tree)
    run.submit("--nodes", "2", "--extra=--hold", tree=tree)
    assert printed == run.script()
    assert run.status()["state"] == "queued"
    for file in tree.glob("*/*.py"):
        file.write_text("raise SystemExit('edited after submission')\n")
    del run.env["PYTHONPATH"]
    cluster.run("scontrol", "release", run.job)
    run.until(lambda: run.step() > 2)
    seen = run.status()
    assert seen["state"] in ("running", "ending", "finished")
    assert (seen["steps"], seen["where"], seen["job"]) == (30, "n[1-2]", run.job)
    run.finish()
    done = run.status()
    assert (run.state(), done["state"], done["step"]) == ("COMPLETED", "finished", 30), run.everything_said()
    assert done["loss"] == run.records()[-1]["loss"]
    assert "step 30/30" in run.unicscale("logs", str(run.out), "-n", "5")
    assert (run.out / "logs/rank-0001.log").exists()


def test_signals_requeue_the_job_and_the_weights_are_those_of_an_uninterrupted_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = Driver(cluster, tmp_path / "a", steps=120, **QUIET)
    plain.submit("--nodes", "2")
    run = Driver(cluster, tmp_path / "b", steps=120, **QUIET, **WANDB)
    run.submit("--nodes", "2")
    took = []
    for number, name in enumerate(("USR2", "TERM"), start=1):
        run.until_launch(number, steps=10)
        took.append(run.signal(name))
        run.requeued(number)
    run.finish()
    plain.finish()
    assert run.status()["state"] == "finished", run.everything_said()
    assert weights(run.out) == weights(plain.out)
    assert max(took) < 10
    launches = run.facts()["launches"]
    asked = [str(launch["ended"]["asked"]).split(" ")[0] for launch in launches]
    assert asked == ["SIGUSR2", "SIGTERM", "None"]
    assert [launch["step"] for launch in launches[1:]] == [launch["ended"]["step"] for launch in launches[:-1]]
    steps = [record["step"] for record in run.records() if "loss" in record]
    assert steps == list(range(1, 121))
    ids = {path.name.rpartition("-")[2] for path in run.out.glob("wandb/offline-run-*")}
    assert ids == {run.facts()["id"].rpartition("-")[2]}
