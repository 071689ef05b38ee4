"""A plug-in's own options: validated, and refused in words that name the key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from unicscale.errors import RecipeError, nearest
from unicscale.teacher.plugin import Teacher

Place = Callable[[tuple[str | int, ...]], str]


def options_of(plugin: Teacher, name: str, given: dict[str, Any], place: Place = lambda where: "") -> Any:
    """The plug-in's own options, validated; RecipeError names the key and what the plug-in takes.

    `place` gives the `file:line` of a key, where a recipe file is at hand.
    """
    try:
        return plugin.Options(**given)
    except ValidationError as problem:
        lines = dict.fromkeys(filter(None, (_say(error, plugin, name, given, place) for error in problem.errors())))
        takes = f"  '{name}' takes: {', '.join(plugin.Options.model_fields) or 'no options of its own'}"
        raise RecipeError("\n".join([*lines, takes])) from problem


def _say(error: Any, plugin: Teacher, name: str, given: dict[str, Any], place: Place) -> str:
    """One mistake in a person's words; pydantic also reports every branch of a union that the value is not."""
    path, value = [], given
    for depth, part in enumerate(error["loc"], start=1):
        named = isinstance(value, dict) and (
            part in value or (error["type"] == "missing" and depth == len(error["loc"]))
        )
        if named:  # the other parts name branches of a union
            path.append(part)
            value = value.get(part, {})
    where = ("teachers", name, *path)
    at = f"{place(where)}: " if place(where) else ""
    key = f"{at}'{'.'.join(map(str, where))}'"
    if error["type"] == "extra_forbidden":
        return f"{key} is not a key.{nearest(str(path[-1]), plugin.Options.model_fields)}"
    if error["type"] == "missing":
        return f"{key} is missing."
    if error["type"] == "value_error":
        return f"{key}: {error['ctx']['error']}"
    words = literals(plugin.Options.model_fields[str(path[0])].annotation) if path else ()
    if words and len(path) == 1:
        if isinstance(value, dict):
            return ""
        return f"{key} is '{value}'.{nearest(str(value), words)} It takes: {', '.join(words)}"
    return f"{key}: {error['msg']}, not {error['input']!r}"


def literals(annotation: Any) -> tuple[str, ...]:
    """The names among what an option takes."""
    inside = get_args(annotation)
    if get_origin(annotation) is Literal:
        return tuple(value for value in inside if isinstance(value, str))
    return tuple(name for part in inside for name in literals(part))
