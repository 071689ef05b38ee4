"""What can be said of an installed teacher without importing it: its source is read, not run."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

from unicscale.recipe.sections import TeacherSection
from unicscale.teacher import files
from unicscale.teacher.described import describe
from unicscale.teacher.finding import Listed
from unicscale.teacher.options import Place


@dataclass(frozen=True, slots=True)
class Card:
    """One line of `unicscale teachers list`."""

    listed: Listed
    licence: str
    files: dict[str, str]  # size -> address of its official file
    bundled: bool

    @property
    def present(self) -> list[str]:
        """The sizes whose files are in the cache."""
        return [size for size, url in self.files.items() if files.place_of(url).is_file()]


def card(listed: Listed) -> Card:
    """The class attributes `licence` and `files` as the source spells them; empty where it computes them."""
    module, _, attribute = listed.target.partition(":")
    said: dict[str, object] = {}
    bundled = False
    source = source_of(module)
    for node in ast.walk(_parse(source)) if source else ():
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            said = {name: value for statement in node.body for name, value in _literals(statement)}
            bundled = any(isinstance(s, ast.FunctionDef) and s.name == "bundled" for s in node.body)
    licence, files = said.get("licence", ""), said.get("files", {})
    return Card(listed, str(licence), dict(files) if isinstance(files, dict) else {}, bundled)


def introduce(name: str, section: TeacherSection, place: Place = lambda where: "") -> str:
    """One line on a recipe's teacher: what it is, whose it is, where its weights are; refuses what cannot run."""
    described = describe(name, section, place)
    spec = described.spec
    what = f"{name}: {described.widths.said}, patch {spec.patch}, native {spec.size} px, {spec.licence}"
    if section.weights == "random":
        return f"{what}; random weights"
    file = described.file
    if file is None:
        return f"{what}; weights its own"
    return f"{what}; weights {'at' if file.present else 'NOT YET at'} {file.path}"


def source_of(module: str) -> Path | None:
    """The file of a module, found as an import would find it, but without importing its packages."""
    search: list[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = None
        for finder in sys.meta_path:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(".".join(parts[:depth]), search) if find_spec else None
            if spec is not None:
                break
        if spec is None:
            return None
        search = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _parse(source: Path) -> ast.AST:
    try:
        return ast.parse(source.read_text(encoding="utf-8"))
    except (SyntaxError, OSError, UnicodeDecodeError):
        return ast.Module([], [])  # a broken plug-in is listed too; `teachers check` says what is wrong


def _literals(statement: ast.stmt) -> list[tuple[str, object]]:
    """(`name`, value) for `name = literal` and `name: type = literal`."""
    if isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets, value = [statement.target], statement.value
    else:
        return []
    try:
        return [(t.id, ast.literal_eval(value)) for t in targets if isinstance(t, ast.Name)]
    except ValueError:
        return []
