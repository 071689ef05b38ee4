"""Which job, task, restart and submission this process belongs to, from its environment alone."""

from __future__ import annotations

import os


def job_name() -> str | None:
    """As squeue prints it: 12, or 12_3 for a task of an array, where SLURM_JOB_ID of one task is that of the array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restart_number() -> int:
    """How often Slurm has put this job back into the queue."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def submission_name() -> str:
    """The same for all launches that one command of the user caused: requeues and restarts count together."""
    if name := os.environ.get("UNICSCALE_SUBMISSION"):
        return name
    job = os.environ.get("SLURM_JOB_ID")
    # every srun typed into one allocation is a command of its own; a batch script's srun has the same number each time
    return f"slurm-{job}.{os.environ.get('SLURM_STEP_ID', '0')}" if job else f"process-{os.getpid()}"
