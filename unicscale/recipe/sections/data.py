"""`data:`, which images, read how, and how many per step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD
from unicscale.recipe.sections.base import Count, NonNegative, OneOf, Pixels, Positive, Section, Unit, unless

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
    """A beton or a folder of images."""
    weight: Annotated[float, Field(gt=0, le=256)] = 1.0
    """How often its images come, relative to its size: 2 shows each of them twice per epoch."""
    teachers: list[str] | None = None
    """With loss.balance `own_data`: the teachers that answer for this data set; null: all of them."""


class Channels(Section):
    """What an image holds at every pixel, and what student and exports normalise it by."""

    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = IMAGENET_MEAN
    """Mean of each channel over the data, in values from 0 to 1: as many numbers as channels."""
    std: tuple[Positive, ...] = IMAGENET_STD
    """Deviation of each channel over the data, in values from 0 to 1."""

    @model_validator(mode="after")
    def _each_has_both(self) -> Channels:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean names {len(self.mean)} channels and std {len(self.std)}: one number each for every")
        return self

    @property
    def count(self) -> int:
        """How many."""
        return len(self.mean)

    @property
    def three(self) -> list[int]:
        """Those that stand for red, green and blue where nobody says which."""
        return [min(number, self.count - 1) for number in range(3)]


COLOURS = Channels()


class Augment(Section):
    """The paper's augmentation; the same image goes to student and teachers."""

    scale: tuple[Share, Share] = (0.08, 1.0)
    """Smallest and largest share of the image's area that a random crop takes."""
    ratio: tuple[Ratio, Ratio] = (0.75, 4 / 3)
    """Smallest and largest ratio of a crop's width to its height."""
    flip: Unit = 0.5
    """Probability that an image is mirrored left to right."""
    jitter: Unit = 0.8
    """Probability that brightness, contrast, saturation and hue are changed."""
    brightness: NonNegative = 0.4
    """Brightness is multiplied by a factor drawn from 1 - this to 1 + this."""
    contrast: NonNegative = 0.4
    """Contrast is multiplied by a factor drawn from 1 - this to 1 + this."""
    saturation: NonNegative = 0.2
    """Saturation is multiplied by a factor drawn from 1 - this to 1 + this."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Hue turns by at most this share of the colour circle, either way."""
    grey: Unit = 0.2
    """Probability that an image becomes grey."""
    blur: Unit = 0.2
    """Probability that an image is blurred."""
    blur_sigma: tuple[Ratio, Ratio] = (0.1, 5.0)
    """Smallest and largest deviation of the Gaussian blur, in pixels."""
    blur_kernel: Annotated[int, Field(ge=1, le=255)] = 9
    """Width of the blur's kernel in pixels."""
    solarize: Unit = 0.2
    """Probability that bright pixels are inverted."""
    solarize_threshold: Unit = 0.5
    """Pixels at or above this brightness, from 0 to 1, are inverted."""

    @property
    def repeats(self) -> bool:
        """Whether an image looks the same again, mirrored at most: nothing is drawn that has more than two values."""
        return self.scale == self.ratio == (1, 1) and not (self.jitter or self.grey or self.blur or self.solarize)

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
    """Betons or folders of images to learn from, as paths or as `{path, weight, teachers}`. Labels are not used."""
    val: list[str] = []
    """What to measure on while training, where `evaluate` asks for it: the first of these betons or folders."""
    channels: Annotated[Channels, unless(COLOURS)] = COLOURS
    """What the images hold: three colours, normalised as on ImageNet, unless it says otherwise; other numbers of
    channels come as .npy arrays.
    """
    images_per_step: Count
    """Images of one optimiser step, over all ranks together. stages[].lr.peak is meant for this number and never
    rescaled.
    """
    micro_batch: Count | None = None
    """Images per rank and backward pass; less than a rank's share accumulates gradients, which saves memory. null:
    all of the share at once.
    """
    reader: Annotated[str, OneOf(["auto", *READERS])] = "auto"
    """What opens the data: `folder`, `ffcv` (betons, fastest), `beton` (betons in pure Python); `auto` takes the
    first that can.
    """
    resize: Literal["auto", "area", "bicubic"] = "auto"
    """How crops come to size: `area`, or `bicubic`; `auto` is `area`."""
    workers: Annotated[int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    """Threads that decode, per rank; `auto`: as many as this rank has cores."""
    ahead: Count = 3
    """Batches that are decoded before they are asked for."""
    max_resolution: Pixels = 512
    """The largest side, in pixels, of an image that a beton's reader makes room for."""
    max_bad: Unit = 1e-4
    """Share of images that may be undecodable and are replaced by others; beyond it the run stops."""
    augment: Augment = Augment()
    """How training images are cropped and coloured; student and teachers see the same result."""
    shift: Annotated[Unit, unless(0.0)] = 0.0
    """Each model is shown its own window, moved by -1, 0 or 1 patches along each axis: the deviation of that draw."""

    @model_validator(mode="after")
    def _channels_go_together(self) -> Data:
        count, augment = self.channels.count, self.augment
        if max(*self.channels.mean, *self.channels.std) > 1:
            raise ValueError("channels: mean and std are of values from 0 to 1. Divide those of bytes by 255")
        if count != 3 and (augment.jitter or augment.grey):
            raise ValueError(
                f"augment.jitter and augment.grey mix red, green and blue, and data.channels names {count}. "
                "Write augment: {jitter: 0, grey: 0}"
            )
        if count != 3 and self.reader not in ("auto", "folder"):
            raise ValueError(
                f"reader: '{self.reader}' opens betons, which hold three channels, and data.channels names {count}. "
                "Say reader: folder"
            )
        return self
