"""Smaller students for an export: weights in eight bits, products in eight bits, or N of every M weights kept.

Only matrices change, for there the weights are. Patches, positions, norms and projectors stay as they are.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unicscale.contracts import Features
from unicscale.errors import CheckpointError, RecipeError
from unicscale.interop.opened import Opened

FORMS = "int8 (weights), dynamic (weights and products, onnx only), or N:M (N of every M weights, for example 2:4)"


class Shown(NamedTuple):
    """Images that both are shown, the student and what became of it, and what is made of their summaries."""

    images: Tensor  # (N, C, S, S), normalised
    what: str  # as a card calls them
    judge: Callable[[Tensor], float] | None = None  # summaries (N, D) -> k-NN accuracy in per cent


class Tried(NamedTuple):
    """Before and after."""

    what: str
    count: int
    cosine: Features  # mean over images: of summaries, of patches
    knn: tuple[float, float] | None
    bytes: tuple[int, int]  # of the student's weights as floats, of the files


class Small(NamedTuple):
    """How a student is made smaller."""

    said: str
    keep: int = 0  # N of
    of: int = 0  # every M; 0: nothing is pruned

    @staticmethod
    def parse(text: str) -> Small:
        """What the command line says."""
        if text in ("int8", "dynamic"):
            return Small(text)
        found = re.fullmatch(r"(\d{1,2}):(\d{1,2})", text)
        if not found or not 0 < int(found[1]) < int(found[2]):
            raise RecipeError(f"--small {text}: {FORMS}.")
        return Small(text, int(found[1]), int(found[2]))

    def refuse(self, target: str) -> None:
        """Where a target has no place for it."""
        places = {"int8": ("torch", "onnx"), "dynamic": ("onnx",)}.get(self.said)
        if places is not None and target not in places:
            raise RecipeError(f"--small {self.said} goes --to {' or '.join(places)}; {target} has no place for it.")

    def sentence(self) -> str:
        """For the card."""
        if self.of:
            return f"Of every {self.of} weights in a row of its matrices the {self.keep} largest are kept, the others 0"
        how = "weights are int8, one scale for each output; products are those of floats"
        both = "weights are int8, and so are the inputs of each product, by a scale of the moment"
        return f"The matrices' {how if self.said == 'int8' else both}"


def reduced(opened: Opened, small: Small) -> Opened:
    """Another student, whose matrices are what the smaller form holds; the one given stays as it is."""
    opened = replace(opened, student=copy.deepcopy(opened.student))
    found = list(matrices(opened.student.trunk))
    if not found:
        raise CheckpointError(
            f"--small {small.said}: there are no matrices in this student's blocks, only convolutions."
        )
    for parent, name, linear in found:
        if small.of:
            linear.weight.data = pruned(linear.weight.data, small.keep, small.of)
        elif small.said == "int8":
            setattr(parent, name, Int8Linear(linear))
    return opened


def matrices(trunk: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Every linear layer that is called as one, and where it hangs."""
    for parent in list(trunk.modules()):
        for name, child in list(parent.named_children()):
            # where biases of queries lie beside, the weights are taken out and multiplied elsewhere
            if type(child) is nn.Linear and getattr(parent, "q_bias", None) is None:
                yield parent, name, child


class Int8Linear(nn.Module):
    """A linear layer whose weights are whole numbers and a scale for each output."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (weight / scale).round().clamp(-127, 127).to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None) * self.scale.squeeze(1) + (
            0 if self.bias is None else self.bias
        )


def pruned(weight: Tensor, keep: int, of: int) -> Tensor:
    """The `keep` largest of every `of` neighbours in a row; what is left over at its end is a group of its own."""
    rows, width = weight.shape
    groups = F.pad(weight, (0, -width % of)).view(rows, -1, of)
    chosen = groups.abs().topk(keep, dim=2).indices
    return (groups * torch.zeros_like(groups).scatter_(2, chosen, 1.0)).view(rows, -1)[:, :width].contiguous()
