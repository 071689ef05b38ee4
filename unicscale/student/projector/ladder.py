"""The ladder of projectors: perceptrons on every block, their outputs summed (arXiv:2408.05088, eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from unicscale.contracts import Features, Widths
from unicscale.errors import RecipeError
from unicscale.recipe import sections
from unicscale.student.projector.rung import Heads, Projector, exact
from unicscale.student.projector.together import together


class Ladder(Projector):
    """One `Heads` per block read; `fused` computes the same sum as one function, with a fifth of the kernels."""

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
        self.norms = section.pre_norm or section.mid_norm  # no two heads have the same: nothing to do together
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
        if fused and not self.norms:
            return together([*self.rungs.values()], self.teachers, self.prefix, tokens)
        return self._summed(tokens)

    def _summed(self, tokens: list[Tensor]) -> dict[str, Features]:
        answers: dict[str, Features] = {}
        for rung, x in zip(self.rungs.values(), tokens, strict=True):
            for name, part in rung(x).items():
                # in fp32: a bf16 sum over 24 blocks would round 24 times
                part = part.each(exact)
                answers[name] = _sum(answers[name], part) if name in answers else part
        return answers


def _sum(one: Features, other: Features) -> Features:
    return Features(*(None if a is None or b is None else a + b for a, b in zip(one, other, strict=True)))


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
