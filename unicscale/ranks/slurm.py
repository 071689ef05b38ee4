"""Slurm from outside: what its variables say of this process, and what the queue says of this user's jobs."""

from __future__ import annotations

import os
import subprocess

from unicscale.errors import RunError
from unicscale.ranks.environment import whole

Queue = dict[str, tuple[str, str]]  # job -> state, nodes


def job_name() -> str | None:
    """As squeue prints it: 12, or 12_3 for a task of an array, where SLURM_JOB_ID of one task is that of the array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restart_number() -> int:
    """How often Slurm has put this job back into the queue."""
    return whole("SLURM_RESTART_COUNT", 0)


def submission_name() -> str:
    """The same for all launches that one command of the user caused: requeues and restarts count together."""
    if name := os.environ.get("UNICSCALE_SUBMISSION"):
        return name
    job = os.environ.get("SLURM_JOB_ID")
    # every srun typed into one allocation is a command of its own; a batch script's srun has the same number each time
    return f"slurm-{job}.{os.environ.get('SLURM_STEP_ID', '0')}" if job else f"process-{os.getpid()}"


def squeue() -> Queue | None:
    """Job -> (state, nodes) of this user's jobs; None where no Slurm answers."""
    command = ["squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%N"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
    return {job: (state, nodes) for job, state, nodes in rows}


def slurm_state(job: str) -> str | None:
    """RUNNING, PENDING, ...; `gone` where Slurm has forgotten it; None where Slurm does not answer."""
    try:
        done = subprocess.run(
            ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"], capture_output=True, text=True, timeout=8
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return "gone" if "Invalid job id" in done.stderr else None
    return done.stdout.split()[0] if done.stdout.split() else "gone"


def scancel(job: str) -> None:
    """Take a job out of the queue, or say why not."""
    try:
        done = subprocess.run(["scancel", job], capture_output=True, text=True, timeout=60)
        said = (done.stderr.strip() or f"exit {done.returncode}") if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as problem:
        said = str(problem)
    if said:
        raise RunError(f"scancel {job} failed: {said}\n  Nothing was changed; try again.")
