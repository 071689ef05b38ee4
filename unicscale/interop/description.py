"""A student in the words of a recipe: what a file of ours says of itself."""

from __future__ import annotations

from pydantic import BaseModel, model_validator

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, Widths
from unicscale.recipe import sections


class Description(BaseModel):
    """What the metadata of a safetensors file says of its student."""

    student: sections.Student
    size: int | None = None  # pixels that it was built for; None in old files, whose positions say it
    projector: sections.Projector | None = None
    standardize: sections.Standardize = sections.Standardize()
    widths: dict[str, Widths] | None = None  # of the tokens it answers; None in older files, whose parameters tell
    mean: tuple[float, ...] = IMAGENET_MEAN  # what its pixels are normalised by
    std: tuple[float, ...] = IMAGENET_STD

    @model_validator(mode="after")
    def _mean_and_deviation_go_together(self) -> Description:
        sections.Channels(mean=self.mean, std=self.std)
        return self

    @property
    def channels(self) -> sections.Channels:
        """Of the images that it sees."""
        return sections.Channels(mean=self.mean, std=self.std)
