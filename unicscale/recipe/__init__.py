"""Recipes: plain YAML, complete before anyone reads it; `load` is the only way in.

YAML -> reading: one `extends:`, overrides, ${NAME} -> sections: one frozen model each, unknown keys refused
(explain: file, line, the nearest key) -> Recipe -> plan: durations as steps, the rates of each step
section -> building: the object of the class whose path it carries; nothing here imports torch
difference: what two recipes would compute otherwise; secrets: what is not written down
"""

from unicscale.recipe.reading import dump, load, load_written
from unicscale.recipe.sections import Recipe

__all__ = ["Recipe", "dump", "load", "load_written"]
