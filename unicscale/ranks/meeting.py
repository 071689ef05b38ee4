"""The moment in which all ranks must find each other: whoever waits says for what, and a failure is said in words."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from unicscale.errors import RankLost
from unicscale.ranks.terminal import tell

QUIET = 20.0  # seconds: nodes of one job do not start together


@contextmanager
def meeting(rank: int, size: int, quiet: float = QUIET) -> Iterator[None]:
    """Around torch's own rendezvous, which is silent for ten minutes and then shows its stack."""
    where = f"{os.environ.get('MASTER_ADDR', 'localhost')}:{os.environ.get('MASTER_PORT', '?')}"
    said = f"rank {rank} waits for all {size} ranks at {where}, which is where rank 0 listens; one has not come yet"
    waiting = threading.Timer(quiet, tell, [said])
    waiting.daemon = True
    waiting.start()
    try:
        yield
    except (RuntimeError, OSError) as problem:  # torch's errors of networks and stores are among them
        first = str(problem).strip().splitlines()[0][:200] if str(problem).strip() else type(problem).__name__
        raise RankLost(
            f"rank {rank}: the {size} ranks did not meet at {where}: {first}\n"
            "  Were all of them started, and can they reach that address? $MASTER_ADDR and $MASTER_PORT name it; "
            "NCCL_SOCKET_IFNAME and\n  GLOO_SOCKET_IFNAME choose the network."
        ) from problem
    finally:
        waiting.cancel()
