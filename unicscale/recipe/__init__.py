"""Recipes: plain YAML, complete before anyone reads it; `load` is the only way in."""

from unicscale.recipe.reading import dump, load
from unicscale.recipe.sections import Recipe

__all__ = ["Recipe", "dump", "load"]
