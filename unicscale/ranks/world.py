"""Who else is running: process group, rank, device, and whether somebody asked us to stop."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unicscale.errors import BlewUp, StoppedOnRequest, UserError
from unicscale.ranks import stop
from unicscale.ranks.device import device_of, refuse_without_compiler
from unicscale.ranks.environment import place, whole
from unicscale.ranks.meeting import meeting
from unicscale.ranks.stop import StopSign
from unicscale.recipe.sections import EngineSection

TOGETHER = (StoppedOnRequest, BlewUp)  # raised on all ranks at the same step


@dataclass(slots=True)
class World:
    """One rank's view of the run. Control messages travel over gloo on the host, so they never wait for a device."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: Any = None  # a gloo group
    stop: StopSign = field(default_factory=StopSign)  # raised by signals and limits, compared at step boundaries

    @classmethod
    def start(cls, section: EngineSection) -> World:
        """Join the process group that the launcher's environment describes; alone where it describes none."""
        environment = os.environ
        rank, size = place()
        local_rank, local_size = whole("LOCAL_RANK", 0), whole("LOCAL_WORLD_SIZE", size, least=1)
        whole("MASTER_PORT", 0)
        if section.deterministic:
            environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
            # not `warn_only`, with which attention's backward stays free to differ: an operation that has no
            # deterministic kernel ends the run in words instead
            torch.use_deterministic_algorithms(True)
        device = device_of(section.device, local_rank)
        if section.compile is True:
            refuse_without_compiler(device)
        grouped = size > 1 or section.grouped
        control = None
        if grouped:
            if size == 1 and "MASTER_ADDR" not in environment:
                environment.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
            # the watchdog speaks first: it can name a rank, a collective that times out cannot
            timeout = timedelta(seconds=section.timeout_seconds + 30)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            store = dist.HashStore() if size == 1 else None
            with meeting(rank, size):
                dist.init_process_group(backend, timeout=timeout, rank=rank, world_size=size, store=store)
                control = dist.new_group(backend="gloo", timeout=timeout)
        world = cls(rank, size, local_rank, local_size, device, control, stop.listen())
        if world.main and (left := stop.seconds_left()) is not None:
            world.stop.limit(left)
        return world

    @property
    def main(self) -> bool:
        """True on the one rank that speaks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for everybody."""
        if self.size > 1:
            dist.barrier(self.control)

    def agreed(self, *, stop: bool, save: bool, tell: bool = False) -> tuple[bool, bool, bool]:
        """What any rank wants at this step boundary, everybody's answer in one message."""
        if self.size == 1:
            return stop, save, tell
        flags = torch.tensor([int(stop), int(save), int(tell)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.control)
        if flags[0]:
            reasons = self.gather_objects(self.stop.reason)
            self.stop.raise_(next((f"{why} on rank {rank}" for rank, why in enumerate(reasons) if why), "asked"))
        return bool(flags[0]), bool(flags[1]), bool(flags[2])

    def on_main(self, act: Callable[[], Any]) -> Any:
        """What rank 0 gets from `act`, everywhere; its UserError is raised on every rank, so nobody waits in vain."""
        result: Any = None
        if self.main:
            try:
                result = act()
            except UserError as error:
                result = error
        result = self.broadcast_object(result)
        if isinstance(result, UserError):
            raise result
        return result

    def together(self, act: Callable[[], Any]) -> Any:
        """What `act` gets here; a UserError of any rank is raised on all, so nobody goes on without it."""
        result: Any = None
        problem: UserError | None = None
        try:
            result = act()
        except UserError as error:
            problem = error
        heard = self.gather_objects((platform.node(), problem))
        troubled = [(rank, host, error) for rank, (host, error) in enumerate(heard) if error is not None]
        if not troubled:
            return result
        rank, host, error = troubled[0]
        raise error if len(troubled) == self.size else type(error)(f"rank {rank}, on {host}: {error}")

    def all_sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place, on the tensor's own device."""
        if self.size > 1:
            dist.all_reduce(tensor, group=None if tensor.is_cuda else self.control)
        return tensor

    def gather_soon(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Every rank's tensor, stacked; the call returns at once, calling its result waits for them."""
        if self.size == 1:
            return lambda: tensor[None]
        gathered = tensor.new_empty(self.size, *tensor.shape)
        group = None if tensor.is_cuda else self.control
        work = dist.all_gather_into_tensor(gathered.view(-1), tensor.contiguous().view(-1), group, async_op=True)

        def finish() -> Tensor:
            assert work is not None
            work.wait()
            return gathered

        return finish

    def sum_soon(self, tensor: Tensor) -> Callable[[], Tensor]:
        """The sum over ranks, in place; the call returns at once, calling its result waits for it."""
        if self.size == 1:
            return lambda: tensor
        work = dist.all_reduce(tensor, group=None if tensor.is_cuda else self.control, async_op=True)

        def finish() -> Tensor:
            assert work is not None
            work.wait()
            return tensor

        return finish

    def broadcast_object(self, value: Any) -> Any:
        """What rank 0 has, everywhere."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, group=self.control)
        return held[0]

    def gather_objects(self, value: Any) -> list[Any]:
        """Everybody's value, in rank order, everywhere."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, value, group=self.control)
        return held

    def close(self) -> None:
        """Leave the process group, all ranks together."""
        if dist.is_initialized():
            dist.destroy_process_group()
        stop.forget()  # last: a launcher ends us with SIGTERM as soon as a faster rank has left

    def abandon(self) -> None:
        """Leave alone. NCCL would wait for kernels that nobody joins: the group stays, and the process must end."""
        if dist.is_initialized() and self.device.type == "cpu":
            dist.destroy_process_group()
        stop.forget()


@contextmanager
def joined(section: EngineSection) -> Iterator[World]:
    """A rank's part in the process group, for as long as it lasts."""
    world = World.start(section)
    try:
        yield world
    except TOGETHER:
        world.close()
        raise
    except BaseException:
        world.abandon()
        raise
    world.close()
