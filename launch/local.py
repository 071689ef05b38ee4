"""`python launch/local.py RECIPE`: the same recipe on this machine, N ranks under torch's elastic launcher."""

from __future__ import annotations

import runpy
import sys

if __name__ == "__main__" and not __package__:  # run as a file: go on as the package that is installed
    if not sys.flags.safe_path:  # else the first entry is not this folder
        sys.path.pop(0)
    runpy.run_module("unicscale_launch.local", run_name="__main__", alter_sys=True)
    sys.exit()

import contextlib
import logging
import os
import secrets
import signal
import threading
import time as clock
from pathlib import Path
from typing import Annotated

import typer

from unicscale.commands.training import afterwards
from unicscale.errors import RunError, StoppedOnRequest
from unicscale.ranks.slurm import parse_duration
from unicscale.ranks.terminal import tell
from unicscale.recipe import Recipe, dump
from unicscale.run.folder import RunFolder, open_run
from unicscale.run.launches import refuse_early, remember

from . import checks
from .chain import awaited, chained
from .door import open_door
from .request import request
from .submission import private
from .sweep import variants

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
GRACE = 20  # seconds between asking the other ranks of a dead one to leave, and killing them


def local(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="For example recipes/unic_l.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[a.b=v]...", help="Changes to it.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Processes; one per GPU, or one, if left out.")] = None,
    restarts: Annotated[int, typer.Option(help="After a rank died, how often to go on from the last checkpoint.")] = 3,
    time: Annotated[str | None, typer.Option(help="Save and leave before this time is over: 08:00:00.")] = None,
    sweep: Annotated[
        list[str] | None, typer.Option(metavar="KEY=V,V,...", help="One run per value, in turn. Of a folder: bare.")
    ] = None,
    chain: Annotated[
        bool, typer.Option("--chain", help="Several recipes, one after the other; the same command goes on in any.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; an old run is set aside, not deleted.")] = False,
) -> None:
    """Train on this machine. Ctrl-C saves and leaves (exit 75; the same command goes on), twice leaves at once.

    RECIPE may be a folder: its recipes run one after the other. With --chain, further recipes may follow it.
    """
    gpus = _gpus()
    ranks = ranks or gpus or 1
    end = clock.monotonic() + parse_duration(time) if time else None
    asked = {"nodes": 1, "tasks_per_node": ranks, "gpus_per_node": gpus, "time": time}
    if chain:
        runs = chained(recipe, overrides or [], sweep or [])
    else:
        runs = [one.recipe for one in variants(recipe, overrides or [], sweep or [])]
    runs = [one.model_copy(update={"launch": request(one, asked)}) for one in runs]
    waits = {one.out: awaited(one, runs[:number]) if chain else None for number, one in enumerate(runs)}
    for one in runs:  # all are looked at before the first begins
        for line in checks.check(one, one.launch, awaited=waits[one.out]):
            tell(line if len(runs) == 1 else f"{one.out}: {line}")
    for number, one in enumerate(runs, start=1):
        if len(runs) > 1:
            tell(f"run {number} of {len(runs)}: {one.out}")
        if waits[one.out]:  # it is there now
            for line in checks.check(one, one.launch):
                tell(f"{one.out}: {line}")
        train(one, ranks, restarts, end, fresh=fresh)


def train(resolved: Recipe, ranks: int, restarts: int, end: float | None, *, fresh: bool) -> None:
    """One run to its end, over the deaths of its ranks; whatever else ends it, ends the command."""
    file = write_recipe(resolved)
    os.environ["UNICSCALE_SUBMISSION"] = f"local-{secrets.token_hex(4)}"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
    threading.Thread(target=echo, args=(Path(resolved.out) / "logs/rank-0000.log",), daemon=True).start()
    for attempt in range(restarts + 1):
        if end is not None:
            os.environ["UNICSCALE_SECONDS"] = str(end - clock.monotonic())
        heard: list[int] = []
        code = start([str(file)] + ["--fresh"] * (fresh and attempt == 0), ranks, heard)
        clock.sleep(0.5)  # for the echo's last lines
        if code == 0:
            if resolved.dry_run is None:  # whose page the echo has shown
                print(f"finished: {resolved.out}", flush=True)
                tell(afterwards(RunFolder(Path(resolved.out))))
            return
        if code == StoppedOnRequest.exit_code:
            raise StoppedOnRequest(f"{resolved.out}: stopped; the same command goes on.")
        if code < 0 and heard:  # a second Ctrl-C, or a first one before there was anything to save
            said = "ended without saving; the same command goes on from the last checkpoint."
            tell(f"{resolved.out}: {said}")
            sys.exit(128 + heard[-1])
        if code > 0:  # it ended itself and would do so again; what it said has been echoed
            sys.exit(code)
        tell(f"a rank was killed ({signal.Signals(-code).name}); {restarts - attempt} restarts left")
    raise RunError(
        f"{resolved.out}: a rank died {restarts + 1} times. `unicscale logs {resolved.out}` shows its last words."
    )


def start(arguments: list[str], ranks: int, heard: list[int]) -> int:
    """One launch: 0, the exit code of the rank that failed first, or minus the signal that killed one.

    `heard` collects the signals that reached us and were passed on.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # how a rank left is said by that rank, and below
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=os.environ["UNICSCALE_SUBMISSION"],
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",  # the host's own name may lead nowhere
        max_restarts=0,  # ours know which ends are worth another try
        monitor_interval=0.5,
        signals_to_handle="SIGQUIT",  # on others the agent would kill the ranks before they have saved
        shutdown_timeout=GRACE,
    )

    def pass_on(number: int, frame: object) -> None:
        heard.append(number)
        there = children()  # the ranks, in sessions of their own: the terminal's Ctrl-C reaches only us
        for child in there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM if number == signal.SIGHUP else number)
        if not there:
            raise KeyboardInterrupt  # nobody has begun; ranks started now would know nothing of it

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "unicscale_launch.job", *arguments)
        return 0
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        if StoppedOnRequest.exit_code in codes:
            return StoppedOnRequest.exit_code
        return min(codes)  # a signal before what the others said of their lost neighbour
    except KeyboardInterrupt:
        return -heard[-1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def children() -> list[int]:
    """The ranks' process ids."""
    found: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended since the listing
            found += map(int, file.read_text().split())
    return found


def echo(log: Path) -> None:
    """Rank 0's log on this terminal, from now on."""
    seen = log.stat().st_size if log.exists() else 0
    while True:
        if log.exists():
            with log.open(errors="replace") as lines:
                lines.seek(seen)
                text = lines.read()
                seen = lines.tell()
            sys.stderr.write(text)
            sys.stderr.flush()
        clock.sleep(0.2)


def write_recipe(recipe: Recipe) -> Path:
    """The resolved recipe, where the ranks read it."""
    refuse_early(recipe, main=True)
    folder = open_run(recipe)
    file = folder.launch / f"local-{clock.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}.yaml"
    private(file, dump(recipe))
    remember(folder)
    return file


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


if __name__ == "__main__":
    open_door(local)
