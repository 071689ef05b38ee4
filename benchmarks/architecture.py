"""Writes docs/architecture.md from the code: the floors, what lies on them, and which arrows run between them.

python benchmarks/architecture.py
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.test_floors import FLOOR, FLOORS, MODULES, UNICSCALE, circle, imports, room  # noqa: E402

PAGE = ROOT / "docs" / "architecture.md"
HEAD = """# Floors and doors

`benchmarks/architecture.py` writes this page from the code, and a test asks that it is current.

A floor imports from lower ones only, a package has no circle inside, and `unicscale` imports neither `teachers` nor
`launch`; tests/test_floors.py holds all three.

## The doors

```text
 .beton bytes ── data ─> Batch ─┬── teacher ─> targets: dict[name, Features] ──┐
                                │                                              ├── objective ─> Loss(sum, weight, terms)
                                └── engine.student ─> Seen(features, answers) ─┘                       │
                                                           ▲                                           ▼
 run folder <── checkpoint <── pieces of the engine <── engine.step(lr) <────────────── engine.backward(loss.sum)
```

The types stand in `unicscale/contracts.py`, the loop in `unicscale/train.py`.

## The floors

Highest first; behind each package the lower ones that it imports.

| floor | package | what it is | stands on |
|---|---|---|---|
"""


def saying(name: str) -> str:
    """The first sentence of a package or file about itself."""
    path = UNICSCALE / name / "__init__.py" if (UNICSCALE / name).is_dir() else UNICSCALE / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace("|", "/")


def page() -> str:
    """The whole page."""
    below: dict[str, set[str]] = {name: set() for name in FLOOR}
    graph: dict[str, set[str]] = {}
    for module, file in MODULES.items():
        own = room(module)
        graph[module] = {m for m in imports(file) if m in MODULES and m != module}
        if own in below:
            below[own] |= {other for m in imports(file) if (other := room(m)) in below and other != own}
    graph.pop("unicscale")
    rows = [
        f"| {number} | `{name}` | {saying(name)} | {' '.join(sorted(below[name], key=lambda n: (FLOOR[n], n)))} |"
        for number in range(len(FLOORS) - 1, -1, -1)
        for name in sorted(FLOORS[number])
    ]
    arrows = sum(map(len, below.values()))
    files = sum(1 for _ in UNICSCALE.glob("*.py"))
    counts = (
        f"\n{len(FLOOR)} rooms on {len(FLOORS)} floors, {arrows} arrows between them, "
        f"{'no circle' if not circle(graph) else 'a circle'} between the {len(graph)} files; "
        f"{files} files at the root.\n"
    )
    return HEAD + "\n".join(rows) + "\n" + counts


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")
