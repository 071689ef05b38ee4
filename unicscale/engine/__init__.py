"""Engines behind one protocol: plain, FSDP2, ZeRO-3; nothing else knows which one runs.

section -> build_engine -> plain | fsdp2 | zero3, around a student that was built on meta
student(images) -> Seen    backward(loss.sum) per micro-batch    step(lr, weight): one verdict on the gradient for all
pieces() <-> checkpoint    which range of which tensor this rank holds: the same words for every engine
facts      what it shards, gathers and holds, for whoever plans    stages    what a stage starts from
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor, nn

from unicscale.contracts import Seen
from unicscale.engine.facts import Facts
from unicscale.engine.pieces import Piece, fill, is_sharded, piece_of, write
from unicscale.ranks.device import settled, slow_in
from unicscale.ranks.voice import say
from unicscale.ranks.world import World
from unicscale.recipe.building import build, imported
from unicscale.recipe.sections import EngineSection

__all__ = ["Engine", "Facts", "Piece", "build_engine", "engine_of", "fill", "is_sharded", "piece_of", "write"]


class Engine(Protocol):
    """One training step, whoever holds the parameters."""

    student: Callable[[Tensor], Seen]

    def shard_teacher(self, module: nn.Module, how: str) -> nn.Module:
        """A frozen teacher, placed as the recipe says: `auto`, `full` or `none`."""
        ...

    def micro_steps(self) -> Iterator[bool]:
        """False, ..., True: one per backward of this step, True on the last."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate gradients; ranks exchange them on the last one."""
        ...

    def step(self, lr: float, weight: Tensor, *, trunk_rests: bool = False) -> Tensor:
        """Divide the gradient by the global sum of `weight`, clip, update; return the norm, still on the device.

        A trunk that rests keeps its weights; its moments follow its gradients all the same.
        A non-finite gradient on any rank leaves weights and moments of all ranks untouched (norm is then non-finite).
        """
        ...

    def pieces(self) -> dict[str, Piece]:
        """This rank's part of `weights/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, `optimizer/step` (and `ema/NAME`)."""
        ...

    def restored(self) -> None:
        """Called after a checkpoint was copied into `pieces()`."""
        ...

    def resize_positions(self, size: int) -> None:
        """At a stage change: the position parameter (and its moments) becomes that of `size` pixels."""
        ...


def engine_of(section: EngineSection) -> type[Facts]:
    """The class of the engine that the recipe names, for what it says of itself."""
    return imported(section.builds)


def build_engine(
    section: EngineSection, student: nn.Module, *, seed: int, world: World, micro_batches: int, size: int
) -> Engine:
    """The engine that the recipe names, around a student built on meta."""
    section = settled(section, world.device)
    if slow := slow_in(section.dtype, world.device):
        say.warning("engine.dtype '%s': %s", section.dtype, slow)
    return build(section, student, seed=seed, world=world, micro_batches=micro_batches)
