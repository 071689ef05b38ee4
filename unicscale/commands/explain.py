"""Commands: explain."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from unicscale.recipe.reference import Key


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command()(explain)


def explain(
    key: Annotated[
        str | None,
        typer.Argument(metavar="[KEY]", help="For example save.keep, stages.lr, or one word of it; left out: all."),
    ] = None,
) -> None:
    """Say what a key of a recipe means, what it takes, and what it is where nobody says it."""
    from unicscale.recipe.reference import keys

    found = asked(key, keys()) if key else keys()
    width = max(len(one.path) for one in found)
    for one in found:
        default = f"; default {one.default}" if one.default not in ("", "as below") else ""
        where = (
            f" ({one.path.rpartition('.')[0]}.kind: {one.kind})" if one.kind and not one.path.endswith(".kind") else ""
        )
        needed = "" if one.default or "." in one.path else "; needed"
        print(f"{one.path:<{width}}  {one.takes}{default}{needed}{where}")
        print(textwrap.fill(one.says, 100, initial_indent="    ", subsequent_indent="    "))


def asked(key: str, known: list[Key]) -> list[Key]:
    """The key and what stands below it; where there is none of that name, those that end so."""
    from unicscale.errors import RecipeError, nearest
    from unicscale.recipe.foreign import translated

    said = re.sub(r"\[\]|\.\d+(?=\.|$)", "", key.strip())
    said = re.sub(r"^teachers\.(\w[\w-]*)", "teachers.NAME", said) if "teachers.NAME" not in said else said
    plain = said.replace(".NAME", "")
    found = [one for one in known if one.plain == plain or one.plain.startswith(plain + ".")]
    found = found or [one for one in known if one.plain.endswith("." + plain)]
    if found:
        return found
    if said.startswith("teachers.NAME."):
        plugins = "  Options of a plug-in are its own: `unicscale teachers show PLUGIN` lists them."
        raise RecipeError(f"'{key}' is not a key of unicscale's.\n{plugins}")
    words = {one.plain for one in known} | {one.plain.rpartition(".")[2] for one in known}
    hint = translated(plain.rpartition(".")[2]) or nearest(plain, sorted(words))
    raise RecipeError(f"'{key}' is not a key.{hint} `unicscale explain` lists all of them.")
