"""The student of a recipe as a teacher without values: what a run that is not there yet will be."""

from __future__ import annotations

from torch import Tensor, nn

from unicscale.contracts import Features
from unicscale.recipe import load
from unicscale.student.trunk import build_trunk


class Planned(nn.Module):
    """On meta."""

    def __init__(self, recipe: str) -> None:
        super().__init__()
        planned = load(recipe)
        self.size = max(planned.stages[-1].size_list)
        self.student = build_trunk(planned.student, self.size, planned.data.channels)
        self.width, self.patch = self.student.width, self.student.patch
        self.mean, self.std = planned.data.channels.mean, planned.data.channels.std

    def forward(self, images: Tensor) -> Features:
        """The trunk's own tokens, as a finished run gives them."""
        return self.student(images)[1]
