"""docs/paper_rows.md: in what each row of the paper's tables differs from the recipe that it extends.

python benchmarks/paper_rows.py    writes the page; a test holds it against the recipes
"""

from __future__ import annotations

import os
from pathlib import Path

from unicscale.recipe import load
from unicscale.recipe.difference import flat
from unicscale.recipe.yaml_lines import read

ROOT = Path(__file__).resolve().parent.parent
PAPER, PAGE = ROOT / "recipes" / "paper", ROOT / "docs" / "paper_rows.md"
HEAD = """# Rows against their bases

In what each recipe of `recipes/paper/` differs from the one that it extends, resolved: key, before, after. Where it
says nothing, both are the same run. Written by `benchmarks/paper_rows.py`; [paper.md](paper.md) says what a table is.

| row | extends | differs in |
|---|---|---|
"""


def page() -> str:
    """The page, of the recipes as they are."""
    os.environ |= {name: os.environ.get(name, f"/data/{name.lower()}") for name in ("IMAGENET", "IMAGENET_SD")}
    return HEAD + "".join(map(row, sorted(PAPER.glob("*/*.yaml"))))


def row(path: Path) -> str:
    """One line; whatever begins anew has no base."""
    name, base = path.relative_to(PAPER).with_suffix("").as_posix(), read(str(path)).tree.get("extends")
    if base is None:
        return f"| {name} | nothing | |\n"
    own, other = (flat(load(one)) for one in (path, path.parent / base))
    keys = sorted(key for key in {*own, *other} - {"out"} if own.get(key, ...) != other.get(key, ...))
    changes = [f"`{key}` {_said(other, key)} → {_said(own, key)}" for key in keys]
    extended = Path(os.path.relpath(path.parent / base, PAPER)).with_suffix("").as_posix()
    return f"| {name} | {extended} | {'; '.join(changes)} |\n"


def _said(values: dict[str, object], key: str) -> str:
    return os.path.expandvars(str(values[key])).replace("|", "\\|") if key in values else "-"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")
