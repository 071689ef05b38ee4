"""The plain engine: whole parameters on every rank, gradients summed in fixed buckets while backward runs."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unicscale.engine.base import BaseEngine, Pieces, materialise
from unicscale.engine.facts import Held, Trained
from unicscale.engine.pieces import piece_of
from unicscale.engine.placement import Placement, refuse_sharding
from unicscale.engine.running import Running
from unicscale.engine.units import prepare
from unicscale.engine.update import Update
from unicscale.recipe.sections import EngineSection

BUCKET = 25 * 2**20  # bytes: large enough for full bandwidth, small enough to start early


class PlainEngine(BaseEngine):
    """Data parallel: fp32 weights, autocast below them.

    Not torch's DDP: it fills its buckets in another order after the first step, which changes the last bit of a sum
    over three or more ranks, and a resumed run would not equal the uninterrupted one.
    """

    sharding = False

    @classmethod
    def parts(cls, section: EngineSection, ranks: int) -> int:
        """Every rank holds all of it."""
        return 1

    @classmethod
    def gathers(cls, section: EngineSection, size: int, memory: int | None) -> bool:
        """It is there already."""
        return True

    @classmethod
    def holds(
        cls, section: EngineSection, model: Trained, *, ranks: int, memory: int | None, accumulates: bool
    ) -> Held:
        """Autocast's rounded copies, and whole gradients in fp32."""
        gradients = 4 * model.total
        late = 0 if accumulates else max(0, gradients - BUCKET)  # the first bucket is there at once
        return Held(model.total * model.small * (model.small < 4), gradients, late)

    @classmethod
    def places(cls, how: str, size: int, memory: int | None) -> Placement:
        """Nothing is sharded here: every rank holds the whole teacher."""
        refuse_sharding(how)
        return "none"

    def _open(self, student: nn.Module) -> None:
        self.copies = self.world.size
        prepare(student, self.section)
        self.student = materialise(student, self.world.device)
        self.running = Running(self.student, self.world)
        if self.dtype is not torch.float32:
            self.student.forward = torch.autocast(self.world.device.type, self.dtype)(self.student.forward)
        parameters = dict(student.named_parameters())
        self.weights = {name: piece_of(p) for name, p in parameters.items()}
        self.buckets = Buckets({n: p for n, p in parameters.items() if p.requires_grad}, self.world.size)

    def _close(self) -> None:
        del self.student, self.weights, self.running, self.buckets, self.update

    def _remember(self, moments: Pieces) -> None:
        self.update = Update(
            self.section, self.trained(), self.blueprint.rates(self.section), self.world.device, moments
        )

    def shard_teacher(self, module: nn.Module, how: str) -> nn.Module:
        """Whole, or refused."""
        self.places(how, 0, None)
        return materialise(module, self.world.device, torch.nan)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Gradients accumulate in the buckets, which leave as they fill up on the last micro-batch."""
        self.buckets.last = last
        self.judge.scaled(loss).backward()
        self.running.note()

    def step(self, lr: float, weight: Tensor, *, trunk_rests: bool = False) -> Tensor:
        """The global sum of gradients over the global sum of weights."""
        gradients = self.buckets.finish()
        verdict = self.judge(self.buckets.flat, weight, averaged=False)
        self.update(gradients, lr, verdict, trunk_rests)
        self.buckets.clear()
        self.running.follow(verdict.broken)
        self.average.follow()
        return verdict.norm

    def _optimizer_state(self) -> Pieces:
        return self.update.state()

    def restored(self) -> None:
        """The weights are the pieces themselves."""
        self.update.restored()


class Buckets:
    """Gradients as views of a few flat tensors, which are summed over ranks in an order that never changes."""

    def __init__(self, parameters: dict[str, nn.Parameter], ranks: int) -> None:
        self.ranks, self.last = ranks, True
        self.flat: list[Tensor] = []
        self.views: dict[str, Tensor] = {}
        self.sizes: list[int] = []
        for group in _cut(dict(reversed(parameters.items()))):  # backward meets the last parameters first
            flat = torch.zeros(sum(p.numel() for p in group.values()), device=next(iter(group.values())).device)
            start = 0
            for name, parameter in group.items():
                self.views[name] = flat[start : start + parameter.numel()]
                parameter.grad = self.views[name].view_as(parameter)
                parameter.register_post_accumulate_grad_hook(self._counter(len(self.flat)))
                start += parameter.numel()
            self.flat.append(flat)
            self.sizes.append(len(group))
        self.clear()

    def clear(self) -> None:
        """Zero, for the next step."""
        self.missing, self.sent, self.waiting = list(self.sizes), 0, []
        torch._foreach_zero_(self.flat)

    def _counter(self, bucket: int):
        def hook(_: Tensor) -> None:
            if self.last:
                self.missing[bucket] -= 1
                while self.sent < len(self.flat) and self.missing[self.sent] == 0:
                    self._send()

        return hook

    def _send(self) -> None:
        # strictly one after the other: all ranks must call the same collectives in the same order
        if self.ranks > 1:
            self.waiting.append(dist.all_reduce(self.flat[self.sent], async_op=True))
        self.sent += 1

    def finish(self) -> dict[str, Tensor]:
        """Flat gradients by name, summed over ranks; a parameter that took no part contributes zeros."""
        while self.sent < len(self.flat):
            self._send()
        for work in self.waiting:
            work.wait()
        return self.views


def _cut(parameters: dict[str, nn.Parameter]) -> list[dict[str, nn.Parameter]]:
    """Consecutive parameters of about BUCKET bytes together."""
    groups: list[dict[str, nn.Parameter]] = [{}]
    held = 0
    for name, parameter in parameters.items():
        size = parameter.numel() * parameter.element_size()
        if held and held + size > BUCKET:
            groups.append({})
            held = 0
        groups[-1][name] = parameter
        held += size
    return groups
