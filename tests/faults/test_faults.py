"""Each fault once, in the cheapest way; `make faults` repeats them over engines, readers and numbers of ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.data import DATA
from tests.faults.launching import Launch, records
from tests.faults.signals import SIGNALS
from tests.faults.table import TABLE, Fault, Ground, NotHere

SLOW = {15, 24, 30}  # many launches each
CHEAP = {13, 16}  # no launch at all, so all seeds


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """One folder, so that undisturbed runs are compared with again and again."""
    yield Ground(tmp_path_factory.mktemp("faults"), [("plain", 1, "folder")])


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "fault"),
    [
        pytest.param(number, fault, id=fault.__name__, marks=[pytest.mark.slow] if number in SLOW else [])
        for number, fault, _ in [*TABLE, *SIGNALS, *DATA]
    ],
)
def test_nothing_is_lost_to(number: int, fault: Fault, ground: Ground) -> None:
    if number == 24:
        ground = Ground(ground.folder, [("fsdp2", 2, "folder")])
    try:
        for seed in range(20) if number in CHEAP else [number]:
            fault(ground, seed)
    except NotHere as why:
        pytest.skip(str(why))


@pytest.mark.faults
def test_a_rank_that_dies_in_a_save_does_not_keep_the_others_waiting_for_its_file(ground: Ground) -> None:
    recipe = ground.recipe("last", engine__timeout_seconds=60)
    launch = Launch(
        recipe, ranks=2, sabotage=("die_in_a_file", {"save": 7}), on=1
    )  # the last one: no step comes after it
    assert launch.wait(40) == [6, -signal.SIGKILL], launch.said()
    assert "rank 0 lost" in launch.said()


@pytest.mark.faults
@pytest.mark.slow
def test_nobody_is_alive_a_minute_after_a_rank_was_stopped_under_torchrun(ground: Ground) -> None:
    recipe = ground.recipe("torchrun", engine__timeout_seconds=4, save__every_steps=1)
    logs = recipe.parent / "run" / "logs"
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "unicscale", "train", str(recipe)]
    with subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.PIPE, text=True) as launcher:
        while not records(recipe.parent / "run"):
            assert launcher.poll() is None
            time.sleep(0.02)
        ranks = [json.loads((logs / f"rank-{rank:04d}.pulse").read_text())["pid"] for rank in range(2)]
        os.kill(ranks[1], signal.SIGSTOP)
        said = launcher.communicate(timeout=4 + 10 + 60)[1]
    assert launcher.returncode != 0
    assert f"pid {ranks[1]}) does not answer" in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
