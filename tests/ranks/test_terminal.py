"""A terminal that is gone costs what was said to it, and nothing else; one that is there obeys no file's name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit.recipe import slow_teacher, write_images, write_recipe
from unicscale.ranks.terminal import plain
from unicscale.run.folder import RunFolder
from unicscale.run.launches import committed_step


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_run_whose_reader_has_left_saves_when_it_is_asked_to_stop(tmp_path: Path, name: str) -> None:
    changes = slow_teacher(tmp_path / "slow", 0.1)
    recipe = write_recipe(
        tmp_path / "r.yaml", write_images(tmp_path / "images"), tmp_path / "run", steps=400, save__every_steps=None,
        **changes,
    )  # fmt: skip
    command = [sys.executable, "-m", "unicscale", "train", str(recipe)]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 90
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    assert run.stdout is not None and run.stderr is not None
    run.stdout.close()
    run.stderr.close()
    time.sleep(0.5)  # a step is told to nobody
    run.send_signal(getattr(signal, name))
    assert run.wait(60) == 75
    assert committed_step(RunFolder(tmp_path / "run")) >= 3


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert plain("a\x1b]0;owned\x07b\u202ec\udcff\n") == "a\\x1b]0;owned\\x07b\\u202ec\\udcff\n"
    assert plain("naïve 雪 ✓\tx") == "naïve 雪 ✓\tx"
