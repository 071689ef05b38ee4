"""The types at the doors: what one room hands to the next.

torch is imported for type checkers only, so that `unicscale check` and friends answer without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Found = TypeVar("Found")


class Features(NamedTuple):
    """What an encoder says of a batch of images.

    A NamedTuple, because it leaves sharded modules and ZeRO-3 walks tuples, lists and dicts only.
    """

    summary: Tensor | None  # (B, D_s)     CLS, or what the model calls its image token; None where it has none
    patches: Tensor | None  # (B, N, D_p)  row-major grid, without CLS and registers; None where it has none

    def each(self, act: Callable[[Tensor], Tensor]) -> Features:
        """The same done to each kind of token that is there."""
        return Features(*(None if tokens is None else act(tokens) for tokens in self))


def there(found: Found | None) -> Found:
    """Tokens, or their width, of a kind that the model has: whoever asks has refused the models that lack it."""
    assert found is not None
    return found


class Widths(NamedTuple):
    """How wide an encoder's tokens are; None for a kind that it does not have."""

    summary: int | None
    patches: int | None

    @classmethod
    def of(cls, wide: Widths | int) -> Widths:
        """A bare number is the width of both."""
        return cls(wide, wide) if isinstance(wide, int) else cls(*wide)

    @property
    def said(self) -> str:
        """For a person: `1536 wide`, where both are."""
        if self.summary is None or self.patches is None:
            return f"{self.patches or self.summary} wide, {'patches' if self.summary is None else 'a summary'} only"
        return f"{self.summary} wide" + (f", patches {self.patches}" if self.patches != self.summary else "")


class Seen(NamedTuple):
    """All that a student's forward returns; nothing calls another method of it."""

    features: Features  # the trunk's own, after its final norm: for evaluation and export
    answers: dict[str, Features]  # the projector's guess, one per teacher, still standardised


class Loss(NamedTuple):
    """A weighted sum to differentiate, its denominator, and everything worth a curve.

    They stay apart because the mean is over the global batch: engines divide once, by the sum of all ranks' weights.
    """

    sum: Tensor  # scalar with the graph
    weight: Tensor  # scalar
    terms: dict[str, Tensor]  # name -> detached scalar, still on the device

    @property
    def total(self) -> Tensor:
        """The mean over this micro-batch, with the graph."""
        return self.sum / self.weight


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch of one rank."""

    images: Tensor  # (B, C, H, W) uint8, on the device, un-normalised: each model normalises for itself
    index: Tensor  # (B,) int64, the sample's number in its data set
    domain: Tensor  # (B,) int64, which data set it came from


@dataclass(slots=True)
class Progress:
    """Everything about where a run is. `step` and `images` count over the whole run, all stages and ranks."""

    stage: int = 0
    step: int = 0  # optimiser steps done
    images: int = 0  # images consumed: the loader's whole state


@dataclass(frozen=True, slots=True)
class Weights:
    """Where a teacher's official weights live; fetched on a login node, never by a compute node."""

    url: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class TeacherSpec:
    """What a teacher is, said before a byte of it is loaded."""

    dim: int  # width of its tokens
    patch: int  # pixels a side that one cell of its grid stands for: its stride
    size: int  # native pixels, square
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    citation: str = ""
    weights: Weights | None = None
    fixed_size: bool = False  # True: only `size` is understood, never interpolated
    tokens: tuple[Literal["summary", "patches"], ...] = ("summary", "patches")  # those that it has
    patch_dim: int | None = None  # width of the patches, where it is not that of the summary
    multiple: int | None = None  # sides must be multiples of this; None: of `patch`
    blue_first: bool = False  # True: it was trained on blue, green, red

    @property
    def widths(self) -> Widths:
        """Of each kind of token that it has."""
        return Widths(
            self.dim if "summary" in self.tokens else None,
            (self.patch_dim or self.dim) if "patches" in self.tokens else None,
        )


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and centred second moment of some tokens; these merge exactly, in any order."""

    count: Tensor  # ()   float64
    mean: Tensor  # (D,) float64
    m2: Tensor  # (D,) float64, sum of squared deviations from `mean`


def of_unit_pixels(
    mean: tuple[float, ...], std: tuple[float, ...], factor: float, offset: float = 0.0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels in 0..1, where they are stated of `factor` times these, less `offset`."""
    if abs(factor - 1) < 1e-6 and not offset:  # as nearly all are: the numbers themselves, to the last bit
        return mean, std
    return tuple((one + offset) / factor for one in mean), tuple(one / factor for one in std)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 or [0, 255] pixels (B, C, H, W) -> float32 in a model's own normalisation."""
    import torch

    def per_channel(values: list[float]) -> Tensor:
        # filled on the device: a copy from the host in every step would make the host wait
        return torch.stack([torch.full((), value, device=images.device) for value in values]).view(-1, 1, 1)

    scale = per_channel([1 / (255 * s) for s in std])
    shift = per_channel([-m / s for m, s in zip(mean, std, strict=True)])
    return images.float() * scale + shift
