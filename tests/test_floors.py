"""The one rule of shape that fails the build: imports run strictly downwards, and inside a package without circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import places

FLOORS = [
    {"errors", "contracts", "rng"},
    {"recipe"},
    {"ranks", "data", "student"},
    {"run", "objective", "engine"},
    {"checkpoint", "teacher"},
    {"interop", "testing", "cost"},
    {"evaluate", "assembly"},
    {"train", "report"},
    {"dry_run", "demo"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
UNICSCALE = places.REPOSITORY / "unicscale"
FILES = sorted(UNICSCALE.rglob("*.py"))
MODULES = {
    ".".join(file.relative_to(places.REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): file
    for file in FILES
}  # fmt: skip


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports: at its head, inside functions, under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            inside = [name for name in submodules if name in MODULES]
            yield from inside
            if len(inside) < len(submodules):
                yield node.module


def room(module: str) -> str | None:
    """The first name below `unicscale`."""
    parts = module.split(".")
    return parts[1] if parts[0] == "unicscale" and len(parts) > 1 else None


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A way that leads back to where it began; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := visit(other, [*trail, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(UNICSCALE)))
def test_imports_run_downwards(file: Path) -> None:
    own = file.relative_to(UNICSCALE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the public names, fetched when asked for
    assert own in FLOOR, f"{own} has no floor: give it one in this test"
    for module in imports(file):
        assert not module.startswith(("unicscale_teachers", "unicscale_launch")), f"{own} imports {module}"
        other = room(module)
        if other is not None and other != own:
            assert FLOOR[other] < FLOOR[own], f"{own} (floor {FLOOR[own]}) imports {other} (floor {FLOOR[other]})"


def test_no_file_imports_itself_by_a_detour() -> None:
    graph = {name: {m for m in imports(file) if m in MODULES and m != name} for name, file in MODULES.items()}
    del graph["unicscale"]
    found = circle(graph)
    assert not found, " -> ".join(found)


@pytest.mark.parametrize("file", sorted((places.REPOSITORY / "teachers").glob("*.py")), ids=lambda f: f.name)
def test_teachers_know_only_the_contract(file: Path) -> None:
    allowed = {None, "contracts", "errors", "teacher"}
    found = {module for module in imports(file) if room(module) not in allowed} - {"unicscale.student.stem"}
    assert not found, f"{file.name} imports {sorted(found)}"


def test_the_root_holds_what_a_newcomer_must_see() -> None:
    files = sorted(file.name for file in UNICSCALE.glob("*.py"))
    assert len(files) <= 10, f"{files}: give the new one a room"


def test_the_loop_and_its_parts_stay_two_pages() -> None:
    lines = sum(len((UNICSCALE / name).read_text().splitlines()) for name in ("train.py", "assembly.py"))
    assert lines <= 260, f"train.py and assembly.py have {lines} lines together"
