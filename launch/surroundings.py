"""What a new job must not inherit from the one it is submitted from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

# how to reach Slurm (SLURM_CONF and the like) and the user's own choices (SBATCH_*) stay
OF_A_JOB = re.compile(
    r"(SLURM_(?!(CONF|JWT|CLUSTERS)$)|SLURMD_|SRUN_|SUBMITIT_|TORCHELASTIC_).*"
    r"|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT"
)
OF_A_LAUNCH = re.compile(r"UNICSCALE_(SUBMISSION|SECONDS)")


@contextmanager
def outside_any_job() -> Iterator[None]:
    """Without this allocation's binding, memory, task and restart numbers: sbatch would hand them on to the new job."""
    inside = "SLURM_JOB_ID" in os.environ or "RANK" in os.environ
    hidden = [name for name in os.environ if OF_A_LAUNCH.fullmatch(name) or (inside and OF_A_JOB.fullmatch(name))]
    kept = {name: os.environ.pop(name) for name in hidden}
    try:
        yield
    finally:
        os.environ.update(kept)
