"""The standardizer that a recipe asks for."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from unicscale.errors import RecipeError
from unicscale.objective.cone import Cone
from unicscale.objective.phi_s import PhiS
from unicscale.objective.standardize import Fixed, Standardizer, Unchanged
from unicscale.recipe.sections import Standardize


def make_standardizer(
    section: Standardize, dim: int, where: tuple[str, str] = ("", ""), *, cone: bool = False
) -> Standardizer:
    """What the recipe asks for; `where` is (teacher, summary | patches), which a file of statistics needs."""
    standardizer = Cone(dim) if cone else empty_standardizer(section, dim, where[1])
    if section.of(where[1]) == "file":
        _read(standardizer, section.path or "", ".".join(where))
    return standardizer


def empty_standardizer(section: Standardize, dim: int, token: str = "") -> Standardizer:
    """Of the recipe's kind for `summary` or `patches`, with nothing in it yet."""
    kinds = {"phi_s": PhiS, "none": Unchanged, "file": Fixed}
    return kinds.get(section.of(token), Standardizer)(dim)


def _read(standardizer: Standardizer, path: str, key: str) -> None:
    if not Path(path).is_file():
        raise RecipeError(f"standardize.path: there is no file '{path}'. `unicscale teachers stats` writes one.")
    with safe_open(path, "pt") as file:
        for part, buffer in (("mean", standardizer.running_mean), ("deviation", standardizer.running_deviation)):
            name = f"{key}.{part}"
            if name not in file.keys():  # noqa: SIM118 (safetensors files are no mappings)
                raise RecipeError(f"standardize.path: '{path}' has no '{name}'. It has {sorted(file.keys())[:6]} ...")
            value = file.get_tensor(name)
            if value.shape != buffer.shape:
                raise RecipeError(
                    f"standardize.path: '{name}' of '{path}' is {len(value)} wide, the teacher's tokens {len(buffer)}."
                )
            buffer.copy_(value)
