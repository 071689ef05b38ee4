"""What every metric refuses: features that are not finite, labels that do not fit."""

from __future__ import annotations

import torch
from torch import Tensor

from unicscale.errors import DataError

ROWS = 65_536  # looked at at once: a memory-mapped bank is never copied whole


def check_features(what: str, features: Tensor, width: int | None = None, first: int = 0) -> None:
    """Refuse features of another width, and any that are not finite; `first` is the number of the first one."""
    if width is not None and features.shape[-1] != width:
        raise DataError(
            f"{what}: features are {features.shape[-1]} wide, but {width} were expected; do both come from one model?"
        )
    for begin in range(0, len(features), ROWS):
        bad = ~features[begin : begin + ROWS].isfinite().flatten(1).all(dim=1)
        if bad.any():
            row = first + begin + int(bad.nonzero()[0])
            raise DataError(
                f"{what}: the features of image {row} are not finite; "
                "the model is broken, or fp16 overflowed: try --dtype fp32"
            )


def check_labels(what: str, labels: Tensor, count: int, classes: int | None = None) -> int:
    """Refuse labels that do not fit their images or the classes; return the number of classes."""
    if len(labels) != count:
        raise DataError(f"{what}: {count} images but {len(labels)} labels")
    if count == 0:
        raise DataError(f"{what}: no images")
    low, high = int(labels.min()), int(labels.max())
    if labels.dtype not in (torch.int64, torch.int32, torch.uint8):
        raise DataError(f"{what}: labels must be whole numbers, not {str(labels.dtype).removeprefix('torch.')}")
    if low < 0 or (classes is not None and high >= classes):
        bound = f"0..{classes - 1}" if classes is not None else "0 or more"
        raise DataError(f"{what}: labels span {low}..{high}, but must be {bound}; are these another data set's labels?")
    return high + 1 if classes is None else classes
