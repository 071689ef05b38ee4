"""FSDP2: every block and every rung is gathered while it computes and lies in rows on all ranks otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from unicscale.engine.base import BaseEngine, Pieces, materialise, round_buffers
from unicscale.engine.facts import Held, Trained
from unicscale.engine.pieces import piece_of
from unicscale.engine.placement import memory_of, place, refuse_uneven
from unicscale.engine.running import Running
from unicscale.engine.units import prepare, units
from unicscale.engine.update import Update
from unicscale.ranks.world import World
from unicscale.recipe.sections import EngineSection

# nobody edits the student's answers in place
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


class Fsdp2Engine(BaseEngine):
    """fp32 rows, computation in the recipe's dtype, gradients reduced in fp32."""

    @classmethod
    def parts(cls, section: EngineSection, ranks: int) -> int:
        """One copy per replica."""
        refuse_uneven(section.replicate, ranks)
        return ranks // section.replicate

    @classmethod
    def gathers(cls, section: EngineSection, size: int, memory: int | None) -> bool:
        """As the recipe says; by itself where the device has room for it."""
        return place("auto", size, memory) == "none" if section.reshard == "auto" else not section.reshard

    @classmethod
    def holds(
        cls, section: EngineSection, model: Trained, *, ranks: int, memory: int | None, accumulates: bool
    ) -> Held:
        """What is gathered; gradients are unreduced, and copied to fp32, one unit at a time."""
        whole = cls.gathers(section, model.total * model.small, memory)
        unit = model.widest if whole else 2 * model.unit
        in_flight = unit * (4 + model.small * (model.small < 4))
        rows = 4 * model.total // cls.parts(section, ranks)
        beside = (model.total if whole else unit) * model.small
        return Held(beside, 4 * model.total) if accumulates else Held(beside, rows + in_flight, late=rows)

    def _open(self, student: nn.Module) -> None:
        if not hasattr(self, "mesh"):  # once per run: another mesh means other process groups, which nobody takes down
            self.copies, self.mesh = self.section.replicate, mesh_of(self.world, self.section.replicate)
        prepare(student, self.section)
        policy = MixedPrecisionPolicy()
        if self.dtype is not torch.float32:
            policy = MixedPrecisionPolicy(param_dtype=self.dtype, reduce_dtype=torch.float32)
        self._shard_student(student, policy)
        self.student = materialise(student, self.world.device)
        round_buffers(self.student, self.dtype)
        self.running = Running(self.student, self.world)
        # these objects stay the rows, also while a module shows gathered parameters under the same names
        self.parameters = dict(student.named_parameters())
        self.weights = {name: piece_of(p) for name, p in self.parameters.items()}

    def _close(self) -> None:
        del self.student, self.weights, self.running, self.parameters, self.update, self.whole

    def _remember(self, moments: Pieces) -> None:
        self.update = Update(
            self.section, self.trained(), self.blueprint.rates(self.section), self.world.device, moments
        )

    def _shard_student(self, student: Any, policy: MixedPrecisionPolicy) -> None:
        self.whole: list[Any] = []  # what is gathered once a step: before it begins, while the teachers compute
        self.begun = False  # FSDP2 opens its streams in its first forward
        if self._reshards(student):
            student.projector.fused = False  # it would reach into rungs that are not gathered
            parts: list[Any] = units(student)
            self._shard(student, parts, True, policy)
        else:  # room for the whole ladder: gathered as one, it runs as one, with a fifth of the kernels
            parts = [*units(student.trunk), student.projector]
            self._shard(student, parts, False, policy)
            self.whole = [student, *parts]
        for part, following in pairwise(parts):
            part.set_modules_to_forward_prefetch([following])

    def _shard(self, module: nn.Module, parts: list[nn.Module], reshard: bool, policy: MixedPrecisionPolicy) -> None:
        for part in [*parts, module]:
            fully_shard(part, mesh=self.mesh, reshard_after_forward=reshard, mp_policy=policy)

    def _reshards(self, student: nn.Module) -> bool:
        size = sum(p.numel() for p in student.parameters()) * self.dtype.itemsize
        return not self.gathers(self.section, size, memory_of(self.world.device))

    def shard_teacher(self, module: nn.Module, how: str) -> nn.Module:
        """In rows too, each block gathered ahead of its turn; or whole, where the device has room."""
        size = sum(p.numel() * p.element_size() for p in module.parameters())
        if self.places(how, size, memory_of(self.world.device)) == "full":
            blocks: list[Any] = units(module)
            self._shard(module.requires_grad_(False), blocks, True, MixedPrecisionPolicy())
            for block, following in pairwise(blocks):
                block.set_modules_to_forward_prefetch([following])
            module.register_forward_hook(forget_forward)
        return materialise(module, self.world.device, torch.nan)

    def micro_steps(self) -> Iterator[bool]:
        """What lies whole in a step is on its way before the student asks for it; the teachers come first."""
        for last in super().micro_steps():
            for part in self.whole if self.begun else []:
                part.unshard(async_op=True)
            yield last

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Until the last micro-batch gradients accumulate unreduced."""
        self.student.set_requires_gradient_sync(last)  # type: ignore[operator]
        self.judge.scaled(loss).backward()
        self.running.note()
        self.begun = True

    @torch.no_grad()  # or each of hundreds of rows would be noted for a backward
    def step(self, lr: float, weight: Tensor, *, trunk_rests: bool = False) -> Tensor:
        """FSDP2 averaged over ranks; rows without numbers have no part in it."""
        gradients = {n: self.parameters[n].grad.to_local().view(-1) for n in self.update.parts}  # type: ignore[union-attr]
        verdict = self.judge(list(gradients.values()), weight, averaged=True)
        self.update(gradients, lr, verdict, trunk_rests)
        for parameter in self.parameters.values():
            parameter.grad = None
        self.running.follow(verdict.broken)
        self.average.follow()
        return verdict.norm

    def _optimizer_state(self) -> Pieces:
        return self.update.state()

    def restored(self) -> None:
        """Gathered copies of before are dropped."""
        self.update.restored()
        for module in self.student.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def forget_forward(module: Any, inputs: object, output: object) -> None:
    """Drop what FSDP2 remembers of a forward for its backward, which a frozen module never has: it grows every step."""
    module._get_fsdp_state()._comm_ctx.post_forward_order.clear()


def mesh_of(world: World, replicate: int) -> DeviceMesh:
    """All ranks in one row; or `replicate` rows, each holding a whole copy."""
    kind = world.device.type
    if replicate == 1:
        return init_device_mesh(kind, (world.size,), mesh_dim_names=("shard",))
    refuse_uneven(replicate, world.size)
    return init_device_mesh(kind, (replicate, world.size // replicate), mesh_dim_names=("replicate", "shard"))
