"""Commands: look."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unicscale.commands.evaluation import Device, Dtype, Options, Weights, joined_on, said_of_teachers, settings_of

LR = 1e-2  # of a dense head, ten times that of a measurement: some hundred steps have to do


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command()(look)


def look(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, RUN@STAGE or one of its checkpoints.")],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGES]...",
            help="A folder of images or a .beton; folders with masks/ or depth/ too. Without any: the run's own.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where; by default pictures/ in the run.")] = None,
    count: Annotated[int, typer.Option(min=1, max=24, help="Images on a sheet.")] = 6,
    pool: Annotated[int, typer.Option(min=1, help="Images among which neighbours and the worst are sought.")] = 512,
    alone: Annotated[bool, typer.Option("--alone", help="Without its teachers: where their weights are not.")] = False,
    dense_size: Annotated[int, typer.Option(help="Pixels of segmentation and (at most 480) depth.")] = 512,
    dense_steps: Annotated[int, typer.Option(help="Steps of a dense head, 16 crops each.")] = 400,
    weights: Weights = [],  # noqa: B006  (typer copies it)
    option: Options = [],  # noqa: B006
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Pictures of what a student and its teachers see in the same images; `unicscale report` shows them.

    Patch tokens in one colour space, nearest neighbours, the worst learned images of each teacher; where a folder has
    masks/ or depth/ beside images/, segmentation and depth beside the truth.
    """
    import os

    from unicscale.evaluate.pictures.look import Asked, write
    from unicscale.evaluate.pictures.look import look as see
    from unicscale.ranks.terminal import plain
    from unicscale.report.pictures import drawn
    from unicscale.run.folder import RunFolder
    from unicscale.run.mirrors import Shown
    from unicscale.run.showing import show
    from unicscale.run.status import open_existing

    root = Path(run) if out else open_existing(_run_of(run)).root
    settings = settings_of(dense_size=dense_size, dense_steps=dense_steps, dense_lr=LR, dtype=dtype)
    asked = Asked(run, images or [], count, pool, settings, said_of_teachers(weights, option), alone)
    with joined_on(device) as world:
        sheets = see(asked, world)
    folder = out or RunFolder(root).pictures
    write(folder, sheets)
    if out is None:
        show(RunFolder(root), [Shown(f"pictures/{n}", pictures={s.finding: drawn(s)}) for n, s in sheets.items()])
    for sheet in sheets.values():
        typer.echo(plain(f"{sheet.title}: {sheet.finding}"))
    typer.echo(plain(f"\n{os.path.relpath(folder)}" + ("" if out else f"; unicscale report {root} shows them")))


def _run_of(model: str) -> str:
    """The run folder that a stage or a checkpoint is of."""
    path = Path(model)
    if path.exists():
        return str(path.parent.parent) if path.parent.name == "checkpoints" else model
    return model.rpartition("@")[0] or model
