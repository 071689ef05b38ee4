"""How far an answer is from its target, token by token: what `loss.summary` and `loss.patches` weigh."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.errors import RecipeError, nearest

CURVES = {"cosine": "cos", "smooth_l1": "sl1", "mse": "mse", "angle": "angle"}  # kind -> its name among the terms
CLOSEST = 1 - 1e-6  # of a cosine before its arccos, whose slope is infinite at 1

Parts = dict[str, Tensor]  # by kind


def apart(answer: Tensor, target: Tensor, kinds: Mapping[str, float], beta: float, spread: Tensor | None) -> Parts:
    """Each kind's distance (...,) of tokens (..., D), unweighted and in fp32 or better."""
    answer, target = precise(answer), precise(target.detach())
    found: dict[str, Tensor] = {}
    for kind in kinds:
        if kind == "cosine":
            found[kind] = 1 - F.cosine_similarity(answer, target, dim=-1)
        elif kind == "smooth_l1":
            found[kind] = F.smooth_l1_loss(answer, target, reduction="none", beta=beta).mean(-1)
        elif kind == "mse":
            found[kind] = (answer - target).square().mean(-1)
        elif kind == "angle":
            found[kind] = balanced_angle(answer, target, spread)
        else:
            raise RecipeError(f"loss: '{kind}' is no kind of it.{nearest(kind, CURVES)} It takes: {', '.join(CURVES)}")
    return found


def weighted(parts: Parts, kinds: Mapping[str, float]) -> Tensor:
    """The weighted sum of the kinds."""
    each = [kinds[kind] * part for kind, part in parts.items()]
    return sum(each[1:], start=each[0])


def balanced_angle(answer: Tensor, target: Tensor, spread: Tensor | None) -> Tensor:
    """The squared angle over the teacher's own dispersion (C-RADIOv4); the cosine distance until that is known.

    `spread` (): the mean squared angle between the teacher's summaries and their mean direction; 0 where not yet known.
    """
    if spread is None:
        raise RecipeError("loss: angle needs the teacher's dispersion: pass spread={teacher: ...}.")
    angle = angles(answer, target)
    known = spread > 0
    balanced = angle.square() / torch.where(known, spread, 1.0)
    return torch.where(known, balanced, 1 - F.cosine_similarity(answer, target, dim=-1)).to(answer.dtype)


def angles(one: Tensor, other: Tensor) -> Tensor:
    """Between vectors (..., D), in fp64: an arccos near 1 loses half of the digits."""
    cosine = F.cosine_similarity(one.double(), other.double(), dim=-1)
    return cosine.clamp(-CLOSEST, CLOSEST).arccos()


def precise(tokens: Tensor) -> Tensor:
    """fp32 where it was less; also under autocast."""
    return tokens if tokens.dtype == torch.float64 else tokens.float()
