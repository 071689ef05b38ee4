"""What the front doors run, once per rank: a resolved recipe, trained or rehearsed, into the rank's own log."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from unicscale.commands.training import run_rank
from unicscale.errors import UserError
from unicscale.ranks import stop
from unicscale.ranks.terminal import tell


def train(recipe: str, fresh: bool = False) -> None:
    """Run a rank to its end; an early end is the process's, with the exit codes of `unicscale train`."""
    # signals are heard in place of submitit's handlers: those ignore SIGTERM and save on one rank only
    try:
        again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"  # a requeued job goes on with what it began afresh
        run_rank(recipe, fresh=fresh and not again, begun=lambda run, rank: write_to(run.log_of(rank)))
    except UserError as error:
        stop.deafen()  # from here on: the message must come out too
        tell(error)
        stop.leave(error.exit_code)
    except Exception:
        tell(traceback.format_exc().rstrip())
        stop.leave(1)


def write_to(log: Path) -> None:
    """Everything this process prints from now on, tracebacks and C libraries included, goes to the end of this file."""
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--fresh", action="store_true")
    given = parser.parse_args()
    train(given.recipe, given.fresh)
