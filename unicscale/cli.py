"""`unicscale`: the commands. Each family of commands is a file in commands/; none imports torch before it runs."""

from __future__ import annotations

import os
import sys

import typer

from unicscale.commands import data, evaluation, jobs, machine, report, teachers, training
from unicscale.errors import LoaderError, RunError, UserError

app = typer.Typer(
    name="unicscale",
    help="Distil several strong, frozen vision encoders into one ViT.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for family in (training, data, teachers, evaluation, report, jobs, machine):
    family.register(app)


def main() -> None:
    """Run a command; users' errors are text and an exit code, ours are tracebacks."""
    try:
        app()
    except UserError as error:
        # a mistake in a recipe is the same on every rank; what befell one rank only, that rank says
        if os.environ.get("RANK", "0") == "0" or isinstance(error, RunError | LoaderError):
            print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
