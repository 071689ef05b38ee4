"""Top-only perceptrons: a linear layer behind 0 to 3 hidden layers (arXiv:2408.05088, Table H; AM-RADIO)."""

from __future__ import annotations

from torch import Tensor, nn

from unicscale.contracts import Features
from unicscale.recipe import sections
from unicscale.student.projector.rung import Heads, Projector


class TopMLP(Projector):
    """Reads the last block only."""

    def __init__(self, section: sections.MLP, *, width: int, depth: int, prefix: int, dims: dict[str, int]) -> None:
        super().__init__()
        hidden = [section.hidden or 4 * width] * section.layers
        widths = {name: [width, *hidden, dim] for name, dim in dims.items()}
        self.blocks = [depth - 1]
        self.rungs = nn.ModuleDict({str(depth - 1): Heads(widths, prefix=prefix, shared=section.shared)})

    def forward(self, blocks: list[Tensor]) -> dict[str, Features]:
        """Raw outputs of all blocks -> one answer per teacher, in fp32."""
        answers = self.rungs[str(self.blocks[0])](blocks[-1])
        return {name: Features(*(t.float() for t in answer)) for name, answer in answers.items()}
