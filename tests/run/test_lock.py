"""One run, one owner."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from unicscale.errors import CheckpointError
from unicscale.run import lock as locking
from unicscale.run.lock import SILENCE, Holder, Lock, alive, read

HOLD = """
import sys, time
from pathlib import Path
from unicscale.run.lock import Lock
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


def test_a_lock_from_the_future_is_not_in_use_until_the_clock_comes_there(tmp_path: Path) -> None:
    path = write(tmp_path, Holder(host="elsewhere", job=None))
    for ahead, lives in ((5, True), (SILENCE + 5, False), (1e6, False)):
        os.utime(path, (time.time() + ahead,) * 2)
        assert alive(path, Holder(host="elsewhere", job=None)) == lives


def test_a_requeued_job_recovers_the_lock_of_its_earlier_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    path = write(tmp_path, Holder(host="n1", job="7", restart=1))
    assert not alive(path, Holder(host="n1", job="7", restart=1))
    assert alive(path, Holder(host="n1", job="7", restart=2))


def test_a_requeued_task_of_an_array_recovers_its_own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": "2"}
    for name, value in tasks.items():
        monkeypatch.setenv(name, value)
    path = write(tmp_path, Holder(host="n1", job="7_1", restart=1))
    assert not alive(path, Holder(host="n1", job="7_1", restart=1))


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
        "import time; from pathlib import Path; from unicscale.run import lock; lock.BEAT = 0.1;"
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


def test_a_lock_that_another_newcomer_got_in_the_same_moment_is_not_held(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "lock"
    other.write_text(json.dumps(asdict(Holder(host="elsewhere", job=None))))

    def take_over() -> None:
        while not path.exists():
            time.sleep(0.001)
        os.replace(other, path)

    threading.Thread(target=take_over).start()
    with pytest.raises(CheckpointError, match="on elsewhere"):
        Lock(tmp_path).take()


def test_a_lock_let_go_while_its_beat_looks_is_not_a_lost_one(tmp_path: Path) -> None:
    script = f"""
import threading
from pathlib import Path
from unicscale.run.lock import Lock

lock = Lock(Path({str(tmp_path)!r}))
lock.take()

class Late(threading.Event):
    def wait(self, timeout=None):
        lock.release()  # between the beat's waking and its look at the file
        return False

lock._released = Late()
lock._beat()
print("clean")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr


def test_a_file_server_that_hiccups_does_not_end_a_run_nor_its_signs_of_life(tmp_path: Path) -> None:
    script = f"""
import os, time
from pathlib import Path
from unicscale.run import lock

lock.BEAT = 0.05
path = Path({str(tmp_path)!r}) / "lock"
held = lock.Lock(path.parent)
held.take()
os.link(path, path.with_name("away"))
os.symlink("lock", path.with_name("loop"))
os.replace(path.with_name("loop"), path)  # reading it fails now, and it is not gone
time.sleep(0.5)
os.replace(path.with_name("away"), path)
touch, os.utime = os.utime, lambda *_: (_ for _ in ()).throw(OSError("Stale file handle"))
time.sleep(0.5)
os.utime = touch
os.utime(path, (0, 0))
time.sleep(0.5)
print(path.stat().st_mtime > 0, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_a_lock_written_by_newer_code_is_still_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(json.dumps(asdict(Holder()) | {"container": "x"}))
    assert read(path) is not None
    path.write_text("{}")
    assert read(path) is None


def test_a_link_whose_answer_was_lost_is_a_lock_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def lost(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", lost)
    mine = Lock(tmp_path)
    mine.take()
    assert read(tmp_path / "lock") == mine.me
    mine.release()


def test_a_file_system_without_hard_links_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(CheckpointError, match=r"makes no hard links \(Operation not permitted\)(.|\n)*out=FOLDER"):
        Lock(tmp_path).take()


def write(folder: Path, holder: Holder) -> Path:
    """A lock as that holder would leave it."""
    path = folder / "lock"
    path.write_text(json.dumps(asdict(holder)))
    return path


def test_without_a_queue_nobody_is_declared_dead_by_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert locking.scheduler().phase("1") is None
