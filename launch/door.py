"""What both front doors are made of: one command whose errors are text and an exit code, as `unicscale` has them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import typer

from unicscale.errors import UserError
from unicscale.ranks.terminal import settle, tell


def open_door(command: Callable[..., None]) -> None:
    """Run the command line; users' errors come without a traceback."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command()(command)
    try:
        app(args=spelled(sys.argv[1:]))
    except UserError as error:
        tell(error)
        settle()
        sys.exit(error.exit_code)


def spelled(words: Sequence[str]) -> list[str]:
    """A bare `--sweep` says of a folder what it is, where an option of typer always takes a value: an empty one."""
    bare = [n for n, word in enumerate(words) if word == "--sweep" and (words[n + 1 : n + 2] or ["-"])[0][0:1] == "-"]
    return ["--sweep=" if n in bare else word for n, word in enumerate(words)]
