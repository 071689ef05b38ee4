"""Commands: watch."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from unicscale.run.watching import Sight


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command()(watch)


def watch(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="All known runs if left out.")] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
) -> None:
    """What runs are doing, live, from their folders: on a terminal a table each, elsewhere a line for each new record.

    It ends when all of them have ended, or with Ctrl-C, which stops no run.
    """
    from unicscale.run.status import find, statuses
    from unicscale.run.watching import see

    found = find(runs or [])
    if not found:
        print("no runs: none below runs/, none started by launch/slurm.py or launch/local.py")
        return

    def look() -> list[Sight]:
        return [see(run, status) for run, status in zip(found, statuses(found), strict=True)]

    try:
        if sys.stdout.isatty():
            _on_terminal(look, every, once)
        else:
            _in_lines(look, every, once)
    except KeyboardInterrupt:
        return


def _in_lines(look: Any, every: float, once: bool) -> None:
    """A line for each run that has moved since the last look."""
    from unicscale.ranks.terminal import plain
    from unicscale.run.watching import line

    told: dict[str, tuple[Any, ...]] = {}
    while True:
        sights = look()
        for sight in sights:
            now = sight.status
            mark = (now.state, now.step, sight.saved and sight.saved[0], tuple(sight.measured.items()))
            if told.get(now.run) != mark:
                told[now.run] = mark
                print(plain(line(sight)), flush=True)
        if once or all(sight.over for sight in sights):
            return
        time.sleep(every)


def _on_terminal(look: Any, every: float, once: bool) -> None:
    from rich.live import Live

    with Live(_drawn(sights := look()), auto_refresh=False) as live:
        while not once and not all(sight.over for sight in sights):
            time.sleep(every)
            live.update(_drawn(sights := look()), refresh=True)


def _drawn(sights: Sequence[Sight]) -> Any:
    """A frame for each run; names are text, whatever rich would make of their brackets."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    from unicscale.ranks.terminal import plain

    frames = []
    for sight in sights:
        title = Text(plain(f"{sight.status.run}  {sight.status.state}"), style="bold")
        frames.append(Panel(Group(*_rows(sight)), title=title, title_align="left", width=80))
    return Group(*frames)


def _rows(sight: Sight) -> list[Any]:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from unicscale.ranks.terminal import plain
    from unicscale.run.watching import clock

    now = sight.status
    rows: list[Any] = []
    bars = Table.grid(padding=(0, 1))
    stage = f"stage {sight.stage} {sight.place[0]}/{sight.place[1]}" if sight.place else ""
    for what, at, left in (("run", (now.step, now.steps), now.eta), (stage, sight.within, sight.stage_left)):
        step, steps = at or (0, None)
        if steps:
            bar = ProgressBar(total=steps, completed=min(step, steps), width=24)
            bars.add_row(Text(plain(what)), bar, f"{step}/{steps}", f"{clock(left)} left" if left is not None else "")
    rows.append(bars)
    facts = [f"epoch {sight.epoch:.2f}"] if sight.epoch is not None else []
    facts += [f"{sight.pace:.0f} images/s"] if sight.pace is not None else []
    facts += [f"MFU {100 * sight.mfu:.0f} %"] if sight.mfu is not None else []
    facts += [f"waits for data {100 * sight.waits:.0f} %"] if sight.waits is not None else []
    facts += [f"{sight.memory:.1f} GiB"] if sight.memory is not None else []
    facts += [f"saved at {sight.saved[0]}, {clock(sight.saved[1])} ago"] if sight.saved else ["nothing saved yet"]
    rows.append(Text(" · ".join(facts), style="dim"))
    if whole := sum(sight.spent.values()):
        most = sorted(sight.spent.items(), key=lambda one: -one[1])[:5]
        shares = ", ".join(f"{phase} {100 * seconds / whole:.0f} %" for phase, seconds in most)
        rows.append(Text(plain(f"{whole:.3g} s a step: {shares}"), style="dim"))
    losses = Table.grid(padding=(0, 2))
    if sight.loss is not None:
        losses.add_row("loss", f"{sight.loss.now:.4f}", sight.loss.arrow, "")
    for name, trend in sight.teachers.items():
        taught = f"taught {100 * sight.shares[name]:.0f} % of the images" if name in sight.shares else ""
        losses.add_row(Text(f"  {plain(name)}"), f"{trend.now:.4f}", trend.arrow, Text(taught, style="dim"))
    for name, value in sight.measured.items():
        losses.add_row(Text(plain(name)), f"{value:.4g}", "", Text("measured", style="dim"))
    rows.append(losses)
    if sight.silent is not None:
        rows.append(
            Text(f"nothing new for {clock(sight.silent)}; unicscale logs says what each rank does", style="yellow")
        )
    if now.why and now.why != now.state:
        rows.append(Text(plain(now.why), style="yellow"))
    return rows
