"""A chain in a real queue: the second link waits over a requeue of the first, and leaves when that is stopped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.driving import CPU, QUIET, Driver

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]


def linked(cluster: Cluster, folder: Path, steps: int) -> tuple[Driver, Driver]:
    """A run, and one that it teaches."""
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    first = Driver(cluster, folder / "one", steps, **QUIET)
    teacher = {"plugin": "unicscale", "run": str(first.out), "resolution": "same_grid"}
    return first, Driver(cluster, folder / "two", 8, teachers={"first": teacher})


def submit(first: Driver, second: Driver) -> None:
    said = first._run("launch/slurm.py", str(first.recipe), str(second.recipe), "--chain", *CPU)
    first.job, second.job = re.findall(r"^job (\d+)", said, re.MULTILINE)


def test_the_second_link_waits_until_the_first_has_ended_with_0(cluster: Cluster, tmp_path: Path) -> None:
    first, second = linked(cluster, tmp_path, steps=60)
    submit(first, second)
    first.until_launch(1, steps=3)
    first.signal("USR2")  # saves, 75, back to the queue
    first.requeued(1)
    assert second.state() == "PENDING" and cluster.job(second.job)["Reason"] == "Dependency"
    assert not second.facts().get("launches")
    first.finish()
    second.finish()
    assert (first.state(), second.state()) == ("COMPLETED", "COMPLETED"), second.everything_said()
    assert second.step() == 8 and first.step() == 60


def test_a_chain_that_was_stopped_is_taken_up_by_the_same_command(cluster: Cluster, tmp_path: Path) -> None:
    first, second = linked(cluster, tmp_path, steps=60)
    submit(first, second)
    first.until_launch(1, steps=3)
    first.unicscale("stop", str(first.out))
    first.finish()
    second.until(lambda: second.state() == "CANCELLED")
    submit(first, second)
    second.finish()
    assert (first.state(), second.state()) == ("COMPLETED", "COMPLETED"), second.everything_said()
    assert first.facts()["launches"][1]["step"] >= 3, "it went on where it stood"
