"""Every key that a recipe may hold, with what it takes and means: for `unicscale explain`, and for pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unicscale.recipe.sections import Recipe

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One key: `stages[].lr.peak`, `projector.hidden` where kind is ladder."""

    path: str
    kind: str  # of its section, where that has kinds
    takes: str
    default: str  # empty where the key must be given
    says: str

    @property
    def plain(self) -> str:
        """As a person would type it: without brackets, and without a teacher's name."""
        return self.path.replace("[]", "").replace(".NAME", "")


def keys() -> list[Key]:
    """All of them, in the order of a recipe; a section comes before what stands in it."""
    schema = Recipe.model_json_schema(by_alias=True)
    return list(_below(schema, schema["$defs"], "", ""))


def _below(model: Schema, models: Schema, above: str, kind: str) -> Iterator[Key]:
    required = model.get("required", [])
    for name, said in model["properties"].items():
        path = f"{above}.{name}" if above else name
        default = "" if name in required else _value(said.get("default"), said)
        yield Key(path, kind, _takes(said, models), default, " ".join(said.get("description", "").split()))
        for suffix, inner in _sections(said, models):
            own = inner["properties"].get("kind", {}).get("const", "")
            yield from _below(inner, models, path + suffix, own)


def _branches(said: Schema) -> list[Schema]:
    return said.get("anyOf") or said.get("oneOf") or [said]


def _sections(said: Schema, models: Schema) -> Iterator[tuple[str, Schema]]:
    """The sections behind a key, and how a path goes on to what stands in them."""
    for one in _branches(said):
        if "$ref" in one:
            yield "", models[one["$ref"].rsplit("/", 1)[1]]
        elif one.get("type") == "array":
            yield from (("[]" + suffix, inner) for suffix, inner in _sections(one.get("items", {}), models))
        elif isinstance(one.get("additionalProperties"), dict):
            yield from ((".NAME" + suffix, inner) for suffix, inner in _sections(one["additionalProperties"], models))


WORDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
BOUNDS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}


SAFE = 10**12  # bounds from here on guard arithmetic, and are no news


def _takes(said: Schema, models: Schema) -> str:
    return " or ".join(dict.fromkeys(_one(branch, models) for branch in _branches(said)))


def _one(said: Schema, models: Schema) -> str:
    if "$ref" in said:
        return "a section"
    if isinstance(said.get("additionalProperties"), dict):
        return f"by name: {_takes(said['additionalProperties'], models)}"
    if "const" in said or "enum" in said:
        return " | ".join(map(str, said.get("enum", [said.get("const")])))
    if said.get("type") == "array":
        items = said.get("items") or (said.get("prefixItems") or [{}])[0]
        return f"a list: {_takes(items, models)}"
    if said.get("type") == "object":
        return "a mapping"
    if said.get("type") == "null":
        return "null"
    bounds = " ".join(text.format(f"{said[bound]:g}") for bound, text in BOUNDS.items() if said.get(bound, SAFE) < SAFE)
    return " ".join(filter(None, [WORDS.get(said.get("type", ""), "anything"), bounds]))


def _value(default: Any, said: Schema) -> str:
    if isinstance(default, dict) or "default" not in said:
        return "as below"
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return str(default)
