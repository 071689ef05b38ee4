"""One transformer block and a linear layer per teacher over [CLS | patches] (DUNE, arXiv:2503.14405)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unicscale.contracts import Features, Widths
from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.student.projector.rung import Projector, Rung


class Reader(Rung):
    """One teacher's blocks, and a linear layer: one of each width where its tokens are not equally wide."""

    def __init__(self, name: str, width: int, heads: int, blocks: int, prefix: int, widths: Widths) -> None:
        super().__init__()
        self.name, self.prefix = name, prefix
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(blocks)))
        self.has_summary, self.has_patches = (wide is not None for wide in widths)
        self.one_width = len({*widths} - {None}) == 1
        if self.one_width:
            self.fc = nn.Linear(width, widths.summary or widths.patches or 0)
        else:
            self.fc_cls, self.fc_patch = (nn.Linear(width, wide or 0) for wide in widths)

    def forward(self, tokens: Tensor) -> dict[str, Features]:
        """(B, prefix + N, d) -> this teacher's answer; registers are left out."""
        if self.prefix > 1:
            tokens = torch.cat([tokens[:, :1], tokens[:, self.prefix :]], dim=1)
        tokens = self.blocks(tokens)
        if self.one_width and self.has_summary and self.has_patches:
            answer = self.fc(tokens)
            return {self.name: Features(answer[:, 0], answer[:, 1:])}
        to_summary, to_patches = (self.fc, self.fc) if self.one_width else (self.fc_cls, self.fc_patch)
        summary = to_summary(tokens[:, 0]) if self.has_summary else None
        return {self.name: Features(summary, to_patches(tokens[:, 1:]) if self.has_patches else None)}


class TransformerProjector(Projector):
    """Reads the last block only."""

    def __init__(
        self,
        section: sections.TransformerProjector,
        *,
        widths: Sequence[int],
        prefix: int,
        teachers: Mapping[str, Widths],
    ) -> None:
        super().__init__()
        width = widths[-1]
        heads = section.heads or max(width // 64, 1)
        if width % heads:
            raise RecipeError(f"projector.heads: {heads} heads do not divide the student's width, {width}.")
        self.blocks = [len(widths) - 1]
        self.rungs = nn.ModuleDict(
            {name: Reader(name, width, heads, section.blocks, prefix, wide) for name, wide in teachers.items()}
        )

    def forward(self, blocks: list[Tensor]) -> dict[str, Features]:
        """Raw outputs of all blocks -> one answer per teacher, in fp32."""
        answers: dict[str, Features] = {}
        for rung in self.rungs.values():
            answers |= {name: answer.each(Tensor.float) for name, answer in rung(blocks[-1]).items()}
        return answers
