"""Running statistics of batch norms: the same on every rank, moved once per step, left alone by a skipped one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unicscale.engine.pieces import Piece
from unicscale.ranks.world import World
from unicscale.student.trunk.batch_norm import RUNNING, BatchNorm


class Running:
    """Every micro-batch of every rank has its say; a student without batch norms costs nothing here."""

    def __init__(self, student: nn.Module, world: World) -> None:
        self.norms = {path: module for path, module in student.named_modules() if isinstance(module, BatchNorm)}
        self.world, self.sum, self.count = world, None, 0

    def pieces(self) -> dict[str, Piece]:
        """As the parameters are named."""
        held = {f"{path}.{name}": norm.get_buffer(name) for path, norm in self.norms.items() for name in RUNNING}
        return {name: Piece(buffer.view(-1), 0, tuple(buffer.shape)) for name, buffer in held.items()}

    def note(self) -> None:
        """After a micro-batch's backward, which may have computed blocks again."""
        if self.norms:
            seen = torch.cat([part for norm in self.norms.values() for part in (norm.seen_mean, norm.seen_var)])
            self.sum, self.count = seen if self.sum is None else self.sum + seen, self.count + 1

    @torch.no_grad()
    def follow(self, broken: Tensor) -> None:
        """Once per step; `broken` as the step's verdict has it."""
        if self.sum is None:
            return
        mean = self.world.all_sum(self.sum) / (self.count * self.world.size)
        parts = [norm.get_buffer(name) for norm in self.norms.values() for name in RUNNING]
        held = torch.cat(parts)
        rates = torch.cat([torch.full_like(part, norm.momentum) for norm, part in self._each()])
        fine = torch.isfinite(mean).all() & (broken.to(mean.device) == 0)
        moved = torch.where(fine, held + rates * (mean - held), held)
        torch._foreach_copy_(parts, list(moved.split([part.numel() for part in parts])))
        self.sum, self.count = None, 0

    def _each(self) -> list[tuple[BatchNorm, Tensor]]:
        return [(norm, norm.get_buffer(name)) for norm in self.norms.values() for name in RUNNING]
