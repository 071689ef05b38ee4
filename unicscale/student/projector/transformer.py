"""One transformer block and a linear layer per teacher over [CLS | patches] (DUNE, arXiv:2503.14405)."""

from __future__ import annotations

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unicscale.contracts import Features
from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.student.projector.rung import Projector, Rung


class Reader(Rung):
    """One teacher's blocks and linear layer."""

    def __init__(self, name: str, width: int, heads: int, blocks: int, prefix: int, dim: int) -> None:
        super().__init__()
        self.name, self.prefix = name, prefix
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(blocks)))
        self.fc = nn.Linear(width, dim)

    def forward(self, tokens: Tensor) -> dict[str, Features]:
        """(B, prefix + N, d) -> this teacher's answer; registers are left out."""
        if self.prefix > 1:
            tokens = torch.cat([tokens[:, :1], tokens[:, self.prefix :]], dim=1)
        answer = self.fc(self.blocks(tokens))
        return {self.name: Features(answer[:, 0], answer[:, 1:])}


class TransformerProjector(Projector):
    """Reads the last block only."""

    def __init__(
        self, section: sections.TransformerProjector, *, width: int, depth: int, prefix: int, dims: dict[str, int]
    ) -> None:
        super().__init__()
        heads = section.heads or max(width // 64, 1)
        if width % heads:
            raise RecipeError(f"projector.heads: {heads} heads do not divide the student's width, {width}.")
        self.blocks = [depth - 1]
        self.rungs = nn.ModuleDict(
            {name: Reader(name, width, heads, section.blocks, prefix, dim) for name, dim in dims.items()}
        )

    def forward(self, blocks: list[Tensor]) -> dict[str, Features]:
        """Raw outputs of all blocks -> one answer per teacher, in fp32."""
        answers: dict[str, Features] = {}
        for rung in self.rungs.values():
            answers |= {name: Features(*(t.float() for t in answer)) for name, answer in rung(blocks[-1]).items()}
        return answers
