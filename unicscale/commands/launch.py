"""Commands: launch slurm|local, a second name for the two front doors."""

from __future__ import annotations

import importlib.util
import os
import sys

import typer

commands = typer.Typer(
    help="Start a recipe: under Slurm, or here. The same as python launch/slurm.py and launch/local.py.",
    no_args_is_help=True,
)
# whatever follows the name is the door's own business, its --help too
AS_IT_IS = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.add_typer(commands, name="launch")


@commands.command(context_settings=AS_IT_IS, add_help_option=False)
def slurm(context: typer.Context) -> None:
    """Check a recipe, keep the code as it is, submit; `unicscale launch slurm --help` lists the options."""
    enter("slurm", context.args)


@commands.command(context_settings=AS_IT_IS, add_help_option=False)
def local(context: typer.Context) -> None:
    """Train on this machine, one rank per GPU; `unicscale launch local --help` lists the options."""
    enter("local", context.args)


def enter(door: str, words: list[str]) -> None:
    """Become the door: signals, exit code and terminal are its own from here on."""
    from unicscale.errors import RecipeError

    module = f"unicscale_launch.{door}"  # by name: nothing in unicscale imports the doors
    if importlib.util.find_spec("unicscale_launch") is None:
        raise RecipeError("the package unicscale_launch is not installed in this Python. `make setup` installs it.")
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *words])
