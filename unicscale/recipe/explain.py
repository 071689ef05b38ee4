"""pydantic's errors, said to a person: file:line, the key, what it takes, the nearest right word."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from unicscale.errors import nearest
from unicscale.recipe.foreign import translated
from unicscale.recipe.sections import Recipe
from unicscale.recipe.yaml_lines import Document, Where


def explain(error: ValidationError, document: Document, tree: dict[str, Any]) -> list[str]:
    """One message per mistake, in the order of the file; the branches of a union become one message."""
    seen: dict[str, None] = {}
    for problem in error.errors():
        path = _real_path(problem["loc"], tree)
        seen.setdefault(_message(problem, path, document, tree))
    return list(seen)


def _message(problem: Any, path: Where, document: Document, tree: dict[str, Any]) -> str:
    kind, place, name = problem["type"], document.place(path), ".".join(map(str, path))
    if kind == "extra_forbidden":
        section, takes = ".".join(map(str, path[:-1])), keys_of(path[:-1], tree)
        hint = translated(str(path[-1])) or nearest(str(path[-1]), takes)
        holder = f"'{section}'" if section else "a recipe"
        return (
            f"{_place_of(path, document)}: '{name}' is not a key.{hint}\n  {holder} takes: {', '.join(sorted(takes))}"
        )
    if kind == "missing":
        return f"{place}: '{name}' is missing.{_example(path)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        expected = problem["ctx"].get("expected_tags", "")
        tag = problem["ctx"].get("tag")
        words = [w.strip(" '") for w in expected.split(",") if w.strip()]
        if not words:
            return f"{place}: '{name}' needs a 'kind'."
        near = nearest(str(tag), words)
        return f"{place}: '{name}.kind' is '{tag}'.{near}\n  It takes: {', '.join(words)}"
    if kind == "literal_error":
        words = [w.strip("' ") for w in problem["ctx"]["expected"].replace(" or ", ", ").split(",")]
        hint = nearest(str(problem["input"]), words)
        return f"{place}: '{name}' is {_shown(problem['input'])}.{hint}\n  It takes: {', '.join(words)}"
    if kind == "value_error":
        said = str(problem["ctx"]["error"])
        place = _place_of(path or _key_in(said, tree), document)
        return f"{place}: {said}" if not name else f"{place}: '{name}': {said}"
    bounds = {
        "greater_than": "more than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "less than {lt}",
        "less_than_equal": "at most {le}",
    }
    if kind in bounds:
        return f"{place}: '{name}' is {_shown(problem['input'])}; it must be {bounds[kind].format(**problem['ctx'])}."
    wanted = {
        "int_parsing": "a whole number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_parsing": "a number",
        "float_type": "a number",
        "bool_parsing": "true or false",
        "bool_type": "true or false",
        "string_type": "text",
        "list_type": "a list, [a, b]",
        "tuple_type": "a list, [a, b]",
        "dict_type": "a mapping of keys",
        "model_type": "a mapping of keys",
        "model_attributes_type": "a mapping of keys",
        "too_short": "at least one item",
        "finite_number": "a number that is not infinite",
        "int_parsing_size": "a whole number of a reasonable size",
        "string_too_long": "shorter: 64 letters at most",
        "string_pattern_mismatch": "a name: letters, digits, '.', '_' and '-'",
    }
    if kind in wanted:
        such = " Such as track.wandb: {project: NAME}." if name == "track.wandb" else ""
        return f"{place}: '{name}' is {_shown(problem['input'])}; it must be {wanted[kind]}.{such}"
    return f"{place}: '{name}': {problem['msg']}"


def _key_in(said: str, tree: dict[str, Any]) -> Where:
    """The key that an error of the whole recipe begins with; nothing where it names none."""
    words = [int(word) if word.isdecimal() else word for word in said.partition(" ")[0].rstrip(":").split(".")]
    return tuple(words) if words[0] in tree else ()


def _place_of(path: Where, document: Document) -> str:
    """Where values that do not agree were said: on the command line, if any of them was."""
    given = [said for p, said in document.lines.items() if path and p[: len(path)] == path and said.startswith("'")]
    return given[-1] if given else document.place(path)


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict):
        return "a mapping" if value else "empty"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, bool):
        return str(value).lower()
    said = str(value)
    return f"'{said}'" if len(said) <= 200 else f"'{said[:60]}...'"


def _example(path: Where) -> str:
    examples = {
        "schema": " Every recipe says 'schema: 1'.",
        "out": " Say where the run goes: 'out: runs/NAME'.",
        "lr": " For example 'lr: {peak: 6e-4}'.",
        "train": " For example 'train: [images/train.beton]'.",
    }
    return examples.get(str(path[-1]), "") if path else ""


def _real_path(loc: tuple[int | str, ...], tree: Any) -> Where:
    """pydantic names union branches inside `loc`; keep only steps that exist in the file (or the missing last one)."""
    path: list[int | str] = []
    node: Any = tree
    step: Any
    for number, step in enumerate(loc):
        if (isinstance(node, dict) and step in node) or (isinstance(node, list) and isinstance(step, int)):
            path.append(step)
            node = node[step] if not isinstance(node, list) or step < len(node) else None
        elif number == len(loc) - 1 and isinstance(node, dict) and _is_key(tuple(path), tree, str(step)):
            path.append(step)
    return tuple(path)


def _is_key(path: Where, tree: dict[str, Any], step: str) -> bool:
    return step in keys_of(path, tree)


def keys_of(path: Where, tree: dict[str, Any]) -> list[str]:
    """The keys that the section at `path` takes, choosing among kinds by what the file says."""
    node: Any = tree
    annotation: Any = Recipe
    step: Any
    for step in path:
        annotation = _into(annotation, step, node)
        node = node[step] if (isinstance(node, dict) and step in node) or isinstance(node, list) else None
    return [key for model in _models(annotation, node) for key in _names(model)]


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _into(annotation: Any, step: Any, node: Any) -> Any:
    found = []
    for option in _options(annotation):
        origin = get_origin(option)
        if origin in (list, tuple):
            found.append(get_args(option)[0])
        elif origin is dict:
            found.append(get_args(option)[1])
        elif isinstance(option, type) and issubclass(option, BaseModel):
            kinds = _models(option, node)
            found += [f.annotation for m in kinds for n, f in m.model_fields.items() if (f.alias or n) == step]
    return Union[tuple(found)] if found else None  # noqa: UP007  (built at run time)


def _options(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _options(get_args(annotation)[0])
    if origin is Union or isinstance(annotation, types.UnionType):
        return [option for part in get_args(annotation) for option in _options(part)]
    return [annotation]


def _models(annotation: Any, node: Any) -> list[type[BaseModel]]:
    models = [o for o in _options(annotation) if isinstance(o, type) and issubclass(o, BaseModel)]
    kind = node.get("kind") if isinstance(node, dict) else None
    if kind is not None and len(models) > 1:
        chosen = [m for m in models if _kind_of(m) == kind]
        return chosen or models
    return models


def _kind_of(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    if field is None or get_origin(field.annotation) is not Literal:
        return None
    return get_args(field.annotation)[0]
