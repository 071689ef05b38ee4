"""What an engine says of itself before anything runs, so that whoever counts costs need not know which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from unicscale.engine.placement import Placement, place
from unicscale.recipe.sections import EngineSection


class Trained(NamedTuple):
    """What is to be trained, in numbers of parameters."""

    total: int
    unit: int  # the largest that is gathered on its own: a block or a rung
    widest: int  # the same, where the projector is gathered as one
    small: int  # bytes of a number in computation


class Held(NamedTuple):
    """Bytes on the fullest rank."""

    beside: int  # the master weights: what is gathered, or rounded to the recipe's dtype
    gradients: int
    late: int = 0  # of the gradients: what comes into being in backward, as activations go
    on_host: bool = False  # whether master weights and moments take nothing of the device


class Facts(ABC):
    """Three facts of an engine, and where it puts a frozen teacher; these are a sharding engine's."""

    sharding = True  # False: every rank holds everything, whatever its number

    @classmethod
    def parts(cls, section: EngineSection, ranks: int) -> int:
        """Over how many ranks one copy of what is trained is spread; refuses numbers of ranks that do not suit."""
        return ranks

    @classmethod
    def gathers(cls, section: EngineSection, size: int, memory: int | None) -> bool:
        """Whether a rank holds all `size` bytes of the student while it computes."""
        return False

    @classmethod
    @abstractmethod
    def holds(
        cls, section: EngineSection, model: Trained, *, ranks: int, memory: int | None, accumulates: bool
    ) -> Held:
        """What lies beside the master weights; `memory` is the device's, None for a host."""

    @classmethod
    def places(cls, how: str, size: int, memory: int | None) -> Placement:
        """Where a teacher of `size` bytes goes when the recipe says `how`."""
        return place(how, size, memory)
