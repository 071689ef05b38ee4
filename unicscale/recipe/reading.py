"""YAML file (+ one `extends:`, `a.b=v` overrides, `${VAR}`) -> Recipe, or every error at once."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from unicscale.errors import RecipeError
from unicscale.recipe.explain import explain
from unicscale.recipe.sections import Recipe
from unicscale.recipe.yaml_lines import Document, Where, read, value_of

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# kinds of projector, balance and standardisation take different keys: a new `kind` replaces the section it stands in
KINDED = {("projector",), ("loss", "balance"), ("standardize",)}


def load(path: str | Path, overrides: Sequence[str] = (), *, unset: Literal["refuse", "keep"] = "refuse") -> Recipe:
    """The recipe at `path`, resolved and validated; `keep` leaves unset variables for those who read no data."""
    document = said(path, overrides)
    unknown: list[str] = []
    tree = _expand(document.tree, (), document, unknown)
    problems = [] if unset == "keep" or tree.get("dry_run") else unknown  # a dry run draws its own pixels
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        problems += explain(error, document, tree)
        recipe = None
    if problems or recipe is None:
        raise RecipeError("\n".join(problems))
    return recipe


def said(path: str | Path, overrides: Sequence[str] = ()) -> Document:
    """What file, base and command line say, each value with the place where it was said."""
    document = read(str(path))
    if "extends" in document.tree:
        document = _extend(document, str(path))
    for text in overrides:
        _override(document, text)
    return document


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML that `load` reads back to the same thing."""
    tree = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    tree["save"]["every_minutes"] = recipe.save.every_minutes  # the one key whose default is not null, and may be
    for name, section in recipe.teachers.items():  # what an option is without a word, its plug-in alone knows
        tree["teachers"][name] |= {key: None for key, value in section.options.items() if value is None}
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=100)


def _extend(document: Document, path: str) -> Document:
    base_name = document.tree.pop("extends")
    if not isinstance(base_name, str):
        raise RecipeError(f"{document.place(('extends',))}: 'extends' is the path of one recipe.")
    base_path = Path(path).parent / base_name
    if not base_path.exists():
        raise RecipeError(f"{document.place(('extends',))}: 'extends: {base_name}': {base_path} does not exist.")
    base = read(str(base_path))
    if "extends" in base.tree:
        raise RecipeError(
            f"{base.place(('extends',))}: a recipe that is extended extends nothing itself.\n"
            f"  Two files are enough to read: write what {base_name} takes from its base into it."
        )
    base.lines[()] = f"{path}:1"
    _merge(base, document, ())
    return base


def _merge(base: Document, above: Document, where: Where) -> None:
    """What `above` says replaces what `base` says, key by key; lists are replaced whole."""
    target, source = _at(base.tree, where), _at(above.tree, where)
    for key, value in source.items():
        here = (*where, key)
        old = target.get(key)
        other_kind = here in KINDED and isinstance(value, dict) and isinstance(old, dict) and _kind_changes(old, value)
        if isinstance(value, dict) and isinstance(old, dict) and not other_kind:
            _merge(base, above, here)
            continue
        target[key] = value
        for path in [p for p in base.lines if p[: len(here)] == here]:
            del base.lines[path]
        base.lines.update({p: line for p, line in above.lines.items() if p[: len(here)] == here})


def _kind_changes(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return "kind" in new and new["kind"] != old.get("kind")


def _at(tree: Any, where: Where) -> Any:
    for step in where:
        tree = tree[step]
    return tree


def _override(document: Document, text: str) -> None:
    """Apply one `a.b=v` of the command line; list items by number, values as YAML."""
    name, equals, raw = text.partition("=")
    if not equals or not name.strip():
        raise RecipeError(f"'{text}' is not an override. Write KEY=VALUE, for example engine.kind=fsdp2.")
    try:
        value = value_of(raw)
    except yaml.YAMLError:
        raise RecipeError(f"'{text}': the value is not YAML. Quote it, for example out='runs/a: b'.") from None
    parts = name.strip().split(".")
    node: Any = document.tree
    path: list[str | int] = []
    part: Any
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                held = f"0..{len(node) - 1}" if node else "nothing"
                raise RecipeError(f"'{text}': '{'.'.join(map(str, path))}' is a list and holds {held}, not '{part}'.")
            part = int(part)
        elif not isinstance(node, dict):
            raise RecipeError(f"'{text}': '{'.'.join(map(str, path))}' is a single value and holds no '{part}'.")
        path.append(part)
        if last:
            node[part] = _new_kind(node, part, tuple(path), value)
        elif isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = node[part]
    here = tuple(path)
    for known in [p for p in document.lines if p[: len(here)] == here]:
        del document.lines[known]
    document.lines[here] = f"'{text}'" if len(text) <= 200 else f"'{text[:60]}...'"


def _new_kind(node: Any, part: str | int, path: Where, value: Any) -> Any:
    # `projector.kind=mlp` leaves the ladder's own keys behind, or every such override would need four more
    if part == "kind" and path[:-1] in KINDED and node.get("kind") != value:
        node.clear()
    return value


def _expand(value: Any, where: Where, document: Document, problems: list[str]) -> Any:
    if isinstance(value, dict):
        return {k: _expand(v, (*where, k), document, problems) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, (*where, i), document, problems) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            name = ".".join(map(str, where))
            problems.append(
                f"{document.place(where)}: '{name}' uses ${{{match[1]}}}, which is not set.\n"
                f"  export {match[1]}=... before the command, or write the path into the recipe."
            )
            return match[0]
        return found

    return VARIABLE.sub(variable, value)
