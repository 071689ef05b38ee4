"""A scheduler that is not Slurm: a folder of files, one for each job, that says all the seam asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.run.test_status import a_run, ended
from unicscale.cli import app
from unicscale.errors import RecipeError, RunError
from unicscale.ranks import rendezvous
from unicscale.ranks.scheduler import SLURM, Entry, Phase, Queue, Scheduler, Seat, scheduler, submission_name
from unicscale.ranks.slurm import Slurm
from unicscale.ranks.stop import seconds_left
from unicscale.run.launches import note_launch


class Folder(Scheduler):
    """$SPOOL/JOB holds the job's phase; $JOB is this one."""

    name = "Spool"

    def job(self) -> str | None:
        return os.environ.get("JOB")

    def restarts(self) -> int:
        return 4

    def submission(self) -> str | None:
        return f"spool-{self.job()}"

    def seat(self, environment: Mapping[str, str]) -> Seat | None:
        return Seat(3, 8, 1, 2, "spool") if "JOB" in environment else None

    def seconds_left(self) -> float | None:
        return 77.0

    def phase(self, job: str) -> Phase | None:
        return (self.queue() or {}).get(job, Entry(Phase.GONE)).phase

    def queue(self) -> Queue | None:
        spool = Path(os.environ["SPOOL"])
        return {f.name: Entry(Phase(f.read_text()), "left,right") for f in spool.iterdir()} if spool.is_dir() else None

    def cancel(self, job: str) -> None:
        try:
            (Path(os.environ["SPOOL"]) / job).unlink()
        except OSError as problem:
            raise RunError(f"job {job}: {problem}") from problem


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two jobs in a queue, with this process outside of both."""
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / "a1").write_text("waiting")
    (folder / "b2").write_text("running")
    monkeypatch.setenv("SPOOL", str(folder))
    monkeypatch.setenv("UNICSCALE_SCHEDULER", f"{__name__}:Folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", "")  # nobody may ask Slurm
    return folder


def test_jobs_and_stop_ask_the_queue_that_is_named(spool: Path, tmp_path: Path) -> None:
    waits = a_run(tmp_path / "waits", queued="a1").root
    starts = a_run(tmp_path / "starts", queued="b2").root
    said = CliRunner().invoke(app, ["jobs", str(waits), str(starts)], catch_exceptions=False).output
    assert "queued" in said and "starting" in said and "left,right" in said
    stopped = CliRunner().invoke(app, ["stop", str(waits)], catch_exceptions=False).output
    assert "job a1 is cancelled" in stopped and not (spool / "a1").exists()
    spool.rename(tmp_path / "away")
    said = CliRunner().invoke(app, ["stop", str(waits)])
    assert "Spool does not answer" in str(said.exception)


def test_ranks_limits_and_launches_are_its_own(spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB", "b2")
    environment = {"JOB": "b2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    rendezvous.prepare(tmp_path, environment)
    wanted = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert wanted.items() <= environment.items()
    assert seconds_left() == 77.0 and submission_name() == "spool-b2"
    launch = note_launch(a_run(tmp_path / "run", ended(75)), 8)["launches"][-1]
    assert (launch["job"], launch["restart"], launch["submission"]) == ("b2", 4, "spool-b2")


def test_slurm_is_the_one_that_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNICSCALE_SCHEDULER", raising=False)
    assert isinstance(scheduler(), Slurm) and SLURM.endswith(":Slurm")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("pbs", "Write it as package.module:Class"),
        ("no.such:Thing", "No module named 'no'"),
        ("unicscale.ranks.slurm:Missing", "has no attribute 'Missing'"),
        ("collections:OrderedDict", "that is no unicscale.ranks.scheduler.Scheduler"),
    ],
)
def test_a_scheduler_that_is_none_is_refused(path: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNICSCALE_SCHEDULER", path)
    with pytest.raises(RecipeError, match=r"\$UNICSCALE_SCHEDULER is '.*'") as refused:
        scheduler()
    assert said in str(refused.value)


def test_nothing_else_knows_slurms_variables_or_commands(repository: Path) -> None:
    words = ("SLURM_PROCID", "SLURM_JOB_ID", "SLURM_RESTART_COUNT", '"squeue"', '"scancel"', "SLURM_NTASKS")
    files = [file for file in (repository / "unicscale").rglob("*.py") if file.name != "slurm.py"]
    assert {str(file) for file in files if any(word in file.read_text() for word in words)} == set()


def test_the_seam_costs_no_torch() -> None:
    script = "import sys, unicscale.ranks.slurm; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
