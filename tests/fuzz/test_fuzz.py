"""Hostile files and words end as users' errors: no traceback, no hang, no gigabytes, nothing run or strewn about."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.kit import places


def test_the_same_280_hostile_inputs_as_always_are_read_or_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--batches", "1", "--seed", "0", "--out", str(tmp_path / "f.json")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=places.REPOSITORY, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    doors = json.loads((tmp_path / "f.json").read_text())["doors"]
    assert {door["tried"] for door in doors.values()} == {20}
    assert sum(door["outcomes"].get("refused", 0) for door in doors.values()) > 100, "they are hostile, after all"
    assert not Path("/tmp/unicscale-fuzz-ran").exists(), "a pickle ran what it holds"


FAULTS = """
import os, subprocess, sys, time
from pathlib import Path
from tests.fuzz import guard
from unicscale.errors import RecipeError
home, watch = Path(sys.argv[1]), guard.Guard()

def refuse(): raise RecipeError("in words")
def stumble(): return {}["x"]
def spin():
    while True: pass
def wait(): time.sleep(30)
def swell(): return len(b"x" * (900 << 20))
def stray(): Path("/tmp/unicscale-fuzz-stray").write_text("x")
def start(): subprocess.run(["true"])
def behave(): (home / "x").write_text("x")

for door in (refuse, stumble, spin, wait, swell, stray, start, behave):
    guard.SECONDS = 0.5 if door is spin else 60
    guard.BY_THE_CLOCK = 0.5 if door is wait else 60
    print(door.__name__, watch.judge(home, door)[0])
"""


def test_the_guard_sees_every_kind_of_fault(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FAULTS, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=places.REPOSITORY, check=False)
    Path("/tmp/unicscale-fuzz-stray").unlink(missing_ok=True)
    assert ran.stdout.split("\n")[:-1] == [
        "refuse refused", "stumble KeyError", "spin hang", "wait hang", "swell memory", "stray strange",
        "start strange", "behave read",
    ], ran.stderr  # fmt: skip
