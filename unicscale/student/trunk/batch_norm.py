"""Batch norms of a student: statistics of one rank's micro-batch in training, running ones in evaluation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unicscale.errors import RecipeError

RUNNING, SEEN = ("running_mean", "running_var"), ("seen_mean", "seen_var")


class BatchNorm(nn.Module):
    """In training it only notes what it saw; the engine moves the running statistics once per step, on all ranks alike.

    torch's own would move them in every forward: twice where a block is recomputed, otherwise on every rank, and by
    the numbers of a step that is skipped.
    """

    running_mean: Tensor
    running_var: Tensor
    seen_mean: Tensor
    seen_var: Tensor

    def __init__(self, old: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.eps, self.momentum = old.eps, 0.1 if old.momentum is None else old.momentum
        self.weight, self.bias = old.weight, old.bias
        for name, value in (("mean", 0.0), ("var", 1.0)):
            for kind, kept in (("running", True), ("seen", False)):
                self.register_buffer(f"{kind}_{name}", torch.full((old.num_features,), value), persistent=kept)
        after = (getattr(old, "drop", None), getattr(old, "act", None))  # timm's carry their activation
        self.drop, self.act = (nn.Identity() if module is None else module for module in after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape, in the type it came in."""
        # engines may hold weights in bf16, statistics never are
        weight, bias = (None if p is None else p.to(self.running_mean.dtype) for p in (self.weight, self.bias))
        if self.training:
            # a momentum of 1 writes this batch's statistics: the same ones when the block is computed again
            x = F.batch_norm(x, self.seen_mean, self.seen_var, weight, bias, True, 1.0, self.eps)
        else:
            x = F.batch_norm(x, self.running_mean, self.running_var, weight, bias, False, 0.0, self.eps)
        return self.act(self.drop(x))


def refuse_lone_images(model: nn.Module, micro: int) -> None:
    """One image has no statistics worth the name, and on a map of one cell none at all."""
    if micro < 2 and any(isinstance(module, BatchNorm) for module in model.modules()):
        raise RecipeError(
            "student.arch has batch norms, and a micro-batch of one image has no statistics.\n"
            "  Raise data.images_per_step or data.micro_batch, or take fewer ranks."
        )


def replace_batch_norms(model: nn.Module) -> bool:
    """timm's and torch's become ours, under the same names; whether there are any."""
    found = False
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, BatchNorm(child))
                found = True
    return found
