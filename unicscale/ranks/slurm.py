"""Slurm: what its variables say of this process, and what its queue says of jobs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping

from unicscale.errors import RunError
from unicscale.ranks.environment import whole
from unicscale.ranks.scheduler import Entry, Phase, Queue, Scheduler, Seat

PHASES = {
    "PENDING": Phase.WAITING,
    "REQUEUED": Phase.WAITING,
    "CONFIGURING": Phase.WAITING,
    "RUNNING": Phase.RUNNING,
    "SUSPENDED": Phase.RUNNING,
    "COMPLETING": Phase.LEAVING,
    "CANCELLED": Phase.CANCELLED,
}


class Slurm(Scheduler):
    """The variables of sbatch and srun, and squeue and scancel."""

    name = "Slurm"

    def job(self) -> str | None:
        """As squeue prints it: 12, or 12_3 for a task of an array, where SLURM_JOB_ID is that of the array."""
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")

    def restarts(self) -> int:
        """Slurm counts them."""
        return whole("SLURM_RESTART_COUNT", 0)

    def submission(self) -> str | None:
        """Every srun typed into one allocation is a command of its own; a batch script's has the same number always."""
        job = os.environ.get("SLURM_JOB_ID")
        return f"slurm-{job}.{os.environ.get('SLURM_STEP_ID', '0')}" if job else None

    def seat(self, environment: Mapping[str, str]) -> Seat | None:
        """Of the step that srun started."""
        size = whole("SLURM_NTASKS", 1, environment=environment)
        if "SLURM_PROCID" not in environment:
            return None
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        return Seat(
            rank=whole("SLURM_PROCID", 0, environment=environment),
            size=size,
            local=whole("SLURM_LOCALID", 0, environment=environment),
            here=_tasks_here(environment),
            launch="-".join(environment.get(name, "0") for name in names),
        )

    def seconds_left(self) -> float | None:
        """From Slurm itself: its clock, not this node's."""
        job = self.job()
        if job is None:
            return None
        try:
            said = _ask("squeue", "-h", "-j", job, "-O", "TimeLeft:32", patience=15).stdout
            return parse_duration(said.split()[0])
        except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):  # UNLIMITED, or no squeue on this node
            end = os.environ.get("SLURM_JOB_END_TIME")
            return float(end) - time.time() if end else None

    def phase(self, job: str) -> Phase | None:
        """One question for one job."""
        try:
            done = _ask("squeue", "-h", "-t", "all", "-j", job, "-o", "%T", patience=8)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return Phase.GONE if "Invalid job id" in done.stderr else None
        states = done.stdout.split()
        return PHASES.get(states[0], Phase.GONE) if states else Phase.GONE

    def queue(self) -> Queue | None:
        """All jobs of this user, those that ended a moment ago as well."""
        try:
            done = _ask("squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%N", patience=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
        return {job: Entry(PHASES.get(state, Phase.GONE), nodes) for job, state, nodes in rows}

    def cancel(self, job: str) -> None:
        """By scancel."""
        try:
            done = _ask("scancel", job, patience=60)
            said = (done.stderr.strip() or f"exit {done.returncode}") if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as problem:
            said = str(problem)
        if said:
            raise RunError(f"scancel {job} failed: {said}\n  Nothing was changed; try again.")

    def nodes(self) -> str | None:
        """As Slurm folds them: node[1-4]."""
        return os.environ.get("SLURM_JOB_NODELIST")

    def node(self) -> str | None:
        """The name in slurm.conf, which need not be the host's."""
        return os.environ.get("SLURMD_NODENAME")


def parse_duration(text: str) -> float:
    """Seconds of Slurm's `minutes`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM` and `D-HH:MM:SS`."""
    days, dash, rest = text.strip().partition("-")
    parts = [int(part) for part in (rest if dash else days).split(":")]
    if any(part < 0 for part in parts) or len(parts) > 3:
        raise ValueError(text)
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return int(days) * 86400 + hours * 3600 + minutes * 60 + seconds
    if len(parts) == 1:
        return parts[0] * 60
    return float(sum(part * 60**power for power, part in enumerate(reversed(parts))))


def _tasks_here(environment: Mapping[str, str]) -> int:
    """How many ranks share this node: Slurm writes `4(x2),2` for 4, 4, 2."""
    counts: list[int] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1")).split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    node = int(environment.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else 1


def _ask(*command: str, patience: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=patience)
