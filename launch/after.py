"""Behind srun in the batch script: does this job go to the queue again? `python -m unicscale_launch.after RUNS CODE`"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path

from unicscale.launches import committed_step, stalled, submission_name
from unicscale.runs import RunFolder, facts_of

from .guard import run_of

SCHEDULER_OWNS = ("CANCELLED", "COMPLETING", "PREEMPTED", "PENDING", "REQUEUED")


def main() -> None:
    """Decide, say why, requeue."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path, help="a file with one run folder per line (per array index)")
    parser.add_argument("code", type=int, help="srun's exit code")
    parser.add_argument("--max-requeues", type=int, default=50)
    given = parser.parse_args()
    folder = run_of(given.runs)
    job = os.environ["SLURM_JOB_ID"]
    refusal = why_not(folder, given.code, given.max_requeues, state_of(job))
    if refusal:
        print(f"exit {given.code}; not requeued: {refusal}", flush=True)
        return
    print(f"exit {given.code}; requeueing job {job}: it goes on from step {committed_step(folder)}", flush=True)
    done = subprocess.run(["scontrol", "requeue", job], check=False, timeout=60)
    if done.returncode == 0:
        time.sleep(60)  # Slurm ends this script; one that ends by itself could be taken for the end of the next launch


def why_not(folder: RunFolder, code: int, max_requeues: int, state: str) -> str | None:
    """The reason to leave the job as it is, or None."""
    if code == 0:
        return "finished"
    facts = facts_of(folder)
    ended = (facts.get("launches") or [{}])[-1].get("ended")
    # a job that was cancelled would come back from the dead
    if state in SCHEDULER_OWNS:
        return f"Slurm says {state}"
    if folder.stop_request.exists():
        return f"`unicscale stop` asked for it. `scontrol requeue {os.environ.get('SLURM_JOB_ID', 'JOB')}` goes on."
    if ended and str(ended.get("asked")).startswith("SIGINT"):
        return "SIGINT asked for it"
    # no entry: killed, or lost its node; such an end comes from outside, any other would only come again
    if ended and code != 75 and ended.get("kind") != "RankLost" and ended.get("exit") != 75:
        return str(ended.get("reason", "the run ended itself"))
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= max_requeues:
        return f"it was requeued max_requeues={max_requeues} times"
    if stalled(facts, submission_name(), committed_step(folder)):
        return f"three launches made no progress beyond step {committed_step(folder)}"
    if not facts.get("launches"):
        return "it never began; the logs say why"
    return None


def state_of(job: str) -> str:
    """RUNNING while the batch script runs and nobody cancelled it."""
    try:
        said = subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    words = dict(word.split("=", 1) for word in said.split() if "=" in word)
    # the limit came while the ranks were saving: as good a reason as any to go on, unlike a user's scancel
    return "TIMEOUT" if words.get("Reason") == "TimeLimit" else words.get("JobState", "unknown")


if __name__ == "__main__":
    main()
