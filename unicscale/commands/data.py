"""Commands: pack, data show."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Mode(StrEnum):
    """How pixels are stored."""

    jpg = "jpg"
    raw = "raw"
    proportion = "proportion"


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command("pack")(pack)
    data = typer.Typer(no_args_is_help=True, help="Look at what a model sees.")
    data.command("show")(show)
    app.add_typer(data, name="data")


def pack(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder, list file, tar, or 'shards-{000..099}.tar'.")],
    target: Annotated[str, typer.Argument(metavar="DST.beton", help="The file to write.")],
    max_side: Annotated[int, typer.Option(help="Shrink to this longer side; 0 keeps it.")] = 512,
    short_side: Annotated[int, typer.Option(help="Shrink to this shorter side; 0 keeps it.")] = 0,
    mode: Annotated[Mode, typer.Option(help="Raw pixels decode fastest and take 5-10 times the space.")] = Mode.jpg,
    raw_share: Annotated[float, typer.Option(min=0, max=1, help="With --mode proportion.")] = 0.5,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEGs that are encoded anew.")] = 90,
    reencode: Annotated[bool, typer.Option("--reencode", help="Also JPEGs that need no change.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default.")] = None,
    max_bad: Annotated[
        float | None, typer.Option(min=0, help="Unreadable images to skip: a number, or a share below 1.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST.beton.")] = False,
) -> None:
    """Pack images into one .beton file.

    A tree with one folder per class gives labels; so do the .cls files of
    WebDataset shards and the second column of a list. Unreadable images are
    named and left out, by default up to 1 % (at least 10). Only a whole file
    gets the final name; an interrupted run is simply started again.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from unicscale.data.pack.writing import Form, pack
    from unicscale.data.stream.workers import cores

    form = Form(mode.value, raw_share, max_side, short_side, quality, reencode)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, auto_refresh=False) as bar:  # no refreshing thread: the packing processes are forked
        task = bar.add_task("", total=None, rate="")

        def report(done: int, total: int) -> None:
            rate = done / max(bar.tasks[0].elapsed or 0.0, 1e-3)
            bar.update(task, completed=done, total=total, rate=f"{rate:,.0f} images/s", refresh=True)

        result = pack(
            source, target, form, workers=workers or cores(), max_bad=max_bad, overwrite=overwrite, report=report
        )
    for name, reason in result.bad:
        typer.echo(f"skipped {name}: {reason}")
    typer.echo(f"{result.path}: {result.count:,} images, {result.bytes / 1e6:,.1f} MB, sha256 {result.sha256[:16]}...")
    if result.bad:
        typer.echo(f"{len(result.bad)} images were skipped; {result.path}.json lists them.")


def show(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[a.b=v]...", help="Changes to it.")] = None,
    out: Annotated[str, typer.Option(help="The picture to write.")] = "data.png",
    images: Annotated[int, typer.Option(min=1, help="Images per stage.")] = 32,
    step: Annotated[int, typer.Option(min=0, help="Begin with what this optimiser step sees.")] = 0,
) -> None:
    """Draw a contact sheet: the augmented images of a run, at the sizes of each stage."""
    from unicscale.data.sheet import draw_sheet
    from unicscale.recipe import load

    loaded = load(recipe, overrides or [])
    stages = [(stage.name, size) for stage in loaded.stages for size in stage.size_list]
    draw_sheet(loaded.data, loaded.seed, stages, out, images=images, step=step)
    typer.echo(f"{out}: {len(stages)} row(s) of images as the student sees them")
