"""`unicscale`: the commands. Each family of commands is a file in commands/; none imports torch before it runs."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Annotated

import typer

from unicscale import __version__
from unicscale.errors import UserError
from unicscale.ranks import stop
from unicscale.ranks.terminal import settle, tell

FAMILIES = (
    "init",
    "training",
    "explain",
    "launch",
    "data",
    "teachers",
    "evaluation",
    "export",
    "look",
    "report",
    "paper",
    "jobs",
    "watch",
    "doctor",
)  # in the order of --help

app = typer.Typer(
    name="unicscale",
    help="Distil several strong, frozen vision encoders into one ViT.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"unicscale {__version__}")
        raise typer.Exit


@app.callback()
def _before_any_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


for family in FAMILIES:
    import_module(f"unicscale.commands.{family}").register(app)


def main() -> None:
    """Run a command; users' errors are text and an exit code, ours are tracebacks."""
    try:
        app()
    except UserError as error:
        # a mistake in a recipe is the same on every rank
        if os.environ.get("RANK", "0") == "0" or error.of_one_rank:
            tell(error)
        leave(error.exit_code)
    except Exception:
        tell(traceback.format_exc().rstrip())
        leave(1)


def leave(code: int) -> None:
    """As every program does; one rank of several without ceremony."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        stop.leave(code)
    settle()
    sys.exit(code)


if __name__ == "__main__":
    main()
