"""Behind srun in the batch script: does this job go to the queue again? `python -m unicscale_launch.after RUNS CODE`"""

from __future__ import annotations

import argparse
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from unicscale.ranks.scheduler import submission_name
from unicscale.ranks.slurm import Slurm
from unicscale.run.folder import RunFolder, facts_of
from unicscale.run.launches import PATIENCE, committed_step, meant_for, stalled

from .guard import begun, run_of

SCHEDULER_OWNS = ("CANCELLED", "COMPLETING", "PREEMPTED", "PENDING", "REQUEUED")
REFUSED = (2, 3, 4, 5)  # the recipe, the data, the teachers, the run folder: they would be refused again


def main() -> None:
    """Decide, say why, requeue."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path, help="a file with one run folder per line (per array index)")
    parser.add_argument("code", type=int, help="srun's exit code")
    parser.add_argument("--max-requeues", type=int, default=50)
    given = parser.parse_args()
    folder = run_of(given.runs)
    job = Slurm().job() or "?"
    refusal = why_not(folder, given.code, given.max_requeues, state_of(job))
    if refusal:
        print(f"exit {given.code}; not requeued: {refusal}", flush=True)
        return
    print(f"exit {given.code}; requeueing job {job}: it goes on from step {committed_step(folder)}", flush=True)
    if requeue(job):
        time.sleep(60)  # Slurm ends this script; one that ends by itself could be taken for the end of the next launch


def why_not(folder: RunFolder, code: int, max_requeues: int, state: str) -> str | None:
    """The reason to leave the job as it is, or None."""
    if code == 0:
        return "finished"
    # a job that was cancelled would come back from the dead
    if state in SCHEDULER_OWNS:
        return f"Slurm says {state}"
    facts = facts_of(folder)
    launches = facts.get("launches") or []
    mine = begun(folder)  # else the last entry is of another launch, and says nothing of this one
    ended = (launches[-1].get("ended") or {}) if mine else {}
    if "unicscale stop" in str(ended.get("asked")) or meant_for(folder.stop_request) >= len(launches) + (not mine):
        return f"`unicscale stop` asked for it. `scontrol requeue {Slurm().job() or 'JOB'}` goes on."
    if str(ended.get("asked")).startswith("SIGINT") or code == 128 + signal.SIGINT:
        return "SIGINT asked for it"
    # no entry: killed, or lost its node; such an end comes from outside, any other would only come again
    if ended and code != 75 and ended.get("kind") != "RankLost" and ended.get("exit") != 75:
        return str(ended.get("reason", "the run ended itself"))
    if Slurm().restarts() >= max_requeues:
        return f"it was requeued max_requeues={max_requeues} times"
    if stalled(facts, submission_name(), committed_step(folder)):
        return f"three launches made no progress beyond step {committed_step(folder)}"
    return None if mine else _stillborn(launches, code)


def _stillborn(launches: list[dict[str, Any]], code: int) -> str | None:
    """Why a launch that never reached its run folder should not be repeated; no entry in run.json counts those."""
    began = max((x.get("restart", 0) for x in launches if x.get("submission") == submission_name()), default=-1)
    if code in REFUSED or (began < 0 and code < 128):
        return "it ended before it began; the logs say why"
    if Slurm().restarts() - began >= PATIENCE:
        return f"{PATIENCE} launches in a row did not even begin; the logs say why"
    return None


def requeue(job: str, tries: int = 6, pause: float = 10.0) -> bool:
    """Ask until Slurm agrees: its controller may be restarting, or busy, just now."""
    for left in reversed(range(tries)):
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                return True
            said = done.stderr.strip() or f"exit {done.returncode}"
        except (OSError, subprocess.TimeoutExpired) as problem:
            said = str(problem)
        again = f"; again in {pause:g} s, {left} more times" if left else f". `scontrol requeue {job}` goes on."
        print(f"scontrol requeue {job} failed: {said}{again}", flush=True)
        if left:
            time.sleep(pause)
    return False


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
