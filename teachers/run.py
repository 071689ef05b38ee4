"""A finished run of ours, or an export of it, or an official UNIC file: yesterday's student teaches."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, TeacherSpec
from unicscale.errors import TeacherError, UserError
from unicscale.teacher import Teacher, TeacherOptions


class Options(TeacherOptions):
    run: str
    """A run folder, a checkpoint, an export or an official UNIC file."""
    licence: str = "that of its own teachers"
    """Goes into model cards; a student inherits what its teachers' licences ask."""


class Run(Teacher):
    """A finished run of unicscale: the trunk's tokens after its final norm; the file says which architecture it is."""

    api_version = 1
    Options = Options
    licence = "that of its own teachers"

    def spec(self, options: Options) -> TeacherSpec:
        model = opened(options.run)
        return TeacherSpec(model.width, model.patch, model.size, IMAGENET_MEAN, IMAGENET_STD, options.licence)

    def build(self, options: Options) -> Any:
        import copy

        import torch

        return copy.deepcopy(opened(options.run)).to(torch.get_default_device())  # meta, where the core builds

    def own_state(self, options: Options) -> dict[str, Any]:
        return opened(options.run).state_dict()


@lru_cache(maxsize=4)
def opened(path: str) -> Any:
    """The run as `unicscale.load` gives it."""
    import torch

    import unicscale

    try:
        with torch.device("cpu"):
            return unicscale.load(path)
    except UserError as problem:
        raise TeacherError(f"'run: {path}': {problem}") from problem
