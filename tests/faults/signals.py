"""Faults that ask a run to stop, or ask for its folder: nothing is lost, and at most one run is at work."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from random import Random

from tests.faults.launching import Launch, records
from tests.faults.table import STEPS, Fault, Ground, NotHere, finish, kill
from tests.slurm.cluster import Cluster, missing
from tests.slurm.driving import Driver, weights
from unicscale.checkpoint.reading import committed

ONLY_ON_REQUEST = {"save__every_steps": None}


def saved_and_left(launch: Launch, ranks: int, at_least: int = 1) -> int:
    """Every rank left with 75, and the newest checkpoint is of the last step that was done."""
    assert launch.wait(60) == [75] * ranks, launch.said()
    newest = committed(launch.run / "checkpoints")[0]  # another may be of the end of the first stage
    step = int(newest.name.removeprefix("step-"))
    assert step == launch.steps() >= at_least, f"{newest}, {launch.steps()} steps\n{launch.said()}"
    return step


def asked(ground: Ground, seed: int, number: signal.Signals) -> None:
    """One signal, to all ranks or to one, at a random step."""
    chance, (changes, ranks) = Random(seed), ground.way(seed)
    expected = ground.reference(ranks, **changes)
    recipe = ground.recipe("asked", **changes, **ONLY_ON_REQUEST)
    launch, at = Launch(recipe, ranks=ranks), chance.randrange(1, STEPS - 3)
    launch.until(lambda: launch.steps() >= at, 120)
    sent = time.monotonic()
    launch.signal(number, chance.randrange(ranks) if seed % 2 else None)
    saved_and_left(launch, ranks, at)
    assert time.monotonic() - sent < 10
    finish(recipe, ranks, expected)
    steps = [record["step"] for record in records(launch.run) if "loss" in record]
    assert steps == list(range(1, STEPS + 1)), "a step was lost or done twice"


def fault_3_SIGUSR2(ground: Ground, seed: int) -> None:
    asked(ground, seed, signal.SIGUSR2)


def fault_4_SIGTERM_alone(ground: Ground, seed: int) -> None:
    asked(ground, seed, signal.SIGTERM)


def fault_5_a_signal_at_a_bad_moment(ground: Ground, seed: int) -> None:
    chance, (changes, ranks) = Random(seed), ground.way(seed)
    expected = ground.reference(ranks, **changes)
    moment = ("evaluation", "stall", "save")[seed % 3]
    if moment == "evaluation":
        images = str(ground.folder / "images")
        busy = {"data__val": [images], "evaluate__every_epochs": 0.25, "evaluate__max_images": 16}
        recipe = ground.recipe("asked", **changes, **ONLY_ON_REQUEST, **busy)
        launch = Launch(
            recipe, ranks=ranks, sabotage=("tell_of_evaluations", {"file": str(recipe.parent / "measuring")})
        )
        launch.until((recipe.parent / "measuring").exists)
    elif moment == "stall":
        recipe = ground.recipe("asked", **changes, **ONLY_ON_REQUEST)
        launch = Launch(recipe, ranks=ranks, sabotage=("stall_the_loader", {"batch": 6, "seconds": 3.0}))
        launch.until(lambda: launch.steps() >= 5)
    else:
        recipe = ground.recipe("asked", **changes, **ONLY_ON_REQUEST)
        launch, at = Launch(recipe, ranks=ranks), chance.randrange(1, STEPS - 3)
        launch.until(lambda: launch.steps() >= at, 120)
        launch.signal(signal.SIGUSR2)
        time.sleep(chance.random() * 0.1)
    launch.signal(signal.SIGTERM)
    saved_and_left(launch, ranks)
    finish(recipe, ranks, expected)


def fault_18_a_second_launch_in_the_same_folder(ground: Ground, seed: int) -> None:
    expected = ground.reference()
    recipe = ground.recipe("shared")
    first = Launch(recipe, sabotage=("stall_the_loader", {"batch": 8, "seconds": 6.0}))
    first.until(lambda: first.steps() >= 1 + seed % 5)
    second = Launch(recipe)
    began = time.monotonic()
    assert second.wait(10) == [5], second.said()
    assert time.monotonic() - began < 10
    assert f"is in use: process {first.processes[0].pid} on {os.uname().nodename}" in second.said(), second.said()
    if seed % 2:
        assert first.wait(60) == [0], first.said()
        return
    kill(first)
    recovered = finish(recipe, 1, expected)
    assert f"from process {first.processes[0].pid} on {os.uname().nodename}" in recovered.said(), recovered.said()


def fault_30_a_real_slurm(ground: Ground, seed: int) -> None:
    """Requeued three times, once because a node went down; and a run that gets nowhere."""
    if why := missing():
        raise NotHere(why)
    folder = Path(tempfile.mkdtemp(prefix="fault30-"))
    cluster = Cluster()
    try:
        cluster.start()
        for name in ("hit", "plain", "stuck"):
            (folder / name).mkdir()
        changes = {"save__every_steps": 10, "track__wandb": {"project": "test", "mode": "offline"}}
        hit, plain = (Driver(cluster, folder / name, steps=150, **changes) for name in ("hit", "plain"))
        plain.submit("--nodes", "2")
        plain.finish()
        hit.submit("--nodes", "2")
        for number, what in enumerate(("USR2", "down", "TERM"), start=1):
            hit.until_launch(number, steps=12 + seed)
            hit.take_down("n2") if what == "down" else hit.signal(what)
            hit.requeued(number)
        hit.finish()
        assert hit.status()["state"] == "finished", hit.everything_said()
        assert weights(hit.out) == weights(plain.out)
        ids = {path.name.rpartition("-")[2] for path in hit.out.glob("wandb/offline-run-*")}
        assert ids == {hit.facts()["id"].rpartition("-")[2]}
        stuck = Driver(cluster, folder / "stuck", steps=100000, **ONLY_ON_REQUEST)
        stuck.submit("--nodes", "2")
        stuck.stop_three_times()
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


SIGNALS: list[tuple[int, Fault, int]] = [
    (3, fault_3_SIGUSR2, 20),
    (4, fault_4_SIGTERM_alone, 20),
    (5, fault_5_a_signal_at_a_bad_moment, 20),
    (18, fault_18_a_second_launch_in_the_same_folder, 20),
    (30, fault_30_a_real_slurm, 5),
]
