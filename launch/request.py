"""What the cluster is asked for: command line over recipe over site preset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from unicscale.errors import RecipeError, nearest
from unicscale.recipe.sections import Launch, Recipe

SITES = (Path(os.path.expanduser("~/.config/unicscale/sites")), Path(__file__).parent / "sites")


def request(recipe: Recipe, options: dict[str, Any]) -> Launch:
    """The launch section with everything said elsewhere filled in; options that are None were not given."""
    given = {key: value for key, value in options.items() if value is not None and value != []}
    said = recipe.launch.model_dump(include=recipe.launch.model_fields_set)
    name = given.get("site") or said.get("site") or os.environ.get("UNICSCALE_SITE")
    preset = site(name) if name else {}
    lists = {key: [*preset.get(key, []), *said.get(key, []), *given.get(key, [])] for key in ("setup", "extra")}
    return section(preset | said | given | lists, "the command line")


def site(name: str) -> dict[str, Any]:
    """A preset by name, checked on its own so that an error names its file."""
    known = {file.stem: file for folder in reversed(SITES) for file in sorted(folder.glob("*.yaml"))}
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        raise RecipeError(
            f"'{name}' is no site.{nearest(name, known)} There are: {there}.\n  Write {SITES[0] / (name + '.yaml')}."
        )
    try:
        preset = yaml.safe_load(known[name].read_text()) or {}
    except yaml.YAMLError as problem:
        raise RecipeError(f"{known[name]} is no YAML: {problem}") from None
    if not isinstance(preset, dict):
        raise RecipeError(f"{known[name]}: a site is keys and values, such as 'partition: gpu'.")
    section(preset, str(known[name]))
    return preset


def section(values: dict[str, Any], where: str) -> Launch:
    """A validated Launch, or an error that says where the value came from."""
    try:
        return Launch.model_validate(values)
    except ValidationError as problem:
        lines = []
        for item in problem.errors():
            key = ".".join(map(str, item["loc"]))
            if item["type"] == "extra_forbidden":
                lines.append(f"{where}: '{key}' is not a key of launch.{nearest(key, Launch.model_fields)}")
            else:
                lines.append(f"{where}: launch.{key}: {item['msg'].removeprefix('Value error, ')}")
        raise RecipeError("\n".join(lines)) from None
