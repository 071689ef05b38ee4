"""Where ranks meet when a scheduler started them: RANK, WORLD_SIZE, MASTER_ADDR and friends from what it says."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import MutableMapping
from pathlib import Path

from unicscale.errors import RunError
from unicscale.ranks.scheduler import scheduler

WAIT = 300.0  # seconds for rank 0's address: nodes of one job do not boot at the same moment


def prepare(folder: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Complete this process's environment; torchrun's, or a user's own, is left as it is."""
    seat = scheduler().seat(environment)
    if seat is None or seat.size < 2:
        return
    if "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // seat.here))
    if "RANK" in environment:
        return
    environment["RANK"], environment["WORLD_SIZE"] = str(seat.rank), str(seat.size)
    environment["LOCAL_RANK"], environment["LOCAL_WORLD_SIZE"] = str(seat.local), str(seat.here)
    if "MASTER_ADDR" not in environment or "MASTER_PORT" not in environment:
        address, port = meet(folder, seat.rank, seat.launch)
        environment["MASTER_ADDR"], environment["MASTER_PORT"] = address, str(port)


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
    for name in (scheduler().node(), socket.gethostname()):
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
