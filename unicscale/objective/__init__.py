"""What is minimised: standardised targets, the loss, and who teaches which image.

teachers' tokens (..., D) -> standardize: with what was known before this batch; afterwards it sees them
answers and targets -> pairs: do they fit -> terms: how far apart, per token -> balance: who teaches which image
-> loss: Loss(sum, weight, terms); nobody divides before the engine knows the weight of the global batch
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from unicscale.errors import RecipeError
from unicscale.recipe.building import build, imported
from unicscale.recipe.sections.objective import STANDARDIZERS, Balance, Standardize

if TYPE_CHECKING:
    from unicscale.objective.balance import Balance as Balancing
    from unicscale.objective.standardize import Standardizer

__all__ = ["build_balance", "build_standardizer", "empty_standardizer"]


def build_balance(section: Balance, teachers: list[str], sources: list[list[str] | None] | None = None) -> Balancing:
    """Who teaches which image; `sources`: the teachers each data set names, None for all of them."""
    return build(section, teachers, sources or [None])


def build_standardizer(
    section: Standardize, dim: int, where: tuple[str, str] = ("", ""), *, cone: bool = False
) -> Standardizer:
    """What the recipe asks for; `where` is (teacher, summary | patches), which a file of statistics needs."""
    if cone:
        return imported("unicscale.objective.cone:Cone")(dim)
    standardizer = empty_standardizer(section, dim, where[1])
    if section.of(where[1]) == "file":
        _read(standardizer, section.path or "", ".".join(where))
    return standardizer


def empty_standardizer(section: Standardize, dim: int, token: str = "") -> Standardizer:
    """Of the recipe's kind for `summary` or `patches`, with nothing in it yet."""
    return imported(STANDARDIZERS[section.of(token)])(dim)


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
