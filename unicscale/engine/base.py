"""What every engine does alike: fill, count micro-batches, hand out pieces, change size."""

from __future__ import annotations

import gc
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unicscale.engine.facts import Facts
from unicscale.engine.pieces import Piece
from unicscale.engine.running import Running
from unicscale.engine.update import Average, Judge
from unicscale.ranks.world import World
from unicscale.recipe.sections import EngineSection
from unicscale.student.model import exact, in_memory

Pieces = dict[str, Piece]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class BaseEngine(Facts):
    """An engine fills `student` and `weights` when it opens; the rest follows from them."""

    student: nn.Module
    weights: Pieces  # this rank's part of every parameter, fp32 where it is trained
    running: Running  # statistics of batch norms, whole on every rank
    copies = 1  # how many ranks hold the same numbers

    def __init__(self, section: EngineSection, student: Any, *, seed: int, world: World, micro_batches: int) -> None:
        self.section, self.world, self.micro_batches = section, world, micro_batches
        self.dtype = DTYPES[section.dtype]
        self.blueprint = student  # stays on meta, where it weighs nothing; another size is built from it
        self._open(student.twin())
        self._surround({})
        first = self.blueprint.initial_values(seed)
        with torch.no_grad():
            for name, piece in (self.weights | self.running.pieces()).items():
                piece.flat.copy_(piece.cut(first(name, piece.shape)))
        del first  # may hold a whole model
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
        self.average = Average(self.section.ema, self.trained() | self.running.pieces())

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
        weights = {f"weights/{name}": piece for name, piece in (self.weights | self.running.pieces()).items()}
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
        old = {name: parameter.shape for name, parameter in self.blueprint.named_parameters()}
        self.blueprint.grow(size)
        new = {name: p.shape for name, p in self.blueprint.named_parameters() if p.shape != old[name]}
        # the moments of the old table mean nothing for the new one: they start at zero
        tables = {n: gather(before.pop(n), self.world) for n in list(before) if n.partition("/")[2] in new}
        tables = {
            n: self.blueprint.trunk.fit(table, new[n.partition("/")[2]])
            for n, table in tables.items()
            if n.startswith(("weights/", "ema/"))
        }
        self._close()
        gc.collect()  # engines hang their hooks on the modules they hold: circles
        self._open(self.blueprint.twin())
        weights = self.weights | self.running.pieces()
        move({f"weights/{name}": piece for name, piece in weights.items()}, before, tables)
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


def round_buffers(student: nn.Module, dtype: torch.dtype) -> None:
    """Where weights are held in `dtype`, what is added to them is too; statistics and angles stay exact."""
    for path, module in student.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.to(torch.float32 if exact(f"{path}.{name}") else dtype)


def materialise(module: nn.Module, device: torch.device, value: float | None = None) -> nn.Module:
    """Memory for what was built on meta; NaN for teachers, so that a forgotten weight shows at once."""
    if value is None:
        return in_memory(module, device)
    module.to_empty(device=device)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.detach().fill_(value)
    return module
