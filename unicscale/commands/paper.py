"""Commands: paper."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from unicscale.report.paper import Held, Table

RUNS = Path("runs/paper")  # where the recipes say that they go


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command()(paper)


def paper(
    table: Annotated[
        str | None, typer.Argument(metavar="[TABLE]", help="J, 3.5, 'Figure 3b'; without it, all are listed.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder that holds table_j/p_000 and the others.")] = RUNS,
    data: Annotated[str, typer.Option(help="Of evaluations, in the commands that are printed.")] = "/data",
) -> None:
    """One of the paper's tables: its commands, how far its runs are, and its numbers beside theirs."""
    from unicscale.report import paper as tables
    from unicscale.run.columns import columns

    if table is None:
        rows = [["", "", "rows"], *([t.heading, t.title, str(len(t.rows) or "")] for t in tables.tables().values())]
        typer.echo("\n".join(columns(rows)))
        return
    found = tables.find_table(table)
    held = tables.gather(found, runs)
    for text in (f"{found.heading}. {found.title}", found.setting, found.note):
        if text:
            typer.echo(text)
    if commands := [*_at_once(found, runs), *found.commands]:
        typer.echo("\n" + "\n".join(commands))
    if held:
        typer.echo(
            "\n"
            + "\n".join(columns([["row", "state", "step", "next"], *(_line(one, found, runs, data) for one in held)]))
        )
        for text in dict.fromkeys(one.row.unsaid for one in held if one.row.unsaid):
            names = [one.row.recipe.split("/")[-1] for one in held if one.row.unsaid == text]
            typer.echo(f"unsaid, {', '.join(names)}: {text}.")
        filled = tables.filled(found, held)
        if len(filled[0]) > 1:
            typer.echo("\n" + "\n".join(columns(filled, right=True)))


def _at_once(table: Table, runs: Path) -> list[str]:
    """The whole table as one submission, where a folder is just its rows."""
    from unicscale.report.paper import FOLDER

    folders = {row.recipe.split("/")[0] for row in table.rows}
    if len(folders) != 1 or runs != RUNS:
        return []
    [folder] = folders
    rows = {row.recipe for row in table.rows}
    whole = rows == {f"{folder}/{file.stem}" for file in (FOLDER / folder).glob("*.yaml")}
    return [f"python launch/slurm.py {_path(folder)} --sweep"] if whole and len(rows) > 1 else []


def _line(one: Held, table: Table, runs: Path, data: str) -> list[str]:
    """Where a row is, and the command that takes it further."""
    name = one.row.published
    if one.folder != runs / one.row.recipe:
        name += f" = {one.folder.relative_to(runs)}"
    elif one.status is None and one.twins:
        name += f" (as {one.twins[0]})"
    place = str(one.folder)
    if not one.finished:
        to = [] if runs == RUNS else [f"out={place}"]
        following = " ".join(["python launch/slurm.py", _path(f"{one.row.recipe}.yaml"), *to])
    elif set(table.scores) - set(one.scores) and table.suite:
        model = f"{one.row.model}={place}@{one.row.model}" if one.row.model else place
        following = f"unicscale evaluate {model} --suite {table.suite} --data {data}"
    else:
        following = ""
    if one.status is None:
        return [name, "-", "", following]
    step = f"{one.status.step}/{one.status.steps}" if one.status.steps else str(one.status.step)
    return [name, str(one.status.state), step, following]


def _path(name: str) -> str:
    from unicscale.report.paper import FOLDER

    return os.path.relpath(FOLDER / name) if FOLDER.is_relative_to(Path.cwd()) else str(FOLDER / name)
