"""A recipe whose teachers are found from anywhere: a run is looked at from other folders than it was started in."""

from __future__ import annotations

import os

from unicscale.recipe.sections import Recipe, TeacherSection


def anchored(recipe: Recipe) -> Recipe:
    """Adapters and files of weights by their whole paths; which of them count as the same is asked of their names."""
    teachers = {name: section.model_copy(update=_whole(section)) for name, section in recipe.teachers.items()}
    return recipe.model_copy(update={"teachers": teachers})


def _whole(section: TeacherSection) -> dict[str, str]:
    found = {}
    if section.adapter is not None:
        file, colon, of_class = section.adapter.rpartition(":")
        found["adapter"] = f"{os.path.abspath(os.path.expanduser(file))}{colon}{of_class}" if file else section.adapter
    if section.weights not in ("auto", "random") and os.path.exists(section.weights):
        found["weights"] = os.path.abspath(section.weights)
    return found
