"""One run, one owner."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from unicscale import lock as locking
from unicscale.errors import CheckpointError
from unicscale.lock import SILENCE, Holder, Lock, alive, read

HOLD = """
import sys, time
from pathlib import Path
from unicscale.lock import Lock
Lock(Path(sys.argv[1])).take()
print(1, flush=True)
time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen:
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_second_launch_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    try:
        with pytest.raises(CheckpointError) as refusal:
            Lock(tmp_path).take()
    finally:
        holder.kill()
    assert f"process {holder.pid} on {os.uname().nodename}" in str(refusal.value)
    assert f"unicscale stop {tmp_path}" in str(refusal.value)


def test_the_lock_of_a_killed_process_is_recovered_at_once(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    mine = Lock(tmp_path)
    mine.take()
    assert time.monotonic() - began < 1
    assert read(tmp_path / "lock") == mine.me
    mine.release()
    assert list(tmp_path.iterdir()) == []


def test_a_reused_process_id_is_not_the_holder(tmp_path: Path) -> None:
    write(tmp_path, replace(Holder(), born=1))
    Lock(tmp_path).take()


def test_a_holder_on_another_host_is_dead_after_its_silence_and_not_before(tmp_path: Path) -> None:
    path = write(tmp_path, Holder(host="elsewhere", job=None))
    assert alive(path, Holder(host="elsewhere", job=None))
    long_ago = time.time() - SILENCE - 5
    os.utime(path, (long_ago, long_ago))
    assert not alive(path, Holder(host="elsewhere", job=None))


def test_a_requeued_job_recovers_the_lock_of_its_earlier_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    path = write(tmp_path, Holder(host="n1", job="7", restart=1))
    assert not alive(path, Holder(host="n1", job="7", restart=1))
    assert alive(path, Holder(host="n1", job="7", restart=2))


def test_a_lock_with_nothing_readable_in_it_is_recovered(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("{")
    Lock(tmp_path).take()


def contend(folder: str, gate, winners) -> None:
    """Take the lock the moment the gate opens, and keep it."""
    gate.wait()
    try:
        Lock(Path(folder)).take()
        winners.put(os.getpid())
        time.sleep(2)
    except CheckpointError:
        pass


def test_of_many_newcomers_to_a_stale_lock_exactly_one_wins(tmp_path: Path) -> None:
    context = mp.get_context("fork")
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        write(folder, replace(Holder(), born=1))
        gate, winners = context.Event(), context.Queue()
        crowd = [context.Process(target=contend, args=(str(folder), gate, winners)) for _ in range(8)]
        for one in crowd:
            one.start()
        gate.set()
        for one in crowd:
            one.join()
        assert winners.qsize() == 1


def test_whoever_lost_the_lock_leaves_before_two_runs_write(tmp_path: Path) -> None:
    script = (
        "import time; from pathlib import Path; from unicscale import lock; lock.BEAT = 0.1;"
        f"lock.Lock(Path({str(tmp_path)!r})).take(); print(1, flush=True); time.sleep(20)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    write(tmp_path, Holder(host="thief"))
    _, said = process.communicate(timeout=10)
    assert process.returncode == CheckpointError.exit_code
    assert "was taken over by process" in said
    assert "on thief" in said


def write(folder: Path, holder: Holder) -> Path:
    """A lock as that holder would leave it."""
    path = folder / "lock"
    path.write_text(json.dumps(asdict(holder)))
    return path


def test_without_a_queue_nobody_is_declared_dead_by_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert locking.slurm_state("1") is None
