"""Beside srun in the batch script: srun waits for ever for a node whose slurmstepd was killed; we do not.

`python -m unicscale_launch.guard RUNS SHELL &` ends srun when the run has let go of its folder and srun lingers on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from unicscale.ranks.scheduler import scheduler, submission_name
from unicscale.run.folder import RunFolder, facts_of
from unicscale.run.lock import alive, read

EVERY, GRACE = 5.0, 45.0  # seconds; ranks need some after the lock is released, to close their libraries


def main() -> None:
    """Watch until the batch script ends."""
    runs, shell = Path(sys.argv[1]), int(sys.argv[2])
    run = run_of(runs)
    quiet_since: float | None = None
    while os.getppid() == shell:
        time.sleep(EVERY)
        if not begun(run) or held(run):
            quiet_since = None
            continue
        quiet_since = quiet_since or time.monotonic()
        if time.monotonic() - quiet_since > GRACE:
            for pid in sruns(shell):
                print(
                    f"the run is over for {GRACE:.0f} s and srun still waits for a lost node: ending srun", flush=True
                )
                os.kill(pid, signal.SIGKILL)
            return


def run_of(runs: Path) -> RunFolder:
    """The run that this job, or this task of an array, works on."""
    return RunFolder(
        Path(runs.read_text(encoding="utf-8").splitlines()[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))])
    )


def begun(run: RunFolder) -> bool:
    """Whether this launch of this job has reached its run folder."""
    last = (facts_of(run).get("launches") or [{}])[-1]
    return (last.get("submission"), last.get("restart")) == (submission_name(), scheduler().restarts())


def held(run: RunFolder) -> bool:
    """Whether its rank 0 still owns the folder."""
    holder = read(run.root / "lock")
    return holder is not None and alive(run.root / "lock", holder)


def sruns(shell: int) -> list[int]:
    """The sruns that the batch script waits for."""
    children = map(int, Path(f"/proc/{shell}/task/{shell}/children").read_text().split())
    return [pid for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "srun"]


if __name__ == "__main__":
    main()
