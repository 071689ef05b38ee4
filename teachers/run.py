"""A finished run of ours, or an export of it, or an official UNIC file: yesterday's student teaches."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from unicscale.contracts import TeacherSpec
from unicscale.errors import TeacherError, UserError
from unicscale.teacher import Teacher, TeacherOptions


class Options(TeacherOptions):
    run: str
    """A run folder, a checkpoint, an export or an official UNIC file."""
    recipe: str | None = None
    """The recipe of a run that is not there yet, of a chain: what check, plan and rehearsals take it for until then."""
    licence: str = "that of its own teachers"
    """Goes into model cards; a student inherits what its teachers' licences ask."""


class Run(Teacher):
    """A finished run of unicscale: the trunk's tokens after its final norm; the file says which architecture it is."""

    api_version = 1
    Options = Options
    licence = "that of its own teachers"

    def spec(self, options: Options) -> TeacherSpec:
        model = known(options)
        if len(model.mean) != 3:
            raise TeacherError(f"'run: {options.run}': it sees {len(model.mean)} channels; teachers are shown three.")
        return TeacherSpec(model.width, model.patch, model.size, model.mean, model.std, options.licence)

    def build(self, options: Options) -> Any:
        import copy

        import torch

        return copy.deepcopy(known(options)).to(torch.get_default_device())  # meta, where the core builds

    def own_state(self, options: Options) -> dict[str, Any]:
        return opened(options.run).state_dict()


def known(options: Options) -> Any:
    """The run, or what its recipe says of one that has not begun; the values of such a one nobody has."""
    if options.recipe is None or os.path.exists(options.run):
        return opened(options.run)
    return planned(options.recipe)


@lru_cache(maxsize=4)
def planned(recipe: str) -> Any:
    """On meta."""
    from unicscale.teacher.planned import Planned

    try:
        return Planned(recipe)
    except UserError as problem:
        raise TeacherError(f"'recipe: {recipe}': {problem}") from problem


@lru_cache(maxsize=4)
def opened(path: str) -> Any:
    """The run as `unicscale.load` gives it."""
    import torch

    import unicscale

    try:
        with torch.device("cpu"):
            model: Any = unicscale.load(path)
    except UserError as problem:
        raise TeacherError(f"'run: {path}': {problem}") from problem
    model.looked = True  # the core normalises for teachers, and no step may wait for a look at its images
    return model
