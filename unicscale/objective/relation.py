"""How far the images of a batch lie from each other: in the answers as in the targets (SigLino's ARKD; RKD)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from unicscale.contracts import Features
from unicscale.errors import RecipeError, nearest
from unicscale.objective.terms import precise
from unicscale.ranks.world import World

Found = dict[str, Tensor]  # by teacher


def relations(
    answers: Mapping[str, Features], targets: Mapping[str, Features], alpha: Tensor, kind: str, world: World | None
) -> tuple[Found, Tensor]:
    """Each teacher's, of the global batch, and that batch's weight; `alpha` (T, B, ...) weighs this rank's images.

    Every rank computes the whole from the same rows in the order of samples, so their number changes no bit; the graph
    leads to this rank's own rows, of which every pair they are in and the mean of all pairs are functions.
    """
    if kind not in KINDS:
        raise RecipeError(
            f"loss.relation: '{kind}' is no kind of it.{nearest(kind, KINDS)} It takes: {', '.join(KINDS)}"
        )
    pairs = {}
    for name, target in targets.items():
        answer = answers[name].summary
        if answer is None or target.summary is None:
            raise RecipeError(f"loss.relation is between summaries, and teacher '{name}' has none.")
        pairs[name] = (precise(answer), precise(target.summary.detach()))
    weight = alpha.transpose(0, 1).flatten(1).sum(1)  # (B,)
    own = [t for pair in pairs.values() for t in pair]
    packed = torch.cat([*(t.detach() for t in own), weight.detach()[:, None]], dim=1)
    rows = packed if world is None else world.gather_soon(packed)().flatten(0, 1)  # ranks hold consecutive samples
    first = 0 if world is None else world.rank * len(packed)
    columns = rows.split([*(t.shape[1] for t in own), 1], dim=1)
    found = {}
    for number, (name, (answer, _)) in enumerate(pairs.items()):
        x, y = columns[2 * number], columns[2 * number + 1]
        x = torch.cat([x[:first], answer, x[first + len(answer) :]])
        found[name] = KINDS[kind](x, y).to(answer.dtype)
    return found, columns[-1].sum()


def arkd(x: Tensor, y: Tensor) -> Tensor:
    """Answers too far apart where the teacher has the two images close, too close where it has them far (SigLino).

    Close: nearer than its median. Both sides are measured in their own mean distance.
    """
    student, teacher = distances(x), distances(y)
    near = teacher < teacher.median()  # of an even count the lower
    apart = torch.where(near, student - teacher, teacher - student).clamp(min=0)
    return F.smooth_l1_loss(apart, torch.zeros_like(apart))


def rkd(x: Tensor, y: Tensor) -> Tensor:
    """Whatever the sign (arXiv:1904.05068, its distances)."""
    return F.smooth_l1_loss(distances(x), distances(y))


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"arkd": arkd, "rkd": rkd}


def distances(x: Tensor) -> Tensor:
    """(B, D) -> (B, B - 1): between different rows, in fp64 and in units of their mean.

    From products, whose cancellation fp64 can afford: all differences would take B² D numbers.
    """
    x = x.double()
    x = x - x.mean(0)
    products, count = x @ x.mT, len(x)
    squares = products.diagonal()
    squared = squares[:, None] + squares - 2 * products
    squared = squared.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)  # without the diagonal
    there = squared > 1e-12 * squares.max()  # equal rows have no distance, and no slope
    far = torch.where(there, squared, 1.0).sqrt() * there
    return far / far.mean().clamp(min=torch.finfo(torch.float32).tiny)
