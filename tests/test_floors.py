"""The one rule of shape that fails the build: imports run strictly downwards."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FLOORS = {
    "columns": 0, "contracts": 0, "errors": 0, "rng": 0,
    "recipe": 1, "scenes": 1, "rendezvous": 1, "scheduler": 1, "states": 1, "stop": 1, "voice": 1,
    "watchdog": 1, "world": 1,
    "balance": 2, "cache": 2, "data": 2, "ema": 2, "lock": 2, "loss": 2, "metrics": 2, "plan": 2, "plugin_probe": 2,
    "failures": 2, "phases": 2, "pixels": 2, "stem": 2,
    "phi_s": 2, "projector": 2, "sharding": 2, "standardize": 2, "targets": 2, "teacher": 2, "vit": 2, "weights": 2,
    "standardizers": 2,
    "cards": 2, "described": 2, "fetch": 2, "fp8": 2, "frozen": 2, "scaffold": 2,  # teachers
    "cost": 3, "runs": 3, "statistics": 3, "student": 3,
    "checkpoint": 4, "evaluate": 4, "interop": 4, "launches": 4, "stages": 4,
    "assembly": 5,
    "doctor": 6, "follow": 6, "jobs": 6, "testing": 6, "train": 6,
    "report": 7,
    "demo": 8, "dry_run": 8,
    "commands": 9,
    "cli": 10,
    "__main__": 11,
}  # fmt: skip
SIDEWAYS_ALLOWED = {1, 2, 4}  # neighbours on these floors may meet, but never in a circle (the last test)


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "unicscale" and len(parts) > 1 else None


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            if node.module == "unicscale":
                found |= {f"unicscale.{alias.name}" for alias in node.names}
    return found


FILES = sorted((REPOSITORY / "unicscale").rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(REPOSITORY)))
def test_imports_run_downwards(file: Path) -> None:
    own = file.relative_to(REPOSITORY / "unicscale").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in FLOORS, f"{own} has no floor: give it one in this test"
    for module in imports(file):
        assert not module.startswith(("unicscale_teachers", "unicscale_launch")), f"{own} imports {module}"
        other = room(module)
        if other is None or other == own or other not in FLOORS:
            continue
        lower = FLOORS[other] < FLOORS[own] or (FLOORS[other] == FLOORS[own] and FLOORS[own] in SIDEWAYS_ALLOWED)
        assert lower, f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("file", sorted((REPOSITORY / "teachers").glob("*.py")), ids=lambda f: f.name)
def test_teachers_know_only_the_contract(file: Path) -> None:
    if file.name.startswith("train_"):
        return  # the script that made the demo's teachers is a user of unicscale like any other
    allowed = {None, "contracts", "errors", "stem", "teacher", "teachers"}
    assert {room(m) for m in imports(file)} <= allowed


def top_level_imports(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    plain = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    found = {n.module for n in plain if isinstance(n, ast.ImportFrom) and n.module}
    return {r for m in found if (r := room(m))}


def test_no_room_imports_itself_by_a_detour() -> None:
    graph: dict[str, set[str]] = {}
    for file in FILES:
        own = file.relative_to(REPOSITORY / "unicscale").parts[0].removesuffix(".py")
        if own != "__init__":
            graph.setdefault(own, set()).update(top_level_imports(file) - {own})
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
