"""Commands: doctor."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command()(doctor)


def doctor() -> None:
    """What this machine can do, what is missing, and the command that adds it."""
    from unicscale.commands.doctor import table

    table()
