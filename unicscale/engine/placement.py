"""Whole on every rank, or sharded: decided from memory, in one line that `unicscale plan` can print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from unicscale.errors import RecipeError

if TYPE_CHECKING:
    import torch

ROOMY = 0.05  # a copy that takes up to this share of the device is worth its memory: nothing to gather in each step

Placement = Literal["full", "none"]


def place(wanted: str, size: int, memory: int | None) -> Placement:
    """What `shard: auto` means for `size` bytes; ranks on one host share its memory, so there it means sharded."""
    if wanted == "auto":
        return "none" if memory is not None and size <= ROOMY * memory else "full"
    return "full" if wanted == "full" else "none"


def memory_of(device: torch.device) -> int | None:
    """Bytes of the device; None for a host, whose memory all its ranks share."""
    import torch

    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def refuse_sharding(how: str) -> None:
    """Of a teacher, where every rank holds everything."""
    if how == "full":
        raise RecipeError("'shard: full' needs a sharding engine. Set engine.kind to fsdp2 or zero3, or shard: none.")


def refuse_uneven(replicate: int, ranks: int) -> None:
    """Whole copies, each on as many ranks as the next."""
    if ranks % replicate:
        raise RecipeError(f"'engine.replicate' is {replicate}, which does not divide {ranks} ranks.")
