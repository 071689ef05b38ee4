"""Where ranks meet when Slurm started them: RANK, WORLD_SIZE, MASTER_ADDR and friends from Slurm's variables."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import MutableMapping
from pathlib import Path

from unicscale.errors import RunError
from unicscale.ranks.environment import whole

WAIT = 300.0  # seconds for rank 0's address: nodes of one job do not boot at the same moment


def prepare(folder: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Complete this process's environment; torchrun's, or a user's own, is left as it is."""
    tasks = whole("SLURM_NTASKS", 1, environment=environment)
    if "OMP_NUM_THREADS" not in environment and tasks > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // tasks_here(environment)))
    if "RANK" in environment or tasks < 2 or "SLURM_PROCID" not in environment:
        return
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = environment["SLURM_NTASKS"]
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    environment["LOCAL_WORLD_SIZE"] = str(tasks_here(environment))
    if "MASTER_ADDR" not in environment or "MASTER_PORT" not in environment:
        address, port = meet(folder, int(environment["RANK"]), launch_name(environment))
        environment["MASTER_ADDR"], environment["MASTER_PORT"] = address, str(port)


def tasks_here(environment: MutableMapping[str, str]) -> int:
    """How many ranks share this node: Slurm writes `4(x2),2` for 4, 4, 2."""
    counts: list[int] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", "1")).split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    node = int(environment.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else 1


def launch_name(environment: MutableMapping[str, str]) -> str:
    """Different for every launch, the same on every rank of it."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return "-".join(environment.get(name, "0") for name in names)


def meet(folder: Path, rank: int, launch: str, wait: float = WAIT) -> tuple[str, int]:
    """Rank 0 probes a free port and leaves it in the shared run folder; ports made from job ids collide."""
    note = folder / f".meet-{launch}"
    if rank == 0:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = (own_address(), free_port())
        temporary = note.with_name(note.name + ".tmp")
        temporary.write_text(json.dumps(found))
        os.replace(temporary, note)
        for old in folder.glob(".meet-*"):
            if old.name not in (note.name, temporary.name):
                old.unlink(missing_ok=True)
        return found
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        try:
            address, port = json.loads(note.read_text())
            return address, port
        except (OSError, ValueError):
            time.sleep(0.2)
    raise RunError(
        f"rank {rank}: waited {wait:.0f} s for rank 0 to write {note}.\n"
        f"  Is {folder} on a file system that all nodes of the job share?"
    )


def own_address() -> str:
    """A name of this node that other nodes can resolve, or its number."""
    for name in (os.environ.get("SLURMD_NODENAME"), socket.gethostname()):
        try:
            if name and socket.gethostbyname(name):
                return name
        except OSError:
            continue
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connect() on UDP sends nothing
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:  # no route to anywhere, so nobody to be found by but this node itself
            return socket.gethostname()
        return probe.getsockname()[0]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
