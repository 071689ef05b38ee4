"""Commands: report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from unicscale.run.folder import RunFolder


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command()(report)


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders, or folders that hold some: a sweep.")
    ],
    out: Annotated[Path | None, typer.Option(help="Where; by default report/ in the run, or beside the runs.")] = None,
) -> None:
    """Write one HTML page with its figures; several runs are compared. Runs that go on are read as they stand."""
    import os
    import shutil

    from unicscale.ranks.terminal import plain
    from unicscale.report import comparison, read, text_table, write
    from unicscale.run.folder import RunFolder
    from unicscale.run.status import open_existing, statuses

    folders = {folder.root.resolve(): folder for name in runs for folder in _below(name) or [open_existing(name)]}
    found = list(folders.values())
    stories = [read(folder, status) for folder, status in zip(found, statuses(found), strict=True)]
    if out is None:
        together = Path(os.path.commonpath(list(folders)))
        out = RunFolder(found[0].root if len(found) == 1 else together).report
    page = write(stories, out)
    if len(found) == 1:
        _tell(found[0], out)
    typer.echo(plain(text_table(comparison(stories), shutil.get_terminal_size((80, 24)).columns)))
    typer.echo(plain(f"\n{os.path.relpath(page)}"))


def _tell(run: RunFolder, out: Path) -> None:
    """The figures of what was measured after training; its curves they have drawn themselves."""
    from PIL import Image

    from unicscale.run.mirrors import Shown
    from unicscale.run.showing import show

    files = [out / f"{name}.png" for name in ("radar", "checkpoints", "spare")]
    pictures = {file.stem: Image.open(file).convert("RGB") for file in files if file.exists()}
    show(run, [Shown("evaluation/figures", pictures=pictures)] if pictures else [])


def _below(name: str) -> list[RunFolder]:
    """The runs inside a folder that is none itself."""
    from unicscale.run.folder import RunFolder

    own = RunFolder(Path(name))
    below = sorted(Path(name).glob("*/run.json")) if not own.facts.exists() else []
    return [RunFolder(facts.parent) for facts in below]
