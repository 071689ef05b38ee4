"""`unicscale watch`: what a folder tells of a run that goes on."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from unicscale.cli import app
from unicscale.commands.watch import _drawn
from unicscale.run.folder import RunFolder
from unicscale.run.states import State
from unicscale.run.status import Status
from unicscale.run.watching import Trend, clock, line, see

PLAN = {"stages": [{"name": "low", "first": 0, "steps": 60}, {"name": "high", "first": 60, "steps": 40}]}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def record(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step, "images": 8 * step, "stage": int(step > 60), "launch": 1, "time": 1000.0 + 2 * step,
        "loss": 10.0 / step, "loss/one": 5.0, "loss/two": 1.0 * step, "loss/one/cls": 1.0, "keep/one": 1.0,
        "keep/two": 0.5, "time/data": 0.1, "time/student": 0.3, "memory_gib": 2.5, "images_per_second": 40.0,
        "mfu": 0.314,
    } | more  # fmt: skip


def a_run(name: str, *records: dict[str, Any], **facts: Any) -> RunFolder:
    folder = RunFolder(Path(name))
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.facts.write_text(
        json.dumps({"launches": [{"time": 1.0}], "steps": 100, "images_per_epoch": 80} | PLAN | facts)
    )
    folder.metrics.write_text("".join(json.dumps(one) + "\n" for one in records))
    return folder


def test_everything_that_a_running_run_says_stands_in_its_line() -> None:
    run = a_run("runs/a", *(record(n) for n in range(1, 71)), {"step": 70, "images": 560, "stage": 1, "val/knn": 41.5})
    saved = run.checkpoints / "step-00000060" / "manifest.json"
    saved.parent.mkdir(parents=True)
    saved.write_text("{}")
    os.utime(saved, (time.time() - 90, time.time() - 90))
    said = line(replace(see(run, Status("runs/a", State.RUNNING, step=70, steps=100, eta=60.0)), silent=None))
    assert said.split("  ") == [
        "runs/a", "running", "stage high (2/2)", "step 70/100", "epoch 7.00", "40 img/s", "MFU 31 %",
        "stage 0:01:00 left",
        "run 0:01:00 left", "loss 0.1506↓", "one 5.0000→", "two 66.5000↑ of 50 %", "knn 41.5", "waits for data 25 %",
        "2.5 GiB", "saved at 60, 0:01:30 ago",
    ]  # fmt: skip


def test_a_frame_says_where_a_step_goes() -> None:
    run = a_run("runs/a", record(1))
    text = io.StringIO()
    Console(file=text, width=100).print(_drawn([see(run, Status("runs/a", State.RUNNING, step=1))]))
    assert "MFU 31 %" in text.getvalue() and "0.4 s a step: student 75 %, data 25 %" in text.getvalue()


def test_a_stage_ends_before_the_run() -> None:
    run = a_run("runs/a", *(record(n) for n in range(1, 21)))
    sight = see(run, Status("runs/a", State.RUNNING, step=20, steps=100, eta=160.0))
    assert (sight.place, sight.within, sight.stage_left) == ((1, 2), (20, 60), 80.0)


def test_what_an_earlier_launch_did_beyond_its_checkpoint_does_not_count() -> None:
    first = [record(n, loss=9.0, launch=1) for n in range(1, 40)]
    again = [record(n, loss=3.0, launch=2) for n in range(30, 34)]
    assert see(a_run("runs/a", *first, *again), Status("runs/a", State.RUNNING)).loss == Trend(3.0)


def test_a_run_that_says_nothing_for_longer_than_ever_is_told_of() -> None:
    now = time.time()
    for since, said in ((30, None), (70, None), (600, 600)):
        run = a_run("runs/a", *(record(n, time=now - since - 40 * (5 - n)) for n in range(1, 6)))
        silent = see(run, Status("runs/a", State.RUNNING)).silent
        assert silent is None if said is None else silent == pytest.approx(said, abs=5)
    assert see(run, Status("runs/a", State.FINISHED)).silent is None
    assert "nothing new for 0:10:0" in line(see(run, Status("runs/a", State.RUNNING)))


def test_an_old_folder_that_says_nothing_of_its_stages_is_watched_too() -> None:
    run = a_run("runs/a", record(5), stages="none of ours", images_per_epoch=None)
    said = line(see(run, Status("runs/a", State.RUNNING, step=5, steps=100)))
    assert said.startswith("runs/a  running  step 5/100  40 img/s  MFU 31 %  loss 2.0000")


def test_an_empty_and_a_damaged_run_have_a_line_each() -> None:
    empty = a_run("runs/empty")
    assert line(see(empty, Status("runs/empty", State.QUEUED))) == "runs/empty  queued  stage low (1/2)  step 0"
    a_run("runs/bad").facts.write_text("{")
    done = CliRunner().invoke(app, ["watch", "--once", "runs/empty", "runs/bad"], catch_exceptions=False)
    assert [text.split("  ")[:2] for text in done.output.splitlines()] == [
        ["runs/empty", "died"],
        ["runs/bad", "damaged"],
    ]
    assert "is damaged" in done.output.splitlines()[1]


def test_it_prints_what_is_new_and_ends_with_the_last_run() -> None:
    run = a_run("runs/a", record(1), queued="7_1")

    def go_on() -> None:
        time.sleep(0.7)
        with run.metrics.open("a") as lines:
            lines.write(json.dumps(record(2)) + "\n" + '{"step": 3, "ima')
        time.sleep(0.7)
        ended = {"launches": [{"time": 1.0, "ended": {"exit": 0, "reason": "finished"}}], "steps": 2}
        run.facts.write_text(json.dumps(ended))

    worker = threading.Thread(target=go_on)
    worker.start()
    done = CliRunner().invoke(app, ["watch", "runs/a", "--every", "0.2"], catch_exceptions=False)
    worker.join()
    steps = [text.split("step ")[1].split("/")[0] for text in done.output.splitlines()]
    assert done.exit_code == 0 and steps == ["1", "2", "2"], done.output
    assert "finished" in done.output.splitlines()[-1]


def test_no_run_is_said() -> None:
    assert "no runs" in CliRunner().invoke(app, ["watch"]).output
    assert "is not there" in str(CliRunner().invoke(app, ["watch", "runs/none"]).exception)


def test_days_are_told_apart() -> None:
    assert [clock(n) for n in (None, 59, 3661, 200_000)] == ["", "0:00:59", "1:01:01", "2 d 7:33:20"]
