"""What a user does at a terminal, and what a test needs to see of it."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kit.recipe import write_images, write_recipe
from tests.slurm.cluster import Cluster

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CPU = ("--gpus-per-node", "0")
QUIET = {"save__every_steps": None}  # nothing is saved but at the end and on request
STAMP = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
PATIENCE = 120  # seconds; the machine has two cores and many users


class Driver:
    """A run and the job that works on it."""

    def __init__(self, cluster: Cluster, folder: Path, steps: int, **changes: Any) -> None:
        images = folder / "images"
        if not images.exists():
            write_images(images)
        self.cluster = cluster
        self.out = folder / "run"
        self.recipe = write_recipe(folder / "recipe.yaml", images, self.out, steps=steps, **changes)
        self.env = cluster.env | {"XDG_STATE_HOME": str(folder), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
        self.job = ""

    def unicscale(self, *arguments: str) -> str:
        """A command's standard output; fails where it fails."""
        return self._run("-m", "unicscale", *arguments)

    def submit(self, *options: str, tree: Path = REPOSITORY) -> str:
        """launch/slurm.py on this run's recipe; returns the job's number."""
        said = self._run(str(tree / "launch/slurm.py"), str(self.recipe), *CPU, *options)
        self.job = re.search(r"^job (\d+)", said, re.MULTILINE)[1]  # type: ignore[index]
        return self.job

    def task(self, index: int, out: Path) -> Driver:
        """One run of the sweep that was submitted, and the array's task that works on it."""
        one = copy.copy(self)
        one.job, one.out = f"{self.job}_{index}", out
        return one

    def printed(self, *options: str, tree: Path = REPOSITORY) -> str:
        """What --print-sbatch says, without the submission's own name."""
        text = self._run(str(tree / "launch/slurm.py"), str(self.recipe), *CPU, *options, "--print-sbatch")
        return STAMP.sub("STAMP", text).strip()

    def script(self) -> str:
        """What sbatch was given, without the submission's own name."""
        [file] = self.out.glob("launch/*/submitit/*_submission.sh")
        return STAMP.sub("STAMP", file.read_text()).strip()

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=REPOSITORY, env=self.env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What `unicscale jobs` says of the run."""
        return json.loads(self.unicscale("jobs", "--json", str(self.out)))

    def facts(self) -> dict[str, Any]:
        """run.json."""
        try:
            return json.loads((self.out / "run.json").read_text())
        except FileNotFoundError:
            return {}

    def records(self) -> list[dict[str, Any]]:
        """metrics.jsonl."""
        file = self.out / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def step(self) -> int:
        """The last step logged."""
        return max((record["step"] for record in self.records()), default=0)

    def state(self) -> str:
        """The job's, in Slurm's words."""
        return self.cluster.job(self.job).get("JobState", "gone")

    def until(self, what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """Wait for something to be true, and give it back."""
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < deadline, f"{self.state()}\n{self.everything_said()}"
            time.sleep(0.1)
        return found

    def until_launch(self, number: int, steps: int) -> None:
        """Wait until the n-th launch has logged so many steps of its own."""
        self.until(lambda: sum(r.get("launch") == number and "loss" in r for r in self.records()) >= steps)

    def signal(self, name: str) -> float:
        """`scancel --signal`, and how many seconds later the launch it hit had left, checkpoint committed."""
        number = len(self.facts()["launches"])
        sent = time.time()
        self.cluster.run("scancel", f"--signal={name}", self.job)
        ended = self.until(lambda: self.facts()["launches"][number - 1].get("ended"))
        assert ended["exit"] == 75, ended
        took = newest(self.out).stat().st_mtime - sent
        assert took >= 0, "the newest checkpoint is older than the signal"
        return took

    def left(self) -> str:
        """Wait until the last launch has left, everything saved; who asked it to."""
        number = len(self.facts().get("launches", [])) or 1
        self.until_launch(number, steps=1)
        ended = self.until(lambda: self.facts()["launches"][number - 1].get("ended"))
        assert (ended["exit"], ended["step"]) == (75, self.step()), ended
        return str(ended["asked"]).partition(" on rank")[0]

    def take_down(self, node: str) -> None:
        """A node fails: no handler runs; it comes back once Slurm has noticed."""
        before = self.cluster.job(self.job)["Restarts"]
        self.cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        self.until(lambda: self.cluster.job(self.job).get("Restarts") != before)
        self.cluster.run("scontrol", "update", f"nodename={node}", "state=resume")

    def stop_three_times(self) -> None:
        """Kill rank 0 before anything is saved, launch after launch: the third is the last."""
        for number in range(1, 4):
            self.until_launch(number, steps=2)
            os.kill(self.facts()["launches"][-1]["pid"], signal.SIGKILL)
            if number < 3:
                self.requeued(number)
        self.finish()
        assert self.state() == "FAILED"
        assert len(self.facts()["launches"]) == 3
        assert "not requeued: three launches made no progress beyond step 0" in self.everything_said()

    def requeued(self, times: int, *changes: str) -> None:
        """Wait for the requeue, change the job, and spare it the two minutes Slurm makes a requeued job wait."""
        self.until(lambda: self.cluster.job(self.job).get("Restarts") == str(times) and self.state() == "PENDING")
        if changes:
            self.cluster.run("scontrol", "update", f"JobId={self.job}", *changes)
        time.sleep(2.5)  # a job that starts in the second of its requeue finds its credential revoked
        self.until(lambda: self._hurry() or self.state() != "PENDING")

    def _hurry(self) -> None:
        self.cluster.run("scontrol", "update", f"JobId={self.job}", "StartTime=now")

    def finish(self, seconds: float = 240) -> None:
        """Wait for the end of the last launch."""
        self.until(lambda: self.state() in ("COMPLETED", "FAILED", "CANCELLED"), seconds)

    def everything_said(self) -> str:
        """All logs, for a failing test."""
        files = [*self.out.glob("logs/*"), *self.out.glob("launch/*/submitit/*log*")]
        return "\n".join(f"--- {file}\n{file.read_text()[-3000:]}" for file in files)


def newest(out: Path) -> Path:
    """The manifest of the newest checkpoint."""
    return max(out.glob("checkpoints/step-*/manifest.json"), key=lambda file: file.parent.name)


def weights(out: Path) -> str:
    """One hash over the tensors of the newest checkpoint."""
    files = sorted(newest(out).parent.glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
