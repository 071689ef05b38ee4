"""The ladder of projectors: perceptrons on every block, their outputs summed (arXiv:2408.05088, eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unicscale.contracts import Features, Widths
from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.student.projector.rung import Heads, Projector, joined, streams


class Ladder(Projector):
    """One `Heads` per block read; `fused` computes the same sum with a tenth of the kernels."""

    def __init__(
        self,
        section: sections.Ladder,
        *,
        widths: Sequence[int],
        prefix: int,
        teachers: Mapping[str, Widths],
        hidden: dict[int, int] | None = None,  # per block, where the section's rule does not hold
    ) -> None:
        super().__init__()
        last = len(widths) - 1
        self.blocks = which_blocks(section.blocks, len(widths))
        self.teachers, self.prefix = list(teachers), prefix
        self.fused: bool | None = None  # None: on an accelerator; an engine that gathers rung by rung says False
        if hidden is None:
            hidden = {block: section.hidden or widths[block] for block in self.blocks}
            hidden[last] = section.last_hidden or 4 * widths[last]
        self.rungs = nn.ModuleDict(
            {
                str(block): Heads(
                    [widths[block], hidden[block]],
                    teachers,
                    prefix=prefix,
                    shared=section.shared,
                    pre_norm=section.pre_norm,
                    mid_norm=section.mid_norm,
                )
                for block in self.blocks
            }
        )

    def forward(self, blocks: list[Tensor]) -> dict[str, Features]:
        """Raw outputs of all blocks -> one answer per teacher, in fp32."""
        tokens = [blocks[b] for b in self.blocks]
        fused = self.fused if self.fused is not None else tokens[0].is_cuda
        return self._fused(tokens) if fused else self._summed(tokens)

    def _summed(self, tokens: list[Tensor]) -> dict[str, Features]:
        answers: dict[str, Features] = {}
        for rung, x in zip(self.rungs.values(), tokens, strict=True):
            for name, part in rung(x).items():
                # in fp32: a bf16 sum over 24 blocks would round 24 times
                part = part.each(Tensor.float)
                answers[name] = _sum(answers[name], part) if name in answers else part
        return answers

    def _fused(self, tokens: list[Tensor]) -> dict[str, Features]:
        rungs: list[Any] = list(self.rungs.values())
        inputs = [streams(x, self.prefix, rungs[0].kinds) for x in tokens]
        answers = {}
        for name in self.teachers:
            outputs = {}
            for kind, _ in rungs[0].heads[name].named_children():
                heads = [rung.get_submodule(f"heads.{name}.{kind}") for rung in rungs]
                hidden = _hidden(heads, [x[kind] for x in inputs])
                weight = torch.cat([head.get_parameter("fc2.weight") for head in heads], dim=1)  # (D, S)
                bias = torch.stack([head.get_parameter("fc2.bias") for head in heads]).sum(0)
                # recomputed in backward: of the hidden layer only the pre-activation is kept
                outputs[kind] = checkpoint(
                    _gelu_linear, hidden, weight, bias, use_reentrant=False, preserve_rng_state=False
                ).float()
            answers[name] = joined(outputs)
        return answers


def _sum(one: Features, other: Features) -> Features:
    return Features(*(None if a is None or b is None else a + b for a, b in zip(one, other, strict=True)))


def _hidden(heads: list[nn.Module], inputs: list[Tensor]) -> Tensor:
    """Hidden layers before their GELU, side by side: (B, ..., S)."""
    one_token = inputs[0].dim() == 2
    without_norms = [name for name, _ in heads[0].named_children()] == ["fc1", "act1", "fc2"]
    one_width = len({head.get_parameter("fc1.weight").shape for head in heads[:-1]}) == 1  # never of a pyramid
    if not (one_token and without_norms and one_width):
        return torch.cat([_before_gelu(head, x) for head, x in zip(heads, inputs, strict=True)], dim=-1)
    # one token per image makes tiny products: they go as one batch, but for the last block's, which is wider
    weights = torch.stack([head.get_parameter("fc1.weight") for head in heads[:-1]])  # (L - 1, h, d)
    biases = torch.stack([head.get_parameter("fc1.bias") for head in heads[:-1]])
    batched = torch.baddbmm(biases[:, None], torch.stack(inputs[:-1]), weights.mT)  # (L - 1, B, h)
    return torch.cat([*batched, _before_gelu(heads[-1], inputs[-1])], dim=-1)


def _before_gelu(head: nn.Module, x: Tensor) -> Tensor:
    for name, layer in head.named_children():
        if name == "act1":
            break
        x = layer(x)
    return x


def _gelu_linear(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(F.gelu(hidden), weight, bias)


def which_blocks(asked: list[int] | str, depth: int) -> list[int]:
    """The blocks read, counted from 0, in order."""
    if isinstance(asked, str):
        return list(range(depth))
    unknown = [b for b in asked if not -depth <= b < depth]
    if unknown:
        raise RecipeError(
            f"projector.blocks: there is no block {unknown[0]}. "
            f"The student has {depth}: 0 to {depth - 1}, or -{depth} to -1 from the end."
        )
    chosen = sorted({b % depth for b in asked})
    if not chosen:
        raise RecipeError("projector.blocks is empty: name at least one block, or 'all'.")
    return chosen
