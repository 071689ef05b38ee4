"""Top-only perceptrons: a linear layer behind 0 to 3 hidden layers (arXiv:2408.05088, Table H; AM-RADIO)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from unicscale.contracts import Features, Widths
from unicscale.recipe import sections
from unicscale.student.projector.rung import Heads, Projector


class TopMLP(Projector):
    """Reads the last block only."""

    def __init__(
        self, section: sections.MLP, *, widths: Sequence[int], prefix: int, teachers: Mapping[str, Widths]
    ) -> None:
        super().__init__()
        last = len(widths) - 1
        inner = [widths[-1], *[section.hidden or 4 * widths[-1]] * section.layers]
        form = {"mid_norm": section.norm, "bias": section.bias}
        self.blocks = [last]
        self.rungs = nn.ModuleDict({str(last): Heads(inner, teachers, prefix=prefix, shared=section.shared, **form)})

    def forward(self, blocks: list[Tensor]) -> dict[str, Features]:
        """Raw outputs of all blocks -> one answer per teacher, in fp32."""
        answers = self.rungs[str(self.blocks[0])](blocks[-1])
        return {name: answer.each(Tensor.float) for name, answer in answers.items()}
