"""Signals, limits and requests raise one flag."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unicscale.ranks import stop
from unicscale.ranks.slurm import parse_duration
from unicscale.ranks.stop import StopSign


@pytest.fixture
def sign():
    """Listening, and gone afterwards."""
    yield stop.listen()
    stop.forget()


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTERM", "SIGINT"])
def test_a_signal_raises_the_sign_and_nothing_else(sign: StopSign, name: str) -> None:
    assert not sign.raised()
    os.kill(os.getpid(), getattr(signal, name))
    assert sign.raised()
    assert sign.reason == name


def test_the_first_reason_counts(sign: StopSign) -> None:
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGTERM)
    assert sign.reason == "SIGUSR2"


def test_forgetting_gives_the_signals_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop.listen()
    assert signal.getsignal(signal.SIGTERM) is not before
    stop.forget()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_request_in_the_run_folder_raises_it(tmp_path: Path) -> None:
    sign = StopSign()
    sign.watch(tmp_path / "stop")
    assert not sign.raised()
    (tmp_path / "stop").touch()
    time.sleep(stop.POLL)
    assert sign.raised()
    assert sign.reason == "unicscale stop"


def test_a_time_limit_leaves_room_for_two_of_the_longest_steps() -> None:
    sign = StopSign()
    sign.limit(11.0)  # ten seconds are kept for whatever comes
    assert not sign.raised()
    time.sleep(0.2)
    assert not sign.raised()  # 0.8 s left, and a step has taken 0.2 s
    time.sleep(0.3)
    assert sign.raised()  # 0.5 s left, and a step can take 0.3 s: two would not fit
    assert sign.reason == "time limit"


def test_a_second_ctrl_c_ends_the_process() -> None:
    script = (
        "import os, signal, time; from unicscale.ranks import stop; s = stop.listen();"
        "os.kill(os.getpid(), signal.SIGINT);"
        "time.sleep(1.1); os.kill(os.getpid(), signal.SIGINT); time.sleep(5); print('survived')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert done.returncode == -signal.SIGINT
    assert "asked again: leaving without saving" in done.stderr
    assert "survived" not in done.stdout


def test_a_rank_whose_launcher_was_killed_leaves(tmp_path: Path) -> None:
    rank = "from unicscale.ranks import stop; import time, os; stop.listen();"
    rank += "print(os.getpid(), flush=True); time.sleep(30)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
    env = os.environ | {"SLURM_PROCID": "3"}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", launcher], env=env, stdout=subprocess.PIPE, stderr=said, text=True
        )
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        process.wait()
    deadline = time.monotonic() + 8
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()
    assert f"rank 3: the launcher (process {process.pid}) is gone" in (tmp_path / "said").read_text()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("05:30", 330), ("24:00:00", 86400), ("2-00", 172800), ("1-02:03", 93780), ("1-00:00:01", 86401)],
)
def test_durations_are_read_as_slurm_writes_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["UNLIMITED", "", "1:2:3:4", "-5"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)
