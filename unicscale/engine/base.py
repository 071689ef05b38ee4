"""What every engine does alike: fill, count micro-batches, hand out pieces, change size."""

from __future__ import annotations

import copy
import gc
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unicscale.engine.facts import Facts
from unicscale.engine.pieces import Piece
from unicscale.engine.update import Average, Judge
from unicscale.ranks.world import World
from unicscale.recipe.sections import EngineSection
from unicscale.student.trunk import Grid, check_size, resize_positions

POSITIONS = "trunk.pos_embed"
Pieces = dict[str, Piece]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class BaseEngine(Facts, ABC):
    """An engine fills `student` and `weights` when it opens; the rest follows from them."""

    student: nn.Module
    weights: Pieces  # this rank's part of every parameter, fp32 where it is trained
    copies = 1  # how many ranks hold the same numbers

    def __init__(self, section: EngineSection, student: Any, *, seed: int, world: World, micro_batches: int) -> None:
        self.section, self.world, self.micro_batches = section, world, micro_batches
        self.dtype = DTYPES[section.dtype]
        self.blueprint = student  # stays on meta, where it weighs nothing; another size is built from it
        self._open(copy.deepcopy(student))
        self._surround({})
        with torch.no_grad():
            for name, piece in self.weights.items():
                piece.flat.copy_(piece.cut(self.blueprint.initial(name, piece.shape, seed)))
        self.average.start()
        self.restored()

    @abstractmethod
    def _open(self, student: nn.Module) -> None:
        """Prepare, shard, materialise; the numbers come later."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of the student, its gradients and the optimiser: all of `_open` and `_remember`."""

    @abstractmethod
    def _remember(self, moments: Pieces) -> None:
        """Make the optimiser's moments: those of `moments`, which are taken out of it, and zeros for the rest."""

    @abstractmethod
    def _optimizer_state(self) -> Pieces:
        """Moments and the number of steps."""

    def _surround(self, before: Pieces) -> None:
        self._remember(before)
        self.judge = Judge(self.section, self.world, self.copies)
        self.average = Average(self.section.ema, self.trained())

    def trained(self) -> Pieces:
        """The weights that learn: positions and projectors yes, the final norm and the mask token no."""
        frozen = {n for n, p in self.blueprint.named_parameters() if not p.requires_grad}
        return {n: piece for n, piece in self.weights.items() if n not in frozen}

    def micro_steps(self) -> Iterator[bool]:
        """False, ..., True: one per backward of this step."""
        for number in range(self.micro_batches):
            yield number == self.micro_batches - 1

    def pieces(self) -> Pieces:
        """Weights, moments, step, average, loss scale: all that a checkpoint needs, as this rank holds it."""
        weights = {f"weights/{name}": piece for name, piece in self.weights.items()}
        return weights | self._optimizer_state() | self.average.state() | self.judge.state()

    @abstractmethod
    def restored(self) -> None:
        """Called after a checkpoint was copied into `pieces()`."""

    @torch.no_grad()
    def resize_positions(self, size: int) -> None:
        """Built again for another size, everything carried over: no engine can swap a parameter that it has sharded.

        The old numbers go as the new ones come, so that the change never takes more memory than a step does.
        """
        before = self.pieces()
        # the moments of the old table mean nothing for the new one: they start at zero
        tables = {n: gather(before.pop(n), self.world) for n in list(before) if n.endswith(f"/{POSITIONS}")}
        old, new = rebuilt_for(self.blueprint, size)
        tables = {n: resize_positions(t, old, new) for n, t in tables.items() if n.startswith(("weights/", "ema/"))}
        self._close()
        gc.collect()  # engines hang their hooks on the modules they hold: circles
        self._open(copy.deepcopy(self.blueprint))
        move({f"weights/{name}": piece for name, piece in self.weights.items()}, before, tables)
        self._surround(before)
        move(self.pieces(), before, tables)
        self.restored()


def move(into: Pieces, before: Pieces, tables: dict[str, Tensor]) -> None:
    """Copy what `before` or `tables` has of these pieces, and take it out of `before`."""
    for name, piece in into.items():
        if name in before:
            piece.flat.copy_(before.pop(name).flat)
        elif name in tables:
            piece.flat.copy_(piece.cut(tables[name]))


def gather(piece: Piece, world: World) -> Tensor:
    """The whole tensor on every rank; the maximum, because ranks may hold the same numbers."""
    whole = torch.full(piece.shape, -torch.inf, device=piece.flat.device)
    piece.cut(whole).copy_(piece.flat)
    if world.size > 1:
        dist.all_reduce(whole, op=dist.ReduceOp.MAX)
    return whole


def rebuilt_for(student: Any, size: int) -> tuple[Grid, Grid]:
    """Give a student on meta the position table of another size; both grids."""
    trunk = student.trunk
    check_size(size, trunk.patch)
    old, new = trunk.grid, (size // trunk.patch, size // trunk.patch)
    tokens = trunk.pos_embed.shape[1] - old[0] * old[1] + new[0] * new[1]
    trunk.pos_embed = nn.Parameter(torch.empty(1, tokens, trunk.width, device="meta"))
    trunk.grid = new
    return old, new


def materialise(module: nn.Module, device: torch.device, value: float | None = None) -> nn.Module:
    """Memory for what was built on meta; NaN for teachers, so that a forgotten weight shows at once."""
    module.to_empty(device=device)
    if value is not None:
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.detach().fill_(value)
    return module
