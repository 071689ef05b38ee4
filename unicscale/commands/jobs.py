"""Commands: jobs, logs, stop."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from unicscale.ranks.terminal import plain
from unicscale.run.columns import columns
from unicscale.run.states import State

if TYPE_CHECKING:
    from unicscale.run.status import Status

COLUMNS = ("run", "state", "job", "step", "loss", "left", "where")
REASONED = (State.FAILED, State.STOPPED, State.UNKNOWN, State.DAMAGED)  # below these stands why


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command()(jobs)
    app.command()(logs)
    app.command()(stop)


def jobs(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="All known runs if left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List runs: state, step, last loss, time left, host."""
    from unicscale.run.status import find, statuses

    found = statuses(find(runs or []))
    if as_json:
        for status in found:
            print(json.dumps(dataclasses.asdict(status)))
        return
    if not found:
        print("no runs: none below runs/, none started by launch/slurm.py or launch/local.py")
        return
    rows = [COLUMNS, *map(_row, found)]
    for line, status in zip(columns(rows), [None, *found], strict=True):
        print(plain(line))
        if status is not None and status.state in REASONED and status.why:
            print(plain(f"    {status.why}"))


def logs(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    rank: Annotated[int, typer.Option(help="The rank whose log is shown.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines to show.")] = 40,
) -> None:
    """Show what a rank has said; `-f` goes on as it speaks."""
    from unicscale.errors import CheckpointError
    from unicscale.run.follow import follow as read_on
    from unicscale.run.status import open_existing

    folder = open_existing(run)
    file = folder.log_of(rank)
    if not file.exists():
        there = sorted(int(path.stem.removeprefix("rank-")) for path in folder.logs.glob("rank-*.log"))
        held = f"ranks {there[0]} to {there[-1]} have" if there else "the run has not begun; no rank has"
        raise CheckpointError(f"rank {rank} has no log in {folder.logs}: {held} one.")
    try:
        for line in read_on(file, lines, forever=follow):
            print(plain(line.replace("\r\n", "\n").replace("\r", "\n")), end="", flush=True)
    except KeyboardInterrupt:
        return


def stop(runs: Annotated[list[str], typer.Argument(metavar="RUN...")]) -> None:
    """Ask runs to save and leave; queued ones are cancelled. The same command continues them."""
    import platform

    from unicscale.run.status import open_existing
    from unicscale.run.status import stop as ask

    for run in runs:
        print(plain(ask(open_existing(run), f"{_user()}@{platform.node()}")))


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose passwd does not know this user
        return f"user {os.getuid()}"


def _row(status: Status) -> tuple[str, ...]:
    step = f"{status.step}/{status.steps}" if status.steps else str(status.step)
    loss = "" if status.loss is None else f"{status.loss:.4f}"
    tries = f" (launch {status.launches})" if status.launches > 1 else ""
    return (status.run, status.state + tries, status.job or "", step, loss, _left(status.eta), status.where)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
