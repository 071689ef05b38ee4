"""What one rank holds of a tensor, in words that every engine and every number of ranks shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from unicscale.ranks.world import World


class Piece(NamedTuple):
    """A contiguous range of a flattened tensor: what one rank holds of it, whatever the engine.

    The plain engine holds whole tensors, FSDP2 rows, ZeRO-3 flat slices: each is such a range, so checkpoints written
    as ranges are the same for every engine and every number of ranks. Ranks may hold the same range (plain engine,
    replicas, single rows): whoever writes them decides which rank writes what.
    """

    flat: Tensor  # (n,) a live view, n may be 0: writing into it, then `restored()`, restores the engine
    start: int  # where in the flattened tensor it begins
    shape: tuple[int, ...]  # of the whole tensor

    def cut(self, whole: Tensor) -> Tensor:
        """The same range of another tensor of the whole's shape."""
        return whole.reshape(-1)[self.start : self.start + self.flat.numel()]


def is_sharded(parameter: Tensor) -> bool:
    """Whether an engine spread it over ranks, so that it is rebuilt around each forward."""
    return isinstance(parameter, DTensor) or hasattr(parameter, "ds_id")


def piece_of(parameter: Any) -> Piece:
    """This rank's part of a parameter as it lies: plain, row-sharded by FSDP2, or sliced by ZeRO-3."""
    if isinstance(parameter, DTensor):
        return _rows(parameter)
    if hasattr(parameter, "ds_tensor"):
        return slice_of(parameter, parameter.ds_tensor.detach())
    return Piece(parameter.detach().view(-1), 0, tuple(parameter.shape))


@torch.no_grad()
def write(parameter: Any, whole: Tensor) -> None:
    """Put this rank's part of `whole` into the parameter, with no word to the other ranks."""
    piece = piece_of(parameter)
    piece.flat.copy_(piece.cut(whole))
    if hasattr(parameter, "ds_tensor") and parameter.data.numel() == whole.numel():
        parameter.data.copy_(whole)  # small parameters stay gathered beside their slices


def _rows(parameter: DTensor) -> Piece:
    """FSDP2 gives ceil(rows / ranks) rows to each rank until they run out."""
    local, shape = parameter.to_local().detach(), tuple(parameter.shape)
    row = parameter.numel() // shape[0]
    for dimension, placement in enumerate(parameter.placements):
        if isinstance(placement, Shard):
            ranks, rank = parameter.device_mesh.size(dimension), parameter.device_mesh.get_local_rank(dimension)
            first = min(rank * -(-shape[0] // ranks), shape[0])
            return Piece(local.view(-1), first * row, shape)
    return Piece(local.view(-1), 0, shape)


def slice_of(parameter: Any, padded: Tensor) -> Piece:
    """ZeRO-3 cuts the flattened, padded parameter into equal slices; the padding belongs to nobody."""
    size, group = padded.numel(), parameter.ds_process_group
    start = min(torch.distributed.get_rank(group) * size, parameter.ds_numel)
    return Piece(padded[: min(size, parameter.ds_numel - start)], start, tuple(parameter.ds_shape))


@torch.no_grad()
def fill(module: nn.Module, state: Mapping[str, Tensor], world: World) -> None:
    """Give every parameter and buffer its value, however the engine sharded it; `state` is read on rank 0 only."""
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, target in held.items():
        if hasattr(target, "ds_id"):
            _fill_zero3(target, state, name, world)
        elif isinstance(target, DTensor):
            # other ranks hand in storage they never touch: only rank 0's page is ever real
            whole = torch.empty(target.shape, dtype=target.dtype, device=target.device_mesh.device_type)
            if world.main:
                whole.copy_(state[name])
            local = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=0).to_local()
            target.to_local().copy_(local)
        else:
            if world.main:
                target.copy_(state[name])
            if world.size > 1:
                dist.broadcast(target.detach(), src=0)


def _fill_zero3(target: Tensor, state: Mapping[str, Tensor], name: str, world: World) -> None:
    import deepspeed

    with deepspeed.zero.GatheredParameters([target], modifier_rank=0):
        if world.main:
            target.copy_(state[name])
