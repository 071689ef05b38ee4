"""`data:`, which images, read how, and how many per step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unicscale.recipe.sections.base import Count, NonNegative, OneOf, Pixels, Section, Unit, unless

Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
# a new reader is a file and a line here; `auto` takes the first that can
READERS = {
    "folder": "unicscale.data.sets.folder:Folder",
    "ffcv": "unicscale.data.sets.ffcv:FFCV",
    "beton": "unicscale.data.sets.beton:Beton",
}


class Source(Section):
    """One data set of a mixture."""

    path: str
    weight: Annotated[float, Field(gt=0, le=256)] = (
        1.0  # how often its images come, relative to its size: 2 shows each twice per epoch
    )
    teachers: list[str] | None = None  # own-data balancing: which teachers answer for it


class Augment(Section):
    """The paper's augmentation; the same image goes to student and teachers."""

    scale: tuple[Share, Share] = (0.08, 1.0)
    ratio: tuple[Ratio, Ratio] = (0.75, 4 / 3)
    flip: Unit = 0.5
    jitter: Unit = 0.8
    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    saturation: NonNegative = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    grey: Unit = 0.2
    blur: Unit = 0.2
    blur_sigma: tuple[Ratio, Ratio] = (0.1, 5.0)
    blur_kernel: Annotated[int, Field(ge=1, le=255)] = 9
    solarize: Unit = 0.2
    solarize_threshold: Unit = 0.5

    @model_validator(mode="after")
    def _ranges_rise(self) -> Augment:
        for name in ("scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} runs from {low:g} to {high:g}: the smaller number comes first")
        return self


class Data(Section):
    """Which images, read how, and how many per step over all ranks."""

    train: list[str | Source] = Field(min_length=1)
    val: list[str] = []
    images_per_step: Count
    micro_batch: Count | None = None  # images per rank and backward; less than its share accumulates gradients
    reader: Annotated[str, OneOf(["auto", *READERS])] = "auto"
    resize: Literal["auto", "area", "bicubic"] = "auto"
    workers: Annotated[int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    ahead: Count = 3  # batches decoded before they are asked for
    max_resolution: Pixels = 512  # the largest stored side a reader must hold
    max_bad: Unit = 1e-4  # share of undecodable images that is replaced instead of stopping the run
    augment: Augment = Augment()
    # each model is shown its own window, moved by -1, 0 or 1 patches along each axis: the deviation of that draw
    shift: Annotated[Unit, unless(0.0)] = 0.0
