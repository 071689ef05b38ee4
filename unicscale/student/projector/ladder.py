"""The ladder of projectors: perceptrons on every block, their outputs summed (arXiv:2408.05088, eq. 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unicscale.contracts import Features
from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.student.projector.rung import Heads, Projector, joined, streams


class Ladder(Projector):
    """One `Heads` per block read; `fused` computes the same sum with a tenth of the kernels."""

    def __init__(
        self,
        section: sections.Ladder,
        *,
        width: int,
        depth: int,
        prefix: int,
        dims: dict[str, int],
        hidden: dict[int, int] | None = None,  # per block, where the section's rule does not hold
    ) -> None:
        super().__init__()
        self.blocks = which_blocks(section.blocks, depth)
        self.teachers, self.prefix, self.shared = list(dims), prefix, section.shared
        self.fused: bool | None = None  # None: on an accelerator; an engine that gathers rung by rung says False
        if hidden is None:
            hidden = dict.fromkeys(self.blocks, section.hidden or width)
            hidden[depth - 1] = section.last_hidden or 4 * width
        self.rungs = nn.ModuleDict(
            {
                str(block): Heads(
                    {name: [width, hidden[block], dim] for name, dim in dims.items()},
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
                old = answers.get(name, (0.0, 0.0))
                answers[name] = Features(*(a + p.float() for a, p in zip(old, part, strict=True)))
        return answers

    def _fused(self, tokens: list[Tensor]) -> dict[str, Features]:
        inputs = [streams(x, self.prefix, self.shared) for x in tokens]
        rungs = list(self.rungs.values())
        answers = {}
        for name in self.teachers:
            outputs = {}
            for kind in inputs[0]:
                heads = [rung.get_submodule(f"heads.{name}.{kind}") for rung in rungs]
                hidden = _hidden(heads, [x[kind] for x in inputs])
                weight = torch.cat([head.get_parameter("fc2.weight") for head in heads], dim=1)  # (D_t, S)
                bias = torch.stack([head.get_parameter("fc2.bias") for head in heads]).sum(0)
                # recomputed in backward: of the hidden layer only the pre-activation is kept
                outputs[kind] = checkpoint(
                    _gelu_linear, hidden, weight, bias, use_reentrant=False, preserve_rng_state=False
                ).float()
            answers[name] = joined(outputs)
        return answers


def _hidden(heads: list[nn.Module], inputs: list[Tensor]) -> Tensor:
    """Hidden layers before their GELU, side by side: (B, ..., S)."""
    one_token = inputs[0].dim() == 2
    without_norms = [name for name, _ in heads[0].named_children()] == ["fc1", "act1", "fc2"]
    one_width = len({head.get_parameter("fc1.weight").shape for head in heads[:-1]}) == 1
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
