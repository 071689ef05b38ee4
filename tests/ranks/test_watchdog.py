"""The watchdog: who is waited for, said by everybody else, in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unicscale.ranks.watchdog import Pulse, Watchdog, verdict

RANK = """
import sys, time
from pathlib import Path
from unicscale.ranks.watchdog import Watchdog
rank, how = int(sys.argv[2]), sys.argv[3]
dog = Watchdog(Path(sys.argv[1]), rank=rank, size=2, timeout=float(sys.argv[4])).start()
for step in range(1000):
    dog.beat(f"step {step}: backward")
    time.sleep(3600 if how == "hangs" and step == 4 else 0.05)
    while how == "waits" and step == 5:
        time.sleep(0.05)
"""


def launch(folder: Path, *ways: str, timeout: float = 1.0) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(folder), str(rank), how, str(timeout)], stderr=subprocess.PIPE, text=True
        )
        for rank, how in enumerate(ways)
    ]


def pulse(rank: int, beats: int, writes: int, doing: str = "backward") -> Pulse:
    return Pulse(rank, f"node{rank}", 100 + rank, beats, writes, doing)


def test_a_stopped_rank_is_named_by_the_other_which_leaves_with_6_and_its_stacks(tmp_path: Path) -> None:
    waiting, stopped = launch(tmp_path, "waits", "runs")
    while not (tmp_path / "rank-0001.pulse").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    stopped.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert waiting.wait(20) == 6
    assert time.monotonic() - began < 1.0 + 10
    said = waiting.communicate()[1]
    assert f"pid {stopped.pid}) does not answer: it was stopped or its host is gone" in said
    assert 'File "<string>", line 11' in (tmp_path / "rank-0000.stacks").read_text()
    os.kill(stopped.pid, signal.SIGKILL)
    stopped.wait()


def test_a_rank_that_hangs_by_itself_is_named_with_what_it_was_doing(tmp_path: Path) -> None:
    waiting, hanging = launch(tmp_path, "waits", "hangs")
    assert waiting.wait(30) == 6 and hanging.wait(30) == 6
    assert f"pid {hanging.pid}) is behind the others: it hangs in 'step 4: backward'" in waiting.communicate()[1]


def test_one_rank_may_work_as_long_as_it_moves_while_the_others_wait(tmp_path: Path) -> None:
    waiting, working = launch(tmp_path, "waits", "runs")
    time.sleep(4)
    assert waiting.poll() is None and working.poll() is None
    for process in (waiting, working):
        process.kill()
        process.wait()


def test_a_rank_that_moves_writes_seldom_and_is_not_taken_for_the_lost_one(tmp_path: Path) -> None:
    moving, stopped = launch(tmp_path, "runs", "runs", timeout=24)
    try:
        while len(list(tmp_path.glob("*.pulse"))) < 2:
            time.sleep(0.05)
        before = json.loads((tmp_path / "rank-0000.pulse").read_text())["writes"]
        time.sleep(6)
        assert json.loads((tmp_path / "rank-0000.pulse").read_text())["writes"] - before <= 2  # one in 3 seconds
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(0.1)  # it may have been writing
        watching = Watchdog(tmp_path, rank=2, size=3, timeout=24)
        said = watching.lost()
        assert f"pid {stopped.pid})" in said and f"pid {moving.pid})" not in said
    finally:
        for process in (moving, stopped):
            process.kill()
            process.wait()


def test_a_rank_that_never_started_is_named() -> None:
    later = {0: pulse(0, 1, 9)}
    assert "rank 1 is not there: it did not start" in verdict({0: pulse(0, 1, 5)}, later, 0, 2, 61.0)


def test_where_nobody_is_behind_the_common_place_is_named() -> None:
    pulses = [{rank: pulse(rank, 7, writes) for rank in range(2)} for writes in (5, 6)]
    said = verdict(pulses[0], pulses[1], 0, 2, 61.0)
    assert said.startswith("rank 0: nothing has moved for 61 s") and "All ranks wait in 'backward'." in said


def test_a_run_that_ends_by_itself_leaves_no_pulse(tmp_path: Path) -> None:
    dog = Watchdog(tmp_path, rank=0, size=1, timeout=0.5).start()
    dog.beat("step 1: data")
    time.sleep(0.3)
    dog.stop()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["its folder is gone", "no descriptor is left", "nothing may be written"])
def test_a_rank_that_cannot_write_its_stacks_is_ended_all_the_same(tmp_path: Path, harm: str) -> None:
    does = {
        "its folder is gone": "import shutil; shutil.rmtree(sys.argv[1])",
        "no descriptor is left": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
        "nothing may be written": "import resource; sys.dont_write_bytecode = True; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))",
    }[harm]
    script = RANK.replace("for step", f"time.sleep(0.3); {does}\nfor step", 1)
    command = [sys.executable, "-c", script, str(tmp_path), "0", "hangs", "1.0"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=25)
    assert done.returncode == 6
    assert "cannot be written" in done.stderr and 'File "<string>", line' in done.stderr
