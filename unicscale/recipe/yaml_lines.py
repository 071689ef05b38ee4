"""YAML with a memory: a plain tree, and the line on which every key and item stands."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unicscale.errors import RecipeError

LONGEST = 1 << 20  # bytes of a recipe
MOST, DEEPEST = 20_000, 40  # values of a recipe, aliases followed, and how deep they stand: ours have 250, and 5

Where = tuple[str | int, ...]  # path of a value in the tree: ("stages", 0, "lr")


@dataclass(slots=True)
class Document:
    """A parsed file and where each of its values came from."""

    tree: dict[str, Any]
    lines: dict[Where, str] = field(default_factory=dict)  # path -> "file:line", or the override's own text

    def place(self, path: Where) -> str:
        """`file:line` of the value at `path`, or of the closest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, "")


def read(path: str) -> Document:
    """Parse one file, refusing everything that YAML would let pass silently."""
    text = _text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = mark.line + 1 if mark else 1
        if _tab_at(text, line):
            raise RecipeError(f"{path}:{line}: a tab where YAML wants spaces. Indent with two spaces.") from None
        said = " ".join(part for part in (problem.context, problem.problem) if part)
        raise RecipeError(f"{path}:{line}: not YAML: {said}. Mend this line or the one above it.") from None
    except yaml.YAMLError as problem:
        raise RecipeError(f"{path}: not YAML: {problem}") from None
    except RecursionError:
        raise too_much(path) from None
    if root is None:
        raise RecipeError(f"{path} is empty. A recipe starts with 'schema: 1'; copy one from recipes/.")
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(f"{path}:1: a recipe is a mapping ('key: value' lines), this is a {_kind(root)}.")
    document = Document(tree={})
    document.lines[()] = f"{path}:1"
    document.tree = _plain(root, (), path, document.lines)
    return document


def _text(path: str) -> str:
    file = Path(path)
    if not file.exists():
        near = [p.name for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        from unicscale.errors import nearest

        hint = nearest(file.name, near)
        raise RecipeError(f"{path} does not exist.{hint} `ls recipes/` shows those that come with unicscale.")
    if file.is_dir():
        raise RecipeError(f"{path} is a directory. Name one recipe in it: a .yaml file.")
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode):
            raise RecipeError(f"{path} is no file: a pipe or a device has no end. Write the recipe into a .yaml file.")
        if about.st_size > LONGEST:
            raise RecipeError(f"{path} has {about.st_size:,} bytes, and no recipe has more than {LONGEST:,}.")
        data = file.read_bytes()
    except OSError as problem:
        raise RecipeError(f"{path} cannot be read: {problem.strerror}.") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not text. A recipe is a YAML file in UTF-8.") from None
    if "\x00" in text:
        raise RecipeError(f"{path} is not text. A recipe is a YAML file in UTF-8.")
    return text


def _tab_at(text: str, line: int) -> bool:
    lines = text.splitlines()
    around = lines[max(0, line - 2) : line]
    return any("\t" in one[: len(one) - len(one.lstrip())] for one in around)


def _kind(node: yaml.Node) -> str:
    return "list" if isinstance(node, yaml.SequenceNode) else "single value"


def value_of(text: str) -> Any:
    """One value as YAML reads it, with the same limits; YAMLError or ValueError where it is none."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise too_much(f"'{text[:20]}...'") from None
    return None if node is None else _plain(node, (), f"'{text}'", {})


def too_much(path: str) -> RecipeError:
    """A few hundred bytes of aliases can stand for millions of values, and an anchor may hold itself."""
    return RecipeError(
        f"{path}: more than {MOST:,} values, or some that stand deeper than {DEEPEST} levels (aliases are followed).\n"
        "  A recipe is a few hundred values, three levels deep."
    )


def _plain(node: yaml.Node, where: Where, path: str, lines: dict[Where, str]) -> Any:
    lines[where] = lines.get(where) or f"{path}:{node.start_mark.line + 1}"
    if len(lines) > MOST or len(where) > DEEPEST:
        raise too_much(path)
    if isinstance(node, yaml.MappingNode):
        tree: dict[str, Any] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{path}:{line}: a key must be a word.")
            key = str(key_node.value)
            if key in tree:
                first = lines[(*where, key)]
                name = ".".join(map(str, (*where, key)))
                raise RecipeError(f"{path}:{line}: '{name}' is written twice; first at {first}. Keep one.")
            lines[(*where, key)] = f"{path}:{line}"
            tree[key] = _plain(value, (*where, key), path, lines)
        return tree
    if isinstance(node, yaml.SequenceNode):
        items = []
        for number, value in enumerate(node.value):
            lines[(*where, number)] = f"{path}:{value.start_mark.line + 1}"
            items.append(_plain(value, (*where, number), path, lines))
        return items
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError, LookupError, TypeError) as problem:  # what `!!int ''` and `!!bool x` raise
        said = problem if isinstance(problem, yaml.YAMLError | ValueError) else f"'{node.value}' is no {node.tag[18:]}"
        raise RecipeError(f"{path}:{node.start_mark.line + 1}: {said}. Text is written in quotes.") from None
