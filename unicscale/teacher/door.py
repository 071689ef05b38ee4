"""The door that images go in by and a teacher's answers come out: held against its spec, by shape, without a sync."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from unicscale.contracts import Features, TeacherSpec
from unicscale.errors import DataError, TeacherError, TeacherFailed

BRIGHTER = 10  # times what white or black is to a model: no augmentation does that, pixels up to 255 do


def refuse_pixels(name: str, spec: TeacherSpec, images: Tensor) -> None:
    """Sides that this teacher cannot take."""
    height, width = images.shape[-2:]
    multiple = spec.multiple or spec.patch
    if height % multiple or width % multiple:
        what = "its patch of" if multiple == spec.patch else ""
        raise TeacherError(f"teacher '{name}': {height}×{width} pixels are no multiple of {what} {multiple}.")


def refuse_unnormalised(images: Tensor, mean: Sequence[float], std: Sequence[float], by: str, depth: int) -> None:
    """Floats that nobody normalised give tokens like any others, and worse ones; a GPU's host waits for this look.

    `depth` is how far up a warning's line is."""
    ends = [(side - m) / s for side in (0, 1) for m, s in zip(mean, std, strict=True)]
    low, high = (float(end) for end in images.aminmax()) if images.numel() and not images.is_meta else (0.0, 0.0)
    if high > BRIGHTER * max(map(abs, ends)):
        raise DataError(
            f"floats up to {high:.4g}: they are taken as normalised with {by}, where white is {max(ends):.3g}.\n"
            "  Pixels are normalised inside if they are uint8: model(images.to(torch.uint8))."
        )
    if min(ends) < 0 <= low < high <= 1:
        warnings.warn(
            f"floats between 0 and 1 are taken as normalised with {by}. If they are not, "
            "model((images * 255).to(torch.uint8)) is.",
            stacklevel=depth,
        )


def checked(said: Any, name: str, spec: TeacherSpec, images: Tensor) -> Features:
    """A plug-in's answer as Features, without what its spec does not promise; TeacherError where it is another."""
    who = f"teacher '{name}'"
    if not isinstance(said, tuple | list) or len(said) != 2 or any(not isinstance(t, Tensor | None) for t in said):
        raise TeacherFailed(
            f"{who}: its forward returned {_kind(said)}; expected Features(summary, patches).\n"
            "  Return unicscale.contracts.Features, with None for what the encoder does not have."
        )
    for kind, tokens in zip(Features._fields, said, strict=True):
        if tokens is None and kind in spec.tokens:
            others = [other for other in spec.tokens if other != kind]
            raise TeacherFailed(
                f"{who}: it gave no {kind}, which its spec promises.\n"
                f"  Where the encoder has none, its spec says tokens={tuple(others)!r}."
            )
    summary, patches = (t if kind in spec.tokens else None for kind, t in zip(Features._fields, said, strict=True))
    widths, count = spec.widths, len(images)
    if summary is not None and tuple(summary.shape) != (count, widths.summary):
        raise TeacherFailed(
            f"{who}: its summary is {_shape(summary)}; expected {count}×{widths.summary}, images by width.\n"
            f"  {_why_summary(summary, count, spec)}"
        )
    if patches is not None:
        grids = _grids(images, spec)
        if (
            patches.dim() != 3
            or len(patches) != count
            or patches.shape[2] != widths.patches
            or (patches.shape[1] not in grids)
        ):
            cells = " or ".join(map(str, grids))
            raise TeacherFailed(
                f"{who}: its patches are {_shape(patches)}; expected {count}×{cells}×{widths.patches}, images by cells "
                f"by width, at {images.shape[-2]}×{images.shape[-1]} pixels and a stride of {spec.patch}.\n"
                f"  {_why_patches(patches, count, grids, spec)}"
            )
    return Features(summary, patches)


def _grids(images: Tensor, spec: TeacherSpec) -> list[int]:
    """How many cells a grid may have: where the stride does not divide a side, modules round either way."""
    down, up = (
        math.prod(rounded(side / spec.patch) for side in images.shape[-2:]) for rounded in (math.floor, math.ceil)
    )
    return sorted({down, up})


def _why_summary(summary: Tensor, count: int, spec: TeacherSpec) -> str:
    if len(summary) != count:
        return "The first axis is that of the images: one row for each."
    if summary.dim() == 2:
        return f"`dim` of its spec is {spec.dim}: the width after the last layer that it runs."
    return "One vector for each image is wanted: take the token out, tokens[:, 0], or pool the map, maps.mean((2, 3))."


def _why_patches(patches: Tensor, count: int, grids: list[int], spec: TeacherSpec) -> str:
    if patches.dim() == 4:
        return "That is a map: maps.flatten(2).transpose(1, 2) gives its cells row by row."
    if patches.dim() != 3 or len(patches) != count:
        return "The first axis is that of the images, the second that of the cells, row by row."
    more = patches.shape[1] - grids[0]
    if patches.shape[1] not in grids:
        if more == 1:
            return "One token too many: is CLS still among them? tokens[:, 1:] leaves it out."
        if 1 < more <= 16:
            return (
                f"{more} tokens too many: are CLS and registers still among them? tokens[:, {more}:] leaves them out."
            )
        return "`patch` of its spec is the stride: how many pixels a side one cell stands for."
    return "`patch_dim` of its spec (or `dim`, where that is left out) is the width of its patches."


def _shape(tokens: Tensor) -> str:
    return "×".join(map(str, tokens.shape)) or "a number"


def _kind(said: Any) -> str:
    if isinstance(said, Tensor):
        return f"one tensor, {_shape(said)}"
    if isinstance(said, tuple | list):
        return f"a {type(said).__name__} of {len(said)}"
    return f"a {type(said).__name__}"


def rehearse(one: Any, sides: Iterable[int]) -> None:
    """Ask a teacher on meta, which has shapes and no values, at every size that it will be shown."""
    for side in sorted(set(sides)):
        try:
            with torch.no_grad():
                one(torch.empty(2, 3, side, side, device="meta"))
        except TeacherError as problem:
            if isinstance(
                problem.__cause__, RuntimeError
            ):  # meta has no values to ask for: the first real answer tells
                return
            raise TeacherError(str(problem)) from problem  # all ranks alike
